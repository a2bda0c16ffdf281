package rabbitmq_test

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

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
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
		require.NoError(t, rabbitmq.DeclareShared(ch, nil, rabbitmq.QueueQuorum))
		for i := range 6 {
			others = append(others, fmt.Sprintf("tenant-%d-%d", round, i))
			require.NoError(t, rabbitmq.DeclareTenant(ch, others[i], rabbitmq.QueueOptions{}))
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
	m := message(tenant, "is there a leader?")
	confirmation, err := ch.PublishWithDeferredConfirm(m.Exchange, m.Key, true, false, m.Publishing)
	require.NoError(t, err)
	acked, err := confirmation.WaitContext(deadline(t, 3*time.Second))
	return err == nil && acked
}

// probed runs a publisher that tries tripped destinations apart.
func probed(t *testing.T, link, probeLink *rabbitmq.Link, stall time.Duration) *rabbitmq.Publisher {
	t.Helper()
	p := rabbitmq.NewPublisher(link, 2, zaptest.NewLogger(t)).WithTrialLink(probeLink).Hasten(stall, stall)
	run(t, p.Run)
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
	var publishers []*rabbitmq.Publisher
	t.Run("trouble", func(owner *testing.T) {
		for name, size := range map[string]int{"message by message": 1, "in large batches": 600} {
			link, probeLink := startLink(t, services.RabbitMQURL, nil), startLink(t, services.RabbitMQURL, nil)
			publisher := probed(t, link, probeLink, stall)
			publishers = append(publishers, publisher)
			owner.Run(name, func(t *testing.T) {
				t.Parallel()
				batch := slices.Repeat([]rabbitmq.Message{message(broken, "m")}, size)
				tripOne(t, publisher, batch, others)
				before := session(t, link)
				confine(t, publisher, batch, others, 3*stall)
				require.Same(t, before, session(t, link))
			})
		}
	})

	ch := dial(t, services.RabbitMQURL)
	_, err := rabbitmq.DeleteTenant(t.Context(), ch, broken)
	require.NoError(t, err)
	require.NoError(t, rabbitmq.DeclareTenant(ch, broken, rabbitmq.QueueOptions{}))
	for _, publisher := range publishers {
		require.Eventually(t, func() bool {
			return publisher.Publish(deadline(t, waitLimit), message(broken, "at last")) == nil
		}, waitLimit, 100*time.Millisecond)
		require.Zero(t, publisher.Breakers())
	}
}

// tripOne publishes to all until it is known which queue is broken. Until then everybody may have to repeat a message.
func tripOne(t *testing.T, publisher *rabbitmq.Publisher, batch []rabbitmq.Message, others []string) {
	t.Helper()
	var decided atomic.Bool
	var group sync.WaitGroup
	defer group.Wait()
	defer decided.Store(true)
	for _, tenant := range others {
		group.Go(func() {
			for n := 0; !decided.Load(); n++ {
				repeat(t, publisher, message(tenant, fmt.Sprint(n)))
			}
		})
	}
	for !decided.Load() {
		for _, err := range publisher.PublishBatch(deadline(t, waitLimit), batch) {
			require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
			require.NotErrorIs(t, err, rabbitmq.ErrUnconfirmed, "the answer comes before the deadline")
			decided.Store(errors.Is(err, rabbitmq.ErrUnanswered))
		}
	}
	group.Wait() // each of them has closed its breaker
	require.Equal(t, 1, publisher.Breakers())
}

// confine publishes to all for a while: the others notice nothing, whatever is tried with the broken queue.
func confine(t *testing.T, publisher *rabbitmq.Publisher, batch []rabbitmq.Message, others []string, d time.Duration) {
	t.Helper()
	end := time.Now().Add(d)
	var group sync.WaitGroup
	defer group.Wait()
	for _, tenant := range others {
		group.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				if err := publisher.Publish(deadline(t, waitLimit), message(tenant, fmt.Sprint(n))); err != nil {
					t.Errorf("tenant %s: %v", tenant, err)
				}
			}
		})
	}
	for time.Now().Before(end) {
		for _, err := range publisher.PublishBatch(deadline(t, waitLimit), batch) {
			require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
			require.NotErrorIs(t, err, rabbitmq.ErrUnconfirmed)
		}
	}
}

// repeat publishes m until it is confirmed.
func repeat(t *testing.T, publisher *rabbitmq.Publisher, m rabbitmq.Message) {
	t.Helper()
	ctx := deadline(t, waitLimit)
	for {
		err := publisher.Publish(ctx, m)
		if err == nil {
			return
		}
		if !errors.Is(err, rabbitmq.ErrUnavailable) || ctx.Err() != nil {
			t.Errorf("%s: %v", m.Key, err)
			return
		}
	}
}

// A broker that was slow for everybody trips every breaker. They must close with the first confirmation.
func TestABreakerTrippedInErrorCloses(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link, direct := startLink(t, proxied, nil), startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA, tenantB)
	publisher := probed(t, link, direct, 400*time.Millisecond)
	ctx := deadline(t, waitLimit)
	require.NoError(t, publisher.Publish(ctx, message(tenantA, "before")))

	through.set(func(p *proxy) { p.dropAcks = true })
	var batch []rabbitmq.Message
	for n := range 20 {
		batch = append(batch, message([]string{tenantA, tenantB}[n%2], fmt.Sprintf("%02d", n)))
	}
	for _, err := range publisher.PublishBatch(ctx, batch) {
		require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
	}
	require.Equal(t, 2, publisher.Breakers())
	require.NoError(t, session(t, link).Err(), "a channel is replaced, not the connection")
	through.set(func(p *proxy) { p.dropAcks = false })
	for _, err := range publisher.PublishBatch(ctx, batch) {
		require.NoError(t, err)
	}
	require.Zero(t, publisher.Breakers())
	require.Len(t, slices.Compact(drain(t, link, contract.QueueName(tenantA))), 11)
}

// A trial whose publisher does not wait for its end still has one.
func TestATrialOutlivesItsPublisher(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link, probeLink := startLink(t, proxied, nil), startLink(t, proxied, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := probed(t, link, probeLink, 500*time.Millisecond)
	ctx := deadline(t, waitLimit)
	require.NoError(t, publisher.Publish(ctx, message(tenantA, "before")))

	through.set(func(p *proxy) { p.dropAcks = true })
	require.ErrorIs(t, publisher.Publish(ctx, message(tenantA, "stalls")), rabbitmq.ErrUnavailable)
	hasty, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, publisher.Publish(hasty, message(tenantA, "trial")), rabbitmq.ErrUnconfirmed)
	require.ErrorIs(t, publisher.Publish(ctx, message(tenantA, "waits")), rabbitmq.ErrUnanswered)
	through.set(func(p *proxy) { p.dropAcks = false })
	require.Eventually(t, func() bool { return publisher.Publish(ctx, message(tenantA, "after")) == nil }, waitLimit, 10*time.Millisecond)
	require.Zero(t, publisher.Breakers())
}

// One queue that does not answer stops a channel. Until that is given up, what others publish must go over the remaining ones:
// each of them would wait with it, or be told to try again.
func TestAChannelThatConfirmsNothingIsAvoided(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := startLink(t, proxied, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA, tenantB)
	publisher := rabbitmq.NewPublisher(link, 2, zaptest.NewLogger(t)).Hasten(10*time.Second, 0)
	run(t, publisher.Run)
	require.Eventually(t, func() bool {
		open, _ := publisher.Channels()
		return open == 2
	}, waitLimit, time.Millisecond)

	through.set(func(p *proxy) { p.silence = true })
	ctx, leave := context.WithCancel(t.Context())
	stuck := make(chan error, 1)
	go func() { stuck <- publisher.Publish(ctx, message(tenantA, "stuck")) }()
	require.Eventually(t, func() bool {
		_, slow := publisher.Channels()
		return slow == 1
	}, waitLimit, time.Millisecond)
	for n := range 20 {
		require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenantB, fmt.Sprint(n))))
	}
	leave()
	require.Error(t, <-stuck)
}

// Without a link for trials, too, nobody waits for a channel that confirms nothing, and what is stuck does not pile up for ever.
func TestStalledChannelsAreReplaced(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := startLink(t, proxied, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := rabbitmq.NewPublisher(link, 1, zaptest.NewLogger(t)).Hasten(100*time.Millisecond, 0)
	run(t, publisher.Run)
	ctx := deadline(t, 5*waitLimit) // for all the channels
	require.NoError(t, publisher.Publish(ctx, message(tenantA, "before")))
	first := session(t, link)
	through.set(func(p *proxy) { p.dropAcks, p.dropCloses = true, true })
	for range rabbitmq.MaxClosing {
		require.ErrorIs(t, publisher.Publish(ctx, message(tenantA, "m")), rabbitmq.ErrUnavailable)
	}
	require.NoError(t, first.Err())
	require.ErrorIs(t, publisher.Publish(ctx, message(tenantA, "m")), rabbitmq.ErrUnavailable)
	<-first.Done()
	through.set(func(p *proxy) { p.dropAcks, p.dropCloses = false, false })
	require.Eventually(t, func() bool { return publisher.Publish(ctx, message(tenantA, "after")) == nil }, waitLimit, time.Millisecond)
}

// A consumer that the broker does not answer gives up alone: the connection belongs to others, too.
func TestAnUnansweredConsumerCostsNoConnection(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	probeLink := rabbitmq.NewLink(rabbitmq.Config{URL: proxied}, t.Name(), zaptest.NewLogger(t), nil).Hasten(200 * time.Millisecond)
	link := rabbitmq.NewLink(rabbitmq.Config{URL: proxied}, t.Name(), zaptest.NewLogger(t), nil).
		Hasten(200 * time.Millisecond).WithProbeLink(probeLink)
	run(t, link.Run)
	run(t, probeLink.Run)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	queue, ctx := contract.QueueName(tenantA), deadline(t, waitLimit)
	require.Eventually(t, func() bool { return link.Probe(ctx, queue) == nil }, waitLimit, time.Millisecond)
	var refused *amqp.Error
	require.Eventually(t, func() bool { return errors.As(link.Probe(ctx, contract.QueueName(tenantB)), &refused) }, waitLimit, time.Millisecond)
	require.Equal(t, amqp.NotFound, refused.Code)

	before, probing := session(t, link), session(t, probeLink)
	through.set(func(p *proxy) { p.dropConsumes = true })
	_, err := before.Consume(ctx, queue, "", 10)
	require.ErrorIs(t, err, rabbitmq.ErrUnanswered)
	var group sync.WaitGroup
	for range 10 { // more than are let through at a time
		group.Go(func() {
			if err := link.Probe(ctx, queue); !errors.Is(err, rabbitmq.ErrUnanswered) {
				t.Errorf("probe: %v", err)
			}
		})
	}
	group.Wait()
	through.set(func(p *proxy) { p.dropConsumes = false })
	// A busy broker may take longer for an answer than the consumers here wait.
	require.Eventually(t, func() bool { return link.Probe(ctx, queue) == nil }, waitLimit, time.Millisecond)
	require.Same(t, before, session(t, link))
	require.Same(t, probing, session(t, probeLink))
	require.Eventually(t, func() bool {
		_, err := before.Consume(ctx, queue, "", 10)
		return err == nil
	}, waitLimit, time.Millisecond)
}
