// Command tenant-service keeps the registry of tenants and tells the other services of it.
//
// It has an HTTP API in front of a table in PostgreSQL, and a relay from that table to the control channel in NATS, where
// ingest-service picks up what is to be done for each tenant and reports how far it is. Several of it may run at once.
//
// It starts while PostgreSQL or NATS are away, and is ready once both are there.
package main

import (
	"context"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/credential"
)

// The head of the OpenAPI document, which `make generate` takes from here:
//
//	@title			Tenants
//	@version		1.0
//	@description	The registry of tenants. A tenant has a RabbitMQ queue, a partition of the message table and a pool of workers, which appear when it is created and disappear when it is deleted.
//	@description
//	@description	A change is answered as soon as it is recorded: it is a new desired state with a higher `generation`. The instances of ingest-service bring it about within a second or so; `status` says how far they are. It is reached when `status.observed_generation` is at least `generation` and `status.state` is `running`, or `suspended`. With the header `Prefer: wait=10` the request itself waits for that, at most 10 seconds (and never more than 30).
//	@description
//	@description	Errors are problem documents (RFC 9457): act on `code`, show `detail`, quote `request_id` when you ask for help.
//	@description
//	@description	`make token SCOPE=tenants:admin` prints a token for a development installation.
//	@license.name	MIT
//	@license.url	https://opensource.org/license/mit
//	@BasePath		/
//	@tag.name		tenants
//	@tag.description	what is desired of a tenant, and what is observed
//	@tag.name		tokens
//	@tag.description	tokens that the platform issues for a tenant
//	@tag.name		audit
//	@tag.description	who has changed what
//	@tag.name		credentials
//	@tag.description	AMQP users of a tenant's producers
//	@accept			json
//	@produce		json
//
//	@securityDefinitions.apikey	Bearer
//	@in							header
//	@name						Authorization
//	@description				The word `Bearer`, a space, and a JWT with the scope `tenants:admin`. A token with the claim `tenant_id` acts on that tenant alone.

// serviceName is the name in logs, metrics and on the servers that this service connects to.
const serviceName = "tenant-service"

// Config is the configuration of this binary.
type Config struct {
	service.Config
	NATS     control.Config    `koanf:"nats"`
	RabbitMQ credential.Config `koanf:"rabbitmq"`
	Audit    AuditConfig       `koanf:"audit"`
	// Workers and MaxWorkers are the policy for tenants.
	Workers    int `koanf:"workers" usage:"workers of a tenant that has no number of its own" validate:"min=1,ltefield=MaxWorkers"`
	MaxWorkers int `koanf:"max_workers" usage:"highest number of workers of one tenant" validate:"min=1,max=1024"`
	// Limits are those of tenants that have none of their own.
	Limits Limits `koanf:"limits"`
}

// AuditConfig is the section "audit".
type AuditConfig struct {
	Retention time.Duration `koanf:"retention" validate:"omitempty,min=24h" usage:"how long audit events are kept, a day at least; 0 for ever"`
}

func defaultConfig() Config {
	cfg := Config{
		Config:     service.DefaultConfig(":8081", "127.0.0.1:9081"),
		NATS:       control.DefaultConfig(),
		Audit:      AuditConfig{Retention: 365 * 24 * time.Hour},
		RabbitMQ:   credential.DefaultConfig(),
		Workers:    3,
		MaxWorkers: contract.DefaultMaxWorkers,
		Limits:     Limits{LimitDefaults: LimitDefaults{Weight: 1}},
	}
	// Longer than the longest wait that a client may prefer.
	cfg.HTTP.RequestTimeout = 35 * time.Second
	return cfg
}

func main() {
	lifecycle.Main(func(ctx context.Context, args []string) error {
		return command().Line(os.Environ(), os.Stdout).Run(ctx, args)
	})
}

func command() service.Command[Config] {
	return service.Command[Config]{
		Name: serviceName, Usage: "the registry of tenants", Defaults: defaultConfig, Serve: serve,
		More: map[string]service.Extra[Config]{
			"migrate": {Usage: "bring the database to the schema of this version, and exit", Run: migrate},
		},
	}
}

// migrate is for installations that migrate in a step of their own.
func migrate(ctx context.Context, cfg Config, log *zap.Logger) error {
	url := cfg.Database.MigrateURL
	if url == "" {
		url = cfg.Database.URL
	}
	return schema.Migrate(ctx, url, log)
}
