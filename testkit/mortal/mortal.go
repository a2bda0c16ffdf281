// Package mortal runs the service under test in a process that is killed after a step of its work, by the step itself, and
// started again. The process is the binary of the test, whose TestMain becomes the service where [IsService] says so.
package mortal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// dirEnv names the folder of the service, in which it writes down every step that is done, and finds the one at which it dies.
const dirEnv = "MTM_TEST_MORTAL"

const (
	waitLimit = time.Minute // on a busy machine
	poll      = 20 * time.Millisecond
	tailBytes = 16 << 10
)

func stepsFile(dir string) string { return filepath.Join(dir, "steps") }
func deathFile(dir string) string { return filepath.Join(dir, "death") }

// IsService reports whether this process is to be the service.
func IsService() bool { return os.Getenv(dirEnv) != "" }

// Steps calls serve with what the service calls after each step. It writes the step down and, if it is the one of
// [Service.DieAt], kills the process.
func Steps(serve func(done func(step string)) error) error {
	dir := os.Getenv(dirEnv)
	steps, err := os.OpenFile(stepsFile(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = steps.Close() }() // every line was written on its own
	return serve(func(step string) {
		// First, so that a step which can be read as done has no death before it any more.
		death, err := os.ReadFile(deathFile(dir))
		dies := err == nil && strings.TrimSpace(string(death)) == step
		if _, err := fmt.Fprintln(steps, step); err != nil {
			panic(err)
		}
		if dies {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {} // not a single instruction more of this goroutine
		}
	})
}

// Service is the service, as the test sees it.
type Service struct {
	// Env are its settings, by environment variables; further starts read them again.
	Env []string

	t       *testing.T
	name    string
	dir     string
	process *process.Process // the one that was started last
}

// New prepares a service, which does not run yet. At the end of the test it is asked to end, and must do so in an orderly way,
// whatever has happened before.
func New(t *testing.T, name string, env ...string) *Service {
	t.Helper()
	scratch, err := backing.NewScratch(t.Context())
	require.NoError(t, err)
	s := &Service{t: t, name: name, dir: scratch.Dir}
	s.Env = append([]string{"PATH=" + os.Getenv("PATH"), dirEnv + "=" + s.dir}, env...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), waitLimit)
		defer cancel()
		s.end(ctx)
		if err := scratch.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Service) end(ctx context.Context) {
	s.t.Helper()
	if s.Alive() {
		if err := s.process.Stop(ctx); err != nil {
			s.t.Error(err)
		}
		if status, _ := s.process.Status(); !status.Exited() || status.ExitStatus() != 0 {
			s.t.Errorf("the service ended with %v", status)
		}
	}
	if s.t.Failed() {
		log, err := os.ReadFile(process.LogFile(s.dir, s.name))
		s.t.Logf("the log of the service ends with (%v):\n%s", err, log[max(0, len(log)-tailBytes):])
	}
}

// Start starts the service, with further settings; nothing lets it die any more. It does not wait until it is ready.
func (s *Service) Start(env ...string) {
	s.t.Helper()
	require.NoError(s.t, os.RemoveAll(deathFile(s.dir)))
	program, err := os.Executable()
	require.NoError(s.t, err)
	s.process, err = process.Start(s.dir, process.Spec{
		Name: s.name, Path: program, Env: append(slices.Clip(s.Env), env...), StopTimeout: waitLimit,
	})
	require.NoError(s.t, err)
}

// Alive reports whether the service runs.
func (s *Service) Alive() bool { return s.process != nil && s.process.Alive() }

// Written are the steps that were done so far, one a line, in their order.
func (s *Service) Written(t *testing.T) []byte {
	t.Helper()
	lines, err := os.ReadFile(stepsFile(s.dir))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	return lines
}

// DieAt has the service die after a step.
func (s *Service) DieAt(t *testing.T, step string) {
	t.Helper()
	file := deathFile(s.dir)
	require.NoError(t, os.WriteFile(file+".new", []byte(step), 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// AwaitDeath waits until the service has killed itself.
func (s *Service) AwaitDeath(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return !s.Alive() }, waitLimit, poll, "its step is never reached")
	status, known := s.process.Status()
	require.True(t, known && status.Signaled() && status.Signal() == syscall.SIGKILL, "%v", status)
}
