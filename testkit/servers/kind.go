package servers

import (
	"context"
	"syscall"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// kind is one of the three services: how it is addressed, looked at and started.
type kind interface {
	name() backing.Name
	// fromEnv is the address in the environment, and the variable that names it.
	fromEnv(env func(string) string) (addr address, variable string)
	// newRecord makes ports and passwords for a server that is to be started for the first time.
	newRecord(ctx context.Context, source backing.Source) (record, error)
	address(rec record) address
	// probe is nil once the service at addr can be used as an operator would.
	probe(ctx context.Context, addr address) error
	// repair does something about the error of a probe of a server of ours, if anything can be done. Nil means that another
	// probe is worth it.
	repair(ctx context.Context, addr address, probed error) error
	// missing are the Debian packages whose programs a native server lacks.
	missing() []string
	// accounts are whom a native server should run as where we are root; the first that exists. None: as ourselves.
	accounts() []string
	// native describes a server made of this machine's programs, container one in Docker.
	native(rec record, set settings) nativeSpec
	container(rec record, set settings) containerSpec
	image() string
}

// kinds are the services, in the order of [Names].
func kinds() []kind { return []kind{postgresKind{}, rabbitKind{}, natsKind{}} }

// settings are what a server is started with, and may be started with differently the next time.
type settings struct {
	durable    bool
	persistent bool
	direct     bool     // see [Options]
	plugins    []string // of RabbitMQ, beside those that it always has
}

// address is how a service is reached, with login.
type address struct {
	URL string
	// ManagementURL is RabbitMQ's HTTP API.
	ManagementURL string
}

// server is a server of our own, in Docker or native. All methods are safe to repeat.
type server interface {
	// start starts it unless it runs. It does not wait until it answers.
	start(ctx context.Context) error
	running(ctx context.Context) (bool, error)
	kill(ctx context.Context) error
	signal(ctx context.Context, sig syscall.Signal) error
	// halt ends it in an orderly way. remove does so, too, and leaves nothing behind but its data. discard ends it as fast as
	// it can and removes its data as well.
	halt(ctx context.Context) error
	remove(ctx context.Context) error
	discard(ctx context.Context) error
	// pid is that of a native server that runs, else 0.
	pid() int
	// tail is the end of its log.
	tail(ctx context.Context) string
}

func serverOf(dir string, k kind, rec record, set settings) server {
	if rec.Source == backing.SourceDocker {
		return &containerServer{name: k.name(), rec: rec, spec: k.container(rec, set), persistent: set.persistent}
	}
	return &nativeServer{dir: dir, name: k.name(), nativeSpec: k.native(rec, set)}
}
