package consumer_test

import (
	"context"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute // a limit for a machine that is busy with other packages; nothing takes nearly as long
	poll      = 20 * time.Millisecond
)

// rig is one tenant on real services, with everything that a consumer needs.
type rig struct {
	t         *testing.T
	tenant    uuid.UUID
	database  string
	operator  *pgxpool.Pool
	link      *conn.Link
	publisher *publish.Publisher
	gate      *batch.Gate
	writer    *batch.Writer
	budget    *consumer.Budget
	broker    conn.Config
	state     consumer.State
	cfg       consumer.Config
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigAt(t, backing.RabbitMQ(t).URL)
}

// withEachReader runs a test with each of the readers that an installation may choose.
func withEachReader(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	for _, reader := range []string{conn.ReaderWire, conn.ReaderLibrary} {
		t.Run(reader, func(t *testing.T) {
			test(t, newRigOn(t, conn.Config{URL: backing.RabbitMQ(t).URL, Reader: reader}))
		})
	}
}

func newRigAt(t *testing.T, amqpURL string) *rig {
	t.Helper()
	return newRigOn(t, conn.Config{URL: amqpURL})
}

func newRigOn(t *testing.T, broker conn.Config) *rig {
	t.Helper()
	r := &rig{t: t, tenant: uuid.New(), database: backing.Postgres(t), budget: consumer.NewBudget(1 << 28)}
	log := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	pool := pgtest.As(t, r.database, postgres.RoleIngest)
	r.operator = pgtest.Operator(t, r.database)
	messages := store.New(pool, 5*time.Second)
	require.NoError(t, messages.Attach(t.Context(), r.tenant))

	r.broker = broker
	r.link = conn.NewLink(r.broker, "test-consume", log, nil)
	publishing := conn.NewLink(r.broker, "test-publish", log, nil)
	r.publisher = publish.New(publishing, 2, log)
	r.gate = batch.NewGate(messages.Ping, log)
	for _, run := range []func(context.Context) error{r.link.Run, publishing.Run, r.publisher.Run, running(r.gate)} {
		r.run(run)
	}
	r.writer = batch.NewWriter(batch.Config{
		RetryDelays: []time.Duration{time.Second}, HoldTimeout: time.Minute, PublishTimeout: 5 * time.Second,
	}, messages, r.gate, r.publisher, deadLetter, batch.NewMetrics(prometheus.NewRegistry()), log)
	r.cfg = consumer.Config{
		Prefetch: 500, BatchMessages: 100, BatchBytes: 1 << 20, BatchDelay: 5 * time.Millisecond,
		MaxPayload: 1 << 16, HoleLimit: time.Second,
	}
	r.onChannel(func(ch *amqp.Channel) error {
		if err := provision.DeclareShared(ch, []time.Duration{time.Second}, amqp.QueueTypeQuorum); err != nil {
			return err
		}
		return provision.DeclareTenant(ch, r.tenant.String(), provision.QueueOptions{})
	})
	return r
}

// running is the component that runs a gate of which nobody is told.
func running(gate *batch.Gate) func(context.Context) error {
	return func(ctx context.Context) error { return gate.Run(ctx, func(error) {}) }
}

// run owns a component until the end of the test.
func (r *rig) run(run func(context.Context) error) (stop func()) {
	r.t.Helper()
	return component.Run(r.t, run)
}

func (r *rig) onChannel(fn func(*amqp.Channel) error) {
	r.t.Helper()
	amqptest.Do(r.t, r.link, fn)
}

func (r *rig) consumer() *consumer.Consumer {
	c := consumer.New(r.cfg, r.tenant, consumer.On(r.link), r.gate, r.writer, r.budget, &r.state, func(error) {}, zap.NewNop())
	c.Configure(3, 3)
	return c
}

func deadLetter(tenant uuid.UUID, d consume.Delivery, reason contract.Reason, cause error, _ int) publish.Message {
	p := republish.Publishing(d)
	p.Headers[contract.HeaderReason], p.Headers[contract.HeaderError] = string(reason), cause.Error()
	return publish.Message{Exchange: contract.DeadLettersExchange, Key: tenant.String(), Publishing: p}
}

func (r *rig) publish(messages ...publish.Message) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	for i, err := range r.publisher.PublishBatch(ctx, messages) {
		require.NoError(r.t, err, "message %d", i)
	}
}

func (r *rig) message(id, body string) publish.Message {
	return publish.Message{Exchange: contract.MessagesExchange, Key: r.tenant.String(), Publishing: amqp.Publishing{
		MessageId: id, DeliveryMode: amqp.Persistent, Body: []byte(body),
	}}
}

// publishMany publishes n messages under new ids and returns these.
func (r *rig) publishMany(n int) map[uuid.UUID]bool {
	r.t.Helper()
	ids := make(map[uuid.UUID]bool, n)
	messages := make([]publish.Message, 0, n)
	for i := range n {
		id := uuid.New()
		ids[id] = true
		messages = append(messages, r.message(id.String(), fmt.Sprintf(`{"n":%d}`, i)))
	}
	r.publish(messages...)
	return ids
}

func (r *rig) stored() map[uuid.UUID]bool {
	r.t.Helper()
	rows, err := r.operator.Query(r.t.Context(), `SELECT id FROM messages WHERE tenant_id = $1`, r.tenant)
	require.NoError(r.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(r.t, err)
	set := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// envelope is that of a stored message.
func (r *rig) envelope(id uuid.UUID) (e contract.Envelope) {
	r.t.Helper()
	require.NoError(r.t, r.operator.QueryRow(r.t.Context(),
		`SELECT coalesce(type, ''), coalesce(key, ''), attributes FROM messages WHERE tenant_id = $1 AND id = $2`, r.tenant, id).
		Scan(&e.Type, &e.Key, &e.Attributes))
	return e
}

// depth is how many messages wait in a queue, without those that a consumer holds.
func (r *rig) depth(queue string) (n int) {
	r.t.Helper()
	r.onChannel(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}

func (r *rig) requireStored(want map[uuid.UUID]bool) {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return len(r.stored()) >= len(want) }, waitLimit, poll)
	require.True(r.t, maps.Equal(want, r.stored()))
	require.Eventually(r.t, func() bool { return r.state.Unacked() == 0 }, waitLimit, poll)
}

func TestEverythingIsStoredOnceAndAcknowledged(t *testing.T) {
	t.Parallel()
	withEachReader(t, testEverythingIsStoredOnceAndAcknowledged)
}

func testEverythingIsStoredOnceAndAcknowledged(t *testing.T, r *rig) {
	t.Helper()
	ids := r.publishMany(2000)
	stop := r.run(r.consumer().Run)
	r.requireStored(ids)
	again := make([]publish.Message, 0, 10)
	for id := range ids {
		if again = append(again, r.message(id.String(), `{"second":true}`)); len(again) == 10 {
			break
		}
	}
	r.publish(again...)
	require.Eventually(t, func() bool { return r.state.Stats.Duplicates.Load() == 10 }, waitLimit, poll)
	stop()
	require.Zero(t, r.depth(contract.QueueName(r.tenant.String())), "nothing is left or given back")
	require.Equal(t, ids, r.stored())
	require.EqualValues(t, 2000, r.state.Stats.Stored.Load())
}

// A message that cannot be stored must neither block its neighbours nor disappear.
func TestBadMessagesBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	withEachReader(t, testBadMessagesBecomeDeadLetters)
}

func testBadMessagesBecomeDeadLetters(t *testing.T, r *rig) {
	t.Helper()
	bad := map[string]contract.Reason{
		`{"a":`:                   contract.ReasonNotJSON,
		``:                        contract.ReasonNotJSON,
		`"\u0000"`:                contract.ReasonUnstorable,
		`1e131071`:                contract.ReasonUnstorable,
		string(make([]byte, 1e5)): contract.ReasonTooLarge,
	}
	messages := make([]publish.Message, 0, len(bad))
	for body := range bad {
		messages = append(messages, r.message(uuid.NewString(), body))
	}
	r.publish(messages...)
	foreign := r.message(uuid.NewString(), `{}`)
	foreign.Key = uuid.NewString()
	foreign.Publishing.Headers = amqp.Table{"CC": []any{r.tenant.String()}}
	r.publish(foreign)
	good := r.publishMany(50)
	r.run(r.consumer().Run)
	r.requireStored(good)

	reasons := make(map[contract.Reason]int)
	require.Eventually(t, func() bool { return r.depth(contract.DeadLettersQueue) == len(bad)+1 }, waitLimit, poll)
	r.onChannel(func(ch *amqp.Channel) error {
		for range len(bad) + 1 {
			d, ok, err := ch.Get(contract.DeadLettersQueue, true)
			if err != nil || !ok {
				return fmt.Errorf("get a dead letter: %v %w", ok, err)
			}
			reason, _ := d.Headers[contract.HeaderReason].(string)
			reasons[contract.Reason(reason)]++
		}
		return nil
	})
	require.Equal(t, map[contract.Reason]int{
		contract.ReasonNotJSON: 2, contract.ReasonUnstorable: 2, contract.ReasonTooLarge: 1, contract.ReasonForeignKey: 1,
	}, reasons)
}

// What a producer over AMQP says of a message is stored with it: a type as a property, or as a header where its client has no such
// property, a key and attributes. What is outside of the limits is a dead letter, but for a property that may mean anything else.
func TestEnvelopesOverAMQP(t *testing.T) {
	t.Parallel()
	withEachReader(t, testEnvelopesOverAMQP)
}

func testEnvelopesOverAMQP(t *testing.T, r *rig) {
	t.Helper()
	send := func(property string, headers amqp.Table) uuid.UUID {
		id := uuid.New()
		m := r.message(id.String(), `1`)
		m.Publishing.Type, m.Publishing.Headers = property, headers
		r.publish(m)
		return id
	}
	want := map[uuid.UUID]contract.Envelope{
		send("order.created", nil): {Type: "order.created"},
		send("property", amqp.Table{contract.HeaderType: "header", contract.HeaderKey: "k", "mtm-attr-n": int32(-7), "mtm-attr-b": true, "else": "x"}): {
			Type: "header", Key: "k", Attributes: map[string]string{"n": "-7", "b": "true"},
		},
		send("not\na type", amqp.Table{contract.HeaderKey: "k"}): {Key: "k"},
		send("", amqp.Table{"x": "y"}):                           {},
	}
	send("fine", amqp.Table{contract.HeaderKey: "two\nlines"})
	send("fine", amqp.Table{"mtm-attr-UPPER": "x"})
	r.run(r.consumer().Run)
	require.Eventually(t, func() bool {
		return r.state.Stats.Stored.Load() == int64(len(want)) && r.state.Stats.DeadLettered(contract.ReasonBadEnvelope).Load() == 2
	}, waitLimit, poll)
	require.EqualValues(t, 1, r.state.TypesIgnored.Load())
	for id, e := range want {
		require.Equal(t, e, r.envelope(id))
	}
}

// A producer with ids of its own kind must get the same guarantee.
func TestForeignIDsAreStoredOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.publish(r.message("order-1", `1`), r.message("order-1", `2`), r.message("", `3`), r.message("", `3`))
	r.run(r.consumer().Run)
	require.Eventually(t, func() bool { return r.state.Stats.Stored.Load() == 3 && r.state.Stats.Duplicates.Load() == 1 }, waitLimit, poll)
	require.True(t, r.stored()[contract.MessageID(r.tenant, "order-1")])
	require.EqualValues(t, 2, r.state.WithoutID.Load())
}

// Stopping in the middle of a backlog must lose nothing and store nothing twice; what was not begun goes back.
func TestStopUnderLoad(t *testing.T) {
	t.Parallel()
	withEachReader(t, testStopUnderLoad)
}

func testStopUnderLoad(t *testing.T, r *rig) {
	t.Helper()
	ids := r.publishMany(3000)
	for round := range 4 {
		before := r.state.Stats.Stored.Load()
		stop := r.run(r.consumer().Run)
		require.Eventually(t, func() bool { return r.state.Stats.Stored.Load() > before || len(r.stored()) == len(ids) }, waitLimit, time.Millisecond)
		stop()
		require.False(t, r.state.Consuming.Load())
		require.EqualValues(t, len(r.stored()), r.state.Stats.Stored.Load(), "round %d", round)
	}
	r.run(r.consumer().Run)
	r.requireStored(ids)
	require.Zero(t, r.state.Stats.Duplicates.Load(), "a stop in order leads to no redelivery of what was stored")
}

// Resizing must not stop consumption, and must lose and double nothing.
func TestResizeUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.consumer()
	r.run(c.Run)
	ids := make(map[uuid.UUID]bool)
	for _, workers := range []int{1, 8, 2, 5, 1, 3} {
		c.Configure(workers, 3)
		maps.Copy(ids, r.publishMany(400))
		require.EqualValues(t, workers, r.state.Workers.Load())
	}
	r.requireStored(ids)
	require.Zero(t, r.state.Stats.Duplicates.Load())
}

// A database that cuts every connection, again and again, costs no message and makes no dead letter.
func TestDatabaseCutsConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.run(r.consumer().Run)
	ids := make(map[uuid.UUID]bool)
	for range 5 {
		maps.Copy(ids, r.publishMany(300))
		_, err := r.operator.Exec(t.Context(), `
			SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'mtm_ingest'`)
		require.NoError(t, err)
	}
	r.requireStored(ids)
	require.Zero(t, r.depth(contract.DeadLettersQueue))
}

// A broker that closes the channel must have everything that was not acknowledged processed again, once.
func TestChannelDies(t *testing.T) {
	t.Parallel()
	withEachReader(t, testChannelDies)
}

func testChannelDies(t *testing.T, r *rig) {
	t.Helper()
	ids := r.publishMany(2000)
	consuming, cut := context.WithCancel(t.Context())
	first := conn.NewLink(r.broker, "test-cut", zap.NewNop(), nil)
	done := make(chan error, 1)
	go func() { done <- first.Run(consuming) }()
	own := r.link
	r.link = first
	stop := r.run(r.consumer().Run)
	require.Eventually(t, func() bool { return r.state.Stats.Stored.Load() > 0 }, waitLimit, time.Millisecond)
	cut()
	require.NoError(t, <-done)
	stop()
	r.link = own
	r.run(r.consumer().Run)
	r.requireStored(ids)
}

// Deleting the queue under a consumer ends it, so that it is provisioned again.
func TestQueueDisappears(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	done := make(chan error, 1)
	c := r.consumer()
	go func() { done <- c.Run(t.Context()) }()
	require.Eventually(t, r.state.Consuming.Load, waitLimit, poll)
	r.onChannel(func(ch *amqp.Channel) error {
		_, err := provision.DeleteTenant(r.t.Context(), ch, r.tenant.String())
		return err
	})
	select {
	case err := <-done:
		require.ErrorIs(t, err, consumer.ErrQueueMissing)
	case <-time.After(waitLimit):
		t.Fatal("the consumer continues without a queue")
	}
}
