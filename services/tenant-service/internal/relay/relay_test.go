package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute // on a busy machine
	tick      = 20 * time.Millisecond
)

// world is a registry, a control channel, and what connects them.
type world struct {
	t        *testing.T
	db       *gorm.DB
	registry *store.Store
	natsURL  string
	bucket   *control.Bucket[contract.TenantSpec]
	notify   func() // called after every change; does nothing at first
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db := pgtest.Gorm(t, pgtest.As(t, backing.Postgres(t), postgres.RoleTenant))
	w := &world{t: t, db: db, natsURL: backing.NATS(t)}
	w.registry = store.New(db, func(tenant.Tenant) {
		if w.notify != nil {
			w.notify()
		}
	})
	w.bucket = control.Tenants(w.connect())
	return w
}

func (w *world) connect() *control.Conn {
	w.t.Helper()
	connected := make(chan struct{}, 1)
	conn, err := control.Connect(control.Config{URL: w.natsURL}, w.t.Name(), zap.NewNop(), func(err error) {
		if err == nil {
			select {
			case connected <- struct{}{}:
			default:
			}
		}
	})
	require.NoError(w.t, err)
	w.t.Cleanup(conn.Close)
	select {
	case <-connected:
	case <-time.After(waitLimit):
		require.Fail(w.t, "no connection to NATS")
	}
	return conn
}

// js is a plain client, to do to the bucket what this product does not.
func (w *world) js() jetstream.JetStream {
	w.t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(w.natsURL, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	js, err := jetstream.New(nc)
	require.NoError(w.t, err)
	return js
}

type options struct {
	relay.Options
	registry  relay.Registry
	observed  func(uuid.UUID) int64
	connected func() <-chan struct{} // tells of connects to NATS in place of the connection
	reg       *prometheus.Registry
}

// start runs a relay until the end of the test, or until stop.
func (w *world) start(o options) (running *relay.Relay, stop func()) {
	w.t.Helper()
	if o.registry == nil {
		o.registry = w.registry
	}
	if o.observed == nil {
		o.observed = func(uuid.UUID) int64 { return 0 }
	}
	if o.reg == nil {
		o.reg = prometheus.NewRegistry()
	}
	running = relay.New(o.registry, w.connect(), o.observed, o.Options, o.reg, zap.NewNop())
	if o.connected != nil {
		running.OnConnect(o.connected)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		require.NoError(w.t, <-ended)
	}
	w.t.Cleanup(stop)
	return running, stop
}

func (w *world) create(name string) tenant.Tenant {
	w.t.Helper()
	created, err := tenant.Policy{DefaultWorkers: 3, MaxWorkers: 64}.New(tenant.Draft{Name: name})
	require.NoError(w.t, err)
	require.NoError(w.t, w.registry.Create(w.t.Context(), &created, audit.System()))
	return created
}

func (w *world) change(id uuid.UUID, change func(*tenant.Tenant) error) tenant.Tenant {
	w.t.Helper()
	changed, err := w.registry.Change(w.t.Context(), id, audit.System(), audit.ConfigChanged, change)
	require.NoError(w.t, err)
	return changed
}

// bucketHas waits until the bucket has exactly the given states of tenants.
func (w *world) bucketHas(want ...contract.TenantSpec) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		all, err := w.bucket.Snapshot(w.t.Context())
		require.NoError(c, err)
		has := make(map[string]contract.TenantSpec)
		for key, entry := range all {
			has[key] = entry.Value
		}
		expected := make(map[string]contract.TenantSpec)
		for _, spec := range want {
			expected[spec.TenantID] = spec
		}
		require.Equal(c, expected, has)
	}, waitLimit, tick)
}

// allPublished waits until the registry knows that everything is published.
func (w *world) allPublished() {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		waiting, err := w.registry.Unpublished(w.t.Context(), 1)
		return err == nil && len(waiting) == 0
	}, waitLimit, tick)
}

// rare are options with which only a notification can be what published something in time.
func rare() options { return options{Options: relay.Options{Poll: time.Hour, Compare: time.Hour}} }

// often are options with which everything is found soon.
func often() options {
	return options{Options: relay.Options{Poll: 20 * time.Millisecond, Compare: 50 * time.Millisecond}}
}

// A change reaches the instances at once.
func TestPublishesOnNotification(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running, _ := w.start(rare())
	w.notify = running.Notify
	a := w.create("a")
	w.bucketHas(a.Spec())
	b := w.create("b")
	w.bucketHas(a.Spec(), b.Spec())
	a = w.change(a.ID, (*tenant.Tenant).Suspend)
	w.bucketHas(a.Spec(), b.Spec())
	a = w.change(a.ID, (*tenant.Tenant).Delete)
	w.bucketHas(a.Spec(), b.Spec())
	require.Equal(t, contract.DesiredDeleting, a.Spec().State)
	w.allPublished()
}

// A change of another replica, or of one that died before it could publish it, reaches them, too.
func TestPublishesWhatNobodyTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("a") // before any relay runs
	w.start(options{Options: relay.Options{Poll: 20 * time.Millisecond, Compare: time.Hour}})
	w.bucketHas(a.Spec())
	w.allPublished()
	a = w.change(a.ID, func(t *tenant.Tenant) error { return t.Resize(9) })
	w.bucketHas(a.Spec())
	w.allPublished()
}

// More than a batch, at the start and at once.
func TestPublishesMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const many = 600
	require.NoError(t, w.db.Exec(`INSERT INTO tenants (id, name, workers, state) SELECT gen_random_uuid(), 'many', 3, 'active' FROM generate_series(1, ?)`, many).Error)
	all, err := w.registry.Batch(t.Context(), uuid.Nil, many+1)
	require.NoError(t, err)
	want := make([]contract.TenantSpec, len(all))
	for i := range all {
		want[i] = all[i].Spec()
	}
	require.Len(t, want, many)
	_, stop := w.start(often())
	w.allPublished()
	w.bucketHas(want...)
	stop()
	require.NoError(t, w.js().DeleteKeyValue(t.Context(), contract.TenantsBucket))
	w.start(often())
	w.bucketHas(want...)
}

// The bucket is deleted, a key is deleted, a value is changed, broken, or put back to what it was: none of this shows in
// the registry, and an instance that starts now would run the wrong tenants.
func TestRepairsBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	o := often()
	o.reg = reg
	w.start(o)
	ctx := t.Context()
	a, b := w.create("a"), w.create("b")
	w.bucketHas(a.Spec(), b.Spec())
	w.allPublished()
	js := w.js()

	require.NoError(t, js.DeleteKeyValue(ctx, contract.TenantsBucket))
	w.bucketHas(a.Spec(), b.Spec())

	require.NoError(t, w.bucket.Delete(ctx, a.ID.String()))
	w.bucketHas(a.Spec(), b.Spec())

	older := a.Spec()
	a = w.change(a.ID, func(t *tenant.Tenant) error { return t.Resize(9) })
	w.bucketHas(a.Spec(), b.Spec())
	w.allPublished()
	_, err := w.bucket.Put(ctx, older.TenantID, older)
	require.NoError(t, err)
	w.bucketHas(a.Spec(), b.Spec())

	kv, err := js.KeyValue(ctx, contract.TenantsBucket)
	require.NoError(t, err)
	_, err = kv.Put(ctx, a.ID.String(), []byte("not JSON"))
	require.NoError(t, err)
	w.bucketHas(a.Spec(), b.Spec())

	require.GreaterOrEqual(t, metric(t, reg, "mtm_relay_repairs_total", "restored"), 4.0)
	after, err := w.registry.Find(ctx, a.ID)
	require.NoError(t, err)
	require.Equal(t, a.Generation, after.Generation, "nothing of this is a change of the tenant")
}

// metric reads one value by the value of its label, "" if it has none.
func metric(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if label == "" || (len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// Keys of tenants that are deleted, that the registry never knew, or that are no ids at all must not be served.
func TestRemovesOrphans(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	a, gone := w.create("a"), w.create("gone")
	w.change(gone.ID, (*tenant.Tenant).Delete)
	w.change(gone.ID, func(t *tenant.Tenant) error { t.Retire(t.Generation); return nil })
	for _, key := range []string{gone.ID.String(), uuid.NewString(), "junk"} {
		_, err := w.bucket.Put(ctx, key, contract.TenantSpec{TenantID: key, State: contract.DesiredActive, Workers: 1, Generation: 1})
		require.NoError(t, err)
	}
	reg := prometheus.NewRegistry()
	o := often()
	o.reg = reg
	w.start(o)
	w.bucketHas(a.Spec())
	require.Eventually(t, func() bool { return metric(t, reg, "mtm_relay_repairs_total", "removed") == 3 }, waitLimit, tick)
}

// The registry is restored from a backup: the bucket, and the instances, know generations that it has yet to reach. What
// it says must win, under a generation that the instances take for new.
func TestRaisesGenerationsOfARestoredRegistry(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		bucket func(contract.TenantSpec) *contract.TenantSpec
		seen   int64 // by an instance
		least  int64 // generation that is needed
	}{
		"bucket is ahead": {
			bucket: func(s contract.TenantSpec) *contract.TenantSpec { s.Generation, s.Workers = 40, 50; return &s }, least: 41,
		},
		"bucket says something else under the same generation": {
			bucket: func(s contract.TenantSpec) *contract.TenantSpec { s.Workers = 50; return &s }, least: 2,
		},
		"bucket was lost, an instance is ahead": {
			bucket: func(contract.TenantSpec) *contract.TenantSpec { return nil }, seen: 40, least: 41,
		},
		"both are ahead": {
			bucket: func(s contract.TenantSpec) *contract.TenantSpec { s.Generation = 30; return &s }, seen: 40, least: 41,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := w.create("a")
			if published := tc.bucket(a.Spec()); published != nil {
				_, err := w.bucket.Put(t.Context(), a.ID.String(), *published)
				require.NoError(t, err)
			}
			o := often()
			o.observed = func(uuid.UUID) int64 { return tc.seen }
			w.start(o)
			require.Eventually(t, func() bool {
				entry, err := w.bucket.Get(t.Context(), a.ID.String())
				return err == nil && entry.Value.Generation >= tc.least && entry.Value.Workers == 3
			}, waitLimit, tick)
			w.allPublished()
			found, err := w.registry.Find(t.Context(), a.ID)
			require.NoError(t, err)
			w.bucketHas(found.Spec())
			var by []string
			require.NoError(t, w.db.Raw(`SELECT DISTINCT actor FROM audit_events WHERE tenant_id = ? AND action = 'tenant.generation_raised'`, a.ID).Scan(&by).Error)
			require.Equal(t, []string{"system"}, by, "an operator sees that nobody has changed it")
		})
	}
}

// Several relays at once, over tenants that change all the time: the last state wins, and the bucket never goes back.
func TestRelaysRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.create("a"), w.create("b")
	backwards := make(chan string, 1000)
	watched := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	last := make(map[string]int64)
	go func() {
		watched <- w.bucket.Watch(ctx, func(e control.Entry[contract.TenantSpec]) {
			if e.Value.Generation < last[e.Key] {
				backwards <- fmt.Sprintf("%s went from %d to %d", e.Key, last[e.Key], e.Value.Generation)
			}
			last[e.Key] = e.Value.Generation
		}, nil)
	}()
	var relays []*relay.Relay
	for range 3 {
		running, _ := w.start(options{Options: relay.Options{Poll: 5 * time.Millisecond, Compare: 25 * time.Millisecond}})
		relays = append(relays, running)
	}
	w.notify = func() {
		for _, one := range relays {
			one.Notify()
		}
	}
	for i := range 50 {
		a = w.change(a.ID, func(t *tenant.Tenant) error { return t.Resize(i%64 + 1) })
		b = w.change(b.ID, func(t *tenant.Tenant) error {
			if t.State == tenant.Active {
				return t.Suspend()
			}
			return t.Resume()
		})
	}
	w.bucketHas(a.Spec(), b.Spec())
	w.allPublished()
	for _, one := range []tenant.Tenant{a, b} {
		found, err := w.registry.Find(t.Context(), one.ID)
		require.NoError(t, err)
		require.Equal(t, one.Generation, found.Generation, "a relay has taken its competitor for a restored registry")
	}
	cancel()
	require.NoError(t, <-watched)
	require.Empty(t, backwards)
}

// stale gives a relay an old view of one tenant, as if it had stopped for a while between reading and writing.
type stale struct {
	relay.Registry
	old tenant.Tenant
}

func (s stale) Unpublished(context.Context, int) ([]tenant.Tenant, error) {
	return []tenant.Tenant{s.old}, nil
}

func (s stale) Batch(_ context.Context, after uuid.UUID, _ int) ([]tenant.Tenant, error) {
	if after != uuid.Nil {
		return nil, nil
	}
	return []tenant.Tenant{s.old}, nil
}

// A relay that was asleep while others went on must not take the tenant back to what it has read.
func TestStaleRelayLoses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.create("a")
	current := w.change(old.ID, func(t *tenant.Tenant) error { return t.Resize(9) })
	_, stop := w.start(often())
	w.bucketHas(current.Spec())
	w.allPublished()
	stop()

	reg := prometheus.NewRegistry()
	o := often()
	o.registry, o.reg = stale{Registry: w.registry, old: old}, reg
	_, stop = w.start(o)
	require.Eventually(t, func() bool { return metric(t, reg, "mtm_tenants", "active") == 1 }, waitLimit, tick, "no pass was made")
	stop()
	w.bucketHas(current.Spec())
	found, err := w.registry.Find(t.Context(), old.ID)
	require.NoError(t, err)
	require.Equal(t, current.Generation, found.Generation)
}

// The end of a deletion, and every way in which it must not come.
func TestRetire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	running, _ := w.start(often())
	w.notify = running.Notify
	ctx := t.Context()
	a := w.create("a")
	w.bucketHas(a.Spec())

	retired, err := running.Retire(ctx, a.ID, a.Generation)
	require.NoError(t, err)
	require.False(t, retired, "an active tenant")
	retired, err = running.Retire(ctx, uuid.New(), 1)
	require.NoError(t, err)
	require.False(t, retired, "an unknown tenant")

	leaving := w.change(a.ID, (*tenant.Tenant).Delete)
	w.bucketHas(leaving.Spec())
	retired, err = running.Retire(ctx, a.ID, leaving.Generation-1)
	require.NoError(t, err)
	require.False(t, retired, "a report about an older generation")
	w.bucketHas(leaving.Spec())

	for range 2 { // a report that is repeated
		retired, err = running.Retire(ctx, a.ID, leaving.Generation)
		require.NoError(t, err)
		require.True(t, retired)
	}
	w.bucketHas()
	_, err = w.registry.Find(ctx, a.ID)
	require.ErrorIs(t, err, tenant.ErrNotFound)

	// It died between the two steps: the key is still there, and goes.
	_, err = w.bucket.Put(ctx, a.ID.String(), leaving.Spec())
	require.NoError(t, err)
	w.bucketHas()
}

// broken is a registry that fails until it is fixed.
type broken struct {
	relay.Registry
	down *atomic.Bool
}

var errDown = errors.New("down")

func (b broken) Unpublished(ctx context.Context, limit int) ([]tenant.Tenant, error) {
	if b.down.Load() {
		return nil, errDown
	}
	return b.Registry.Unpublished(ctx, limit)
}

// The relay outlives an outage, and shows how far it is behind.
func TestOutlivesOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var down atomic.Bool
	down.Store(true)
	reg := prometheus.NewRegistry()
	o := options{Options: relay.Options{Poll: 10 * time.Millisecond, Compare: time.Hour}, registry: broken{Registry: w.registry, down: &down}, reg: reg}
	a := w.create("a")
	w.start(o)
	require.Eventually(t, func() bool { return metric(t, reg, "mtm_tenants", "active") == 1 }, waitLimit, tick, "counting does not need the rest")
	w.bucketHas()
	down.Store(false)
	w.bucketHas(a.Spec())
	w.allPublished()
	require.Eventually(t, func() bool { return metric(t, reg, "mtm_relay_lag_seconds", "") == 0 }, waitLimit, tick)
	w.change(a.ID, (*tenant.Tenant).Suspend)
	require.Eventually(t, func() bool {
		return metric(t, reg, "mtm_tenants", "active") == 0 && metric(t, reg, "mtm_tenants", "suspended") == 1
	}, waitLimit, tick)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}

// NATS is away: the lag shows, and everything is published when it is back.
func TestLagShowsWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("a")
	conn, err := control.Connect(control.Config{URL: "nats://127.0.0.1:1"}, t.Name(), zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	reg := prometheus.NewRegistry()
	running := relay.New(w.registry, conn, func(uuid.UUID) int64 { return 0 }, often().Options, reg, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.Run(ctx) }()
	require.Eventually(t, func() bool {
		return metric(t, reg, "mtm_relay_lag_seconds", "") > 0.1 && metric(t, reg, "mtm_relay_unpublished_tenants", "") == 1
	}, waitLimit, tick)
	cancel()
	require.NoError(t, <-ended)
	w.start(often())
	w.bucketHas(a.Spec())
}
