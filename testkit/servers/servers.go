package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Options say what to start.
type Options struct {
	// Services are those to start; all three if empty.
	Services []backing.Name
	// Mode overrides the environment variable BACKING.
	Mode backing.Mode
	// Dir holds data, logs, pid files and passwords of persistent servers, which outlive the caller and keep their data.
	Dir string
	// Scratch is where servers run that end with the caller; without Dir.
	Scratch *Scratch
	// Durable makes PostgreSQL wait for the disk. Without it a power failure, but no crash of a process, may lose data.
	Durable bool
	// Direct gives containers the network of this machine, where the engine is on it: through a network of their own, with its
	// bridges, filters and forwarded ports, every message costs more. It is not for persistent servers, whose data would have to
	// be found again under another name of the machine.
	Direct bool
	// RabbitMQPlugins are enabled beside the management one, on a server of this machine's programs or in a container that is
	// Direct.
	RabbitMQPlugins []string
	// Getenv looks up BACKING and addresses; [os.Getenv] if nil.
	Getenv func(name string) string
	// Own passes over addresses in the environment: the caller wants servers that it can kill.
	Own bool
	// Log is told of the progress, one line at a time. May be nil; may be called from several goroutines.
	Log func(line string)
}

func (o Options) persistent() bool { return o.Dir != "" }

// Services are running backing services.
type Services struct {
	// DatabaseURL logs in as an operator, who is a superuser.
	DatabaseURL string
	// RabbitMQURL is for AMQP, RabbitMQManagementURL for the management HTTP API; both log in as an administrator.
	RabbitMQURL           string
	RabbitMQManagementURL string
	NATSURL               string

	dir       string
	processes map[backing.Name]*Process
	scratch   bool
}

// Start starts the services, or finds them, and returns when all of them answer.
//
// On an error, scratch servers have been stopped again; persistent ones that did start run on, so that the next try has
// less to do.
func Start(ctx context.Context, opts Options) (*Services, error) {
	starter, err := newStarter(opts)
	if err != nil {
		return nil, err
	}
	if opts.persistent() {
		unlock, err := lockDir(ctx, starter.dir, starter.say)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	choices, err := starter.choose(ctx)
	if err != nil {
		return nil, err
	}
	services := &Services{dir: starter.dir, processes: map[backing.Name]*Process{}}
	if !opts.persistent() && slices.ContainsFunc(choices, choice.ours) {
		if starter.dir, err = opts.Scratch.folder(); err != nil {
			return nil, err
		}
		services.dir, services.scratch = starter.dir, true
	}
	if err := starter.begin(ctx, choices, services); err != nil {
		if !opts.persistent() {
			err = errors.Join(err, services.Stop(context.WithoutCancel(ctx)))
		}
		return nil, err
	}
	return services, nil
}

// Stop stops the servers that are ours, however they were started, and leaves those from the environment alone. Data of
// persistent servers is kept; of scratch servers nothing is left.
func (s *Services) Stop(ctx context.Context) error {
	if s.scratch {
		return cleanScratch(ctx, s.dir)
	}
	var group errgroup.Group
	for _, p := range s.processes {
		group.Go(func() error { return p.remove(ctx) })
	}
	return group.Wait()
}

// Process controls one service; nil if it was not started.
func (s *Services) Process(name backing.Name) *Process { return s.processes[name] }

// Dir is where logs, pid files and data are; empty if all services are from the environment.
func (s *Services) Dir() string { return s.dir }

// Env are the addresses as environment variables, "NAME=value" each.
func (s *Services) Env() []string {
	var env []string
	for _, variable := range [][2]string{
		{"DATABASE_URL", s.DatabaseURL},
		{"RABBITMQ_URL", s.RabbitMQURL},
		{"RABBITMQ_MANAGEMENT_URL", s.RabbitMQManagementURL},
		{"NATS_URL", s.NATSURL},
	} {
		if variable[1] != "" {
			env = append(env, variable[0]+"="+variable[1])
		}
	}
	return env
}

func (s *Services) add(p *Process) {
	s.processes[p.name] = p
	switch p.name {
	case backing.ServicePostgres:
		s.DatabaseURL = p.address.URL
	case backing.ServiceRabbitMQ:
		s.RabbitMQURL, s.RabbitMQManagementURL = p.address.URL, p.address.ManagementURL
	case backing.ServiceNATS:
		s.NATSURL = p.address.URL
	default: // a helper process has no address
	}
}

// Stop stops the persistent servers of dir and keeps their data. Servers that do not run are fine.
func Stop(ctx context.Context, dir string) error {
	return eachServer(ctx, dir, func(ctx context.Context, srv server) error { return srv.remove(ctx) })
}

// Reset stops the persistent servers of dir and removes all that is left of them: data, logs and passwords.
func Reset(ctx context.Context, dir string) error {
	if err := Stop(ctx, dir); err != nil {
		return err
	}
	return discard(ctx, dir)
}

// Status is what is known of a persistent server.
type Status struct {
	Name      backing.Name
	Source    backing.Source
	Running   bool
	PID       int    // of a native server that runs
	Container string // of a server in Docker
	URL       string // with its password
	// Err is why it is not known whether the server runs: the Docker engine does not answer.
	Err error
}

// Inspect tells of the persistent servers of dir.
func Inspect(ctx context.Context, dir string) ([]Status, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", dir, err)
	}
	var all []Status
	for _, k := range kinds() {
		rec, found, err := currentRecord(dir, k.name())
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		srv := serverOf(dir, k, rec, settings{})
		running, err := srv.running(ctx)
		all = append(all, Status{
			Name: k.name(), Source: rec.Source, Running: running, PID: srv.pid(), Container: rec.Container,
			URL: k.address(rec).URL, Err: err,
		})
	}
	return all, nil
}

func eachServer(ctx context.Context, dir string, do func(context.Context, server) error) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find %s: %w", dir, err)
	}
	var group errgroup.Group
	for _, k := range kinds() {
		for _, source := range []backing.Source{backing.SourceDocker, backing.SourceNative} {
			rec, found, err := loadRecord(dir, k.name(), source)
			if err != nil {
				return errors.Join(err, group.Wait())
			}
			if found {
				group.Go(func() error {
					if err := do(ctx, serverOf(dir, k, rec, settings{})); err != nil {
						return fmt.Errorf("%s: %w", k.name(), err)
					}
					return nil
				})
			}
		}
	}
	return group.Wait()
}

// discard ends the servers of dir and removes what is left of them. A scratch folder goes as a whole.
func discard(ctx context.Context, dir string) error {
	err := eachServer(ctx, dir, func(ctx context.Context, srv server) error { return srv.discard(ctx) })
	if err != nil {
		return err
	}
	scratch := strings.HasPrefix(filepath.Base(dir), scratchPrefix)
	paths := []string{dir}
	if !scratch {
		paths = []string{dataDir(dir)}
		for _, name := range slices.Concat(backing.Names(), []backing.Name{helperEPMD}) {
			paths = append(paths, filepath.Join(dir, "log", string(name)+".log"))
		}
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	return nil
}
