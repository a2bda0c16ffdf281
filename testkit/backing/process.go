package backing

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// ErrExternal says that a service belongs to somebody else, who gave us no more than its address.
var ErrExternal = errors.New("the service is not ours to control")

// ErrNoTools says that the programs that come with a server cannot be run: it is in a container, or is none of ours.
var ErrNoTools = errors.New("the server's own programs cannot be run")

// Process is a service that runs, and how to disturb it: chaos tests kill, pause and restart through it. What controls it
// returns [ErrExternal] for a service from the environment.
type Process struct {
	name   Name
	source Source
	url    string
	dir    string // of the lease
	socket string // of the agent that has started it
}

// Name is the service's name.
func (p *Process) Name() Name { return p.name }

// Source says how the service was taken.
func (p *Process) Source() Source { return p.source }

// URL is the address of the service. It stays the same across restarts.
func (p *Process) URL() string { return p.url }

func (p *Process) call(ctx context.Context, request agent.Request) (agent.Reply, error) {
	if p.source == SourceEnv {
		return agent.Reply{}, fmt.Errorf("%s %s: %w", request.Do, p.name, ErrExternal)
	}
	request.Dir, request.Server = p.dir, string(p.name)
	reply, err := agent.Call(ctx, p.socket, request)
	if err != nil {
		return reply, fmt.Errorf("%s %s: %w", request.Do, p.name, err)
	}
	return reply, nil
}

// PID is the first process of a server that runs, as this machine knows it. It is 0 for one that does not, and for one in a
// container whose engine is elsewhere.
func (p *Process) PID(ctx context.Context) (int, error) {
	reply, err := p.call(ctx, agent.Request{Do: agent.Inspect})
	return reply.PID, err
}

// Running reports whether the server's process is there; a paused one is.
func (p *Process) Running(ctx context.Context) (bool, error) {
	reply, err := p.call(ctx, agent.Request{Do: agent.Inspect})
	return reply.Running, err
}

// Tool runs one of the programs that come with the server against it, such as rabbitmqctl, and returns what it prints. It is
// [ErrNoTools] but for a native RabbitMQ.
func (p *Process) Tool(ctx context.Context, name string, args ...string) (output string, err error) {
	if p.name != ServiceRabbitMQ || p.source != SourceNative {
		return "", fmt.Errorf("%s: %w", name, ErrNoTools)
	}
	reply, err := p.call(ctx, agent.Request{Do: agent.Tool, Tool: append([]string{name}, args...)})
	return reply.Output, err
}

// Kill ends the server as a crash would, with SIGKILL, and returns when it is gone. Its data stays.
func (p *Process) Kill(ctx context.Context) error { return p.do(ctx, agent.Kill) }

// Wipe ends the server as [Process.Kill] does and removes its data, as the loss of a disk would. [Process.Start] then
// starts it with nothing in it, at the same address and with the same login.
func (p *Process) Wipe(ctx context.Context) error { return p.do(ctx, agent.Wipe) }

// Stop ends the server in an orderly way: it is asked, and killed if it takes too long. Its data stays.
func (p *Process) Stop(ctx context.Context) error { return p.do(ctx, agent.Stop) }

// Start starts the server again, on the same data and ports, and returns when it answers. One that runs is fine.
func (p *Process) Start(ctx context.Context) error { return p.do(ctx, agent.Start) }

func (p *Process) do(ctx context.Context, verb agent.Verb) error {
	_, err := p.call(ctx, agent.Request{Do: verb})
	return err
}

// Signal sends sig to the server. SIGSTOP pauses all of it, also the processes that serve single connections, and
// SIGCONT lets it continue.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	_, err := p.call(ctx, agent.Request{Do: agent.Signal, Signal: int(sig)})
	return err
}

// Pause stops the server where it is, with its connections open. [Process.Resume] lets it continue.
func (p *Process) Pause(ctx context.Context) error { return p.Signal(ctx, syscall.SIGSTOP) }

// Resume ends a [Process.Pause].
func (p *Process) Resume(ctx context.Context) error { return p.Signal(ctx, syscall.SIGCONT) }
