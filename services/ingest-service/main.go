// Command ingest-service takes in messages and stores them.
//
// For every tenant that the control channel names it makes a queue, a partition and a consumer, and keeps them as desired
// until the tenant is deleted. Producers publish over its HTTP API, which answers once the broker has taken
// responsibility, or to RabbitMQ directly. What cannot be stored becomes a dead letter that can be looked at, replayed and
// dropped.
//
// It starts while PostgreSQL, RabbitMQ or NATS are away, and resumes without intervention when they come back.
package main

import (
	"context"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
)

// The head of the OpenAPI document, which `make generate` takes from here:
//
//	@title			Messages in, and dead letters
//	@version		1.0
//	@description	Takes in the messages of tenants, one by one or as NDJSON, and gives access to what could not be stored.
//	@description
//	@description	`202` means that the broker has the message on disk: it will be stored, or become a dead letter with a reason. Any other answer is safe to repeat with the same `id`, since a message is stored once per id.
//	@description
//	@description	Errors are problem documents (RFC 9457): act on `code`, show `detail`, quote `request_id` when you ask for help.
//	@license.name	MIT
//	@license.url	https://opensource.org/license/mit
//	@BasePath		/
//	@tag.name		messages
//	@tag.description	what producers send
//	@tag.name		dead letters
//	@tag.description	what could not be stored, and its way back
//	@accept			json
//	@produce		json
//
//	@securityDefinitions.apikey	Bearer
//	@in							header
//	@name						Authorization
//	@description				The word `Bearer`, a space, and a JWT with the scope `messages:write` or `deadletters:manage` and the claim `tenant_id`. A token with `tenants:admin` and no `tenant_id` names the tenant with `?tenant_id=`.

// serviceName is the name in logs, metrics and on the servers that this service connects to.
const serviceName = "ingest-service"

// Config is the configuration of this binary.
type Config struct {
	service.Config
	RabbitMQ conn.Config    `koanf:"rabbitmq"`
	NATS     control.Config `koanf:"nats"`
	Ingest   IngestConfig   `koanf:"ingest"`
}

// IngestConfig is the section "ingest".
type IngestConfig struct {
	Instance      string          `koanf:"instance" validate:"required,max=64,excludesall=.*> /" usage:"name of this instance in its reports; each needs its own (default: the host name and a random part)"`
	QueueType     string          `koanf:"queue_type" validate:"oneof=quorum classic" usage:"type of new tenants' queues: quorum survives the loss of a node, classic is cheaper"`
	QueueMaxBytes int64           `koanf:"queue_max_bytes" validate:"min=0" usage:"bytes that a tenant's queue holds before it refuses more; 0 for no limit; counts for new queues"`
	MaxPayload    int             `koanf:"max_payload" validate:"min=1024,max=16000000" usage:"largest payload in bytes"`
	Prefetch      int             `koanf:"prefetch" validate:"min=2,max=65535" usage:"unacknowledged deliveries of a tenant at most"`
	UnackedBytes  int64           `koanf:"unacked_bytes" validate:"min=1048576" usage:"memory for unacknowledged deliveries of all tenants; prefetch is lowered for large messages"`
	BatchMessages int             `koanf:"batch_messages" validate:"min=1,max=10000" usage:"messages of one batch at most"`
	BatchBytes    int64           `koanf:"batch_bytes" validate:"min=1024,max=268435456" usage:"bytes of one batch, beyond which it takes no further message"`
	BatchDelay    time.Duration   `koanf:"batch_delay" validate:"min=0s,max=1s" usage:"how long a batch gathers while other workers of the tenant are busy (up to 50ms while there is a backlog); an idle tenant's message never waits"`
	MaxAttempts   int             `koanf:"max_attempts" validate:"min=1,max=100" usage:"attempts at a message before it is a dead letter, unless its tenant says otherwise"`
	RetryDelays   []time.Duration `koanf:"retry_delays" validate:"min=1,max=16,dive,min=100ms,max=24h" usage:"delays of the retry tiers, shortest first"`
	HoldTimeout   time.Duration   `koanf:"hold_timeout" validate:"min=1s,max=20m" usage:"how long deliveries are held during an outage before they go back to their queue; well below the broker's consumer timeout of 30m"`
	WriteTimeout  time.Duration   `koanf:"write_timeout" validate:"min=100ms,max=30s" usage:"how long one batch may take to commit"`
	Provisioning  int             `koanf:"provisioning" validate:"min=1,max=64" usage:"tenants that are provisioned or torn down at a time"`
	// Resync is how often what runs is compared with the registry of tenants, give or take a third.
	Resync time.Duration `koanf:"resync" validate:"min=1s,max=10m" usage:"how often what runs is compared with the registry of tenants, give or take a third; it bounds how long a control channel that has gone wrong counts"`
	// BatchBody is the limit of POST /messages/batch; http.body_limit is that of every other request, and of a line.
	BatchBody    int `koanf:"batch_body" validate:"min=1024,max=67108864" usage:"largest body of POST /messages/batch, in bytes"`
	BatchLines   int `koanf:"batch_lines" validate:"min=1,max=100000" usage:"lines of POST /messages/batch at most"`
	ReplayPerSec int `koanf:"replay_per_second" validate:"min=1,max=100000" usage:"messages a second at which many dead letters are replayed"`
	// UsageRetention is for the hours of deleted tenants as well.
	UsageRetention time.Duration `koanf:"usage_retention" validate:"min=24h,max=87600h" usage:"how long the hourly usage of tenants is kept, also after they are deleted"`
}

func defaultConfig() Config {
	return Config{
		Config:   service.DefaultConfig(":8082", "127.0.0.1:9082"),
		RabbitMQ: conn.Default(),
		NATS:     control.DefaultConfig(),
		Ingest: IngestConfig{
			Instance:      service.InstanceName("ingest"),
			QueueType:     amqp.QueueTypeQuorum,
			QueueMaxBytes: 1 << 30,
			MaxPayload:    contract.DefaultMaxPayload,
			Prefetch:      2000,
			UnackedBytes:  512 << 20,
			BatchMessages: 500,
			BatchBytes:    4 << 20,
			BatchDelay:    5 * time.Millisecond,
			MaxAttempts:   6,
			RetryDelays:   []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute},
			HoldTimeout:   5 * time.Minute,
			WriteTimeout:  10 * time.Second,
			Provisioning:  8,
			Resync:        45 * time.Second,
			BatchBody:     10 << 20,
			BatchLines:    10_000,
			ReplayPerSec:  500,

			UsageRetention: 400 * 24 * time.Hour,
		},
	}
}

func main() {
	lifecycle.Main(func(ctx context.Context, args []string) error {
		return command().Line(os.Environ(), os.Stdout).Run(ctx, args)
	})
}

func command() service.Command[Config] {
	return service.Command[Config]{Name: serviceName, Usage: "takes in messages and stores them", Defaults: defaultConfig, Serve: serve}
}
