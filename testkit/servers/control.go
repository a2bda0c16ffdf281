package servers

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Process is a service that runs, and how to disturb it: chaos tests kill, pause and restart through it. All methods
// but Name and Source return [backing.ErrExternal] for a service from the environment.
type Process struct {
	name    backing.Name
	source  backing.Source
	kind    kind
	address address
	server  server // nil from the environment
}

// Name is the service's name.
func (p *Process) Name() backing.Name { return p.name }

// Source says how the service was taken.
func (p *Process) Source() backing.Source { return p.source }

// URL is the address of the service. It stays the same across restarts.
func (p *Process) URL() string { return p.address.URL }

// PID is the process id of a native server that runs, else 0.
func (p *Process) PID() int {
	if p.server == nil {
		return 0
	}
	return p.server.pid()
}

// hostPID is the first process of a server that runs, as this machine knows it, or 0: the engine of a container may be on
// another machine.
func (p *Process) hostPID(ctx context.Context) (pid int, err error) {
	contained, ok := p.server.(*containerServer)
	if !ok {
		return p.PID(), nil
	}
	err = contained.with(ctx, func(ctx context.Context, e *engine) error {
		container, err := e.inspect(ctx, contained.rec.Container)
		if err != nil || container == nil {
			return err
		}
		if found, local := hostPID(container); local {
			pid = found
		}
		return nil
	})
	return pid, err
}

// Running reports whether the server's process is there; a paused one is.
func (p *Process) Running(ctx context.Context) (bool, error) {
	if p.server == nil {
		return false, backing.ErrExternal
	}
	return p.server.running(ctx)
}

// Tool runs one of the programs that come with the server against it, such as rabbitmqctl, and returns what it prints. It is
// [backing.ErrNoTools] but for a native RabbitMQ.
func (p *Process) Tool(ctx context.Context, name string, args ...string) (output string, err error) {
	native, ok := p.server.(*nativeServer)
	if !ok || native.tool == nil {
		return "", fmt.Errorf("%s: %w", name, backing.ErrNoTools)
	}
	command, err := native.tool(ctx, name, args)
	if err != nil {
		return "", err
	}
	answer, err := command.CombinedOutput()
	if err != nil {
		return string(answer), fmt.Errorf("%s: %w: %s", name, err, answer)
	}
	return string(answer), nil
}

// Kill ends the server as a crash would, with SIGKILL, and returns when it is gone. Its data stays.
func (p *Process) Kill(ctx context.Context) error {
	if p.server == nil {
		return backing.ErrExternal
	}
	return p.server.kill(ctx)
}

// Signal sends sig to the server. SIGSTOP pauses all of it, also the processes that serve single connections, and
// SIGCONT lets it continue.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	if p.server == nil {
		return backing.ErrExternal
	}
	return p.server.signal(ctx, sig)
}

// Pause stops the server where it is, with its connections open. [Process.Resume] lets it continue.
func (p *Process) Pause(ctx context.Context) error { return p.Signal(ctx, syscall.SIGSTOP) }

// Resume ends a [Process.Pause].
func (p *Process) Resume(ctx context.Context) error { return p.Signal(ctx, syscall.SIGCONT) }

// Stop ends the server in an orderly way: it is asked, and killed if it takes too long. Its data stays.
func (p *Process) Stop(ctx context.Context) error {
	if p.server == nil {
		return backing.ErrExternal
	}
	return p.server.halt(ctx)
}

// Start starts the server again, on the same data and ports, and returns when it answers. One that runs is fine.
func (p *Process) Start(ctx context.Context) error {
	if p.server == nil {
		return backing.ErrExternal
	}
	ctx, cancel := context.WithTimeout(ctx, backing.StartTimeout)
	defer cancel()
	if err := p.server.start(ctx); err != nil {
		return err
	}
	return p.await(ctx)
}

// await returns when the service answers, or with the reason why it does not.
func (p *Process) await(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := p.look(ctx)
		if err == nil {
			return nil
		}
		if p.server != nil {
			running, failed := p.server.running(ctx)
			if failed == nil && !running {
				return fmt.Errorf("it ended while it was starting; %s", lastLines(p.server.tail(context.WithoutCancel(ctx))))
			}
		}
		select {
		case <-ctx.Done():
			if p.server != nil {
				err = fmt.Errorf("%w; %s", err, lastLines(p.server.tail(context.WithoutCancel(ctx))))
			}
			return fmt.Errorf("it does not answer: %w", err)
		case <-tick.C:
		}
	}
}

// look finds out whether the service can be used, and makes it so if it is ours and lacks something.
func (p *Process) look(ctx context.Context) error {
	err := p.kind.probe(ctx, p.address)
	if err == nil || p.server == nil {
		return err
	}
	if err := p.kind.repair(ctx, p.address, err); err != nil {
		return err
	}
	return p.kind.probe(ctx, p.address)
}

// remove stops the server for good; what is not ours stays.
func (p *Process) remove(ctx context.Context) error {
	if p.server == nil {
		return nil
	}
	if err := p.server.remove(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	return nil
}
