package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestPublishAnswersWhatBecameOfAMessage(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 2)
	ctx := deadline(t, waitLimit)

	long := strings.Repeat("x", 256)
	cases := map[string]struct {
		change func(m *rabbitmq.Message)
		want   error
	}{
		"stored":              {func(*rabbitmq.Message) {}, nil},
		"no queue for it":     {func(m *rabbitmq.Message) { m.Key = tenantB }, rabbitmq.ErrUnroutable},
		"no such exchange":    {func(m *rabbitmq.Message) { m.Exchange = "nowhere" }, rabbitmq.ErrUnroutable},
		"long message id":     {func(m *rabbitmq.Message) { m.Publishing.MessageId = long }, rabbitmq.ErrInvalid},
		"long routing key":    {func(m *rabbitmq.Message) { m.Key = long }, rabbitmq.ErrInvalid},
		"long content type":   {func(m *rabbitmq.Message) { m.Publishing.ContentType = long }, rabbitmq.ErrInvalid},
		"long name of header": {func(m *rabbitmq.Message) { m.Publishing.Headers = amqp.Table{long: 1} }, rabbitmq.ErrInvalid},
		"deep long name": {func(m *rabbitmq.Message) {
			m.Publishing.Headers = amqp.Table{"a": []any{amqp.Table{long: 1}}}
		}, rabbitmq.ErrInvalid},
		"large headers": {func(m *rabbitmq.Message) {
			m.Publishing.Headers = amqp.Table{"a": strings.Repeat("x", 127<<10)}
		}, rabbitmq.ErrInvalid},
		"type that AMQP lacks": {func(m *rabbitmq.Message) { m.Publishing.Headers = amqp.Table{"a": struct{}{}} }, rabbitmq.ErrInvalid},
		"headers that fit": {func(m *rabbitmq.Message) {
			m.Publishing.Headers = amqp.Table{"a": strings.Repeat("x", 125<<10)}
		}, nil},
	}
	for how, publish := range map[string]func(context.Context, rabbitmq.Message) error{
		"publisher": publisher.Publish, "session": session(t, link).Publish,
	} {
		for name, c := range cases {
			m := message(tenantA, name)
			c.change(&m)
			require.ErrorIs(t, publish(ctx, m), c.want, "%s: %s", how, name)
		}
		require.Equal(t, []string{"headers that fit", "stored"}, drain(t, link, contract.QueueName(tenantA)), how)
	}
}

// The properties that a consumer sees are the producer's: the publisher has no marks of its own in them.
func TestPublishAddsNothingToAMessage(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 1)
	sent := message(tenantA, "id")
	sent.Publishing.Timestamp = time.Unix(1_700_000_000, 0)
	require.NoError(t, publisher.Publish(deadline(t, waitLimit), sent))

	got, ok, err := channel(t, link).Get(contract.QueueName(tenantA), true)
	require.NoError(t, err)
	require.True(t, ok)
	delete(got.Headers, "x-delivery-count") // the broker's own, of quorum queues
	require.Empty(t, got.Headers)
	require.Empty(t, got.CorrelationId)
	require.Equal(t, "id", got.MessageId)
	require.Equal(t, sent.Publishing.Body, got.Body)
	require.True(t, sent.Publishing.Timestamp.Equal(got.Timestamp))
	require.Equal(t, amqp.Persistent, got.DeliveryMode)
}

// A message that was returned and is reported as accepted is lost; one that was accepted and is reported as returned
// makes its producer complain for nothing.
func TestReturnsAreMatchedToTheirMessages(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{Type: rabbitmq.QueueClassic}, tenantA)
	publisher := startPublisher(t, link, 3)
	ctx := deadline(t, waitLimit)

	var mu sync.Mutex
	var want []string
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			routable := func() bool { return random.IntN(3) > 0 }
			make1 := func(n int) (rabbitmq.Message, error) {
				id := fmt.Sprintf("%d-%d", g, n)
				if !routable() {
					return message(tenantB, id), rabbitmq.ErrUnroutable
				}
				mu.Lock()
				want = append(want, id)
				mu.Unlock()
				return message(tenantA, id), nil
			}
			for n := range 100 {
				m, expected := make1(n)
				require.ErrorIs(t, publisher.Publish(ctx, m), expected)
			}
			var batch []rabbitmq.Message
			var expected []error
			for n := range 1500 {
				m, e := make1(1000 + n)
				batch, expected = append(batch, m), append(expected, e)
			}
			for i, err := range publisher.PublishBatch(ctx, batch) {
				require.ErrorIs(t, err, expected[i])
			}
		})
	}
	group.Wait()
	slices.Sort(want)
	require.Equal(t, want, drain(t, link, contract.QueueName(tenantA)))
}

// Messages without an id cannot be told apart, so all of one key that are on the way share the news.
func TestReturnsOfMessagesThatLookAlike(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 1)
	batch := slices.Repeat([]rabbitmq.Message{message(tenantA, ""), message(tenantB, "")}, 50)
	for i, err := range publisher.PublishBatch(deadline(t, waitLimit), batch) {
		if i%2 == 0 {
			require.NoError(t, err, "another key is another message")
		} else {
			require.ErrorIs(t, err, rabbitmq.ErrUnroutable)
		}
	}
	require.Len(t, drain(t, link, contract.QueueName(tenantA)), 50)
}

func TestABatchKeepsItsOrder(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 4)
	var batch []rabbitmq.Message
	for i := range 2000 {
		batch = append(batch, message(tenantA, fmt.Sprintf("%05d", i)))
	}
	for _, err := range publisher.PublishBatch(deadline(t, waitLimit), batch) {
		require.NoError(t, err)
	}
	ch := channel(t, link)
	for i := range batch {
		d, ok, err := ch.Get(contract.QueueName(tenantA), true)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, batch[i].Publishing.MessageId, d.MessageId)
	}
}

// One tenant that floods its queue gets its own refusals; what it was told is accepted is there.
func TestAFullQueueRefusesItsMessagesAndNoOthers(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{rabbitmq.QueueQuorum, rabbitmq.QueueClassic} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			broker := backing.RabbitMQ(t)
			link := startLink(t, broker.URL, nil)
			declare(t, link, rabbitmq.QueueOptions{Type: queueType, MaxLengthBytes: 2000}, tenantA, tenantB)
			publisher := startPublisher(t, link, 2)
			ctx := deadline(t, waitLimit)
			var accepted []string
			rejected := false
			for n := 0; !rejected || n < 100; n++ {
				require.Less(t, n, 10_000)
				m := message(tenantA, fmt.Sprintf("%05d", n))
				m.Publishing.Body = []byte(strings.Repeat("1", 500))
				err := publisher.Publish(ctx, m)
				if err == nil {
					accepted = append(accepted, m.Publishing.MessageId)
					continue
				}
				require.ErrorIs(t, err, rabbitmq.ErrRejected)
				rejected = true
			}
			require.NoError(t, publisher.Publish(ctx, message(tenantB, "other")))
			require.Subset(t, drain(t, link, contract.QueueName(tenantA)), accepted)
		})
	}
}

// An alarm lasts minutes: publishers are told at once instead of at their deadline, and go on when it is over.
func TestABlockedBrokerIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	var seen reports
	link := startLink(t, proxied, seen.add)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 2)
	ctx := deadline(t, waitLimit)
	require.NoError(t, publisher.Publish(ctx, message(tenantA, "before")))

	// As a broker does: it stops reading, and says so. The frame goes out with the next heartbeat.
	through.set(func(p *proxy) { p.stalled, p.insert = true, connectionBlocked("low on memory") })
	onTheWay := make(chan error, 1)
	go func() { onTheWay <- publisher.Publish(ctx, message(tenantA, "on the way")) }()
	require.ErrorIs(t, <-onTheWay, rabbitmq.ErrBlocked)
	reason, blocked := session(t, link).Blocked()
	require.True(t, blocked)
	require.Equal(t, "low on memory", reason)
	require.Eventually(t, func() bool { _, err := seen.last(); return errors.Is(err, rabbitmq.ErrBlocked) }, waitLimit, time.Millisecond)

	started := time.Now()
	err := publisher.Publish(ctx, message(tenantA, "refused"))
	require.ErrorIs(t, err, rabbitmq.ErrBlocked)
	require.ErrorContains(t, err, "low on memory")
	for _, err := range publisher.PublishBatch(ctx, slices.Repeat([]rabbitmq.Message{message(tenantA, "refused")}, 2000)) {
		require.ErrorIs(t, err, rabbitmq.ErrBlocked)
	}
	require.Less(t, time.Since(started), time.Second)

	through.set(func(p *proxy) { p.stalled, p.insert = false, connectionUnblocked() })
	require.Eventually(t, func() bool {
		_, blocked := session(t, link).Blocked()
		return !blocked
	}, waitLimit, time.Millisecond)
	require.NoError(t, publisher.Publish(ctx, message(tenantA, "after")))
	require.Eventually(t, func() bool { _, err := seen.last(); return err == nil }, waitLimit, time.Millisecond)
	require.Equal(t, []string{"after", "before", "on the way"}, drain(t, link, contract.QueueName(tenantA)))
}

// A request that waits for a confirmation longer than its deadline has a client that is already gone.
func TestPublishEndsWithItsContextWhateverTheNetworkDoes(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := rabbitmq.NewLink(rabbitmq.Config{URL: proxied, Heartbeat: time.Minute}, t.Name(), zaptest.NewLogger(t), nil)
	stopLink := run(t, link.Run)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := rabbitmq.NewPublisher(link, 2, zaptest.NewLogger(t))
	stopPublisher := run(t, publisher.Run)
	require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, "before")))

	through.set(func(p *proxy) { p.stalled = true })
	large := message(tenantA, "large")
	large.Publishing.Body = make([]byte, 1<<20)
	var group sync.WaitGroup
	for range 40 { // 40 MiB: far more than the buffers of the socket hold
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			started := time.Now()
			err := publisher.Publish(ctx, large)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, rabbitmq.ErrUnconfirmed)
			for _, err := range publisher.PublishBatch(ctx, []rabbitmq.Message{large, large}) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
			require.Less(t, time.Since(started), 2*time.Second)
		})
	}
	group.Wait()
	started := time.Now()
	stopPublisher()
	stopLink()
	require.Less(t, time.Since(started), 10*time.Second, "the end of the service waits for the broker")
}

// What was confirmed is there, whatever happens to the connection; what was not has an error and can be repeated.
func TestLostConnectionsUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := startLink(t, proxied, nil)
	direct := startLink(t, broker.URL, nil)
	declare(t, direct, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 3)
	ctx := deadline(t, waitLimit)

	var mu sync.Mutex
	var confirmed []string
	stop := make(chan struct{})
	var group sync.WaitGroup
	for g := range 16 {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				batch := []rabbitmq.Message{message(tenantA, fmt.Sprintf("%d-%d-a", g, n)), message(tenantA, fmt.Sprintf("%d-%d-b", g, n))}
				for i, err := range publisher.PublishBatch(ctx, batch) {
					if err == nil {
						mu.Lock()
						confirmed = append(confirmed, batch[i].Publishing.MessageId)
						mu.Unlock()
						continue
					}
					require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
				}
			}
		})
	}
	progress := func() {
		mu.Lock()
		before := len(confirmed)
		mu.Unlock()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(confirmed) > before+100
		}, waitLimit, time.Millisecond, "publishing does not go on")
	}
	for range 4 {
		progress()
		through.cut()
	}
	progress()
	close(stop)
	group.Wait()
	slices.Sort(confirmed)
	stored := slices.Compact(drain(t, direct, contract.QueueName(tenantA)))
	require.Subset(t, stored, confirmed)
}

// A channel exception of one message takes its neighbours on the channel down with it: they are told, and the publisher
// goes on with a new channel.
func TestAChannelExceptionCostsOnlyWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 1)
	ctx := deadline(t, waitLimit)
	var batch []rabbitmq.Message
	for n := range 400 {
		batch = append(batch, message(tenantA, fmt.Sprintf("%03d", n)))
	}
	batch[200].Exchange = "nowhere"
	var again []rabbitmq.Message
	for i, err := range publisher.PublishBatch(ctx, batch) {
		switch {
		case i == 200:
			require.ErrorIs(t, err, rabbitmq.ErrUnroutable)
		case err != nil:
			require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
			again = append(again, batch[i])
		}
	}
	require.NotEmpty(t, again)
	for _, err := range publisher.PublishBatch(ctx, again) {
		require.NoError(t, err)
	}
	require.Len(t, slices.Compact(drain(t, link, contract.QueueName(tenantA))), 399)
}

// Confirmations that never come, as of a queue without its quorum, must not use up the publisher for everyone else.
func TestConfirmationsThatDoNotComeDoNotStopThePublisher(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := startLink(t, proxied, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, link, 1)
	through.set(func(p *proxy) { p.dropAcks = true })

	lost := 0
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		for _, err := range publisher.PublishBatch(ctx, slices.Repeat([]rabbitmq.Message{message(tenantA, "m")}, 300)) {
			require.Error(t, err)
			if errors.Is(err, context.DeadlineExceeded) {
				lost++
			}
		}
		cancel()
	}
	require.Greater(t, lost, 512, "a channel holds no more than that: it was replaced")
	through.set(func(p *proxy) { p.dropAcks = false })
	require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, "after")))
}

func TestPublishAfterTheEnd(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	publisher := rabbitmq.NewPublisher(link, 2, zaptest.NewLogger(t))
	stop := run(t, publisher.Run)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA)
	require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, "m")))
	stop()
	require.ErrorIs(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, "m")), rabbitmq.ErrUnavailable)
}
