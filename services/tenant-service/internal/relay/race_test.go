package relay_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// archive is a registry in memory that remembers every state of its one tenant, so that a relay can be shown an old one.
type archive struct {
	states []tenant.Tenant // in the order of their generations
}

func (a *archive) current() *tenant.Tenant { return &a.states[len(a.states)-1] }

func (a *archive) change(change func(*tenant.Tenant) error) (tenant.Tenant, error) {
	t := *a.current()
	if err := change(&t); err != nil {
		return tenant.Tenant{}, err
	}
	if t.Generation != a.current().Generation {
		a.states = append(a.states, t)
	}
	return t, nil
}

// at is what the registry has said to the instances of a generation, false if it never had it.
func (a *archive) at(generation int64) (contract.TenantSpec, bool) {
	i := slices.IndexFunc(a.states, func(t tenant.Tenant) bool { return t.Generation == generation && t.State != tenant.Deleted })
	if i < 0 {
		return contract.TenantSpec{}, false
	}
	return a.states[i].Spec(), true
}

// sleeper is the archive as a relay sees it that has read and then slept through the last few changes. What locks the row
// cannot be out of date.
type sleeper struct {
	*archive
	behind int
}

func (s *sleeper) seen() tenant.Tenant { return s.states[max(0, len(s.states)-1-s.behind)] }

func (s *sleeper) Unpublished(context.Context, int) ([]tenant.Tenant, error) {
	if t := s.seen(); t.PublishedGeneration < t.Generation && t.State != tenant.Deleted {
		return []tenant.Tenant{t}, nil
	}
	return nil, nil
}

func (s *sleeper) Batch(_ context.Context, after uuid.UUID, _ int) ([]tenant.Tenant, error) {
	if t := s.seen(); after == uuid.Nil && t.State != tenant.Deleted {
		return []tenant.Tenant{t}, nil
	}
	return nil, nil
}

func (s *sleeper) Find(_ context.Context, id uuid.UUID) (tenant.Tenant, error) {
	if t := s.seen(); t.ID == id && t.State != tenant.Deleted {
		return t, nil
	}
	return tenant.Tenant{}, tenant.ErrNotFound
}

func (s *sleeper) Change(
	_ context.Context, id uuid.UUID, _ audit.Origin, _ audit.Action, change func(*tenant.Tenant) error,
) (tenant.Tenant, error) {
	if id != s.current().ID {
		return tenant.Tenant{}, tenant.ErrNotFound
	}
	return s.change(change)
}

func (s *sleeper) MarkPublished(_ context.Context, tenants []tenant.Tenant) error {
	for _, t := range tenants {
		if t.Generation == s.current().Generation {
			s.current().PublishedGeneration = t.Generation
		}
	}
	return nil
}

func (s *sleeper) Counts(context.Context) (map[tenant.State]int, error) { return nil, nil }

// race is two relays over one tenant. Their passes run in one goroutine; what one does in the middle of the other's is
// decided by the draw.
type race struct {
	t        *rapid.T
	ctx      context.Context //nolint:containedctx // of the test
	bucket   *control.Bucket[contract.TenantSpec]
	registry *archive
	relays   [2]*relay.Relay
	views    [2]*sleeper
	floor    int64  // the generation in the bucket may not be lower
	highest  int64  // generation that has ever been there
	between  func() // what happens before the next write of a relay; nil for nothing
}

func newRace(t *rapid.T, ctx context.Context, conn *control.Conn) *race {
	created, err := tenant.Policy{DefaultWorkers: 3, MaxWorkers: 64}.New(tenant.Draft{Name: "a"})
	require.NoError(t, err)
	r := &race{t: t, ctx: ctx, bucket: control.Tenants(conn), registry: &archive{states: []tenant.Tenant{created}}}
	for i := range r.relays {
		r.views[i] = &sleeper{archive: r.registry}
		r.relays[i] = relay.New(r.views[i], conn, func(uuid.UUID) int64 { return r.highest },
			relay.Options{Step: r.step}, prometheus.NewRegistry(), zap.NewNop())
	}
	return r
}

// step is told of what a relay has done.
func (r *race) step(_ uuid.UUID, step relay.Step) {
	if between := r.between; step == relay.StepRead && between != nil {
		r.between = nil
		between()
	}
	if step == relay.StepPublished {
		r.look()
	}
}

// look demands that the bucket has not gone back, and says nothing that the registry has never said.
func (r *race) look() {
	all, err := r.bucket.Snapshot(r.ctx)
	require.NoError(r.t, err)
	entry, there := all[r.registry.current().ID.String()]
	if !there {
		r.floor = 0
		return
	}
	generation := entry.Value.Generation
	require.GreaterOrEqual(r.t, generation, r.floor, "the bucket went back")
	said, known := r.registry.at(generation)
	require.True(r.t, known && said == entry.Value, "the bucket says %+v", entry.Value)
	r.floor, r.highest = generation, max(r.highest, generation)
}

// pass is one pass of a relay that has missed the last few changes.
func (r *race) pass(i, behind int, full bool) {
	r.views[i].behind = behind
	require.NoError(r.t, r.relays[i].Pass(r.ctx, full))
	r.look()
}

func (r *race) change() {
	_, err := r.registry.change(func(t *tenant.Tenant) error {
		switch change := rapid.IntRange(0, 9).Draw(r.t, "change"); {
		case change == 0:
			return t.Delete()
		case t.State == tenant.Deleting, t.State == tenant.Deleted:
			return nil
		case change < 4:
			return t.Suspend()
		case change < 7:
			return t.Resume()
		default:
			return t.Resize(t.Workers%64 + 1)
		}
	})
	if r.registry.current().State != tenant.Deleted {
		require.NoError(r.t, err)
	}
}

func (r *race) event() {
	i, behind := rapid.IntRange(0, 1).Draw(r.t, "relay"), rapid.IntRange(0, 3).Draw(r.t, "behind")
	full := rapid.Bool().Draw(r.t, "full")
	id := r.registry.current().ID.String()
	switch rapid.SampledFrom([]string{"change", "change", "pass", "pass", "interrupted", "interrupted", "retire", "lose", "older"}).Draw(r.t, "event") {
	case "change":
		r.change()
	case "pass":
		r.pass(i, behind, full)
	case "interrupted":
		r.between = func() {
			for range rapid.IntRange(0, 2).Draw(r.t, "changes") {
				r.change()
			}
			r.pass(1-i, 0, true)
		}
		r.pass(i, behind, full)
		r.between = nil
	case "retire":
		_, err := r.relays[i].Retire(r.ctx, r.registry.current().ID, r.highest)
		require.NoError(r.t, err)
		r.look()
	case "lose":
		require.NoError(r.t, r.bucket.Delete(r.ctx, id))
		r.look()
	case "older": // somebody brings back what was there
		old := rapid.SampledFrom(r.registry.states).Draw(r.t, "old")
		if old.State == tenant.Deleted {
			return
		}
		_, err := r.bucket.Put(r.ctx, id, old.Spec())
		require.NoError(r.t, err)
		r.floor = 0
		r.look()
	}
}

// Two replicas relay the same tenant, each may have slept since it read the registry, and either may come in between any
// two steps of the other, while keys get lost and old states come back. The generation in the bucket never goes down by
// their doing, the bucket never says what the registry has not said, and in the end it says what the registry says. None of
// this may look to a relay like a registry that was restored from a backup, or it would lift generations for ever.
func TestSleepingRelaysRace(t *testing.T) {
	t.Parallel()
	conn, err := control.Connect(control.Config{URL: backing.NATS(t)}, t.Name(), zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	bucket := control.Tenants(conn)
	require.Eventually(t, func() bool { _, err := bucket.Snapshot(t.Context()); return err == nil }, waitLimit, tick)
	rapid.Check(t, func(rt *rapid.T) {
		all, err := bucket.Snapshot(t.Context())
		require.NoError(rt, err)
		for key := range all { // of the example before
			require.NoError(rt, bucket.Delete(t.Context(), key))
		}
		r := newRace(rt, t.Context(), conn)
		for range rapid.IntRange(1, 15).Draw(rt, "events") {
			r.event()
		}
		for _, i := range []int{0, 1, 0} {
			r.pass(i, 0, true)
		}
		current := r.registry.current()
		want := make(map[string]contract.TenantSpec)
		if current.State != tenant.Deleted {
			want[current.ID.String()] = current.Spec()
			require.Equal(rt, current.Generation, current.PublishedGeneration)
		}
		all, err = bucket.Snapshot(t.Context())
		require.NoError(rt, err)
		has := maps.Collect(func(yield func(string, contract.TenantSpec) bool) {
			for key, entry := range all {
				if !yield(key, entry.Value) {
					return
				}
			}
		})
		require.Equal(rt, want, has)
		require.EqualValues(rt, len(r.registry.states), current.Generation, "a relay has lifted the generation")
		for _, state := range r.registry.states[:len(r.registry.states)-1] {
			require.NotEqual(rt, tenant.Deleted, state.State)
		}
	})
}
