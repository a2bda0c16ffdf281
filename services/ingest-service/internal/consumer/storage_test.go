package consumer_test

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
)

// shelf knows what the tenant of a rig has stored, from the rows themselves: exactly, and at once.
type shelf struct {
	rig    *rig
	hidden atomic.Bool // nobody knows

	mu        sync.Mutex
	removed   int64         // guarded by mu
	refreshed chan struct{} // guarded by mu
}

// shelf gives the rig a limit of what is stored.
func (r *rig) shelf() *shelf {
	s := &shelf{rig: r, refreshed: make(chan struct{})}
	r.cfg.Storage = s
	return s
}

func (s *shelf) Room(tenant uuid.UUID, limit int64) (room int64, known bool) {
	if s.hidden.Load() {
		return 0, false
	}
	assert.Equal(s.rig.t, s.rig.tenant, tenant)
	stored := int64(0)
	// Not with the context of the test: a consumer that ends after it asks as well.
	err := s.rig.operator.QueryRow(context.WithoutCancel(s.rig.t.Context()),
		`SELECT coalesce(sum(bytes), 0) FROM messages WHERE tenant_id = $1`, tenant).Scan(&stored)
	if err != nil {
		s.rig.t.Errorf("what is stored: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return limit - stored + s.removed, true
}

func (s *shelf) Refreshed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refreshed
}

// refresh tells whoever waits that more is known, and that so many bytes were removed.
func (s *shelf) refresh(removed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed += removed
	close(s.refreshed)
	s.refreshed = make(chan struct{})
}

// sized publishes n messages of exactly so many bytes.
func (r *rig) sized(n, bytes int) map[uuid.UUID]bool {
	r.t.Helper()
	ids := make(map[uuid.UUID]bool, n)
	body := make([]byte, bytes)
	for i := range body {
		body[i] = '7'
	}
	body[0], body[bytes-1] = '"', '"'
	messages := make([]publish.Message, n)
	for i := range messages {
		id := uuid.New()
		ids[id] = true
		messages[i] = r.message(id.String(), string(body))
	}
	r.publish(messages...)
	return ids
}

func (r *rig) queueDepth() int { return r.depth(contract.QueueName(r.tenant.String())) }

// holds waits until so many messages are stored, and all others wait in the queue, where nobody holds them.
func (r *rig) holds(stored, waiting int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		return !r.state.Consuming.Load() && r.state.Unacked() == 0 && r.queueDepth() == waiting && len(r.stored()) == stored
	}, waitLimit, poll)
}

// unharmed demands that what has waited has not paid for it.
func (r *rig) unharmed() {
	r.t.Helper()
	require.Zero(r.t, r.depth(contract.DeadLettersQueue))
	require.Zero(r.t, r.state.Stats.Retried.Load(), "no attempt")
	require.Zero(r.t, r.state.Stats.Duplicates.Load())
}

// A tenant stores up to its limit, and not a message more. What it was told is accepted waits in the queue, where it is nobody's memory;
// with every step of room so much of it is stored, and without a limit all, each once.
func TestFullTenant(t *testing.T) {
	t.Parallel()
	withEachReader(t, testFullTenant)
}

func testFullTenant(t *testing.T, r *rig) {
	t.Helper()
	s := r.shelf()
	const size = 1000
	ids := r.sized(300, size)
	c := r.consumer()
	c.Limit(contract.Limits{StoredMaxBytes: 100 * size})
	r.run(c.Run)
	r.holds(100, 200)
	maps.Copy(ids, r.sized(10, size))
	r.holds(100, 210)

	c.Limit(contract.Limits{StoredMaxBytes: 150*size - 1}) // the last one fits a byte too little: it is the first beyond
	r.holds(150, 160)
	s.refresh(5 * size) // removed by retention, or erased
	r.holds(155, 155)
	c.Limit(contract.Limits{StoredMaxBytes: 1}) // below what is there
	s.refresh(0)
	r.holds(155, 155)
	r.unharmed()
	c.Limit(contract.Limits{})
	r.requireStored(ids)
	r.unharmed()
}

// A limit that comes while a tenant is consumed acts on what is delivered already, and what is not known holds, too, but refuses nothing
// for good.
func TestLimitOfStorageComesWhileItIsConsumed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.shelf()
	c := r.consumer()
	r.run(c.Run)
	ids := r.sized(10, 100)
	r.requireStored(ids)
	s.hidden.Store(true)
	c.Limit(contract.Limits{StoredMaxBytes: 1500})
	maps.Copy(ids, r.sized(20, 100))
	require.Eventually(t, func() bool { return r.state.Unacked() > 0 }, waitLimit, poll)
	require.Len(t, r.stored(), 10)
	s.hidden.Store(false)
	r.holds(15, 15)
	r.unharmed()
	c.Limit(contract.Limits{StoredMaxBytes: 1 << 20})
	r.requireStored(ids)
	r.unharmed()
}

// A consumer that starts does not begin before it is known what its tenant has stored. Who starts it is told that it waits, so that it
// does not hold up others, and it can be stopped.
func TestStartWhileStorageIsNotKnown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.shelf()
	s.hidden.Store(true)
	told := make(chan error, 10)
	start := func() (stop func()) {
		c := consumer.New(r.cfg, r.tenant, consumer.On(r.link), r.gate, r.writer, r.budget, &r.state, func(err error) { told <- err }, zap.NewNop())
		c.Configure(3, 3)
		c.Limit(contract.Limits{StoredMaxBytes: 1000})
		return r.run(c.Run)
	}
	ids := r.sized(5, 100)
	stop := start()
	require.ErrorIs(t, <-told, consumer.ErrStorageFull)
	stop()
	r.holds(0, 5)
	start()
	require.ErrorIs(t, <-told, consumer.ErrStorageFull)
	s.hidden.Store(false)
	s.refresh(0)
	require.NoError(t, <-told)
	r.requireStored(ids)
}

// A tenant at its limit whose oldest messages are removed one by one stores one by one. What waits behind is not delivered and given back
// each time: after the thousandth the broker would take it for a message that kills its consumers.
func TestRoomForOneMessageAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.shelf()
	const size, waiting, steps = 500, 150, 30
	ids := r.sized(waiting, size)
	c := r.consumer()
	c.Limit(contract.Limits{StoredMaxBytes: 10 * size})
	stop := r.run(c.Run)
	r.holds(10, waiting-10)
	for step := 1; step <= steps; step++ {
		s.refresh(size)
		r.holds(10+step, waiting-10-step)
	}
	stop()
	var deliveries int64
	r.onChannel(func(ch *amqp.Channel) error {
		d, _, err := ch.Get(contract.QueueName(r.tenant.String()), false)
		deliveries, _ = d.Headers["x-delivery-count"].(int64)
		if err == nil {
			err = d.Nack(false, true)
		}
		return err
	})
	require.LessOrEqual(t, deliveries, int64(5))
	r.unharmed()
	again := r.consumer()
	again.Limit(contract.Limits{})
	r.run(again.Run)
	r.requireStored(ids)
	require.Zero(t, r.depth(contract.DeadLettersQueue))
}

// After a time with little room, when one message was delivered at a time, a backlog drains at full width again.
func TestRoomForManyAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.shelf()
	ids := r.sized(5, 100)
	c := r.consumer()
	c.Limit(contract.Limits{StoredMaxBytes: 200})
	r.run(c.Run)
	r.holds(2, 3)
	c.Limit(contract.Limits{StoredMaxBytes: 1 << 30})
	r.requireStored(ids)
	c.Configure(0, 3) // nothing is written, so what is delivered stays in hand
	ids = r.sized(400, 100)
	require.Eventually(t, func() bool { return r.state.Unacked() == 400 }, waitLimit, poll)
	c.Configure(3, 3)
	require.Eventually(t, func() bool { return len(r.stored()) == 5+len(ids) }, waitLimit, poll)
	r.unharmed()
}

// What cannot be stored waits with the others: its dead letter comes in its turn.
func TestDeadLetterOfAFullTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := r.shelf()
	r.sized(2, 100)
	r.publish(r.message(uuid.NewString(), `not JSON`))
	c := r.consumer()
	c.Limit(contract.Limits{StoredMaxBytes: 200})
	r.run(c.Run)
	r.holds(2, 1)
	require.Zero(t, r.depth(contract.DeadLettersQueue))
	s.refresh(1)
	require.Eventually(t, func() bool { return r.depth(contract.DeadLettersQueue) == 1 && r.queueDepth() == 0 }, waitLimit, poll)
	require.Eventually(t, func() bool { return r.state.Unacked() == 0 }, waitLimit, time.Millisecond)
}
