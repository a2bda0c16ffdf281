package publish_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// leaderless makes tenants' queues and crashes the broker right after: it writes down every half second which members of
// quorum queues it runs, and a queue that is missing there has no leader afterwards, for ever. A queue that has lost its
// quorum in a cluster is the same to its clients. The others answer.
func leaderless(t *testing.T, services *backing.Services) (broken string, others []string) {
	t.Helper()
	process := services.Process(backing.ServiceRabbitMQ)
	for round := range 6 {
		others = nil
		ch := dial(t, services.RabbitMQURL)
		for i := range 6 {
			others = append(others, fmt.Sprintf("tenant-%d-%d", round, i))
			require.NoError(t, amqptest.DeclareOn(ch, quorum(), others[i]))
		}
		require.NoError(t, process.Kill(t.Context()))
		require.NoError(t, process.Start(t.Context()))
		others = slices.DeleteFunc(others, func(tenant string) bool {
			if confirms(t, services.RabbitMQURL, tenant) {
				return false
			}
			broken = tenant
			return true
		})
		if broken != "" && len(others) > 1 {
			return broken, others
		}
	}
	t.Fatal("the broker remembers its queues whenever it is killed")
	return "", nil
}

func quorum() amqp.Table { return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum} }

func dial(t *testing.T, amqpURL string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(amqpURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }) // some tests have killed its broker
	ch, err := conn.Channel()
	require.NoError(t, err)
	return ch
}

// confirms reports whether the broker confirms a message to tenant within 3 s.
func confirms(t *testing.T, amqpURL, tenant string) bool {
	t.Helper()
	ch := dial(t, amqpURL)
	require.NoError(t, ch.Confirm(false))
	m := amqptest.NewMessage(tenant, "is there a leader?")
	confirmation, err := ch.PublishWithDeferredConfirm(m.Exchange, m.Key, true, false, m.Publishing)
	require.NoError(t, err)
	acked, err := confirmation.WaitContext(amqptest.Deadline(t, 3*time.Second))
	return err == nil && acked
}

// probed runs a publisher that tries tripped destinations apart.
func probed(t *testing.T, link, probeLink *conn.Link, stall time.Duration) *publish.Publisher {
	t.Helper()
	p := publish.NewWithTrials(link, probeLink, 2, zaptest.NewLogger(t)).Hasten(stall, stall)
	amqptest.Run(t, p.Run)
	return p
}

// One tenant's queue without a leader must not keep all other tenants from publishing.
func TestAQueueWithoutALeaderStopsNobodyElse(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills a broker until a queue has lost its leader")
	}
	t.Parallel()
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	broken, others := leaderless(t, services)
	const stall = 4 * time.Second
	var publishers []*publish.Publisher
	t.Run("trouble", func(owner *testing.T) {
		for name, size := range map[string]int{"message by message": 1, "in large batches": 600} {
			link, probeLink := amqptest.StartLink(t, services.RabbitMQURL, nil), amqptest.StartLink(t, services.RabbitMQURL, nil)
			publisher := probed(t, link, probeLink, stall)
			publishers = append(publishers, publisher)
			owner.Run(name, func(t *testing.T) {
				t.Parallel()
				batch := slices.Repeat([]publish.Message{amqptest.NewMessage(broken, "m")}, size)
				tripOne(t, publisher, batch, others)
				before := amqptest.Session(t, link)
				confine(t, publisher, batch, others, 3*stall)
				require.Same(t, before, amqptest.Session(t, link))
			})
		}
	})

	ch := dial(t, services.RabbitMQURL)
	_, err := ch.QueueDelete(amqptest.Queue(broken), false, false, false)
	require.NoError(t, err)
	require.NoError(t, amqptest.DeclareOn(ch, quorum(), broken))
	for _, publisher := range publishers {
		require.Eventually(t, func() bool {
			return publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(broken, "at last")) == nil
		}, amqptest.WaitLimit, 100*time.Millisecond)
		require.Zero(t, publisher.Breakers())
	}
}

// tripOne publishes to all until it is known which queue is broken. Until then everybody may have to repeat a message.
func tripOne(t *testing.T, publisher *publish.Publisher, batch []publish.Message, others []string) {
	t.Helper()
	var decided atomic.Bool
	var group sync.WaitGroup
	defer group.Wait()
	defer decided.Store(true)
	for _, tenant := range others {
		group.Go(func() {
			for n := 0; !decided.Load(); n++ {
				repeat(t, publisher, amqptest.NewMessage(tenant, fmt.Sprint(n)))
			}
		})
	}
	for !decided.Load() {
		for _, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), batch) {
			require.ErrorIs(t, err, conn.ErrUnavailable)
			require.NotErrorIs(t, err, publish.ErrUnconfirmed, "the answer comes before the deadline")
			decided.Store(errors.Is(err, conn.ErrUnanswered))
		}
	}
	group.Wait() // each of them has closed its breaker
	require.Equal(t, 1, publisher.Breakers())
}

// confine publishes to all for a while: the others notice nothing, whatever is tried with the broken queue.
func confine(t *testing.T, publisher *publish.Publisher, batch []publish.Message, others []string, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	var group sync.WaitGroup
	defer group.Wait()
	for _, tenant := range others {
		group.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				if err := publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenant, fmt.Sprint(n))); err != nil {
					t.Errorf("tenant %s: %v", tenant, err)
				}
			}
		})
	}
	for time.Now().Before(end) {
		for _, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), batch) {
			require.ErrorIs(t, err, conn.ErrUnavailable)
			require.NotErrorIs(t, err, publish.ErrUnconfirmed)
		}
	}
}

// repeat publishes m until it is confirmed.
func repeat(t *testing.T, publisher *publish.Publisher, m publish.Message) {
	t.Helper()
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)
	for {
		err := publisher.Publish(ctx, m)
		if err == nil {
			return
		}
		if !errors.Is(err, conn.ErrUnavailable) || ctx.Err() != nil {
			t.Errorf("%s: %v", m.Key, err)
			return
		}
	}
}

// A broker that was slow for everybody trips every breaker. They must close with the first confirmation.
func TestABreakerTrippedInErrorCloses(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link, direct := amqptest.StartLink(t, proxied, nil), amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA, tenantB)
	publisher := probed(t, link, direct, 400*time.Millisecond)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)
	require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "before")))

	through.Set(func(f *amqptest.Faults) { f.DropAcks = true })
	var batch []publish.Message
	for n := range 20 {
		batch = append(batch, amqptest.NewMessage([]string{tenantA, tenantB}[n%2], fmt.Sprintf("%02d", n)))
	}
	for _, err := range publisher.PublishBatch(ctx, batch) {
		require.ErrorIs(t, err, conn.ErrUnavailable)
	}
	require.Equal(t, 2, publisher.Breakers())
	require.NoError(t, amqptest.Session(t, link).Err(), "a channel is replaced, not the connection")
	through.Set(func(f *amqptest.Faults) { f.DropAcks = false })
	for _, err := range publisher.PublishBatch(ctx, batch) {
		require.NoError(t, err)
	}
	require.Zero(t, publisher.Breakers())
	require.Len(t, slices.Compact(amqptest.Drain(t, link, amqptest.Queue(tenantA))), 11)
}

// A trial whose publisher does not wait for its end still has one.
func TestATrialOutlivesItsPublisher(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link, probeLink := amqptest.StartLink(t, proxied, nil), amqptest.StartLink(t, proxied, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := probed(t, link, probeLink, 500*time.Millisecond)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)
	require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "before")))

	through.Set(func(f *amqptest.Faults) { f.DropAcks = true })
	require.ErrorIs(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "stalls")), conn.ErrUnavailable)
	hasty, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, publisher.Publish(hasty, amqptest.NewMessage(tenantA, "trial")), publish.ErrUnconfirmed)
	require.ErrorIs(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "waits")), conn.ErrUnanswered)
	through.Set(func(f *amqptest.Faults) { f.DropAcks = false })
	require.Eventually(t, func() bool { return publisher.Publish(ctx, amqptest.NewMessage(tenantA, "after")) == nil }, amqptest.WaitLimit, 10*time.Millisecond)
	require.Zero(t, publisher.Breakers())
}

// One queue that does not answer stops a channel. Until that is given up, what others publish must go over the remaining ones:
// each of them would wait with it, or be told to try again.
func TestAChannelThatConfirmsNothingIsAvoided(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := amqptest.StartLink(t, proxied, nil)
	amqptest.Declare(t, link, tenantA, tenantB)
	publisher := publish.New(link, 2, zaptest.NewLogger(t)).Hasten(10*time.Second, 0)
	amqptest.Run(t, publisher.Run)
	require.Eventually(t, func() bool {
		open, _ := publisher.Channels()
		return open == 2
	}, amqptest.WaitLimit, time.Millisecond)

	through.Set(func(f *amqptest.Faults) { f.Silence = true })
	ctx, leave := context.WithCancel(t.Context())
	stuck := make(chan error, 1)
	go func() { stuck <- publisher.Publish(ctx, amqptest.NewMessage(tenantA, "stuck")) }()
	require.Eventually(t, func() bool {
		_, slow := publisher.Channels()
		return slow == 1
	}, amqptest.WaitLimit, time.Millisecond)
	for n := range 20 {
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantB, fmt.Sprint(n))))
	}
	leave()
	require.Error(t, <-stuck)
}

// Without a link for trials, too, nobody waits for a channel that confirms nothing, and what is stuck does not pile up for ever.
func TestStalledChannelsAreReplaced(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := amqptest.StartLink(t, proxied, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := publish.New(link, 1, zaptest.NewLogger(t)).Hasten(100*time.Millisecond, 0)
	amqptest.Run(t, publisher.Run)
	ctx := amqptest.Deadline(t, 5*amqptest.WaitLimit) // for all the channels
	require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "before")))
	first := amqptest.Session(t, link)
	through.Set(func(f *amqptest.Faults) { f.DropAcks, f.DropCloses = true, true })
	for range conn.MaxClosing {
		require.ErrorIs(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "m")), conn.ErrUnavailable)
	}
	require.NoError(t, first.Err())
	require.ErrorIs(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "m")), conn.ErrUnavailable)
	<-first.Done()
	through.Set(func(f *amqptest.Faults) { f.DropAcks, f.DropCloses = false, false })
	require.Eventually(t, func() bool { return publisher.Publish(ctx, amqptest.NewMessage(tenantA, "after")) == nil }, amqptest.WaitLimit, time.Millisecond)
}
