package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/workspace"
)

const (
	// installTimeout bounds apt-get: some 100 MB from a mirror.
	installTimeout = 10 * time.Minute
	// policyFile is asked by a package that wants to start its server (see invoke-rc.d(8) and the Debian policy, 9.3.3).
	policyFile = "/usr/sbin/policy-rc.d"
	// policyForbids answers 101: action forbidden by policy.
	policyForbids = "#!/bin/sh\n# Put here while packages are installed that must not start servers.\nexit 101\n"
	// installLock keeps two installers of this package apart; apt-get has a lock of its own against others.
	installLock = "/run/mtm-backing-install.lock"
)

// install installs Debian packages, saying so first, and keeps them from starting their servers. Where that is not
// possible, the error is the line that says what to install.
func install(ctx context.Context, packages []string, say func(string, ...any)) error {
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	packages = slices.Compact(packages)
	list := strings.Join(packages, " ")
	if os.Geteuid() != 0 || !isDebian() {
		return fmt.Errorf("not found on this machine, nor a Docker engine to run it: install %s (on Debian or Ubuntu: sudo apt-get "+
			"install %s), start Docker, or set the address of a server that runs (DATABASE_URL, RABBITMQ_URL)", list, list)
	}
	say("installing %s with apt-get; its servers are kept from starting on their own", list)
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	began := time.Now()
	unlock, err := workspace.Lock(ctx, installLock, func() { say("waiting for another installation") })
	if err != nil {
		return err
	}
	defer unlock()
	if err := aptInstall(ctx, packages); err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	say("installed %s in %s", list, time.Since(began).Round(time.Second))
	return nil
}

func isDebian() bool {
	if _, err := os.Stat("/etc/debian_version"); err != nil {
		return false
	}
	_, err := exec.LookPath("apt-get")
	return err == nil
}

func aptInstall(ctx context.Context, packages []string) (err error) {
	restore, err := forbidStarts(policyFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	// Waits for an apt-get that somebody else runs, rather than to fail.
	options := []string{"-qq", "-o", "DPkg::Lock::Timeout=300"}
	if err := aptGet(ctx, append(options, "update")...); err != nil {
		return err
	}
	return aptGet(ctx, slices.Concat(options, []string{"install", "-y", "--no-install-recommends"}, packages)...)
}

func aptGet(ctx context.Context, arguments ...string) error {
	command := exec.CommandContext(ctx, "apt-get", arguments...)
	command.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	// Ending it in the middle of a package would leave dpkg to be repaired by hand, so it is asked first.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = time.Minute
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(output.String()), "\n")
		return fmt.Errorf("apt-get: %w: %s", err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return nil
}

// forbidStarts puts a policy in place that keeps packages from starting servers. restore brings back what was there
// before, if anything was.
func forbidStarts(path string) (restore func() error, err error) {
	before := path + ".before-mtm-backing"
	switch body, err := os.ReadFile(path); {
	case errors.Is(err, os.ErrNotExist):
		before = ""
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	case string(body) == policyForbids: // left behind by another process of this kind, which was killed in the middle
		if _, err := os.Stat(before); err != nil {
			before = ""
		}
	default:
		if err := os.Rename(path, before); err != nil {
			return nil, fmt.Errorf("put %s aside: %w", path, err)
		}
	}
	restore = func() error {
		if before == "" {
			return os.Remove(path)
		}
		return os.Rename(before, path)
	}
	if err := os.WriteFile(path, []byte(policyForbids), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), restore())
	}
	return restore, nil
}
