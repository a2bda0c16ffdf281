package provision_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// declareOwn makes the exchange of a tenant's own.
func declareOwn(t *testing.T, link *conn.Link, tenant string, screened bool) {
	t.Helper()
	err := amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
		return provision.DeclareTenantExchange(ch, tenant, screened)
	})
	require.NoError(t, err)
}

// ownMessage is a message to the exchange of the tenant's own.
func ownMessage(tenant, id string) publish.Message {
	m := message(tenant, id)
	m.Exchange = contract.TenantExchangeName(tenant)
	return m
}

// Whatever further keys a producer names, its message gets to its own tenant, once, and to nobody else: not to a neighbour, not to what
// all share. A header x-death is refused where the broker could not bear it.
func TestTenantExchangeLeadsToItsQueueAlone(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{provision.ScreenOn, provision.ScreenOff} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			broker := backing.RabbitMQ(t)
			link := amqptest.StartLink(t, broker.URL, nil)
			opts := provision.QueueOptions{Type: amqp.QueueTypeClassic}
			screen(t, link, mode, opts, tenantA, tenantB)
			for _, tenant := range []string{tenantA, tenantB} {
				declareOwn(t, link, tenant, mode == provision.ScreenOn)
			}
			publisher := amqptest.StartPublisher(t, link, 1)
			keys := []any{
				tenantB, contract.ParkingQueue, contract.ParkingRoutingKey, contract.DeadLettersQueue, contract.QuarantineQueue, tenantQueue(tenantB), "#", "",
				contract.TenantExchangeName(tenantB), contract.CanaryName("i"), tenantA,
			}
			var sent []string
			for _, header := range []string{"CC", "BCC"} {
				for _, named := range append([]any{keys}, keys...) {
					if _, list := named.([]any); !list {
						named = []any{named}
					}
					m := ownMessage(tenantA, fmt.Sprintf("%02d", len(sent)))
					m.Publishing.Headers = amqp.Table{header: named}
					require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))
					sent = append(sent, m.Publishing.MessageId)
				}
			}
			hostile := ownMessage(tenantA, "x-death")
			hostile.Publishing.Headers = amqp.Table{"x-death": []any{"a"}, "CC": []any{tenantB}}
			err := publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), hostile)
			if mode == provision.ScreenOn {
				require.ErrorIs(t, err, publish.ErrRejected)
			} else {
				require.NoError(t, err)
				sent = append(sent, "x-death")
			}
			for _, key := range []string{tenantB, "", "#", tenantA + ".x", strings.ToUpper(tenantA) + "\n"} {
				m := ownMessage(tenantA, "key")
				m.Key = key
				require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m), publish.ErrUnroutable, "%q", key)
			}
			require.Equal(t, sent, amqptest.Drain(t, link, tenantQueue(tenantA)))
			for _, queue := range []string{
				tenantQueue(tenantB), contract.ParkingQueue, contract.DeadLettersQueue, contract.LargeDeadLettersQueue, contract.QuarantineQueue, contract.RefusedQueue(0),
			} {
				if queue != contract.RefusedQueue(0) || mode == provision.ScreenOn {
					require.Empty(t, amqptest.Drain(t, link, queue), queue)
				}
			}
		})
	}
}

// Behind the screen nobody can publish.
func TestExchangesBehindTheScreenAreInternal(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	screen(t, link, provision.ScreenOn, provision.QueueOptions{Type: amqp.QueueTypeClassic}, tenantA)
	declareOwn(t, link, tenantA, true)
	for _, exchange := range []string{contract.TenantScreenName(tenantA), contract.TenantScreenedName(tenantA)} {
		ch := amqptest.Channel(t, link)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		require.NoError(t, ch.PublishWithContext(t.Context(), exchange, tenantA, false, false, amqp.Publishing{Body: []byte("1")}))
		require.Equal(t, amqp.AccessRefused, (<-closed).Code, exchange)
	}
	require.Empty(t, amqptest.Drain(t, link, tenantQueue(tenantA)))
}

// With an upgrade of the broker, or of this platform, the way changes while producers publish.
func TestTenantExchangeIsScreenedUnderTraffic(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	screen(t, link, provision.ScreenOn, provision.QueueOptions{}, tenantA)
	declareOwn(t, link, tenantA, false)
	producing := startFlowTo(t, link, ownMessage, tenantA)
	producing.more()
	for _, screened := range []bool{true, false, true, true, false, false} {
		declareOwn(t, link, tenantA, screened)
		producing.more()
	}
	producing.stop()
	require.Len(t, amqptest.Drain(t, link, tenantQueue(tenantA)), producing.count())
}

// exists reports whether the broker has an exchange.
func exists(t *testing.T, link *conn.Link, exchange string) bool {
	t.Helper()
	err := amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive(exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	})
	refused := new(amqp.Error)
	if err != nil {
		require.ErrorAs(t, err, &refused)
		require.Equal(t, amqp.NotFound, refused.Code, err)
	}
	return err == nil
}

// A producer of a deleted tenant is told: its exchange is gone.
func TestTenantExchangeGoesWithItsTenant(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	opts := provision.QueueOptions{Type: amqp.QueueTypeClassic}
	screen(t, link, provision.ScreenOn, opts, tenantA, tenantB)
	declareOwn(t, link, tenantA, true)
	declareOwn(t, link, tenantB, false)
	for _, tenant := range []string{tenantA, tenantB, tenantA} { // the last one is gone already
		ctx := amqptest.Deadline(t, amqptest.WaitLimit)
		require.NoError(t, amqptest.Session(t, link).Do(ctx, func(ch *amqp.Channel) error {
			_, err := provision.DeleteTenant(ctx, ch, tenant)
			return err
		}))
		for _, exchange := range []string{contract.TenantExchangeName(tenant), contract.TenantScreenName(tenant), contract.TenantScreenedName(tenant)} {
			require.False(t, exists(t, link, exchange), exchange)
		}
	}
}

// desired stands for the registry: which tenants want an exchange.
type desired struct {
	mu      sync.Mutex
	tenants []uuid.UUID
	fault   error
	away    map[uuid.UUID]bool // their queue cannot be trusted yet
}

func (d *desired) ExchangesWanted(_ context.Context, behind uuid.UUID, _ time.Duration) ([]uuid.UUID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if behind != uuid.Nil {
		return nil, d.fault
	}
	return slices.Clone(d.tenants), d.fault
}

func (d *desired) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *desired) ready(_ context.Context, tenant uuid.UUID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.away[tenant]
}

// Who wants an exchange gets it, as soon as its queue can be trusted, and again when the broker has lost it; a faulty tenant or an
// outage of the registry keeps nobody from it for long.
func TestExchangesAreMadeForThoseWhoWantThem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	topology, link, disconnect := r.topology("maker")
	first, second, queueless, young := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	for _, tenant := range []uuid.UUID{first, second, young} {
		require.NoError(t, topology.Declare(t.Context(), tenant))
		require.NoError(t, topology.Bind(t.Context(), tenant))
	}
	wanted := &desired{tenants: []uuid.UUID{queueless, young, first}, away: map[uuid.UUID]bool{young: true}}
	r.run(provision.NewExchanges(topology, wanted, wanted.ready, zap.NewNop()).Run)
	made := func(tenant uuid.UUID) func() bool {
		return func() bool { return exists(t, r.link, contract.TenantExchangeName(tenant.String())) }
	}
	require.Eventually(t, made(first), waitLimit, poll)
	wanted.set(func() { wanted.fault = context.DeadlineExceeded })
	wanted.set(func() { wanted.fault, wanted.tenants = nil, append(wanted.tenants, second) })
	require.Eventually(t, made(second), waitLimit, poll)
	require.False(t, made(young)())
	require.False(t, made(queueless)())
	wanted.set(func() { wanted.away = nil })
	require.Eventually(t, made(young), waitLimit, poll)
	m := ownMessage(first.String(), "m")
	require.NoError(t, r.publisher.Publish(amqptest.Deadline(t, waitLimit), m))
	require.Equal(t, 1, r.queue(first).Messages)

	disconnect()
	require.NoError(t, amqptest.Session(t, r.link).Do(amqptest.Deadline(t, waitLimit), func(ch *amqp.Channel) error {
		return provision.DeleteTenantExchange(ch, first.String())
	}))
	require.False(t, made(first)())
	r.run(link.Run)
	require.Eventually(t, made(first), waitLimit, poll, "with a new connection all are verified")
}
