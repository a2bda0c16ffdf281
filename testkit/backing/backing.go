package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// Name names a backing service, and with it its process, pid file and log.
type Name string

// The backing services.
const (
	ServicePostgres Name = "postgres"
	ServiceRabbitMQ Name = "rabbitmq"
	ServiceNATS     Name = "nats"
)

// Names are all backing services.
func Names() []Name { return []Name{ServicePostgres, ServiceRabbitMQ, ServiceNATS} }

// Mode says where services are taken from.
type Mode string

// The modes, as the environment variable BACKING knows them.
const (
	// ModeAuto tries the environment, Docker and this machine's programs, in this order.
	ModeAuto Mode = ""
	// ModeExternal takes addresses from the environment and nothing else.
	ModeExternal Mode = "external"
	// ModeDocker runs everything in containers.
	ModeDocker Mode = "docker"
	// ModeNative runs everything from this machine's programs.
	ModeNative Mode = "native"
)

// ModeFromEnv is the mode that the environment variable BACKING asks for.
func ModeFromEnv() (Mode, error) { return ParseMode(os.Getenv("BACKING")) }

// ParseMode is the mode that a value of BACKING asks for.
func ParseMode(value string) (Mode, error) {
	switch mode := Mode(value); mode {
	case ModeAuto, ModeExternal, ModeDocker, ModeNative:
		return mode, nil
	case "auto":
		return ModeAuto, nil
	default:
		return ModeAuto, fmt.Errorf("BACKING=%s: want external, docker or native", mode)
	}
}

// Source is how a service was taken.
type Source string

// The sources.
const (
	SourceEnv    Source = "env"
	SourceDocker Source = "docker"
	SourceNative Source = "native"
)

// StartTimeout is how long one service may take until it answers. RabbitMQ needs 5 to 15 s on two cores that have
// something else to do as well.
const StartTimeout = 2 * time.Minute

// Options say what to start.
type Options struct {
	// Services are those to start; all three if empty.
	Services []Name
	// Mode overrides the environment variable BACKING.
	Mode Mode
	// Durable makes PostgreSQL wait for the disk. Without it a power failure, but no crash of a process, may lose data.
	Durable bool
	// Direct gives containers the network of this machine, where the engine is on it: through a network of their own, with its
	// bridges, filters and forwarded ports, every message costs more.
	Direct bool
	// RabbitMQPlugins are enabled beside the management one, on a server of this machine's programs or in a container that is
	// Direct.
	RabbitMQPlugins []string
	// Log is told of the progress, one line at a time. May be nil.
	Log func(line string)

	// own ignores addresses in the environment: the caller wants servers that it can kill.
	own bool
}

// Services are running backing services.
type Services struct {
	// DatabaseURL logs in as an operator, who is a superuser.
	DatabaseURL string
	// RabbitMQURL is for AMQP, RabbitMQManagementURL for the management HTTP API; both log in as an administrator.
	RabbitMQURL           string
	RabbitMQManagementURL string
	NATSURL               string

	processes map[Name]*Process
	lease     *agent.Lease
}

// Start starts the services, or finds them, and returns when all of them answer. They end with [Services.Stop] or with this
// process. On an error, what had started has been stopped again.
func Start(ctx context.Context, opts Options) (*Services, error) {
	if opts.Mode == ModeAuto {
		var err error
		if opts.Mode, err = ModeFromEnv(); err != nil {
			return nil, err
		}
	}
	request := agent.Request{
		Do: agent.StartServers, Env: map[string]string{}, Mode: string(opts.Mode), Own: opts.own, Durable: opts.Durable, Direct: opts.Direct,
		Plugins: opts.RabbitMQPlugins,
	}
	for _, name := range []string{"BACKING", "DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL"} {
		request.Env[name] = os.Getenv(name) // the agent may have been started in another environment
	}
	for _, name := range opts.Services {
		request.Names = append(request.Names, string(name))
	}
	socket, err := program.socket(ctx)
	if err != nil {
		return nil, err
	}
	lease, reply, err := agent.Hold(ctx, socket, request, opts.Log)
	if err != nil {
		return nil, err
	}
	services := &Services{lease: lease, processes: map[Name]*Process{}}
	for _, server := range reply.Servers {
		services.add(&Process{name: Name(server.Name), source: Source(server.Source), url: server.URL, dir: reply.Dir, socket: socket}, server)
	}
	return services, nil
}

// StartOwn starts servers that the caller may kill, pause and start again through [Services.Process], as [Dedicated]
// does for a test: addresses in the environment are passed over, and BACKING=external is an error.
func StartOwn(ctx context.Context, opts Options) (*Services, error) {
	if opts.Mode == ModeAuto {
		var err error
		if opts.Mode, err = ModeFromEnv(); err != nil {
			return nil, err
		}
	}
	if opts.Mode == ModeExternal {
		return nil, fmt.Errorf("BACKING=external: %w; use docker or native", ErrExternal)
	}
	opts.own = true
	return Start(ctx, opts)
}

// Stop stops the servers that are ours and leaves nothing of them; those from the environment are left alone.
func (s *Services) Stop(ctx context.Context) error {
	if s.lease == nil {
		return nil
	}
	return s.lease.Release(ctx)
}

// Process controls one service; nil if it was not started.
func (s *Services) Process(name Name) *Process { return s.processes[name] }

// External reports whether all services are from the environment.
func (s *Services) External() bool {
	for _, p := range s.processes {
		if p.source != SourceEnv {
			return false
		}
	}
	return true
}

func (s *Services) add(p *Process, server agent.Server) {
	s.processes[p.name] = p
	switch p.name {
	case ServicePostgres:
		s.DatabaseURL = server.URL
	case ServiceRabbitMQ:
		s.RabbitMQURL, s.RabbitMQManagementURL = server.URL, server.ManagementURL
	case ServiceNATS:
		s.NATSURL = server.URL
	}
}

// fromRun are the services whose addresses "backing run" has put into the environment.
func fromRun() (*Services, error) {
	services := &Services{
		DatabaseURL: os.Getenv("DATABASE_URL"), RabbitMQURL: os.Getenv("RABBITMQ_URL"),
		RabbitMQManagementURL: os.Getenv("RABBITMQ_MANAGEMENT_URL"), NATSURL: os.Getenv("NATS_URL"),
	}
	if services.DatabaseURL == "" || services.RabbitMQURL == "" || services.RabbitMQManagementURL == "" {
		return nil, errors.New(RunEnv + " is set, but not the addresses of the servers of that run")
	}
	return services, nil
}
