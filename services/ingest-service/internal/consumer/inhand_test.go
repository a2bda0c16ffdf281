package consumer_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// lock keeps every write of the tenant waiting in the database until it is given back.
func (r *rig) lock() (unlock func()) {
	r.t.Helper()
	tx := r.begin()
	_, err := tx.Exec(r.t.Context(), `LOCK TABLE `+pgx.Identifier{"messages_" + strings.ReplaceAll(r.tenant.String(), "-", "")}.Sanitize())
	require.NoError(r.t, err)
	return func() {
		r.t.Helper()
		require.NoError(r.t, tx.Rollback(r.t.Context()))
	}
}

// begin opens a transaction that does not outlive the test.
func (r *rig) begin() pgx.Tx {
	r.t.Helper()
	tx, err := r.operator.Begin(r.t.Context())
	require.NoError(r.t, err)
	r.t.Cleanup(func() {
		if err := tx.Rollback(context.WithoutCancel(r.t.Context())); !errors.Is(err, pgx.ErrTxClosed) {
			require.NoError(r.t, err)
		}
	})
	return tx
}

// awaitWrite returns when a batch is in the hands of the database, which has it wait for a lock.
func (r *rig) awaitWrite() { r.awaitWaiting(true) }

// awaitWaiting returns when a batch waits for a lock in the database, or none does any more: a write that was given up is
// cancelled there a moment later, and would be committed if it had the lock before that.
func (r *rig) awaitWaiting(want bool) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		var waiting bool
		err := r.operator.QueryRow(r.t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'mtm_ingest' AND wait_event_type = 'Lock')`).Scan(&waiting)
		return err == nil && waiting == want
	}, waitLimit, time.Millisecond)
}

// requireBack waits until so many messages are in the tenant's queue again.
func (r *rig) requireBack(messages int) {
	r.t.Helper()
	queue := contract.QueueName(r.tenant.String())
	require.EventuallyWithT(r.t, func(c *assert.CollectT) {
		assert.Equal(c, messages, r.depth(queue), "what is not stored is back in its queue")
	}, waitLimit, poll)
}

// A process that dies while a batch is being written has not committed it: the broker must still have every message of it.
func TestDeathInTheMiddleOfAWriteLosesNothing(t *testing.T) {
	t.Parallel()
	withEachReader(t, testDeathInTheMiddleOfAWriteLosesNothing)
}

func testDeathInTheMiddleOfAWriteLosesNothing(t *testing.T, r *rig) {
	t.Helper()
	unlock := r.lock()
	ids := r.publishMany(300)
	own := r.link
	dying := conn.NewLink(r.broker, "test-dying", zap.NewNop(), nil)
	r.link = dying
	cut := r.run(dying.Run)
	stop := r.run(r.consumer().Run)
	r.awaitWrite()
	cut() // the write is given up with the connection
	stop()
	r.awaitWaiting(false)
	unlock()
	require.Empty(t, r.stored())

	r.link = own
	r.run(r.consumer().Run)
	r.requireStored(ids)
}

// A consumer that is stopped while the database has a batch and does not finish it gives the batch back.
func TestStopInTheMiddleOfAWriteLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	unlock := r.lock()
	ids := r.publishMany(300)
	stop := r.run(r.consumer().Run)
	r.awaitWrite()
	stop()
	r.requireBack(len(ids))
	unlock()
	r.run(r.consumer().Run)
	r.requireStored(ids)
}

// The same while the database is away: nothing is written before it is back, so nothing may be acknowledged.
func TestStopWhileTheGateIsShutLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var away atomic.Bool
	r.guard(func(context.Context) error {
		if away.Load() {
			return errors.New("away")
		}
		return nil
	})
	unlock := r.lock()
	ids := r.publishMany(300)
	stop := r.run(r.consumer().Run)
	r.awaitWrite()
	away.Store(true)
	_, err := r.operator.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'mtm_ingest'`)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.gate.Err() != nil }, waitLimit, time.Millisecond)
	stop()
	r.requireBack(len(ids))
	unlock()
	require.Empty(t, r.stored())
	away.Store(false)
	r.run(r.consumer().Run)
	r.requireStored(ids)
}

// guard gives the rig a gate with a probe of the test's choice, and a writer behind it.
func (r *rig) guard(probe func(context.Context) error) {
	r.t.Helper()
	pool := pgtest.As(r.t, r.database, postgres.RoleIngest)
	r.gate = batch.NewGate(probe, zap.NewNop())
	r.run(running(r.gate))
	r.writer = batch.NewWriter(batch.Config{
		RetryDelays: []time.Duration{time.Second}, HoldTimeout: time.Minute, PublishTimeout: 5 * time.Second,
	}, store.New(pool, 5*time.Second), r.gate, r.publisher, deadLetter, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
}

// One message that takes long must not stop the others of its tenant once as many as the prefetch allows have been stored
// behind it: they are acknowledged past it.
func TestOneSlowWriteDoesNotStopTheTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.Prefetch, r.cfg.BatchMessages, r.cfg.HoleLimit = 10, 3, 10*time.Millisecond
	slow := uuid.New()
	other := r.begin() // is about to store a message of the same id, and the database waits for what becomes of that
	_, err := other.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '1')`, r.tenant, slow)
	require.NoError(t, err)
	r.publish(r.message(slow.String(), `1`))
	r.run(r.consumer().Run)
	r.awaitWrite()
	ids := r.publishMany(100)
	require.Eventually(t, func() bool { return len(r.stored()) == len(ids) }, waitLimit, poll)
	require.NoError(t, other.Rollback(t.Context()))
	ids[slow] = true
	r.requireStored(ids)
}

// More workers are given to a tenant because its messages wait. They must begin at once, not with the next message that
// arrives. Before, no more batches are written at a time than the tenant has workers: the others belong to its neighbours.
func TestMoreWorkersBeginAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.BatchMessages = 5
	slow := uuid.New()
	other := r.begin()
	_, err := other.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '1')`, r.tenant, slow)
	require.NoError(t, err)
	r.publish(r.message(slow.String(), `1`))
	c := r.consumer()
	c.Configure(1, 3)
	r.run(c.Run)
	r.awaitWrite()
	ids := r.publishMany(20)
	require.Eventually(t, func() bool { return r.state.Unacked() == 21 }, waitLimit, poll, "a full batch waits for the worker")
	for range 100 { // longer than a second worker would take
		require.Empty(t, r.stored(), "the one worker is busy")
	}
	c.Configure(2, 3)
	require.Eventually(t, func() bool { return len(r.stored()) == len(ids) }, waitLimit, poll)
	require.NoError(t, other.Rollback(t.Context()))
	ids[slow] = true
	r.requireStored(ids)
}

// What has been delivered and waits behind a full batch until a writer is free is in no queue any more for the broker. It must not
// vanish from the status of its tenant: waiting and unacked together are all that there is.
func TestUnackedIsAllThatWasDelivered(t *testing.T) {
	r := newRig(t)
	r.cfg.BatchMessages = 10
	unlock := r.lock()
	r.publish(r.message(uuid.NewString(), `1`))
	r.run(r.consumer().Run)
	r.awaitWrite()
	ids := r.publishMany(200)
	require.Eventually(t, func() bool { return r.depth(contract.QueueName(r.tenant.String())) == 0 }, waitLimit, poll)
	require.Eventually(t, func() bool { return r.state.Unacked() == int64(len(ids)+1) }, waitLimit, poll, "unacked: %d", r.state.Unacked())
	unlock()
	require.Eventually(t, func() bool { return len(r.stored()) == len(ids)+1 }, waitLimit, poll)
	require.Eventually(t, func() bool { return r.state.Unacked() == 0 }, waitLimit, poll)
}

// What is stored behind a message that takes long is acknowledged when the consumer stops, and only the slow one is
// delivered again.
func TestStopBehindASlowWriteGivesBackThatOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.BatchMessages, r.cfg.HoleLimit = 3, time.Hour
	slow := uuid.New()
	other := r.begin()
	_, err := other.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '1')`, r.tenant, slow)
	require.NoError(t, err)
	r.publish(r.message(slow.String(), `1`))
	stop := r.run(r.consumer().Run)
	r.awaitWrite()
	ids := r.publishMany(50)
	require.Eventually(t, func() bool { return len(r.stored()) == len(ids) }, waitLimit, poll)
	stop()
	r.requireBack(1)
	require.NoError(t, other.Rollback(t.Context()))
	ids[slow] = true
	r.run(r.consumer().Run)
	r.requireStored(ids)
	require.Zero(t, r.state.Stats.Duplicates.Load())
}

// Unacknowledged messages have a budget in bytes. Without it a hundred tenants with large messages and a slow database would
// be more than the process has memory.
func TestLargeMessagesLowerThePrefetch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.BatchBytes = 1 << 17
	const size, messages, limit = 16 << 10, 300, 1 << 20
	r.budget = consumer.NewBudget(limit)
	unlock := r.lock()
	ids := make(map[uuid.UUID]bool)
	published := make([]publish.Message, 0, messages)
	for range messages {
		id := uuid.New()
		ids[id] = true
		published = append(published, r.message(id.String(), `"`+strings.Repeat("x", size-2)+`"`))
	}
	r.publish(published...)
	r.run(r.consumer().Run)
	queue := contract.QueueName(r.tenant.String())
	require.Eventually(t, func() bool {
		held := messages - r.depth(queue)
		return held > 0 && held*size <= limit && r.state.Consuming.Load()
	}, waitLimit, poll, "the consumer holds no more than its budget")
	unlock()
	r.requireStored(ids)
}
