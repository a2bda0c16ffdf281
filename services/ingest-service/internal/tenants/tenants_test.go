package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/quota"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/usage"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute // a limit for a machine that is busy with other packages; nothing takes nearly as long
	poll      = 20 * time.Millisecond
	instance  = "ingest-1"
)

// rig is one instance on real services.
type rig struct {
	broker     conn.Config
	t          *testing.T
	operator   *pgxpool.Pool
	link       *conn.Link
	publisher  *publish.Publisher
	conn       *control.Conn
	specs      *control.Bucket[contract.TenantSpec]
	statuses   *control.Bucket[contract.TenantStatus]
	deps       tenants.Dependencies
	registry   *prometheus.Registry
	controller *tenants.Controller
	tracker    *quota.Tracker // of what is stored; it runs for the controller that is started last
	counter    usage.Counter
	natsURL    string
	resync     time.Duration // of the controller; 0 for the default
}

// refusing refuses partitions on demand: a tenant that cannot be provisioned.
type refusing struct {
	tenants.Partitions
	mu      sync.Mutex
	refused map[uuid.UUID]error
}

func (r *refusing) Attach(ctx context.Context, tenant uuid.UUID) error {
	r.mu.Lock()
	err := r.refused[tenant]
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return r.Partitions.Attach(ctx, tenant)
}

func (r *refusing) set(tenant uuid.UUID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused[tenant] = err
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, registry: prometheus.NewRegistry()}
	log := zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	url := backing.Postgres(t)
	pool := pgtest.As(t, url, postgres.RoleIngest)
	r.operator = pgtest.Operator(t, url)
	messages := store.New(pool, 5*time.Second)

	r.broker = conn.Config{URL: backing.RabbitMQ(t).URL}
	r.link = conn.NewLink(r.broker, "test", log, nil)
	r.publisher = publish.New(r.link, 1, log)
	gate := batch.NewGate(messages.Ping, log)
	r.run(r.link.Run)
	r.run(r.publisher.Run)
	r.run(func(ctx context.Context) error { return gate.Run(ctx, func(error) {}) })
	channel := control.DefaultConfig()
	channel.URL = backing.NATS(t)
	r.natsURL = channel.URL
	var err error
	r.conn, err = control.Connect(channel, "test", log, nil)
	require.NoError(t, err)
	t.Cleanup(r.conn.Close)
	r.specs, r.statuses = control.Tenants(r.conn), control.Statuses(r.conn)

	delays := []time.Duration{time.Second}
	r.counter, r.tracker = messages, quota.NewTracker(messages, log)
	writer := batch.NewWriter(batch.Config{RetryDelays: delays, HoldTimeout: time.Minute, PublishTimeout: time.Second},
		r.tracker.Counting(messages), gate, r.publisher, nil, batch.NewMetrics(r.registry), log)
	budget := consumer.NewBudget(1 << 28)
	consuming := consumer.Config{
		Prefetch: 100, BatchMessages: 50, BatchBytes: 1 << 20, BatchDelay: time.Millisecond, MaxPayload: 1 << 16, HoleLimit: time.Second,
		Storage: r.tracker,
	}
	r.deps = tenants.Dependencies{
		Specs: r.specs, Statuses: r.statuses, Partitions: messages,
		Topology: provision.NewTopology(r.link, nil, delays, provision.QueueOptions{}, "", log),
		NewConsumer: func(tenant uuid.UUID, state *consumer.State, onChange func(error)) tenants.Consumer {
			return consumer.New(consuming, tenant, consumer.On(r.link), gate, writer, budget, state, onChange, log)
		},
		Heartbeats: r.statuses, Presence: messages, Registry: messages, Synced: func() {}, Outage: gate.Err, Storage: r.tracker, Log: log,
	}
	return r
}

func (r *rig) run(run func(context.Context) error) (stop func()) {
	r.t.Helper()
	return component.Run(r.t, run)
}

// start starts the controller; the returned function stops it in order.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	r.controller = tenants.New(tenants.Config{Instance: instance, MaxAttempts: 3, Concurrency: 4, Resync: r.resync}, r.deps)
	collector := tenants.NewCollector(r.controller)
	r.registry.MustRegister(collector)
	controller := r.controller
	stopLooking := r.run(func(ctx context.Context) error {
		return r.tracker.Run(ctx, controller.StorageLimited, controller.ObserveStorage)
	})
	stopCounting := r.run(usage.New(r.counter, 24*time.Hour, prometheus.NewRegistry(), zap.NewNop()).Run)
	stopRunning := r.run(r.controller.Run)
	return func() {
		stopRunning()
		stopCounting()
		stopLooking()
		r.registry.Unregister(collector)
	}
}

func (r *rig) want(tenant uuid.UUID, state contract.DesiredState, workers int, generation int64) {
	r.t.Helper()
	_, err := r.specs.Put(r.t.Context(), tenant.String(), contract.TenantSpec{
		TenantID: tenant.String(), State: state, Workers: workers, Generation: generation,
	})
	require.NoError(r.t, err)
}

// observed waits until the instance reports state for a generation.
func (r *rig) observed(tenant uuid.UUID, state contract.ConsumerState, generation int64) contract.TenantStatus {
	r.t.Helper()
	return r.observedBy(instance, tenant, state, generation)
}

// observedBy is observed of another instance.
func (r *rig) observedBy(instance string, tenant uuid.UUID, state contract.ConsumerState, generation int64) contract.TenantStatus {
	r.t.Helper()
	var last contract.TenantStatus
	require.Eventually(r.t, func() bool {
		entry, err := r.statuses.Get(r.t.Context(), contract.StatusKey(tenant.String(), instance))
		last = entry.Value
		return err == nil && last.State == state && last.ObservedGeneration >= generation
	}, waitLimit, poll, "want %s at generation %d, last seen %+v", state, generation, &last)
	return last
}

// overtake returns when the instance has taken in everything that was put before. Without that the bucket, which keeps the
// last value of a key alone, may spare it an update that is followed by another one.
func (r *rig) overtake() {
	r.t.Helper()
	marker := uuid.New()
	r.want(marker, contract.DesiredSuspended, 1, 1)
	r.observed(marker, contract.StateSuspended, 1)
}

// queue reports whether the tenant's queue exists, and how many wait and consume there.
func (r *rig) queue(tenant uuid.UUID) (q amqp.Queue, exists bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	for {
		session, err := r.link.Session(ctx)
		require.NoError(r.t, err)
		answer := make(chan amqp.Queue, 1)
		err = session.Do(ctx, func(ch *amqp.Channel) error {
			q, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
			answer <- q
			return err
		})
		var refused *amqp.Error
		switch {
		case err == nil:
			return <-answer, true
		case errors.As(err, &refused) && refused.Code == amqp.NotFound:
			return q, false
		}
		// RabbitMQ 4 answers with an internal error, and closes the connection, while a queue is just being deleted.
		require.NoError(r.t, ctx.Err(), "%v", err)
	}
}

func (r *rig) publish(tenant uuid.UUID, n int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	messages := make([]publish.Message, n)
	for i := range messages {
		messages[i] = publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, `%d`, i),
		}}
	}
	for _, err := range r.publisher.PublishBatch(ctx, messages) {
		require.NoError(r.t, err)
	}
}

func (r *rig) count(sql string, args ...any) (n int) {
	r.t.Helper()
	require.NoError(r.t, r.operator.QueryRow(r.t.Context(), sql, args...).Scan(&n))
	return n
}

func (r *rig) stored(tenant uuid.UUID) int {
	return r.count(`SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant)
}

// series counts the metric series of a tenant.
func (r *rig) series(tenant uuid.UUID) (n int) {
	r.t.Helper()
	families, err := r.registry.Gather()
	require.NoError(r.t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "tenant_id" && label.GetValue() == tenant.String() {
					n++
				}
			}
		}
	}
	return n
}

// The whole life of a tenant: what is desired becomes true, and nothing is left at the end.
func TestLifecycle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()

	r.want(tenant, contract.DesiredActive, 2, 1)
	status := r.observed(tenant, contract.StateRunning, 1)
	require.Equal(t, 2, status.Workers)
	require.Empty(t, status.Error)
	r.publish(tenant, 100)
	require.Eventually(t, func() bool { return r.stored(tenant) == 100 }, waitLimit, poll)

	r.want(tenant, contract.DesiredActive, 7, 2)
	require.Equal(t, 7, r.observed(tenant, contract.StateRunning, 2).Workers)

	r.want(tenant, contract.DesiredSuspended, 7, 3)
	r.observed(tenant, contract.StateSuspended, 3)
	r.publish(tenant, 50)
	q, exists := r.queue(tenant)
	require.True(t, exists)
	require.Zero(t, q.Consumers)
	require.Equal(t, 50, q.Messages, "kept, and not consumed")
	require.Equal(t, 100, r.stored(tenant))

	r.want(tenant, contract.DesiredActive, 1, 4)
	r.observed(tenant, contract.StateRunning, 4)
	require.Eventually(t, func() bool { return r.stored(tenant) == 150 }, waitLimit, poll)
	require.Positive(t, r.series(tenant))

	r.want(tenant, contract.DesiredDeleting, 1, 5)
	r.observed(tenant, contract.StateDeleted, 5)
	_, exists = r.queue(tenant)
	require.False(t, exists)
	require.Zero(t, r.count(`SELECT count(*) FROM pg_class WHERE relname = 'messages_' || $1`, strings.ReplaceAll(tenant.String(), "-", "")))
	require.Zero(t, r.series(tenant))
	require.NoError(t, r.specs.Delete(t.Context(), tenant.String()))
	require.Eventually(t, func() bool { _, _, known := r.controller.Lookup(t.Context(), tenant); return !known }, waitLimit, poll)
}

// An update that was overtaken on its way must not undo a later one.
func TestOlderGenerationIsIgnored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 2, 5)
	r.observed(tenant, contract.StateRunning, 5)
	r.want(tenant, contract.DesiredDeleting, 2, 4)
	r.overtake()
	status := r.observed(tenant, contract.StateRunning, 5)
	require.EqualValues(t, 5, status.ObservedGeneration)
	r.want(tenant, contract.DesiredActive, 3, 6)
	r.observed(tenant, contract.StateRunning, 6)
	_, exists := r.queue(tenant)
	require.True(t, exists)
}

// A control channel that has lost everything must stop nobody's messages.
func TestWipedBucketStopsNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.observed(tenant, contract.StateRunning, 1)
	require.NoError(t, r.specs.Delete(t.Context(), tenant.String()))
	r.overtake()
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll)
	spec, provisioned, known := r.controller.Lookup(t.Context(), tenant)
	require.True(t, known && provisioned)
	require.Equal(t, contract.DesiredActive, spec.State)
	r.want(tenant, contract.DesiredActive, 4, 2)
	require.Equal(t, 4, r.observed(tenant, contract.StateRunning, 2).Workers)
}

// A queue that is deleted behind our back is made again.
func TestLostQueueIsMadeAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.observed(tenant, contract.StateRunning, 1)
	require.NoError(t, r.deps.Topology.Delete(t.Context(), tenant))
	require.Eventually(t, func() bool { q, exists := r.queue(tenant); return exists && q.Consumers == 1 }, waitLimit, poll)
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll)
}

// One tenant that cannot be provisioned must hold up no other, must say why, and must recover without intervention.
func TestFailingTenantHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	broken := make([]uuid.UUID, 10) // more than are provisioned at a time
	partitions := &refusing{Partitions: r.deps.Partitions, refused: make(map[uuid.UUID]error)}
	r.deps.Partitions = partitions
	for i := range broken {
		broken[i] = uuid.New()
		partitions.set(broken[i], errors.New("no space for a partition"))
	}
	r.start()
	for _, tenant := range broken {
		r.want(tenant, contract.DesiredActive, 1, 1)
	}
	require.Contains(t, r.observed(broken[0], contract.StateFailed, 1).Error, "no space for a partition")
	healthy := uuid.New()
	r.want(healthy, contract.DesiredActive, 1, 1)
	r.observed(healthy, contract.StateRunning, 1)
	for _, tenant := range broken {
		partitions.set(tenant, nil)
	}
	for _, tenant := range broken {
		r.observed(tenant, contract.StateRunning, 1)
	}
}

// A restart finds everything as desired, or makes it so: also a teardown that was cut off.
func TestRestartGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.start()
	kept, gone := uuid.New(), uuid.New()
	r.want(kept, contract.DesiredActive, 2, 1)
	r.want(gone, contract.DesiredActive, 2, 1)
	r.observed(kept, contract.StateRunning, 1)
	r.observed(gone, contract.StateRunning, 1)
	stop()
	_, err := r.statuses.Get(t.Context(), contract.StatusKey(kept.String(), instance))
	require.ErrorIs(t, err, control.ErrNotFound, "an instance that has stopped does not count as running")
	require.Eventually(t, func() bool { q, exists := r.queue(kept); return exists && q.Consumers == 0 }, waitLimit, poll)

	r.want(gone, contract.DesiredDeleting, 2, 2)
	require.NoError(t, r.deps.Topology.Delete(t.Context(), gone)) // as if the process had died in the middle
	r.publish(kept, 10)
	r.start()
	r.observed(kept, contract.StateRunning, 1)
	r.observed(gone, contract.StateDeleted, 2)
	require.Eventually(t, func() bool { return r.stored(kept) == 10 }, waitLimit, poll)
}

// barred takes every partition for an old one, and lets nobody make one before it is told to.
type barred struct {
	tenants.Partitions
	open chan struct{}
}

func (b barred) AttachedLongerThan(ctx context.Context, _ time.Duration) ([]uuid.UUID, error) {
	return b.Partitions.AttachedLongerThan(ctx, 0)
}

func (b barred) Attach(ctx context.Context, tenant uuid.UUID) error {
	select {
	case <-b.open:
		return b.Partitions.Attach(ctx, tenant)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// After a restart messages flow before anything was made sure of, which is made up for. What got lost while nobody looked
// comes back.
func TestRestartTrustsWhatIsThere(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.start()
	whole, unbound, queueless, suspended := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	for _, tenant := range []uuid.UUID{whole, unbound, queueless} {
		r.want(tenant, contract.DesiredActive, 2, 1)
		r.observed(tenant, contract.StateRunning, 1)
	}
	r.want(suspended, contract.DesiredSuspended, 2, 1)
	r.observed(suspended, contract.StateSuspended, 1)
	stop()
	r.unbind(unbound)
	r.unbind(suspended)
	require.NoError(t, r.deps.Topology.Delete(t.Context(), queueless))

	partitions := barred{Partitions: r.deps.Partitions, open: make(chan struct{})}
	r.deps.Partitions = partitions
	r.start()
	r.observed(whole, contract.StateRunning, 1)
	r.observed(unbound, contract.StateRunning, 1)
	r.observed(suspended, contract.StateSuspended, 1)
	r.publish(whole, 10)
	require.Eventually(t, func() bool { return r.stored(whole) == 10 }, waitLimit, poll)
	_, exists := r.queue(queueless)
	require.False(t, exists)

	close(partitions.open)
	for _, tenant := range []uuid.UUID{unbound, queueless, suspended} {
		require.Eventually(t, func() bool { return r.routes(tenant) }, waitLimit, poll)
	}
	for _, tenant := range []uuid.UUID{whole, unbound, queueless} {
		r.observed(tenant, contract.StateRunning, 1)
		require.Eventually(t, func() bool { q, _ := r.queue(tenant); return q.Consumers == 1 }, waitLimit, poll)
	}
	r.observed(suspended, contract.StateSuspended, 1)
	q, _ := r.queue(suspended)
	require.Zero(t, q.Consumers)
}

// unbind takes the bindings of a queue away behind our back.
func (r *rig) unbind(tenant uuid.UUID) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	session, err := r.link.Session(ctx)
	require.NoError(r.t, err)
	require.NoError(r.t, session.Do(ctx, func(ch *amqp.Channel) error {
		for _, exchange := range []string{contract.TenantsExchange, contract.MessagesExchange} {
			if err := ch.QueueUnbind(contract.QueueName(tenant.String()), tenant.String(), exchange, nil); err != nil {
				return err
			}
		}
		return nil
	}))
}

// routes reports whether a message for tenant finds its queue.
func (r *rig) routes(tenant uuid.UUID) bool {
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	return r.publisher.PublishBatch(ctx, []publish.Message{{
		Exchange: contract.MessagesExchange, Key: tenant.String(),
		Publishing: amqp.Publishing{MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: []byte(`1`)},
	}})[0] == nil
}

// holding lets nobody drop a partition before it is told to.
type holding struct {
	tenants.Partitions
	dropping, goOn chan struct{} // dropping has capacity 1: that somebody wants to is enough
}

func (h holding) Drop(ctx context.Context, tenant uuid.UUID) error {
	select {
	case h.dropping <- struct{}{}:
	default:
	}
	select {
	case <-h.goOn:
		return h.Partitions.Drop(ctx, tenant)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The key of a tenant may be gone before this instance has finished the teardown: another one's report was taken for the
// last. Nothing of the tenant may stay, or it is reported for ever.
func TestKeyVanishesDuringTeardown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	forgotten := make(chan uuid.UUID, 10)
	r.deps.Forget = []func(uuid.UUID){func(tenant uuid.UUID) { forgotten <- tenant }}
	partitions := holding{Partitions: r.deps.Partitions, dropping: make(chan struct{}, 1), goOn: make(chan struct{})}
	r.deps.Partitions = partitions
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.observed(tenant, contract.StateRunning, 1)
	r.want(tenant, contract.DesiredDeleting, 1, 2)
	select {
	case <-partitions.dropping:
	case <-time.After(waitLimit):
		t.Fatal("no teardown has begun")
	}
	require.NoError(t, r.specs.Delete(t.Context(), tenant.String()))
	r.overtake()
	close(partitions.goOn)
	for range 2 { // when the teardown is done, and when it is let go
		select {
		case <-forgotten:
		case <-time.After(waitLimit):
			t.Fatal("the tenant is still held")
		}
	}
	require.Eventually(t, func() bool { _, _, known := r.controller.Lookup(t.Context(), tenant); return !known }, waitLimit, poll)
	_, exists := r.queue(tenant)
	require.False(t, exists)
}

// remaking makes the queue of a tenant again while its partition is dropped, and no sooner, as another instance does that
// has lost its consumer with the queue and has not received the deletion yet.
type remaking struct {
	tenants.Partitions
	queues tenants.Queues
}

func (m remaking) Drop(ctx context.Context, tenant uuid.UUID) error {
	if err := m.queues.Declare(ctx, tenant); err != nil {
		return err
	}
	return m.Partitions.Drop(ctx, tenant)
}

// An instance that makes the queue of a tenant again during its teardown may die before it receives that. Nobody would
// ever take away the queue, which accepts messages that nobody stores.
func TestQueueIsMadeAgainDuringTeardown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.deps.Partitions = remaking{Partitions: r.deps.Partitions, queues: r.deps.Topology}
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.observed(tenant, contract.StateRunning, 1)
	r.want(tenant, contract.DesiredDeleting, 1, 2)
	r.observed(tenant, contract.StateDeleted, 2)
	_, exists := r.queue(tenant)
	require.False(t, exists)
}

// A control channel that has lost its data must not make a producer believe that a tenant does not exist: it would drop its
// messages.
func TestMissingKeyIsNoDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.observed(tenant, contract.StateRunning, 1)
	stop()
	require.NoError(t, r.specs.Delete(t.Context(), tenant.String()))

	r.start()
	require.Eventually(t, func() bool { _, _, known := r.controller.Lookup(t.Context(), uuid.New()); return !known }, waitLimit, poll,
		"the first snapshot has been taken in: unknown tenants do not exist")
	_, provisioned, known := r.controller.Lookup(t.Context(), tenant)
	require.True(t, known)
	require.False(t, provisioned)
	require.NoError(t, r.deps.Partitions.Drop(t.Context(), tenant))
	_, _, known = r.controller.Lookup(t.Context(), tenant)
	require.False(t, known)
}

// An instance that was not told of a deletion finds out when it meets the retired partition, and lets go.
func TestMissedDeletion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.observed(tenant, contract.StateRunning, 1)
	require.NoError(t, r.specs.Delete(t.Context(), tenant.String()))
	require.NoError(t, r.deps.Partitions.Drop(t.Context(), tenant)) // another instance has torn it down
	require.NoError(t, r.deps.Topology.Delete(t.Context(), tenant))
	require.Eventually(t, func() bool { _, _, known := r.controller.Lookup(t.Context(), tenant); return !known }, waitLimit, poll)
	_, exists := r.queue(tenant)
	require.False(t, exists)
	require.Zero(t, r.series(tenant))
}

// A suspended tenant has no consumer that would notice; its messages are refused until its queue is made again.
func TestLostQueueOfASuspendedTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredSuspended, 1, 1)
	r.observed(tenant, contract.StateSuspended, 1)
	require.NoError(t, r.deps.Topology.Delete(t.Context(), tenant))
	require.Eventually(t, func() bool { _, exists := r.queue(tenant); return exists }, waitLimit, poll)
	r.observed(tenant, contract.StateSuspended, 1)
}

// A deleted tenant that an old message brings back must stay dead.
func TestRetiredTenantIsNotRevived(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	require.NoError(t, r.deps.Partitions.Drop(t.Context(), tenant))
	r.want(tenant, contract.DesiredActive, 1, 1)
	require.Contains(t, r.observed(tenant, contract.StateFailed, 1).Error, "retired")
	_, exists := r.queue(tenant)
	require.False(t, exists)
}

// queueGauge is mtm_queue_messages of a tenant; -1 if there is none.
func (r *rig) queueGauge(tenant uuid.UUID, state string) int64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	require.NoError(r.t, err)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range metric.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			if family.GetName() == "mtm_queue_messages" && labels["tenant_id"] == tenant.String() && labels["state"] == state {
				return int64(metric.GetGauge().GetValue())
			}
		}
	}
	return -1
}

// The depth of a queue, in the status and in the metrics, is that of its tenant, and what is being worked on is a part of
// it: a tenant whose messages the database does not take must not look idle.
func TestDepthsAreReported(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	busy, suspended := uuid.New(), uuid.New()
	r.start()
	r.want(busy, contract.DesiredActive, 2, 1)
	r.want(suspended, contract.DesiredSuspended, 2, 1)
	r.observed(busy, contract.StateRunning, 1)
	r.observed(suspended, contract.StateSuspended, 1)
	lock, err := r.operator.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = lock.Rollback(context.WithoutCancel(t.Context())) })
	_, err = lock.Exec(t.Context(), `LOCK TABLE messages_`+strings.ReplaceAll(busy.String(), "-", ""))
	require.NoError(t, err)
	r.publish(busy, 110) // ten more than the prefetch
	r.publish(suspended, 4)

	depths := func(tenant uuid.UUID, fine func(ready, unacked int64) bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			entry, err := r.statuses.Get(t.Context(), contract.StatusKey(tenant.String(), instance))
			return err == nil && fine(entry.Value.QueueReady, entry.Value.QueueUnacked) &&
				fine(r.queueGauge(tenant, "ready"), r.queueGauge(tenant, "unacked"))
		}, waitLimit, poll)
	}
	depths(busy, func(ready, unacked int64) bool { return ready == 10 && unacked > 0 && unacked <= 100 })
	depths(suspended, func(ready, unacked int64) bool { return ready == 4 && unacked == 0 })
	require.NoError(t, lock.Rollback(t.Context()))
	require.Eventually(t, func() bool { return r.stored(busy) == 110 && r.queueGauge(busy, "unacked") == 0 }, waitLimit, poll)
}
