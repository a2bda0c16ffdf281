package consumer

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// TagPrefix begins the tag of a consumer; the id of its tenant follows.
const TagPrefix = "ingest-"

// ErrIsolated says that the deliveries of a tenant's queue break the connection, so that nothing of it is consumed but for a
// probe now and then.
var ErrIsolated = errors.New("deliveries from this tenant's queue break the connection; see the runbook")

// Place is where a tenant is consumed at present.
type Place struct {
	Link *conn.Link
	// Prefetch lowers that of the configuration, unless it is 0.
	Prefetch int
	// Fault is what is said of the tenant although the broker delivers: it wraps [ErrIsolated] during a probe.
	Fault error
	// Began is to be called when the broker delivers. It is nil on a connection that is shared with others.
	Began func()
}

// Placement decides where a tenant is consumed.
type Placement interface {
	// Acquire waits, until ctx ends, as long as that is nowhere; report is told why if that takes long. relocate is called, from
	// any goroutine, when it is another place from then on.
	Acquire(ctx context.Context, tenant uuid.UUID, relocate func(), report func(error)) (Place, error)
	// Release says that the tenant has no consumer any more.
	Release(tenant uuid.UUID)
}

// On is the placement of every tenant on one connection.
func On(link *conn.Link) Placement { return fixed{link} }

type fixed struct{ link *conn.Link }

// Acquire is that of [Placement].
func (f fixed) Acquire(context.Context, uuid.UUID, func(), func(error)) (Place, error) {
	return Place{Link: f.link}, nil
}

// Release is that of [Placement].
func (fixed) Release(uuid.UUID) {}
