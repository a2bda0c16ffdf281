package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// provisionedAge is how old a partition has to be for its tenant to be taken as provisioned. A process that dies while it
	// provisions a tenant leaves a young one, and perhaps no queue, or one without bindings.
	provisionedAge = 10 * time.Second
	// readPause is between two tries to read which tenants there are.
	readPause = time.Second
	// checkPause is between two tenants that are checked although they are taken as provisioned: 25 a second, or 10,000 in
	// less than seven minutes, and next to nothing for the broker and the database.
	checkPause = 40 * time.Millisecond
)

// provisionedSet is the tenants that had been provisioned before this instance began. Their consumers are started at once: making
// sure of partition and queue first would take most of the time of a restart. Should the queue be missing, the consumer
// says so, and the tenant is provisioned. Missing bindings nobody notices; so all of them are checked later.
type provisionedSet struct {
	tried chan struct{} // closed when the first try to read it is over

	mu      sync.Mutex
	tenants map[uuid.UUID]struct{} // guarded by mu: provisioned, and not used or checked yet
}

func newProvisionedSet() *provisionedSet { return &provisionedSet{tried: make(chan struct{})} }

// claim reports whether a tenant can be taken as provisioned, once: whoever asks again has found out that it is not so. It
// waits for the first try to read it.
func (s *provisionedSet) claim(ctx context.Context, id uuid.UUID) bool {
	select {
	case <-s.tried:
	case <-ctx.Done():
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.tenants[id]
	delete(s.tenants, id)
	return there
}

// remove removes a tenant.
func (s *provisionedSet) remove(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tenants, id)
}

// fill reads the set, and returns it in order. While the database is away tenants are provisioned one by one, as far as
// that is possible, and have to wait for the database anyway.
func (s *provisionedSet) fill(ctx context.Context, partitions Partitions, log *zap.Logger) []uuid.UUID {
	tried := sync.OnceFunc(func() { close(s.tried) })
	defer tried()
	for ctx.Err() == nil {
		all, err := partitions.AttachedLongerThan(ctx, provisionedAge)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tenants = make(map[uuid.UUID]struct{}, len(all))
			for _, id := range all {
				s.tenants[id] = struct{}{}
			}
			return all
		}
		tried()
		log.Info("which tenants have been provisioned could not be read; it will be repeated", zap.Error(err))
		_ = retry.Sleep(ctx, readPause) // the loop ends with ctx
	}
	return nil
}

// check has every tenant that was taken as provisioned provisioned once more in the background, the youngest first, since
// it is the one whose provisioning may have been cut off.
func (c *Controller) check(ctx context.Context) {
	all := c.provisioned.fill(ctx, c.deps.Partitions, c.deps.Log)
	select {
	case <-c.first:
	case <-ctx.Done():
	}
	for _, id := range all {
		if retry.Sleep(ctx, checkPause) != nil {
			return
		}
		c.provisioned.remove(id)
		c.Verify(id)
	}
}
