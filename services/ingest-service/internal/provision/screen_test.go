package provision_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// screen declares everything as an instance does that is configured with a mode.
func screen(t *testing.T, link *conn.Link, mode string, opts provision.QueueOptions, tenants ...string) {
	t.Helper()
	s := amqptest.Session(t, link)
	opts.Screened = provision.Screened(mode, s.Version())
	declare(t, link, opts)
	require.NoError(t, provision.DeclareScreen(amqptest.Deadline(t, amqptest.WaitLimit), s, opts.Screened))
	declare(t, link, opts, tenants...)
}

// deaths are values of a header x-death: of every type, and in the forms that a broker below 4.0 cannot bear.
func deaths() map[string]any {
	table := amqp.Table{
		"queue": contract.ParkingQueue, "reason": "expired", "count": int64(1), "exchange": "", "time": time.Unix(1, 0),
		"routing-keys": []any{contract.ParkingRoutingKey},
	}
	text := amqp.Table{"queue": "q", "reason": "expired", "count": "1"}
	deep := any("a")
	for range 30 {
		deep = []any{deep}
	}
	return map[string]any{
		"list of text": []any{"a"}, "list of numbers": []any{int32(1)}, "list of lists": []any{[]any{amqp.Table{}}}, "empty list": []any{},
		"list of void": []any{nil}, "empty table in a list": []any{amqp.Table{}}, "count is text": []any{text}, "names parking": []any{table},
		"twice the same": []any{table, table}, "deep": deep, "void": nil, "text": "a", "empty text": "", "table": amqp.Table{"a": int32(1)}, "number": int64(-1),
		"float": 1.5, "truth": true, "time": time.Unix(0, 0), "bytes": []byte{0xff}, "decimal": amqp.Decimal{Scale: 2, Value: 1}, "long": strings.Repeat("x", 100_000),
	}
}

// Whatever a producer writes into x-death, a broker that would stumble over it refuses the message, and says so. Nothing of it
// gets into any queue, where it could expire.
func TestScreenRefusesEveryFormOfDeath(t *testing.T) {
	t.Parallel()
	queueTypes(t, func(t *testing.T, queueType string) {
		t.Helper()
		broker := backing.RabbitMQ(t)
		link := amqptest.StartLink(t, broker.URL, nil)
		screen(t, link, provision.ScreenOn, provision.QueueOptions{Type: queueType}, tenantA, tenantB)
		publisher := amqptest.StartPublisher(t, link, 1)
		n := 0
		for form, death := range deaths() {
			for _, expiration := range []string{"", "0", "1", "300"} {
				for _, copies := range []string{"", "CC", "BCC"} {
					for _, mode := range []uint8{amqp.Transient, amqp.Persistent} {
						n++
						m := message(tenantA, fmt.Sprint(n))
						m.Publishing.Headers = amqp.Table{"a": "before", "x-death": death, "z": "behind"}
						if copies != "" {
							m.Publishing.Headers[copies] = []any{tenantB, contract.ParkingQueue}
						}
						m.Publishing.Expiration, m.Publishing.DeliveryMode = expiration, mode
						err := publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m)
						require.ErrorIs(t, err, publish.ErrRejected, "%s, expiration %q, %s", form, expiration, copies)
					}
				}
			}
		}
		for _, header := range []string{"X-Death", "x-death ", "x-deaths", "x-first-death-queue"} {
			m := message(tenantA, header)
			m.Publishing.Headers = amqp.Table{header: "a", "x-match": "any"}
			require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))
		}
		require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message("33333333-3333-4333-8333-333333333333", "m")), publish.ErrUnroutable)
		require.Empty(t, amqptest.Drain(t, link, contract.RefusedQueue(0)))
		require.Empty(t, amqptest.Drain(t, link, contract.ParkingQueue))
		require.Empty(t, amqptest.Drain(t, link, tenantQueue(tenantB)))
		require.Equal(t, []string{"X-Death", "x-death ", "x-deaths", "x-first-death-queue"}, amqptest.Drain(t, link, tenantQueue(tenantA)))
	})
}

func tenantQueue(tenant string) string { return contract.QueueName(tenant) }

// A queue that refuses must do so beside thousands that are accepted, and with somebody who consumes it.
func TestScreenRefusesUnderLoad(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	screen(t, link, provision.ScreenOn, provision.QueueOptions{}, tenantA)
	consumption, err := consume.Plain(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Session(t, link), contract.RefusedQueue(0), "", 10)
	require.NoError(t, err)
	defer consumption.Release()
	publisher := amqptest.StartPublisher(t, link, 2)
	const count = 4000
	messages := make([]publish.Message, count)
	for i := range messages {
		messages[i] = message(tenantA, fmt.Sprint(i))
		if i%2 == 1 {
			messages[i].Publishing.Headers = amqp.Table{"x-death": []any{"a"}}
			messages[i].Publishing.Expiration = "0"
		}
	}
	for i, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), messages) {
		if i%2 == 1 {
			require.ErrorIs(t, err, publish.ErrRejected)
		} else {
			require.NoError(t, err)
		}
	}
	require.Len(t, amqptest.Drain(t, link, tenantQueue(tenantA)), count/2)
	require.Empty(t, consumption.Deliveries)
}

// Without the queue that refuses, nothing with x-death may slip through: it has no way then.
func TestScreenWithoutItsQueueLetsNothingThrough(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	screen(t, link, provision.ScreenOn, provision.QueueOptions{}, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	hostile := message(tenantA, "hostile")
	hostile.Publishing.Headers = amqp.Table{"x-death": nil}
	ch := amqptest.Channel(t, link)
	_, err := ch.QueueDelete(contract.RefusedQueue(0), false, false, false)
	require.NoError(t, err)
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), hostile), publish.ErrUnroutable)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message(tenantA, "neighbour")))
	screen(t, link, provision.ScreenOn, provision.QueueOptions{})
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), hostile), publish.ErrRejected)
	require.Equal(t, []string{"neighbour"}, amqptest.Drain(t, link, tenantQueue(tenantA)))
}

// flow publishes until it is stopped, and counts what the broker has taken.
type flow struct {
	t         *testing.T
	publisher *publish.Publisher
	stop      func()

	mu       sync.Mutex
	accepted int // guarded by mu
}

// startFlow has a producer publish for tenants, mandatory and with confirms.
func startFlow(t *testing.T, link *conn.Link, tenants ...string) *flow {
	t.Helper()
	return startFlowTo(t, link, message, tenants...)
}

// startFlowTo is startFlow with messages of another make.
func startFlowTo(t *testing.T, link *conn.Link, message func(tenant, id string) publish.Message, tenants ...string) *flow {
	t.Helper()
	f := &flow{t: t, publisher: amqptest.StartPublisher(t, link, 1)}
	f.stop = amqptest.Run(t, func(ctx context.Context) error {
		for n := 0; ctx.Err() == nil; n++ {
			m := message(tenants[n%len(tenants)], fmt.Sprintf("%06d", n))
			if err := f.publisher.Publish(context.WithoutCancel(ctx), m); err != nil {
				return fmt.Errorf("message %d: %w", n, err)
			}
			f.mu.Lock()
			f.accepted++
			f.mu.Unlock()
		}
		return nil
	})
	return f
}

// more waits until more messages were taken.
func (f *flow) more() {
	f.t.Helper()
	before := f.count()
	require.Eventually(f.t, func() bool { return f.count() > before+50 }, amqptest.WaitLimit, time.Millisecond)
}

func (f *flow) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.accepted
}

// An installation changes over to the screen and back while producers publish: with the upgrade of this platform, and then of
// the broker. No message is returned, none is lost, and none comes twice.
func TestScreenIsPutUpAndTakenDownUnderTraffic(t *testing.T) {
	t.Parallel()
	queueTypes(t, func(t *testing.T, queueType string) {
		t.Helper()
		broker := backing.RabbitMQ(t)
		old := amqptest.StartLink(t, broker.URL, nil)
		opts := provision.QueueOptions{Type: queueType}
		declare(t, old, opts)
		for _, tenant := range []string{tenantA, tenantB} { // as a version without a screen has left them
			ch := amqptest.Channel(t, old)
			require.NoError(t, provision.DeclareTenantQueue(ch, tenant, opts))
			for _, exchange := range []string{contract.MessagesExchange, contract.RetryReturnExchange} {
				require.NoError(t, ch.QueueBind(tenantQueue(tenant), tenant, exchange, false, nil))
			}
		}
		hostile := message(tenantA, "hostile")
		hostile.Publishing.Headers = amqp.Table{"x-death": "a"}
		producing := startFlow(t, old, tenantA, tenantB)
		producing.more()
		for _, mode := range []string{provision.ScreenOn, provision.ScreenOff, provision.ScreenOn} {
			link := amqptest.StartLink(t, broker.URL, nil)
			screen(t, link, mode, opts) // no tenant is verified yet
			producing.more()
			screen(t, link, mode, opts, tenantB)
			producing.more()
			screen(t, link, mode, opts, tenantA)
			producing.more()
			err := producing.publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), hostile)
			if mode == provision.ScreenOff {
				require.NoError(t, err, "what an open screen refuses it would refuse for ever")
			} else {
				require.ErrorIs(t, err, publish.ErrRejected)
			}
		}
		producing.stop()
		require.Equal(t, producing.count()+1, len(amqptest.Drain(t, old, tenantQueue(tenantA)))+len(amqptest.Drain(t, old, tenantQueue(tenantB))))
	})
}

// From 4.0 on the broker bears every header, and publishing must not pay for a screen.
func TestScreenFollowsTheVersionOfTheBroker(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	screen(t, link, provision.ScreenAuto, provision.QueueOptions{}, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	m := message(tenantA, "m")
	m.Publishing.Headers = amqp.Table{"x-death": []any{"a"}}
	err := publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m)
	var sources []struct {
		Source string `json:"source"`
	}
	amqptest.Request(t, broker.ManagementURL, broker.URL, "GET", "/api/exchanges/"+broker.VHost+"/"+contract.MessagesExchange+"/bindings/source", &sources)
	require.Len(t, sources, 1)
	if provision.Screened(provision.ScreenAuto, amqptest.Session(t, link).Version()) {
		require.ErrorIs(t, err, publish.ErrRejected)
		return
	}
	require.NoError(t, err)
	require.Equal(t, []string{"m"}, amqptest.Drain(t, link, tenantQueue(tenantA)))
}
