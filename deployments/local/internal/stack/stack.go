// Package stack runs the platform on one machine, for a person who wants to try it or to work on it: the three services
// as local processes, and PostgreSQL, RabbitMQ and NATS as testkit finds or starts them.
//
// Everything it keeps is in one folder: pid files and records in run, logs in log, the data of the backing services, the
// secret and the key that sign tokens, and stack.env with all addresses. Starting is idempotent: what runs, and was started from the
// same program with the same settings, is left alone. The folder belongs to one developer's machine: it is no way to run
// an installation.
package stack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Folder is where everything is kept, under the root of the repository.
const Folder = ".local"

// Stack is the stack of one clone of the repository.
type Stack struct {
	root    string // of the repository
	dir     string // Folder in it
	environ []string
	out     io.Writer
}

// New is the stack of the repository at root. environ holds the settings that the services get, in the form of
// os.Environ; what the stack has to say goes to out.
func New(root string, environ []string, out io.Writer) (*Stack, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find the repository: %w", err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.work")); err != nil {
		return nil, fmt.Errorf("%s is not the root of the repository: %w", root, err)
	}
	return &Stack{root: root, dir: filepath.Join(root, Folder), environ: environ, out: out}, nil
}

func (s *Stack) say(format string, args ...any) {
	fmt.Fprintf(s.out, format+"\n", args...) //nolint:errcheck // a closed terminal is no reason to stop half-way
}

// errBusy says that two commands want to change the stack at once.
var errBusy = errors.New("another command is starting or stopping this stack; wait for it")

// lock keeps other commands from changing the stack until unlock is called. The kernel gives the lock back when the
// process ends, however it ends.
func (s *Stack) lock() (unlock func(), err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil { // a database server that runs as another user has to get through
		return nil, fmt.Errorf("make %s: %w", s.dir, err)
	}
	file, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil // which is what gives the lock back
}
