package tenants

import (
	"context"
	"sync"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// table is the tenants of this instance, each of which has a goroutine.
type table struct {
	env  *environment
	work sync.WaitGroup // those goroutines

	mu      sync.RWMutex
	tenants map[uuid.UUID]*tenant // guarded by mu
}

func newTable(env *environment) *table {
	return &table{env: env, tenants: make(map[uuid.UUID]*tenant)}
}

func (tb *table) find(id uuid.UUID) (*tenant, bool) {
	tb.mu.RLock()
	defer tb.mu.RUnlock()
	t, known := tb.tenants[id]
	return t, known
}

func (tb *table) all() []*tenant {
	tb.mu.RLock()
	defer tb.mu.RUnlock()
	tenants := make([]*tenant, 0, len(tb.tenants))
	for _, t := range tb.tenants {
		tenants = append(tenants, t)
	}
	return tenants
}

// want has a tenant brought to a desired state, until ctx ends.
func (tb *table) want(ctx context.Context, id uuid.UUID, spec contract.TenantSpec) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if t, known := tb.tenants[id]; known {
		t.want(spec)
		return
	}
	tb.add(ctx, id, spec, false)
}

// vanish takes in that the control channel no longer names a tenant. One whose teardown is done, or is under way, ends
// with that. Any other continues as it is, and the registry will put it back; should it turn out to be retired, because
// this instance was not told of its deletion, it is torn down then.
func (tb *table) vanish(id uuid.UUID) {
	t, known := tb.find(id)
	if !known {
		return
	}
	if t.current().spec.State != contract.DesiredDeleting {
		tb.env.log.Warn("a tenant vanished from the control channel; it continues as it is", zap.Stringer("tenant_id", id))
	}
	t.vanish()
}

// correct makes a tenant what the registry says. before is what was wanted of all tenants before the registry was asked.
func (tb *table) correct(ctx context.Context, id uuid.UUID, r store.Registration, before map[uuid.UUID]contract.TenantSpec) {
	tb.mu.Lock()
	t, known := tb.tenants[id]
	if !known && !r.Retired {
		tb.add(ctx, id, r.Spec, true)
	}
	tb.mu.Unlock()
	switch {
	case known:
		if wanted, ok := before[id]; ok {
			t.correct(r, wanted)
		} // else it came meanwhile
	case !r.Retired:
		tb.env.corrections.note(id, channelMissing, r.Spec)
	}
}

// add begins to work for a tenant. The caller holds the lock.
func (tb *table) add(ctx context.Context, id uuid.UUID, spec contract.TenantSpec, registered bool) {
	t := &tenant{id: id, env: tb.env, wake: make(chan struct{}, 1), state: newState(spec, registered)}
	tb.tenants[id] = t
	tb.work.Go(func() { t.run(ctx, func() bool { return tb.release(t) }) })
}

// release lets go of a tenant if its teardown is done and nobody waits for the report of it any more. Its goroutine calls
// it, and ends if it reports true. want cannot come in between: what it gives a tenant that is let go would be lost.
func (tb *table) release(t *tenant) bool {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	s := t.current()
	if !s.isOver() {
		return false
	}
	delete(tb.tenants, t.id)
	tb.env.reporter.Forget(t.id)
	tb.env.forgetTenant(t.id)
	t.step(s.spec, step.Released)
	return true
}
