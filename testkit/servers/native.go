package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// nativeSpec is how one service runs from this machine's programs.
type nativeSpec struct {
	// data is the folder with its data.
	data string
	// specs makes what is missing in data and says which processes to start, in this order. The last one is the server,
	// the others are what it needs beside it.
	specs func(ctx context.Context) ([]process.Spec, error)
	// tool runs one of the programs that come with the server, against it; nil where there are none.
	tool func(ctx context.Context, name string, args []string) (*exec.Cmd, error)
	// helpers are the names of those others.
	helpers []backing.Name
	// abort ends the server when its data is of no interest any more; SIGKILL if 0.
	abort syscall.Signal
}

// nativeServer runs a service from this machine's programs.
type nativeServer struct {
	nativeSpec
	dir  string
	name backing.Name
}

func (n *nativeServer) start(ctx context.Context) error {
	if running, err := n.running(ctx); running || err != nil {
		return err
	}
	specs, err := n.specs(ctx)
	if err != nil {
		return err
	}
	for _, spec := range specs {
		if _, err := process.Start(n.dir, spec); err != nil && !errors.Is(err, process.ErrRunning) {
			return err
		}
	}
	return nil
}

func (n *nativeServer) running(context.Context) (bool, error) {
	_, err := process.Find(n.dir, string(n.name))
	if errors.Is(err, process.ErrNotRunning) {
		return false, nil
	}
	return err == nil, err
}

func (n *nativeServer) kill(ctx context.Context) error {
	err := n.do(func(p *process.Process) error { return p.Kill(ctx) })
	if errors.Is(err, process.ErrNotRunning) {
		return nil
	}
	return err
}

// signal sends sig to the server. Pausing and going on reach all of its processes: a PostgreSQL of which only the first
// process is paused still answers on open connections.
func (n *nativeServer) signal(ctx context.Context, sig syscall.Signal) error {
	return n.do(func(p *process.Process) error {
		switch sig {
		case syscall.SIGSTOP:
			ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
			defer cancel()
			return process.Freeze(ctx, p.PID())
		case syscall.SIGCONT:
			return p.SignalTree(sig)
		default:
			return p.Signal(sig)
		}
	})
}

func (n *nativeServer) halt(ctx context.Context) error { return n.remove(ctx) }

func (n *nativeServer) remove(ctx context.Context) error {
	names := append([]backing.Name{n.name}, n.helpers...)
	var failed error
	for _, name := range names { // the server first: its helpers serve it until it has ended
		p, err := process.Find(n.dir, string(name))
		if errors.Is(err, process.ErrNotRunning) {
			continue
		}
		if err == nil {
			err = p.Stop(ctx)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (n *nativeServer) discard(ctx context.Context) error {
	for _, name := range append([]backing.Name{n.name}, n.helpers...) {
		p, err := process.Find(n.dir, string(name))
		if errors.Is(err, process.ErrNotRunning) {
			continue
		}
		if err == nil && name == n.name && n.abort != 0 {
			err = n.abortServer(ctx, p)
		}
		if err == nil {
			err = p.Kill(ctx)
		}
		if err != nil {
			return err
		}
	}
	if err := os.RemoveAll(n.data); err != nil {
		return fmt.Errorf("remove the data of %s: %w", n.name, err)
	}
	// Data that lies elsewhere has a folder of its own there, which goes with the last of its services.
	if parent := filepath.Dir(n.data); strings.HasPrefix(filepath.Base(parent), elsewherePrefix) {
		if err := os.Remove(parent); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return fmt.Errorf("remove %s: %w", parent, err)
		}
	}
	return nil
}

// abortTimeout is how long a server may take to end when it has been told not to tidy up.
const abortTimeout = 5 * time.Second

func (n *nativeServer) abortServer(ctx context.Context, p *process.Process) error {
	if err := p.Signal(n.abort); err != nil && !errors.Is(err, process.ErrNotRunning) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, abortTimeout)
	defer cancel()
	_ = p.Wait(ctx) // killed next, if this has not ended it
	return nil
}

func (n *nativeServer) pid() int {
	p, err := process.Find(n.dir, string(n.name))
	if err != nil {
		return 0
	}
	return p.PID()
}

func (n *nativeServer) tail(context.Context) string {
	return tailOf(process.LogFile(n.dir, string(n.name)))
}

func (n *nativeServer) do(f func(*process.Process) error) error {
	p, err := process.Find(n.dir, string(n.name))
	if err != nil {
		return err
	}
	return f(p)
}

// tailBytes is how much of a log an error message shows: some twenty lines.
const tailBytes = 2000

// tailOf is the end of a file, or "" where there is none.
func tailOf(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }() // only read
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := file.Seek(-tailBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	body, err := io.ReadAll(io.LimitReader(file, tailBytes))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// unprivileged is the first of the named accounts that exists. It is nil for none, and where we are not root: then
// servers run as ourselves. PostgreSQL refuses to run as root, and RabbitMQ should not.
func unprivileged(accounts []string) (*process.User, error) {
	if os.Geteuid() != 0 || len(accounts) == 0 {
		return nil, nil //nolint:nilnil // no other user is an answer
	}
	for _, name := range accounts {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read the user id of %s: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read the group id of %s: %w", name, err)
		}
		return &process.User{UID: uint32(uid), GID: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("no account among %s to run a server as", strings.Join(accounts, ", "))
}

// elsewherePrefix names folders for data that cannot lie where it should.
const elsewherePrefix = "mtm-backing-data-"

// dataFolder is where a native server of dir keeps its data: in dir, if the account it runs as can get there, else under
// /var/tmp. (A clone in /root is what this is for: nobody but root gets through /root.)
func dataFolder(dir string, k kind) (string, error) {
	name := k.name()
	account, err := unprivileged(k.accounts())
	if err != nil {
		return "", err
	}
	if account == nil || reachable(dir, account) {
		return filepath.Join(dataDir(dir), string(name)), nil
	}
	parent := filepath.Join("/var/tmp", elsewherePrefix+dirID(dir))
	if err := os.Mkdir(parent, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make a folder that others can reach: %w", err)
	}
	info, err := os.Lstat(parent)
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", parent, err)
	}
	// The name can be guessed, and anybody can write to /var/tmp.
	if owner, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || owner.Uid != 0 {
		return "", fmt.Errorf("%s is not a folder of root", parent)
	}
	return filepath.Join(parent, string(name)), nil
}

// reachable reports whether account can pass through dir and all folders above it.
func reachable(dir string, account *process.User) bool {
	for {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, os.ErrNotExist): // made later, with permission to pass
		case err != nil:
			return false
		default:
			owner, ok := info.Sys().(*syscall.Stat_t)
			if !ok {
				return false
			}
			needed := os.FileMode(0o001)
			switch {
			case owner.Uid == account.UID:
				needed = 0o100
			case owner.Gid == account.GID:
				needed = 0o010
			}
			if info.Mode().Perm()&needed == 0 {
				return false
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir = parent
	}
}

// ownedDir makes a folder that belongs to account and is closed to all others.
func ownedDir(path string, account *process.User) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return own(path, account)
}

// ownedFile writes a file that belongs to account and that nobody else can read.
func ownedFile(path string, body string, account *process.User) error {
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return own(path, account)
}

func own(path string, account *process.User) error {
	if account == nil {
		return nil
	}
	if err := os.Lchown(path, int(account.UID), int(account.GID)); err != nil {
		return fmt.Errorf("give %s away: %w", path, err)
	}
	return nil
}

// newest is the path with the highest numbers in it: "…/15/bin" comes before "…/9.6/bin".
func newest(paths []string) string {
	if len(paths) == 0 {
		return ""
	}
	return slices.MaxFunc(paths, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

// numbers are the numbers in s, in their order.
func numbers(s string) []int {
	var all []int
	for _, digits := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		if n, err := strconv.Atoi(digits); err == nil {
			all = append(all, n)
		}
	}
	return all
}
