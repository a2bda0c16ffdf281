package tenants_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// often is how often the tests have the registry compared.
const often = 300 * time.Millisecond

// register makes the registry say something about a tenant. "deleted" is a tombstone.
func (r *rig) register(tenant uuid.UUID, state string, workers int, generation int64) {
	r.t.Helper()
	_, err := r.operator.Exec(r.t.Context(), `
		INSERT INTO tenants (id, name, workers, state, generation) VALUES ($1, 'test', $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET workers = excluded.workers, state = excluded.state, generation = excluded.generation`,
		tenant, workers, state, generation)
	require.NoError(r.t, err)
}

// putRaw writes what is no value of ours.
func (r *rig) putRaw(tenant uuid.UUID, value string) {
	r.t.Helper()
	_, err := r.specs.Snapshot(r.t.Context()) // makes the bucket
	require.NoError(r.t, err)
	closed := make(chan struct{})
	connection, err := nats.Connect(r.natsURL, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(r.t, err)
	defer func() {
		connection.Close()
		<-closed
	}()
	stream, err := jetstream.New(connection)
	require.NoError(r.t, err)
	bucket, err := stream.KeyValue(r.t.Context(), contract.TenantsBucket)
	require.NoError(r.t, err)
	_, err = bucket.Put(r.t.Context(), tenant.String(), []byte(value))
	require.NoError(r.t, err)
}

// A control channel that has lost writes that it had acknowledged, mixes up what it was told, or brings back what is long gone
// (as JetStream did in the tests of Jepsen) is corrected by the registry, whatever it says, at a start and while a tenant runs.
func TestChannelThatDisagreesWithTheRegistry(t *testing.T) {
	t.Parallel()
	type want struct {
		state      contract.ConsumerState
		workers    int
		generation int64
	}
	for name, c := range map[string]struct {
		workers int // that the registry wants, at generation 3
		state   string
		channel func(r *rig, id uuid.UUID)
		want    want
	}{
		"missing":          {4, "active", func(*rig, uuid.UUID) {}, want{contract.StateRunning, 4, 3}},
		"missing, at rest": {4, "suspended", func(*rig, uuid.UUID) {}, want{contract.StateSuspended, 0, 3}},
		"older":            {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredActive, 1, 1) }, want{contract.StateRunning, 4, 3}},
		"older, suspended": {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredSuspended, 4, 2) }, want{contract.StateRunning, 4, 3}},
		"other workers":    {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredActive, 9, 3) }, want{contract.StateRunning, 4, 3}},
		"other state":      {4, "suspended", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredActive, 4, 3) }, want{contract.StateSuspended, 0, 3}},
		"newer":            {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredSuspended, 9, 8) }, want{contract.StateRunning, 4, 8}},
		"deleting":         {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredDeleting, 4, 3) }, want{contract.StateRunning, 4, 3}},
		"deleting, newer":  {4, "active", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredDeleting, 4, 8) }, want{contract.StateRunning, 4, 8}},
		"not deleting":     {4, "deleting", func(r *rig, id uuid.UUID) { r.want(id, contract.DesiredActive, 4, 2) }, want{contract.StateDeleted, 0, 3}},
		"deletion unheard": {4, "deleting", func(*rig, uuid.UUID) {}, want{contract.StateDeleted, 0, 3}},
		"malformed":        {4, "active", func(r *rig, id uuid.UUID) { r.putRaw(id, `{"tenant_id":`) }, want{contract.StateRunning, 4, 3}},
		"of another tenant": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+uuid.NewString()+`","state":"suspended","workers":1,"generation":9}`)
		}, want{contract.StateRunning, 4, 3}},
		"no workers": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+id.String()+`","state":"active","workers":0,"generation":9}`)
		}, want{contract.StateRunning, 4, 3}},
		"negative limit": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+id.String()+`","state":"active","workers":9,"limits":{"publish_rate":-1},"generation":9}`)
		}, want{contract.StateRunning, 4, 3}},
		"limit of no integer": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+id.String()+`","state":"active","workers":9,"limits":{"publish_rate":1.5},"generation":9}`)
		}, want{contract.StateRunning, 4, 3}},
		"limits are another version's": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+id.String()+`","state":"active","workers":4,"limits":{"of_tomorrow":9},"generation":3}`)
		}, want{contract.StateRunning, 4, 3}},
		"unknown state": {4, "active", func(r *rig, id uuid.UUID) {
			r.putRaw(id, `{"tenant_id":"`+id.String()+`","state":"levitating","workers":1,"generation":9}`)
		}, want{contract.StateRunning, 4, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.resync = often
			fresh, lively := uuid.New(), uuid.New()
			stop := r.start()
			if c.state != "deleting" {
				// One that runs as the registry wants when the channel goes wrong.
				r.register(lively, "active", 2, 1)
				r.want(lively, contract.DesiredActive, 2, 1)
				r.observed(lively, contract.StateRunning, 1)
				r.publish(lively, 10)
				require.Eventually(t, func() bool { return r.stored(lively) == 10 }, waitLimit, poll)
				r.register(lively, c.state, c.workers, 3)
				c.channel(r, lively)
				status := r.observed(lively, c.want.state, c.want.generation)
				r.consistentAt(lively, c.want.state, c.want.workers)
				require.Equal(t, c.want.generation, status.ObservedGeneration)
				require.Equal(t, 10, r.stored(lively), "nothing is lost")
			}
			stop()
			// One that an instance finds when it starts.
			r.register(fresh, c.state, c.workers, 3)
			c.channel(r, fresh)
			stop = r.start()
			r.observed(fresh, c.want.state, c.want.generation)
			r.consistentAt(fresh, c.want.state, c.want.workers)
			stop()
		})
	}
}

// consistentAt waits until the instance reports a state and a number of workers.
func (r *rig) consistentAt(tenant uuid.UUID, state contract.ConsumerState, workers int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		entry, err := r.statuses.Get(r.t.Context(), contract.StatusKey(tenant.String(), instance))
		return err == nil && entry.Value.State == state && entry.Value.Workers == workers
	}, waitLimit, poll)
}

// A tenant that is deleted for everybody else comes back in the control channel: its id is retired, so whatever an instance has
// left of it goes, and nothing is made again.
func TestDeletedTenantThatComesBack(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	r.start()
	unseen, resurrected := uuid.New(), uuid.New()
	for _, tenant := range []uuid.UUID{unseen, resurrected} {
		r.register(tenant, "active", 1, 1)
		r.want(tenant, contract.DesiredActive, 1, 1)
		r.observed(tenant, contract.StateRunning, 1)
	}
	r.register(unseen, "deleted", 1, 3) // the channel still says that it is active
	gone := func(tenant uuid.UUID) {
		t.Helper()
		require.Eventually(t, func() bool {
			_, exists := r.queue(tenant)
			attached, err := r.deps.Partitions.Attached(t.Context(), tenant)
			_, _, known := r.controller.Lookup(t.Context(), tenant)
			_, reported := r.statuses.Get(t.Context(), contract.StatusKey(tenant.String(), instance))
			return err == nil && !exists && !attached && errors.Is(reported, control.ErrNotFound) && (tenant == unseen || !known)
		}, waitLimit, poll)
	}
	gone(unseen)

	r.register(resurrected, "deleting", 1, 2)
	r.want(resurrected, contract.DesiredDeleting, 1, 2)
	r.observed(resurrected, contract.StateDeleted, 2)
	r.register(resurrected, "deleted", 1, 3)
	require.NoError(t, r.specs.Delete(t.Context(), resurrected.String()))
	gone(resurrected)
	r.want(resurrected, contract.DesiredActive, 1, 9)
	r.overtake()
	require.Eventually(t, func() bool {
		_, err := r.statuses.Get(t.Context(), contract.StatusKey(resurrected.String(), instance))
		return errors.Is(err, control.ErrNotFound)
	}, waitLimit, poll)
	require.NoError(t, r.specs.Delete(t.Context(), resurrected.String()))
	gone(resurrected)
}

// A tenant that the registry does not know is none that was deleted: the registry may have been restored from an old backup.
func TestTenantThatTheRegistryDoesNotKnow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	counted := &countedRegistry{Registry: r.deps.Registry}
	r.deps.Registry = counted
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.observed(tenant, contract.StateRunning, 1)
	compared := counted.versions.Load()
	require.Eventually(t, func() bool { return counted.versions.Load() > compared+2 }, waitLimit, poll)
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll)
	r.want(tenant, contract.DesiredDeleting, 2, 2)
	r.observed(tenant, contract.StateDeleted, 2)
}

// countedRegistry counts what is asked, and fails on demand.
type countedRegistry struct {
	tenants.Registry
	versions, pages atomic.Int64
	away            atomic.Bool
}

var errRegistryAway = errors.New("the registry is away")

func (c *countedRegistry) RegistryVersion(ctx context.Context) (string, error) {
	c.versions.Add(1)
	if c.away.Load() {
		return "", errRegistryAway
	}
	return c.Registry.RegistryVersion(ctx)
}

func (c *countedRegistry) Registered(ctx context.Context, behind uuid.UUID) ([]store.Registration, error) {
	c.pages.Add(1)
	if c.away.Load() {
		return nil, errRegistryAway
	}
	return c.Registry.Registered(ctx, behind)
}

func (c *countedRegistry) RegisteredAmong(ctx context.Context, ids []uuid.UUID) ([]store.Registration, error) {
	if c.away.Load() {
		return nil, errRegistryAway
	}
	return c.Registry.RegisteredAmong(ctx, ids)
}

// An installation in which nothing changes is not read over and over: thousands of tenants would be, by each instance.
func TestQuietRegistryIsNotRead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	counted := &countedRegistry{Registry: r.deps.Registry}
	r.deps.Registry = counted
	tenant := uuid.New()
	r.register(tenant, "active", 1, 1)
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.start()
	r.observed(tenant, contract.StateRunning, 1)
	compared := counted.versions.Load()
	require.Eventually(t, func() bool { return counted.versions.Load() > compared+1 }, waitLimit, poll)
	pages, compared := counted.pages.Load(), counted.versions.Load()
	require.Eventually(t, func() bool { return counted.versions.Load() > compared+3 }, waitLimit, poll)
	require.Equal(t, pages, counted.pages.Load(), "nothing has changed")
	r.register(tenant, "active", 5, 2)
	r.consistentAt(tenant, contract.StateRunning, 5)
	require.Greater(t, counted.pages.Load(), pages)
}

// What the control channel says is compared with the registry although nothing has changed there: a stale or foreign value would
// otherwise count until somebody changes a tenant.
func TestQuietRegistryCorrectsTheChannel(t *testing.T) {
	r := newRig(t)
	r.resync = often
	counted := &countedRegistry{Registry: r.deps.Registry}
	r.deps.Registry = counted
	tenant := uuid.New()
	r.register(tenant, "active", 2, 1)
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.start()
	r.observed(tenant, contract.StateRunning, 1)
	compared := counted.versions.Load()
	require.Eventually(t, func() bool { return counted.versions.Load() > compared+2 }, waitLimit, poll)
	r.want(tenant, contract.DesiredSuspended, 2, 9)
	r.observed(tenant, contract.StateRunning, 9)
	r.consistentAt(tenant, contract.StateRunning, 2)
}

// steppedRegistry stops at each step of a comparison while on is set.
type steppedRegistry struct {
	tenants.Registry
	on      atomic.Bool
	reached chan string // "begun" and "read"
	proceed chan struct{}
}

func (s *steppedRegistry) step(ctx context.Context, name string) {
	if !s.on.Load() {
		return
	}
	select {
	case s.reached <- name:
	case <-ctx.Done():
		return
	}
	select {
	case <-s.proceed:
	case <-ctx.Done():
	}
}

func (s *steppedRegistry) RegistryVersion(ctx context.Context) (string, error) {
	s.step(ctx, "begun")
	return s.Registry.RegistryVersion(ctx)
}

func (s *steppedRegistry) Registered(ctx context.Context, behind uuid.UUID) ([]store.Registration, error) {
	page, err := s.Registry.Registered(ctx, behind)
	s.step(ctx, "read")
	return page, err
}

// A change that arrives while the registry is being read is newer than what was read. Set back, a tenant would work with what it was
// before until the next comparison.
func TestChangeDuringAComparisonIsKept(t *testing.T) {
	r := newRig(t)
	r.resync = often
	stepped := &steppedRegistry{Registry: r.deps.Registry, reached: make(chan string), proceed: make(chan struct{})}
	r.deps.Registry = stepped
	tenant := uuid.New()
	r.register(tenant, "active", 2, 1)
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.start()
	r.observed(tenant, contract.StateRunning, 1)
	await := func(step string) {
		t.Helper()
		for {
			select {
			case reached := <-stepped.reached:
				if reached == step {
					return
				}
				stepped.proceed <- struct{}{}
			case <-time.After(waitLimit):
				t.Fatalf("no comparison has %s", step)
			}
		}
	}
	workers := func() int {
		spec, _, _ := r.controller.Lookup(t.Context(), tenant)
		return spec.Workers
	}
	stepped.on.Store(true)
	r.register(uuid.New(), "suspended", 1, 1) // so that it is read again
	await("read")
	r.register(tenant, "active", 5, 2)
	r.want(tenant, contract.DesiredActive, 5, 2)
	require.Eventually(t, func() bool { return workers() == 5 }, waitLimit, poll)
	stepped.proceed <- struct{}{}
	await("begun") // the next one
	require.Equal(t, 5, workers())
	stepped.on.Store(false)
	stepped.proceed <- struct{}{}
	r.consistentAt(tenant, contract.StateRunning, 5)
}

// While the registry is away nothing changes, and above all nothing is torn down.
func TestRegistryIsAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	counted := &countedRegistry{Registry: r.deps.Registry}
	r.deps.Registry = counted
	tenant := uuid.New()
	r.register(tenant, "active", 2, 1)
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.start()
	r.observed(tenant, contract.StateRunning, 1)
	counted.away.Store(true)
	r.want(tenant, contract.DesiredDeleting, 2, 2)
	require.Contains(t, r.observed(tenant, contract.StateFailed, 2).Error, "confirm the deletion")
	spec, provisioned, known := r.controller.Lookup(t.Context(), tenant)
	require.True(t, known && provisioned, "its producers are not told that it is deleted")
	require.Equal(t, contract.DesiredActive, spec.State)
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll, "messages flow on")
	counted.away.Store(false)
	r.observed(tenant, contract.StateRunning, 2)
	r.register(tenant, "deleting", 2, 3)
	r.observed(tenant, contract.StateDeleted, 3)
}

// An instance that starts while NATS is away reads its tenants from the registry: nobody's messages wait for NATS.
func TestStartWithoutTheChannel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	tenant := uuid.New()
	r.register(tenant, "active", 2, 4)
	away := control.DefaultConfig()
	away.URL = "nats://127.0.0.1:1"
	conn, err := control.Connect(away, "test", zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	synced := make(chan struct{})
	r.deps.Specs, r.deps.Statuses, r.deps.Heartbeats = control.Tenants(conn), control.Statuses(conn), control.Statuses(conn)
	r.deps.Synced = func() { close(synced) }
	r.start()
	require.Eventually(t, func() bool { q, exists := r.queue(tenant); return exists && q.Consumers == 1 }, waitLimit, poll)
	<-synced
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll)
}
