package publish_test

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

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestPublishAnswersWhatBecameOfAMessage(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 2)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)

	long := strings.Repeat("x", 256)
	cases := map[string]struct {
		change func(m *publish.Message)
		want   error
	}{
		"stored":              {func(*publish.Message) {}, nil},
		"no queue for it":     {func(m *publish.Message) { m.Key = tenantB }, publish.ErrUnroutable},
		"no such exchange":    {func(m *publish.Message) { m.Exchange = "nowhere" }, publish.ErrUnroutable},
		"long message id":     {func(m *publish.Message) { m.Publishing.MessageId = long }, publish.ErrInvalid},
		"long routing key":    {func(m *publish.Message) { m.Key = long }, publish.ErrInvalid},
		"long content type":   {func(m *publish.Message) { m.Publishing.ContentType = long }, publish.ErrInvalid},
		"long name of header": {func(m *publish.Message) { m.Publishing.Headers = amqp.Table{long: 1} }, publish.ErrInvalid},
		"deep long name": {func(m *publish.Message) {
			m.Publishing.Headers = amqp.Table{"a": []any{amqp.Table{long: 1}}}
		}, publish.ErrInvalid},
		"large headers": {func(m *publish.Message) {
			m.Publishing.Headers = amqp.Table{"a": strings.Repeat("x", 127<<10)}
		}, publish.ErrInvalid},
		"type that AMQP lacks": {func(m *publish.Message) { m.Publishing.Headers = amqp.Table{"a": struct{}{}} }, publish.ErrInvalid},
		"headers that fit": {func(m *publish.Message) {
			m.Publishing.Headers = amqp.Table{"a": strings.Repeat("x", 125<<10)}
		}, nil},
	}
	session := amqptest.Session(t, link)
	for how, send := range map[string]func(context.Context, publish.Message) error{
		"publisher": publisher.Publish,
		"single":    func(ctx context.Context, m publish.Message) error { return publish.Single(ctx, session, m) },
	} {
		for name, c := range cases {
			m := amqptest.NewMessage(tenantA, name)
			c.change(&m)
			require.ErrorIs(t, send(ctx, m), c.want, "%s: %s", how, name)
		}
		require.Equal(t, []string{"headers that fit", "stored"}, amqptest.Drain(t, link, amqptest.Queue(tenantA)), how)
	}
}

// The properties that a consumer sees are the producer's: the publisher has no marks of its own in them.
func TestPublishAddsNothingToAMessage(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	sent := amqptest.NewMessage(tenantA, "id")
	sent.Publishing.Timestamp = time.Unix(1_700_000_000, 0)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), sent))

	got, ok, err := amqptest.Channel(t, link).Get(amqptest.Queue(tenantA), true)
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
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.DeclareWith(t, link, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeClassic}, tenantA)
	publisher := amqptest.StartPublisher(t, link, 3)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)

	var mu sync.Mutex
	var want []string
	var group sync.WaitGroup
	for g := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(g), 1))
			routable := func() bool { return random.IntN(3) > 0 }
			make1 := func(n int) (publish.Message, error) {
				id := fmt.Sprintf("%d-%d", g, n)
				if !routable() {
					return amqptest.NewMessage(tenantB, id), publish.ErrUnroutable
				}
				mu.Lock()
				want = append(want, id)
				mu.Unlock()
				return amqptest.NewMessage(tenantA, id), nil
			}
			for n := range 100 {
				m, expected := make1(n)
				require.ErrorIs(t, publisher.Publish(ctx, m), expected)
			}
			var batch []publish.Message
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
	require.Equal(t, want, amqptest.Drain(t, link, amqptest.Queue(tenantA)))
}

// Messages without an id cannot be told apart, so all of one key that are on the way share the news.
func TestReturnsOfMessagesThatLookAlike(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	batch := slices.Repeat([]publish.Message{amqptest.NewMessage(tenantA, ""), amqptest.NewMessage(tenantB, "")}, 50)
	for i, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), batch) {
		if i%2 == 0 {
			require.NoError(t, err, "another key is another message")
		} else {
			require.ErrorIs(t, err, publish.ErrUnroutable)
		}
	}
	require.Len(t, amqptest.Drain(t, link, amqptest.Queue(tenantA)), 50)
}

func TestABatchKeepsItsOrder(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 4)
	var batch []publish.Message
	for i := range 2000 {
		batch = append(batch, amqptest.NewMessage(tenantA, fmt.Sprintf("%05d", i)))
	}
	for _, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), batch) {
		require.NoError(t, err)
	}
	ch := amqptest.Channel(t, link)
	for i := range batch {
		d, ok, err := ch.Get(amqptest.Queue(tenantA), true)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, batch[i].Publishing.MessageId, d.MessageId)
	}
}

// One tenant that floods its queue gets its own refusals; what it was told is accepted is there.
func TestAFullQueueRefusesItsMessagesAndNoOthers(t *testing.T) {
	t.Parallel()
	for _, queueType := range []string{amqp.QueueTypeQuorum, amqp.QueueTypeClassic} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			broker := backing.RabbitMQ(t)
			link := amqptest.StartLink(t, broker.URL, nil)
			amqptest.DeclareWith(t, link, amqp.Table{
				amqp.QueueTypeArg: queueType, amqp.QueueMaxLenBytesArg: 2000, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
			}, tenantA, tenantB)
			publisher := amqptest.StartPublisher(t, link, 2)
			ctx := amqptest.Deadline(t, amqptest.WaitLimit)
			var accepted []string
			rejected := false
			for n := 0; !rejected || n < 100; n++ {
				require.Less(t, n, 10_000)
				m := amqptest.NewMessage(tenantA, fmt.Sprintf("%05d", n))
				m.Publishing.Body = []byte(strings.Repeat("1", 500))
				err := publisher.Publish(ctx, m)
				if err == nil {
					accepted = append(accepted, m.Publishing.MessageId)
					continue
				}
				require.ErrorIs(t, err, publish.ErrRejected)
				rejected = true
			}
			require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantB, "other")))
			require.Subset(t, amqptest.Drain(t, link, amqptest.Queue(tenantA)), accepted)
		})
	}
}

// An alarm lasts minutes: publishers are told at once instead of at their deadline, and continue when it is over.
func TestABlockedBrokerIsReportedAtOnce(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	var seen amqptest.Reports
	link := amqptest.StartLink(t, proxied, seen.Add)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 2)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)
	require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "before")))

	// As a broker does: it stops reading, and says so. The frame goes out with the next heartbeat.
	through.Set(func(f *amqptest.Faults) { f.Stalled, f.Insert = true, amqptest.ConnectionBlocked("low on memory") })
	onTheWay := make(chan error, 1)
	go func() { onTheWay <- publisher.Publish(ctx, amqptest.NewMessage(tenantA, "on the way")) }()
	require.ErrorIs(t, <-onTheWay, conn.ErrBlocked)
	reason, blocked := amqptest.Session(t, link).Blocked()
	require.True(t, blocked)
	require.Equal(t, "low on memory", reason)
	require.Eventually(t, func() bool { _, err := seen.Last(); return errors.Is(err, conn.ErrBlocked) }, amqptest.WaitLimit, time.Millisecond)

	// Without a deadline, so that nothing but the alarm ends them.
	err := publisher.Publish(t.Context(), amqptest.NewMessage(tenantA, "refused"))
	require.ErrorIs(t, err, conn.ErrBlocked)
	require.ErrorContains(t, err, "low on memory")
	for _, err := range publisher.PublishBatch(t.Context(), slices.Repeat([]publish.Message{amqptest.NewMessage(tenantA, "refused")}, 2000)) {
		require.ErrorIs(t, err, conn.ErrBlocked)
	}

	through.Set(func(f *amqptest.Faults) { f.Stalled, f.Insert = false, amqptest.ConnectionUnblocked() })
	require.Eventually(t, func() bool {
		_, blocked := amqptest.Session(t, link).Blocked()
		return !blocked
	}, amqptest.WaitLimit, time.Millisecond)
	require.NoError(t, publisher.Publish(ctx, amqptest.NewMessage(tenantA, "after")))
	require.Eventually(t, func() bool { _, err := seen.Last(); return err == nil }, amqptest.WaitLimit, time.Millisecond)
	require.Equal(t, []string{"after", "before", "on the way"}, amqptest.Drain(t, link, amqptest.Queue(tenantA)))
}

// A request that waits for a confirmation longer than its deadline has a client that is already gone.
func TestPublishEndsWithItsContextWhateverTheNetworkDoes(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := conn.NewLink(conn.Config{URL: proxied, Heartbeat: time.Minute}, t.Name(), zaptest.NewLogger(t), nil)
	stopLink := amqptest.Run(t, link.Run)
	amqptest.Declare(t, link, tenantA)
	publisher := publish.New(link, 2, zaptest.NewLogger(t))
	stopPublisher := amqptest.Run(t, publisher.Run)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "before")))

	session := amqptest.Session(t, link)
	through.Set(func(f *amqptest.Faults) { f.Stalled = true })
	large := amqptest.NewMessage(tenantA, "large")
	large.Publishing.Body = make([]byte, 1<<20)
	var group sync.WaitGroup
	for range 40 { // 40 MiB: far more than the buffers of the socket hold
		group.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			err := publisher.Publish(ctx, large)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, publish.ErrUnconfirmed)
			for _, err := range publisher.PublishBatch(ctx, []publish.Message{large, large}) {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
		})
	}
	group.Wait()
	require.NoError(t, session.Err(), "they have ended before the connection, and not with it")
	stopPublisher() // an error after the limit of all waits, and the silence of the broker is noticed later
	stopLink()
}

// What was confirmed is there, whatever happens to the connection; what was not has an error and can be repeated.
func TestLostConnectionsUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := amqptest.StartLink(t, proxied, nil)
	direct := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, direct, tenantA)
	publisher := amqptest.StartPublisher(t, link, 3)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)

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
				batch := []publish.Message{amqptest.NewMessage(tenantA, fmt.Sprintf("%d-%d-a", g, n)), amqptest.NewMessage(tenantA, fmt.Sprintf("%d-%d-b", g, n))}
				for i, err := range publisher.PublishBatch(ctx, batch) {
					if err == nil {
						mu.Lock()
						confirmed = append(confirmed, batch[i].Publishing.MessageId)
						mu.Unlock()
						continue
					}
					require.ErrorIs(t, err, conn.ErrUnavailable)
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
		}, amqptest.WaitLimit, time.Millisecond, "publishing does not resume")
	}
	for range 4 {
		progress()
		through.Cut()
	}
	progress()
	close(stop)
	group.Wait()
	slices.Sort(confirmed)
	stored := slices.Compact(amqptest.Drain(t, direct, amqptest.Queue(tenantA)))
	require.Subset(t, stored, confirmed)
}

// A channel exception of one message takes its neighbours on the channel down with it: they are told, and the publisher
// continues with a new channel.
func TestAChannelExceptionCostsOnlyWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	ctx := amqptest.Deadline(t, amqptest.WaitLimit)
	var batch []publish.Message
	for n := range 400 {
		batch = append(batch, amqptest.NewMessage(tenantA, fmt.Sprintf("%03d", n)))
	}
	batch[200].Exchange = "nowhere"
	var again []publish.Message
	for i, err := range publisher.PublishBatch(ctx, batch) {
		switch {
		case i == 200:
			require.ErrorIs(t, err, publish.ErrUnroutable)
		case err != nil:
			require.ErrorIs(t, err, conn.ErrUnavailable)
			again = append(again, batch[i])
		}
	}
	require.NotEmpty(t, again)
	for _, err := range publisher.PublishBatch(ctx, again) {
		require.NoError(t, err)
	}
	require.Len(t, slices.Compact(amqptest.Drain(t, link, amqptest.Queue(tenantA))), 399)
}

// Confirmations that never come, as of a queue without its quorum, must not use up the publisher for everyone else.
func TestConfirmationsThatDoNotComeDoNotStopThePublisher(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := amqptest.StartLink(t, proxied, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	through.Set(func(f *amqptest.Faults) { f.DropAcks = true })

	lost := 0
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		for _, err := range publisher.PublishBatch(ctx, slices.Repeat([]publish.Message{amqptest.NewMessage(tenantA, "m")}, 300)) {
			require.Error(t, err)
			if errors.Is(err, context.DeadlineExceeded) {
				lost++
			}
		}
		cancel()
	}
	require.Greater(t, lost, 512, "a channel holds no more than that: it was replaced")
	through.Set(func(f *amqptest.Faults) { f.DropAcks = false })
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "after")))
}

func TestPublishAfterTheEnd(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	publisher := publish.New(link, 2, zaptest.NewLogger(t))
	stop := amqptest.Run(t, publisher.Run)
	amqptest.Declare(t, link, tenantA)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "m")))
	stop()
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "m")), conn.ErrUnavailable)
}
