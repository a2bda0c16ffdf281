package consumer_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

// alone are the limits of an installation with one instance.
func alone(limits *atomic.Pointer[contract.Limits]) *rate.Limiter {
	return rate.New(rate.Config{
		Self: "a", Instances: func() []string { return []string{"a"} },
		Owner:   func(uuid.UUID, []string) string { return "a" },
		Limits:  func(uuid.UUID) rate.Amounts { return rate.Publishing(*limits.Load()) },
		Largest: rate.Amounts{rate.Messages: 1, rate.Bytes: 1 << 20},
	})
}

// limit gives the rig limits per second; the result changes them, and has a running consumer told.
func (r *rig) limit(limits contract.Limits) (change func(interface{ Limit(contract.Limits) }, contract.Limits)) {
	var current atomic.Pointer[contract.Limits]
	current.Store(&limits)
	r.cfg.Rates = alone(&current)
	return func(c interface{ Limit(contract.Limits) }, limits contract.Limits) {
		current.Store(&limits)
		c.Limit(limits)
	}
}

// own is a message as the platform's own HTTP API publishes it.
func (r *rig) own(id, body string) publish.Message {
	m := r.message(id, body)
	m.Exchange = contract.TenantsExchange
	return m
}

// A producer over AMQP gets its rate: what is over it waits in the queue, where it is nobody's memory, and all of it is stored in the end.
func TestRateOverAMQP(t *testing.T) {
	t.Parallel()
	withEachReader(t, testRateOverAMQP)
}

func testRateOverAMQP(t *testing.T, r *rig) {
	t.Helper()
	limits := contract.Limits{PublishRate: 100}
	change := r.limit(limits)
	ids := r.publishMany(1000)
	c := r.consumer()
	c.Limit(limits)
	r.run(c.Run)
	// How many pass in how long is held on a simulated clock (libs/rate TestSumHolds), and by the tests below for what never passes.
	require.Eventually(t, func() bool { return r.state.Stats.Stored.Load() >= 100 }, waitLimit, poll)
	require.LessOrEqual(t, r.state.Unacked(), int64(100), "no more is delivered than passes in a second")
	require.Equal(t, 0, r.depth(contract.DeadLettersQueue))

	change(c, contract.Limits{})
	r.requireStored(ids)
	require.Zero(t, r.state.Held.Load())
}

// A tenant that may store a message an hour, as it were, waits for its next one with a single delivery at hand. When the operator takes
// the limit away, it goes on.
func TestLimitIsTakenAwayWhileItIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// A first message of 20,000 bytes is in debt for hours under a limit of a byte a second.
	limits := contract.Limits{PublishBytes: 1}
	change := r.limit(limits)
	messages := []publish.Message{r.message(uuid.NewString(), `"`+strings.Repeat("x", 20_000)+`"`)}
	ids := map[uuid.UUID]bool{uuid.MustParse(messages[0].Publishing.MessageId): true}
	for i := range 50 {
		id := uuid.New()
		ids[id] = true
		messages = append(messages, r.message(id.String(), fmt.Sprint(i)))
	}
	r.publish(messages...)
	c := r.consumer()
	c.Limit(limits)
	r.run(c.Run)
	require.Eventually(t, func() bool { return r.state.Stats.Stored.Load() == 1 && r.state.Held.Load() == 1 }, waitLimit, poll)
	require.Equal(t, int64(1), r.state.Unacked())
	require.Equal(t, 49, r.depth(contract.QueueName(r.tenant.String())))

	changed := time.Now()
	change(c, contract.Limits{})
	r.requireStored(ids)
	t.Logf("all stored %v after the change", time.Since(changed))
}

// What came over HTTP was counted there. A producer cannot have its messages taken for it: neither by headers, nor by properties.
func TestOwnMessagesAreNotCountedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	limits := contract.Limits{PublishBytes: 1}
	r.limit(limits)
	ids := make(map[uuid.UUID]bool)
	var own []publish.Message
	for i := range 500 {
		id := uuid.New()
		ids[id] = true
		own = append(own, r.own(id.String(), fmt.Sprint(i)))
	}
	r.publish(own...)
	c := r.consumer()
	c.Limit(limits)
	r.run(c.Run)
	r.requireStored(ids)

	disguised := r.message(uuid.NewString(), `"first"`)
	r.publish(disguised)
	ids[uuid.MustParse(disguised.Publishing.MessageId)] = true
	r.requireStored(ids) // and the tenant is in debt
	for i := range 3 {
		m := r.message(uuid.NewString(), fmt.Sprint(i))
		m.Publishing.Headers = map[string]any{
			contract.HeaderAttempt: int32(1), contract.HeaderTenant: r.tenant.String(), "exchange": contract.TenantsExchange, "x-exchange": contract.TenantsExchange,
		}
		m.Publishing.AppId, m.Publishing.Type = "ingest-service", contract.TenantsExchange
		r.publish(m)
	}
	require.Eventually(t, func() bool { return r.state.Held.Load() > 0 }, waitLimit, poll)
	require.Len(t, r.stored(), len(ids))
}

// A consumer that is stopped while it waits gives back what it holds, and loses nothing; those after it go on.
func TestStopWhileTheRateIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	limits := contract.Limits{PublishRate: 4}
	change := r.limit(limits)
	ids := r.publishMany(100)
	c := r.consumer()
	c.Limit(limits)
	stop := r.run(c.Run)
	require.Eventually(t, func() bool { return r.state.Held.Load() > 0 }, waitLimit, poll)
	stop()
	require.Zero(t, r.state.Unacked())
	require.Equal(t, 100, len(r.stored())+r.depth(contract.QueueName(r.tenant.String())))
	again := r.consumer()
	change(again, contract.Limits{})
	r.run(again.Run)
	r.requireStored(ids)
	require.Equal(t, 0, r.depth(contract.DeadLettersQueue), "nothing is a dead letter for its rate")
}

// Under a limit of bytes, too, little is held: the prefetch follows the size of the messages.
func TestPrefetchUnderALimitOfBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.cfg.MaxPayload = 1 << 20
	limits := contract.Limits{PublishBytes: 1 << 20}
	change := r.limit(limits)
	ids := make(map[uuid.UUID]bool)
	body := `"` + strings.Repeat("x", 900<<10) + `"` // one passes in a second, and sixteen are delivered as long as their size is not known
	for range 20 {
		m := r.message(uuid.NewString(), body)
		ids[uuid.MustParse(m.Publishing.MessageId)] = true
		r.publish(m)
	}
	c := r.consumer()
	c.Limit(limits)
	r.run(c.Run)
	require.Eventually(t, func() bool { return r.state.Held.Load() == 1 && r.state.Unacked() == 1 }, waitLimit, poll)
	change(c, contract.Limits{PublishBytes: 1 << 30})
	r.requireStored(ids)
}

// A payload over the tenant's own limit is a dead letter like one over that of the installation; without a rate of its own nothing waits.
func TestPayloadOverTheTenantsLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	fits, over := r.message(uuid.NewString(), `"`+strings.Repeat("x", 98)+`"`), r.message(uuid.NewString(), `"`+strings.Repeat("x", 99)+`"`)
	numbers := r.message(uuid.NewString(), `[1e300]`) // within the limit, however many digits it has when it is read
	c := r.consumer()
	c.Limit(contract.Limits{MaxPayload: 100})
	r.run(c.Run)
	r.publish(fits, over, numbers)
	require.Eventually(t, func() bool { return r.depth(contract.DeadLettersQueue) == 1 }, waitLimit, poll)
	r.requireStored(map[uuid.UUID]bool{uuid.MustParse(fits.Publishing.MessageId): true, uuid.MustParse(numbers.Publishing.MessageId): true})
	require.Equal(t, int64(1), r.state.Stats.DeadLettered(contract.ReasonTooLarge).Load())
	c.Limit(contract.Limits{MaxPayload: 200})
	larger := r.message(uuid.NewString(), `"`+strings.Repeat("x", 150)+`"`)
	require.Eventually(t, func() bool { r.publish(larger); return r.stored()[uuid.MustParse(larger.Publishing.MessageId)] }, waitLimit, poll)
}
