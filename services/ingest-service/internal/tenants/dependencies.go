package tenants

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Partitions are tenants' partitions; store.Store has them.
type Partitions interface {
	provision.Partitions
	// Attached is false for a tenant that was never provisioned, or was deleted.
	Attached(ctx context.Context, tenant uuid.UUID) (bool, error)
}

// Queues are tenants' queues; [provision.Topology] has them.
type Queues interface {
	provision.Queues
	Depths(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error
}

// Specs is the bucket of desired states; control.Tenants returns one.
type Specs interface {
	Watch(ctx context.Context, handle func(control.Entry[contract.TenantSpec]), synced func()) error
	Get(ctx context.Context, key string) (control.Entry[contract.TenantSpec], error)
}

// Registry is the registry of tenants, as far as this service sees it; store.Store does that.
type Registry interface {
	// RegistryVersion changes with every change of the registry.
	RegistryVersion(ctx context.Context) (string, error)
	// Registered is a page of the tenants that are not deleted, in the order of their ids; an empty one is the end.
	Registered(ctx context.Context, behind uuid.UUID) ([]store.Registration, error)
	// RegisteredAmong are those that the registry has ever known, the deleted ones included.
	RegisteredAmong(ctx context.Context, ids []uuid.UUID) ([]store.Registration, error)
}

// Storage knows how much tenants may still store; quota.Tracker does.
type Storage interface {
	// Room is how many bytes a tenant may still store under a limit of so many; known is false as long as nobody knows.
	Room(tenant uuid.UUID, limit int64) (room int64, known bool)
}

// Consumer consumes the queue of one tenant; consumer.Consumer does.
type Consumer interface {
	Configure(workers, maxAttempts int)
	Limit(limits contract.Limits)
	Run(ctx context.Context) error
}

// NewConsumer makes the consumer of a tenant. onChange is told when it starts to consume, and what keeps it from consuming.
type NewConsumer func(tenant uuid.UUID, state *consumer.State, onChange func(error)) Consumer

// Config is how a controller works.
type Config struct {
	// Instance names this instance in its reports.
	Instance string
	// MaxAttempts is how often a message is tried unless its tenant says otherwise.
	MaxAttempts int
	// Concurrency is how many tenants are provisioned or torn down at a time.
	Concurrency int
	// Resync is how often what runs is compared with the registry, give or take a third.
	Resync time.Duration
}

// Dependencies are what a controller acts on.
type Dependencies struct {
	Specs       Specs
	Statuses    status.Statuses
	Partitions  Partitions
	Topology    Queues
	NewConsumer NewConsumer
	// Heartbeats are those of all instances, among which the workers of a tenant are divided.
	Heartbeats members.Heartbeats
	// Presence tells an instance that cannot reach the control channel whether others can; nil: it never knows.
	Presence members.Presence
	// Registry is what the control channel is compared with; nil: what the channel says is all there is.
	Registry Registry
	// Storage knows how much tenants may still store; nil: no tenant has a limit.
	Storage Storage
	// Synced is called once the first full snapshot of the control channel has been taken in.
	Synced func()
	// Forget are called when a tenant's teardown is done, and again when it is let go: what others keep of it must go, too.
	Forget []func(tenant uuid.UUID)
	// QueueLimits tells what a tenant's queue is held to, if that is not what its limits say; nil: nobody looks.
	QueueLimits func(tenant uuid.UUID, limits contract.Limits) *contract.QueueLimits
	// Outage tells why nothing can be stored; nil while it can.
	Outage func() error
	// Step is told of every step that is done; nil outside of tests.
	Step step.Hook
	Log  *zap.Logger
}
