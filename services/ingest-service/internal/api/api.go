package api

import (
	"context"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/erase"
)

// Tenants knows the tenants of this instance.
type Tenants interface {
	// Lookup tells what is wanted of a tenant and whether its queue is there; ok is false for one that does not exist.
	Lookup(ctx context.Context, tenant uuid.UUID) (spec contract.TenantSpec, provisioned, ok bool)
}

// Publisher publishes with confirms; [publish.Publisher] is one.
type Publisher interface {
	Publish(ctx context.Context, m publish.Message) error
	PublishBatch(ctx context.Context, ms []publish.Message) []error
}

// Config are the limits of requests.
type Config struct {
	// MaxPayload is the longest payload in bytes.
	MaxPayload int
	// MessageBody is the largest body of a request with one message, and the longest line of a batch, in bytes.
	MessageBody int
	// BatchBody is the largest body of a batch in bytes, BatchLines the number of lines that it may have.
	BatchBody, BatchLines int
}

// BodyLimit is the limit that the server needs, which has one for all routes.
func (c Config) BodyLimit() int { return max(c.MessageBody, c.BatchBody) }

// Dependencies are what the API acts on.
type Dependencies struct {
	Tenants     Tenants
	Publisher   Publisher
	DeadLetters *deadletter.Store
	Replayer    *deadletter.Replayer
	Eraser      *erase.Eraser
	// Rates are not asked about tenants without limits per second.
	Rates Rates
}

// api answers the requests.
type api struct {
	deps    Dependencies
	cfg     Config
	metrics *Metrics
}

// Mount adds the routes of the API, and its Swagger UI, to server, whose limit of a body has to be at least
// [Config.BodyLimit].
func Mount(server *rest.Server, verifier *auth.Verifier, deps Dependencies, cfg Config, metrics *Metrics) {
	a := &api{deps: deps, cfg: cfg, metrics: metrics}
	app := server.App()
	authenticated, write, manage := verifier.Authenticate(), auth.Require(auth.ScopeMessagesWrite), auth.Require(auth.ScopeDeadLettersManage)
	app.Post("/messages", authenticated, write, a.publish)
	app.Post("/messages/batch", authenticated, write, a.publishBatch)
	app.Delete("/messages/:id", authenticated, auth.Require(auth.ScopeTenantsAdmin), rest.NoBody, a.eraseMessage)
	app.Get("/dead-letters", authenticated, manage, rest.NoBody, a.listDeadLetters)
	app.Delete("/dead-letters", authenticated, manage, rest.NoBody, a.dropDeadLetters)
	app.Post("/dead-letters/replay", authenticated, manage, rest.NoBody, a.replayDeadLetters)
	app.Get("/dead-letters/:id", authenticated, manage, rest.NoBody, a.getDeadLetter)
	app.Delete("/dead-letters/:id", authenticated, manage, rest.NoBody, a.dropDeadLetter)
	app.Post("/dead-letters/:id/replay", authenticated, manage, a.replayDeadLetter)
	server.Swagger(swagger)
}
