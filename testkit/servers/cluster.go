package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// makeCluster makes the folder of a native PostgreSQL, unless it is there. An interrupted attempt leaves nothing that
// looks like a cluster.
//
// initdb takes more than a second, so scratch servers start from a copy of a cluster that was made once for this user
// and this version of PostgreSQL, with another password.
func makeCluster(ctx context.Context, bin, cluster string, rec record, account *process.User, set settings) error {
	if _, err := os.Stat(filepath.Join(cluster, "PG_VERSION")); err == nil {
		return nil
	}
	if err := ownedDir(rec.Data, account); err != nil {
		return err
	}
	fresh := cluster + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("clear the cluster: %w", err)
	}
	maker := clusterMaker{bin: bin, home: rec.Data, account: account, password: rec.Password}
	fill := maker.initdb
	if !set.persistent {
		fill = maker.fromCache
	}
	if err := fill(ctx, fresh); err != nil {
		return err
	}
	if err := os.Rename(fresh, cluster); err != nil {
		return fmt.Errorf("put the cluster in place: %w", err)
	}
	return nil
}

type clusterMaker struct {
	bin, home string
	account   *process.User
	password  string
}

func initdbOptions() []string {
	return []string{
		"--username=" + postgresUser, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
		"--wal-segsize=4", // an empty log of 4 MB instead of 16 MB is copied quicker
	}
}

func (m clusterMaker) initdb(ctx context.Context, cluster string) error {
	if err := ownedDir(cluster, m.account); err != nil {
		return err
	}
	file := filepath.Join(m.home, "password")
	if err := ownedFile(file, m.password+"\n", m.account); err != nil {
		return err
	}
	err := m.run(ctx, nil, "initdb", append([]string{"-D", cluster, "--pwfile=" + file}, initdbOptions()...)...)
	if removed := os.Remove(file); removed != nil {
		return errors.Join(err, fmt.Errorf("remove the password file: %w", removed))
	}
	return err
}

// fromCache copies the cached cluster, or makes one and caches it. A cache that cannot be used costs time and nothing
// else.
func (m clusterMaker) fromCache(ctx context.Context, cluster string) error {
	cached, err := m.cachePath(ctx)
	if err != nil {
		return m.initdb(ctx, cluster)
	}
	if _, err := os.Stat(cached); err != nil {
		if err := m.initdb(ctx, cluster); err != nil {
			return err
		}
		// Copied aside and renamed, so that another process sees all of it or nothing. Where that fails, or another one
		// was faster, there is nothing to do but to remove the copy.
		temporary := fmt.Sprintf("%s.%d", cached, os.Getpid())
		if copyTree(cluster, temporary, nil) != nil || os.Rename(temporary, cached) != nil {
			return os.RemoveAll(temporary)
		}
		return nil
	}
	if err := copyTree(cached, cluster, m.account); err != nil {
		return fmt.Errorf("copy the cached cluster: %w", err)
	}
	change := "ALTER ROLE " + postgresUser + " PASSWORD '" + m.password + "';\n"
	return m.run(ctx, strings.NewReader(change), "postgres", "--single", "-D", cluster, "-c", "fsync=off", "postgres")
}

// cachePath depends on all that a cluster is made from.
func (m clusterMaker) cachePath(ctx context.Context) (string, error) {
	root, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root = filepath.Join(root, "mtm-backing")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, filepath.Join(m.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, "cluster-"+dirID(string(version)+strings.Join(initdbOptions(), " "))), nil
}

// run runs a program of PostgreSQL to its end, as the account of the server.
func (m clusterMaker) run(ctx context.Context, stdin io.Reader, program string, arguments ...string) error {
	command := exec.CommandContext(ctx, filepath.Join(m.bin, program), arguments...)
	command.Env, command.Dir, command.Stdin = postgresEnv(m.home), m.home, stdin
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if m.account != nil {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: m.account.UID, Gid: m.account.GID}}
	}
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(output.String()))
	}
	return nil
}

// copyTree copies folders and regular files, closed to all but their owner, and gives the copy to account.
func copyTree(from, to string, account *process.User) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
			return own(target, account)
		}
		return copyFile(path, target, account)
	})
}

func copyFile(from, to string, account *process.User) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // only read
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if _, err := io.Copy(target, source); err != nil {
		return err
	}
	return own(to, account)
}

// lockTimeout is how long the processes of a PostgreSQL that was killed may take to end.
const lockTimeout = 10 * time.Second

// clearLock removes the lock file of a PostgreSQL that was killed. PostgreSQL does so itself, but takes a process that
// has ended and that nobody has waited for yet (init does so at its leisure, in a container often never) for a living one
// and refuses to start.
//
// The file also leads a new server to the shared memory of the old one, to which orphaned processes may still be
// attached. So it is removed only when no process works in the folder any more.
func clearLock(ctx context.Context, cluster string) error {
	file := filepath.Join(cluster, "postmaster.pid")
	body, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the lock of PostgreSQL: %w", err)
	}
	first, _, _ := strings.Cut(string(body), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || !process.Ended(pid) {
		return nil // PostgreSQL knows better what to make of it
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for process.In(cluster) {
		select {
		case <-ctx.Done():
			return nil // left to PostgreSQL, which says what is wrong
		case <-tick.C:
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the lock of PostgreSQL: %w", err)
	}
	return nil
}
