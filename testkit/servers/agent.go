package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// Agent starts servers for other processes of this machine, which reach it through package backing.
type Agent struct {
	scratch  *Scratch
	listener net.Listener

	mu     sync.Mutex
	leases map[string]*Services // guarded by mu; by their folders
}

// NewAgent listens in a scratch folder of its own. [Agent.Close] removes it.
func NewAgent(ctx context.Context) (*Agent, error) {
	scratch, err := NewScratch()
	if err != nil {
		return nil, err
	}
	a := &Agent{scratch: scratch, leases: map[string]*Services{}}
	var config net.ListenConfig
	if a.listener, err = config.Listen(ctx, "unix", a.Socket()); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), scratch.Remove(context.WithoutCancel(ctx)))
	}
	return a, nil
}

// Scratch is the folder of the agent, in which those of its clients lie.
func (a *Agent) Scratch() *Scratch { return a.scratch }

// Socket is where the agent listens.
func (a *Agent) Socket() string { return filepath.Join(a.scratch.Dir, agent.SocketFile) }

// Serve answers clients until ctx ends, and returns when what they have started has been stopped.
func (a *Agent) Serve(ctx context.Context) error { return agent.Serve(ctx, a.listener, a.handle) }

// Close removes the folder of the agent, and with it everything that still runs.
func (a *Agent) Close(ctx context.Context) error { return a.scratch.Remove(ctx) }

func (a *Agent) handle(ctx context.Context, request agent.Request, progress func(string)) (agent.Reply, func(context.Context) error, error) {
	switch request.Do {
	case agent.StartServers:
		return a.start(ctx, request, progress)
	case agent.StartNATS:
		return startLeasedNATS(request)
	case agent.MakeScratch:
		dir, err := a.scratch.folder()
		if err != nil {
			return agent.Reply{}, nil, err
		}
		return agent.Reply{Dir: dir}, func(ctx context.Context) error { return cleanScratch(ctx, dir) }, nil
	default:
		reply, err := a.control(ctx, request)
		return reply, nil, err
	}
}

func (a *Agent) start(ctx context.Context, request agent.Request, progress func(string)) (agent.Reply, func(context.Context) error, error) {
	options := Options{
		Scratch: a.scratch, Getenv: func(name string) string { return request.Env[name] }, Mode: backing.Mode(request.Mode),
		Own: request.Own, Durable: request.Durable, Direct: request.Direct, RabbitMQPlugins: request.Plugins, Log: progress,
	}
	for _, name := range request.Names {
		options.Services = append(options.Services, backing.Name(name))
	}
	services, err := Start(ctx, options)
	if err != nil {
		return agent.Reply{}, nil, err
	}
	reply := agent.Reply{Dir: services.dir}
	for _, p := range services.processes {
		reply.Servers = append(reply.Servers, agent.Server{
			Name: string(p.name), Source: string(p.source), URL: p.address.URL, ManagementURL: p.address.ManagementURL,
		})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leases[services.dir] = services
	return reply, func(ctx context.Context) error {
		a.mu.Lock()
		delete(a.leases, services.dir)
		a.mu.Unlock()
		return services.Stop(ctx)
	}, nil
}

func startLeasedNATS(request agent.Request) (agent.Reply, func(context.Context) error, error) {
	running, err := startNATS(NATSConfig{Dir: request.Data, Port: request.Port, ConfigFile: request.Config})
	if err != nil {
		return agent.Reply{}, nil, err
	}
	return agent.Reply{URL: running.ClientURL()}, func(context.Context) error {
		running.Shutdown()
		running.WaitForShutdown()
		return nil
	}, nil
}

// control does something to one server.
func (a *Agent) control(ctx context.Context, request agent.Request) (reply agent.Reply, err error) {
	a.mu.Lock()
	services := a.leases[request.Dir]
	a.mu.Unlock()
	if services == nil {
		return reply, fmt.Errorf("no servers run in %s", request.Dir)
	}
	p := services.Process(backing.Name(request.Server))
	if p == nil {
		return reply, fmt.Errorf("%s was not started", request.Server)
	}
	switch request.Do {
	case agent.Start:
		err = p.Start(ctx)
	case agent.Stop:
		err = p.Stop(ctx)
	case agent.Kill:
		err = p.Kill(ctx)
	case agent.Wipe:
		err = p.Wipe(ctx)
	case agent.Signal:
		err = p.Signal(ctx, syscall.Signal(request.Signal))
	case agent.Inspect:
		if reply.Running, err = p.Running(ctx); err == nil && reply.Running {
			reply.PID, err = p.hostPID(ctx)
		}
	case agent.Tool:
		if len(request.Tool) == 0 {
			return reply, errors.New("run what?")
		}
		reply.Output, err = p.Tool(ctx, request.Tool[0], request.Tool[1:]...)
	case agent.Tail:
		if p.server != nil {
			reply.Output = p.server.tail(ctx)
		}
	default:
		err = fmt.Errorf("unknown request %q", request.Do)
	}
	return reply, err
}
