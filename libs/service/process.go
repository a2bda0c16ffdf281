package service

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth/revocation"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

// Config is the configuration that every service has.
type Config struct {
	HTTP            rest.Config      `koanf:"http"`
	Ops             telemetry.Config `koanf:"ops"`
	Database        postgres.Config  `koanf:"database"`
	Auth            auth.Config      `koanf:"auth"`
	Log             logging.Config   `koanf:"log"`
	ShutdownTimeout time.Duration    `koanf:"shutdown_timeout" validate:"min=1s,max=10m" usage:"how long stopping may take"`
}

// Common is the configuration itself, for [Command].
func (c Config) Common() Config { return c }

// DefaultConfig listens for the API on one address and for operations on another, which shows profiles and should not be for everyone.
func DefaultConfig(api, ops string) Config {
	cfg := Config{
		HTTP: rest.DefaultConfig(), Ops: telemetry.Config{Addr: ops}, Database: postgres.DefaultConfig(), Auth: auth.DefaultConfig(),
		Log: logging.DefaultConfig(), ShutdownTimeout: 30 * time.Second,
	}
	cfg.HTTP.Addr = api
	return cfg
}

// InstanceName is the default name of an instance, unique among the processes of a host, and among hosts. It is the name of the host, or
// fallback where that is not known, and a random part, and fits into a subject and a key of the control channel.
func InstanceName(fallback string) string {
	host, err := os.Hostname()
	if err != nil {
		host = fallback
	}
	name := make([]rune, 0, len(host))
	for _, r := range host {
		if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') || r == '-' || r == '_' {
			name = append(name, r)
			continue
		}
		name = append(name, '-')
	}
	return fmt.Sprintf("%.40s-%s", string(name), uuid.NewString()[:8])
}

// Process is what every service runs.
type Process struct {
	Registry *prometheus.Registry
	Health   *telemetry.Health
	Server   *rest.Server
	Verifier *auth.Verifier
	Pool     *pgxpool.Pool // acts as role

	cfg  Config
	role string
	ops  *telemetry.Ops
	log  *zap.Logger
}

// New prepares a process. A wrong key, a wrong URL or a port in use ends the start here, before anything runs; servers may be
// away. name is that of the service, role what its connections to the database act as. The caller closes the process.
func New(ctx context.Context, name, role string, cfg Config, log *zap.Logger) (*Process, error) {
	reg := telemetry.NewRegistry(name)
	p := &Process{Registry: reg, Health: telemetry.NewHealth(reg), cfg: cfg, role: role, log: log}
	p.ops = telemetry.NewOps(cfg.Ops, reg, p.Health, log)
	p.Server = rest.New(cfg.HTTP, name, reg, log)
	var err error
	if p.Verifier, err = auth.New(ctx, cfg.Auth, log); err != nil {
		return nil, err
	}
	if _, err := p.ops.Listen(); err != nil { //nolint:contextcheck // binding a port needs no deadline
		return nil, err
	}
	if _, err := p.Server.Listen(); err != nil { //nolint:contextcheck // binding a port needs no deadline
		return nil, err
	}
	if p.Pool, err = postgres.Open(ctx, cfg.Database, role); err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends the connections to the database.
func (p *Process) Close() { p.Pool.Close() }

// Run runs the process until ctx ends or a component fails. The components given are started after the database and before the
// HTTP API, in their order, and stop in reverse.
func (p *Process) Run(ctx context.Context, components ...lifecycle.Component) error {
	migrated, database, revocations := p.Health.Check("schema"), p.Health.Backing("postgres"), p.Health.Check("revocations")
	all := make([]lifecycle.Component, 0, len(components)+7)
	all = append(all,
		lifecycle.Component{Name: "ops", Run: p.ops.Run},
		lifecycle.Component{Name: "schema", Run: func(ctx context.Context) error {
			return schema.Prepare(ctx, p.cfg.Database, p.role, p.log, migrated.Set)
		}},
		lifecycle.Component{Name: "postgres", Run: func(ctx context.Context) error { return postgres.Watch(ctx, p.Pool, database) }},
		lifecycle.Component{Name: "token keys", Run: p.Verifier.Run},
		lifecycle.Component{Name: "revocations", Run: func(ctx context.Context) error {
			return revocation.Watch(ctx, p.Pool, p.Verifier.Revocations(), revocations, p.log)
		}},
	)
	all = append(all, components...)
	all = append(all,
		lifecycle.Component{Name: "http", Run: p.Server.Run},
		// Stops first: load balancers look elsewhere while requests in flight are answered.
		lifecycle.Component{Name: "readiness", Run: func(ctx context.Context) error {
			<-ctx.Done()
			p.Health.Stopping()
			return nil
		}},
	)
	return lifecycle.Run(ctx, p.cfg.ShutdownTimeout, p.log, all...)
}
