package stack

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

const (
	// ReadyTimeout is how long a service may take until it is ready; a second or two are usual, and migrating included.
	ReadyTimeout = 90 * time.Second
	// stopTimeout is longer than the shutdown_timeout of the services.
	stopTimeout = 40 * time.Second
	readyPoll   = 25 * time.Millisecond
	tailBytes   = 16 << 10
)

// ErrNotRunning says that a service has ended.
var ErrNotRunning = process.ErrNotRunning

// Service is one process of a service.
type Service struct {
	// Name is the service, Instance the name of this process, of its pid file and of its log.
	Name, Instance string
	// URL is that of the HTTP API, OpsURL that of metrics and health. They stay the same across restarts.
	URL, OpsURL string

	stack    *Stack
	httpAddr string
	opsAddr  string

	mu      sync.Mutex
	process *process.Process // nil before the first start
}

func newService(ctx context.Context, s *Stack, name, instance string) (*Service, error) {
	ports, err := port.Free(ctx, 2)
	if err != nil {
		return nil, err
	}
	service := &Service{
		Name: name, Instance: instance, stack: s,
		httpAddr: net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[0])),
		opsAddr:  net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[1])),
	}
	service.URL, service.OpsURL = "http://"+service.httpAddr, "http://"+service.opsAddr
	return service, nil
}

// Launch starts the process and returns at once. One that runs is an error.
func (s *Service) Launch() error {
	settings := s.stack.env(s.Name)
	settings["HTTP_ADDR"], settings["OPS_ADDR"] = s.httpAddr, s.opsAddr
	env := make([]string, 0, len(settings))
	for name, value := range settings {
		env = append(env, name+"="+value)
	}
	started, err := process.Start(s.stack.scratch.Dir, process.Spec{
		Name: s.Instance, Path: filepath.Join(s.stack.bin, s.Name), Env: env,
		StopSignal: syscall.SIGTERM, StopTimeout: stopTimeout,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process = started
	return nil
}

// current is the process that was started last.
func (s *Service) current() (*process.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil, fmt.Errorf("%s: %w", s.Instance, ErrNotRunning)
	}
	return s.process, nil
}

// Start starts the process and returns when it is ready.
func (s *Service) Start(ctx context.Context) error {
	if err := s.Launch(); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

// WaitReady returns when the service is ready, or with the reason why it is not.
func (s *Service) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReadyTimeout)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := s.Ready(ctx)
		if err == nil {
			return nil
		}
		if !s.Running() {
			return fmt.Errorf("%s ended before it was ready; its log ends with:\n%s", s.Instance, s.tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its log ends with:\n%s", s.Instance, err, s.tail())
		case <-tick.C:
		}
	}
}

// Ready is nil if the service says that it is ready, and else what it says is missing.
func (s *Service) Ready(ctx context.Context) error { return Ready(ctx, s.OpsURL) }

// Running reports whether the process is there.
func (s *Service) Running() bool {
	p, err := s.current()
	return err == nil && p.Alive()
}

// PID is the id of the process, 0 before the first start.
func (s *Service) PID() int {
	p, err := s.current()
	if err != nil {
		return 0
	}
	return p.PID()
}

// Signal sends sig to the process.
func (s *Service) Signal(sig syscall.Signal) error {
	p, err := s.current()
	if err != nil {
		return err
	}
	return p.Signal(sig)
}

// Kill ends the process with SIGKILL, as a crash would, and returns when it is gone.
func (s *Service) Kill(ctx context.Context) error {
	p, err := s.current()
	if err != nil {
		return err
	}
	return p.Kill(ctx)
}

// Term asks the process to end with SIGTERM and returns its exit status when it has: 0 for an orderly end, 66 if it has
// seen a data race, and 128 and the number of the signal if one has ended it.
func (s *Service) Term(ctx context.Context) (status int, err error) {
	p, err := s.current()
	if err != nil {
		return 0, err
	}
	if err := p.Stop(ctx); err != nil {
		return 0, err
	}
	return s.ExitStatus()
}

// ExitStatus is that of a process that has ended, in the terms of [Service.Term].
func (s *Service) ExitStatus() (int, error) {
	p, err := s.current()
	if err != nil {
		return 0, err
	}
	if p.Alive() {
		return 0, fmt.Errorf("%s has not ended", s.Instance)
	}
	status, known := p.Status()
	switch {
	case !known:
		return 0, fmt.Errorf("nobody knows how %s ended", s.Instance)
	case status.Signaled():
		return 128 + int(status.Signal()), nil
	default:
		return status.ExitStatus(), nil
	}
}

// Restart ends the process as [Service.Term] does, starts it again, and returns when it is ready.
func (s *Service) Restart(ctx context.Context) error {
	if s.Running() {
		if _, err := s.Term(ctx); err != nil {
			return err
		}
	}
	return s.Start(ctx)
}

// LogFile is what the process and those before it have logged.
func (s *Service) LogFile() string { return process.LogFile(s.stack.scratch.Dir, s.Instance) }

func (s *Service) tail() string {
	body, err := os.ReadFile(s.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(body[max(0, len(body)-tailBytes):]))
}

// raced reports whether the race detector has found something.
func (s *Service) raced() bool {
	if !race {
		return false
	}
	body, err := os.ReadFile(s.LogFile())
	return err == nil && bytes.Contains(body, []byte("WARNING: DATA RACE"))
}
