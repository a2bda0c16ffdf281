package provision

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// existingAge is how old a partition has to be for its tenant to be assumed to be provisioned. A process that dies while it
	// provisions a tenant leaves a young one, and perhaps no queue, or one without bindings.
	existingAge = 10 * time.Second
	// readPause is between two tries to read which tenants there are.
	readPause = time.Second
)

// Existing is the tenants that had been provisioned before this instance began. Their consumers are started at once: verifying
// partition and queue first would take most of the time of a restart. Should the queue be missing, the consumer
// says so, and the tenant is provisioned. Nothing reports a missing binding, so all of them are to be verified later.
type Existing struct {
	partitions Partitions
	log        *zap.Logger
	tried      chan struct{} // closed when the first try to read it is over

	mu      sync.Mutex
	tenants map[uuid.UUID]struct{} // guarded by mu: neither claimed nor removed
}

// NewExisting returns the set, which is to be read.
func NewExisting(partitions Partitions, log *zap.Logger) *Existing {
	return &Existing{partitions: partitions, log: log, tried: make(chan struct{})}
}

// Claim reports whether a tenant can be assumed to be provisioned, once: a second question means that it turned out not to be so. It
// waits for the first try of Read.
func (e *Existing) Claim(ctx context.Context, id uuid.UUID) bool {
	select {
	case <-e.tried:
	case <-ctx.Done():
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, there := e.tenants[id]
	delete(e.tenants, id)
	return there
}

// Remove removes a tenant: nothing is assumed of it any more.
func (e *Existing) Remove(id uuid.UUID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tenants, id)
}

// Read reads the set, once, and returns it, the youngest first; nil if ctx ends before. While the database is away tenants are
// provisioned one by one, as far as that is possible, and have to wait for the database anyway.
func (e *Existing) Read(ctx context.Context) []uuid.UUID {
	tried := sync.OnceFunc(func() { close(e.tried) })
	defer tried()
	for ctx.Err() == nil {
		all, err := e.partitions.AttachedLongerThan(ctx, existingAge)
		if err == nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.tenants = make(map[uuid.UUID]struct{}, len(all))
			for _, id := range all {
				e.tenants[id] = struct{}{}
			}
			return all
		}
		tried()
		e.log.Info("which tenants have been provisioned could not be read; it will be repeated", zap.Error(err))
		_ = retry.Sleep(ctx, readPause) // the loop ends with ctx
	}
	return nil
}
