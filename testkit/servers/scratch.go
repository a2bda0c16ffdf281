package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// scratchPrefix names scratch folders.
const scratchPrefix = "mtm-backing-scratch-"

// cleanupTimeout bounds the work of a guard whose starter has died.
const cleanupTimeout = time.Minute

// Scratch is a folder for processes and data that end with this process: the folder is removed, and what runs in it
// through package process is killed, by [Scratch.Remove] or else by a guard.
//
// The guard is a second process that outlives us by as long as it takes to clean up. It holds the reading end of a pipe
// of which only we hold the writing end: however we end (a return, a panic, SIGKILL), the kernel closes it, and the guard
// goes to work. It is this program, with one of [Commands].
//
// A death signal (PR_SET_PDEATHSIG) would not do: it comes when the thread that started a server ends, not the
// process; PostgreSQL and RabbitMQ want more than one signal; and containers get none of them.
type Scratch struct {
	// Dir is the folder. Other accounts can pass through it, but not list it.
	Dir string

	pipe  *os.File
	guard *process.Process
}

const guardName = "backing-guard"

// NewScratch makes a scratch folder and starts its guard.
func NewScratch() (*Scratch, error) {
	parent, err := scratchParent()
	if err != nil {
		return nil, err
	}
	dir, err := newScratchDir(parent)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the guard's pipe: %w", err), os.RemoveAll(dir))
	}
	defer func() { _ = reader.Close() }() // the guard has its own copy
	guard, err := process.Start(dir, process.Spec{
		Name: guardName, Path: ownProgram(), Title: guardName, Args: []string{guardCommand, dir},
		Env: os.Environ(), WorkDir: "/", Stdin: reader,
	})
	if err != nil {
		return nil, errors.Join(err, writer.Close(), os.RemoveAll(dir))
	}
	return &Scratch{Dir: dir, pipe: writer, guard: guard}, nil
}

// folder makes a folder in the scratch folder, for servers or processes that end before it does, with [cleanScratch].
func (s *Scratch) folder() (string, error) { return newScratchDir(s.Dir) }

// Remove kills what runs in the folder, removes it, and lets the guard go.
func (s *Scratch) Remove(ctx context.Context) error {
	cleaned := cleanScratch(ctx, s.Dir)
	if err := s.pipe.Close(); err != nil {
		return errors.Join(cleaned, fmt.Errorf("close the guard's pipe: %w", err))
	}
	return errors.Join(cleaned, s.guard.Wait(ctx))
}

// watch is what the guard does.
func watch(ctx context.Context, dir string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return fmt.Errorf("read the guard's pipe: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil // cleaned up by whom it belongs to
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	return cleanScratch(ctx, dir)
}

// cleanScratch stops everything that runs in a scratch folder and the folders in it, and removes it.
func cleanScratch(ctx context.Context, dir string) error {
	inner, err := filepath.Glob(filepath.Join(dir, scratchPrefix+"*"))
	for _, folder := range inner {
		err = errors.Join(err, cleanScratch(ctx, folder))
	}
	others, failed := process.All(dir)
	err = errors.Join(err, failed)
	for _, p := range others {
		// What is no server of ours: the services of a stack under test.
		if name := backing.Name(p.Name()); name != guardName && name != helperEPMD && !slices.Contains(backing.Names(), name) {
			err = errors.Join(err, p.Kill(ctx))
		}
	}
	return errors.Join(err, discard(ctx, dir))
}

// scratchParent is a folder that the accounts which servers run as can pass through.
func scratchParent() (string, error) {
	account, err := unprivileged([]string{"nobody"})
	if err != nil {
		return "", err
	}
	for _, parent := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if account == nil || reachable(parent, account) {
			return parent, nil
		}
	}
	return "", errors.New("no folder for scratch servers that others than root can reach: set TMPDIR")
}

func newScratchDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, scratchPrefix+"*")
	if err != nil {
		return "", fmt.Errorf("make a scratch folder: %w", err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return "", fmt.Errorf("open the scratch folder: %w", err)
	}
	return filepath.EvalSymlinks(dir)
}

// ownProgram is the path of the program we are, also when its file has been replaced or removed meanwhile, as that of "go run"
// is.
func ownProgram() string {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe"
	}
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}
