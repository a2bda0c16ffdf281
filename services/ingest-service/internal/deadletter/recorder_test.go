package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

func deliveryOf(s string) consume.Delivery {
	return delivered("", "", amqp.Publishing{MessageId: s, ContentType: s, Body: []byte(s), Headers: amqp.Table{"h": s}})
}

const tier = 100 * time.Millisecond

// broker is a link and a publisher, with the shared topology and the queues of tenants.
func broker(t *testing.T, tenants ...uuid.UUID) (*conn.Link, *publish.Publisher) {
	t.Helper()
	return brokerAt(t, backing.RabbitMQ(t).URL, tenants...)
}

// brokerAt is as broker, at the URL of a virtual host.
func brokerAt(t *testing.T, url string, tenants ...uuid.UUID) (*conn.Link, *publish.Publisher) {
	t.Helper()
	link := conn.NewLink(conn.Config{URL: url}, t.Name(), zaptest.NewLogger(t), nil)
	component.Run(t, link.Run)
	amqptest.Do(t, link, func(ch *amqp.Channel) error {
		if err := provision.DeclareShared(ch, []time.Duration{tier}, amqp.QueueTypeClassic); err != nil {
			return err
		}
		for _, tenant := range tenants {
			if err := provision.DeclareTenant(ch, tenant.String(), provision.QueueOptions{Type: amqp.QueueTypeClassic}); err != nil {
				return err
			}
		}
		return nil
	})
	publisher := publish.New(link, 1, zaptest.NewLogger(t))
	component.Run(t, publisher.Run)
	return link, publisher
}

// depth is how many messages wait in a queue.
func depth(t *testing.T, link *conn.Link, queue string) (messages int) {
	t.Helper()
	amqptest.Do(t, link, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		messages = q.Messages
		return err
	})
	return messages
}

func publishAll(t *testing.T, publisher *publish.Publisher, messages ...publish.Message) {
	t.Helper()
	for _, err := range publisher.PublishBatch(t.Context(), messages) {
		require.NoError(t, err)
	}
}

func deadMessage(tenant uuid.UUID, id string) publish.Message {
	d := delivered("", "", amqp.Publishing{MessageId: id, Body: []byte("{" + id)})
	return Publishing(tenant, d, contract.ReasonNotJSON, errors.New("bad"), 1)
}

// faulty lets a test come between the recorder and the database.
type faulty struct {
	*Store
	mu     sync.Mutex
	before func(entries []Entry) error
	after  func(entries []Entry) error
}

func (f *faulty) Record(ctx context.Context, entries []Entry) (int, error) {
	f.mu.Lock()
	before, after := f.before, f.after
	f.mu.Unlock()
	if before != nil {
		if err := before(entries); err != nil {
			return 0, err
		}
	}
	discarded, err := f.Store.Record(ctx, entries)
	if err == nil && after != nil {
		err = after(entries)
	}
	return discarded, err
}

func (f *faulty) set(before, after func(entries []Entry) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before, f.after = before, after
}

func recorder(t *testing.T, link *conn.Link, store recorderStore) *Recorder {
	t.Helper()
	return &Recorder{
		limits: usual(), links: Links{DeadLetters: link, Parked: link, Large: link, Shared: link}, store: store, ping: func(context.Context) error { return nil },
		metrics: NewMetrics(prometheus.NewPedanticRegistry()), faults: newFaults(func(error) {}), log: zaptest.NewLogger(t),
	}
}

func waitForEntries(t *testing.T, s *Store, tenant uuid.UUID, n int) []Entry {
	t.Helper()
	var entries []Entry
	require.Eventually(t, func() bool {
		entries = list(t, s, tenant, Filter{})
		return len(entries) >= n
	}, waitLimit, 10*time.Millisecond, "dead letters are missing")
	require.Len(t, entries, n)
	return entries
}

// Dead letters of workers and of the broker end up in the table, and the queues are empty then.
func TestRecorderRecordsDeadLettersAndParkedMessages(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	r := recorder(t, link, s)
	stop := component.Run(t, r.Run)

	for n := range 200 {
		publishAll(t, publisher, deadMessage(tenantA, fmt.Sprint(n)))
	}
	waiting := publish.Message{Exchange: contract.RetryTierName(tier), Key: tenantB.String(), Publishing: amqp.Publishing{
		MessageId: "m", Body: []byte("1"), Headers: amqp.Table{contract.HeaderAttempt: int32(3)},
	}}
	publishAll(t, publisher, waiting)

	for _, l := range waitForEntries(t, s, tenantA, 200) {
		require.Equal(t, contract.ReasonNotJSON, l.Reason)
		require.EqualValues(t, 1, l.Version)
	}
	parked := waitForEntries(t, s, tenantB, 1)[0]
	require.Equal(t, ReasonUnroutable, parked.Reason)
	require.Equal(t, 3, parked.Attempts)
	require.Equal(t, "m", parked.OriginalMessageID)
	require.InDelta(t, 201, testutil.ToFloat64(r.metrics.recorded), 0)
	stop()
	require.Zero(t, depth(t, link, contract.DeadLettersQueue))
	require.Zero(t, depth(t, link, contract.ParkingQueue))
}

// Whatever is in the queues of the recorder, also what only an operator can have published there, is a dead letter, and those
// behind it are recorded.
func TestRecorderTakesAnything(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	url := backing.RabbitMQ(t).URL
	link, publisher := brokerAt(t, url)
	component.Run(t, recorder(t, link, s).Run)
	producer, err := amqptest.Dial(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, producer.Close()) }()
	field, long := amqptest.Field, amqptest.Long
	full := field("a", 'S', long(bytes.Repeat([]byte("x"), amqptest.MaxProperties-100))...)
	sent := 0
	for _, exchange := range []string{contract.DeadLettersExchange, contract.ParkingExchange} {
		for _, headers := range [][]byte{
			nil, field("a", 'A', amqptest.Arrays(33)...), field("a", 'F', amqptest.Tables(5000)...), field("a", 'A', amqptest.Elements(100_000)...), full,
			field(contract.HeaderProperties, 'l', 0, 0, 0, 0, 0, 0, 0, 2), field(contract.HeaderProperties, 'l', 0x7f, 255, 255, 255, 255, 255, 255, 255),
			field(contract.HeaderProperties, 'l', 255, 255, 255, 255, 255, 255, 255, 255), field(contract.HeaderProperties, 'x', long([]byte{255, 255, 1})...),
			field(contract.HeaderProperties, 'F', long(nil)...), field(contract.HeaderTenant, 'V'), field(contract.HeaderTenant, 'S', long([]byte("\x00"))...),
			field(contract.HeaderReason, 'S', long([]byte("\xff\x00"))...), field(contract.HeaderAttempt, 'l', 0x80, 0, 0, 0, 0, 0, 0, 0),
			field(contract.HeaderFirstFailedAt, 'l', 0x7f, 255, 255, 255, 255, 255, 255, 255), field(contract.HeaderDeadLetterID, 'x', long([]byte("id"))...),
		} {
			require.NoError(t, producer.Publish(exchange, "key", amqptest.Properties{Headers: headers, AppID: "a"}.Encode(), []byte("body")))
			sent++
		}
		publishAll(t, publisher, deadMessage(tenantA, exchange))
	}
	waitForEntries(t, s, tenantA, 2)
	for _, l := range waitForEntries(t, s, uuid.Nil, sent) {
		require.Subset(t, []byte("body"), l.Payload)
	}
}

// While the database is away dead letters wait; none is lost and none counts as recorded.
func TestRecorderWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	f := &faulty{Store: s}
	tried := make(chan struct{}, 100)
	f.set(func([]Entry) error {
		tried <- struct{}{}
		return errors.New("connection refused")
	}, nil)
	r := recorder(t, link, f)
	stop := component.Run(t, r.Run)
	publishAll(t, publisher, deadMessage(tenantA, "1"), deadMessage(tenantA, "2"))
	<-tried
	<-tried // it keeps trying
	stop()
	require.Eventually(t, func() bool { return depth(t, link, contract.DeadLettersQueue) == 2 }, waitLimit, 10*time.Millisecond,
		"the dead letters are back in the queue")
	require.Zero(t, testutil.ToFloat64(r.metrics.recorded))

	component.Run(t, recorder(t, link, f).Run)
	<-tried
	f.set(nil, nil)
	waitForEntries(t, s, tenantA, 2)
}

// A recorder that dies between commit and acknowledgement records the same dead letters again: as the same ones.
func TestRecorderThatDiesBeforeItAcknowledges(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	f := &faulty{Store: s}
	f.set(nil, func([]Entry) error { return errors.New("connection lost during the commit") })
	stop := component.Run(t, recorder(t, link, f).Run)
	publishAll(t, publisher, deadMessage(tenantA, "1"))
	waitForEntries(t, s, tenantA, 1)
	stop()
	component.Run(t, recorder(t, link, s).Run)
	require.Eventually(t, func() bool {
		return depth(t, link, contract.DeadLettersQueue) == 0 && list(t, s, tenantA, Filter{})[0].Version > 1
	}, waitLimit, 10*time.Millisecond)
	waitForEntries(t, s, tenantA, 1)
}

// One dead letter that the database does not take must not hold up the others, nor be lost.
func TestRecorderFindsTheDeadLetterThatTheDatabaseRefuses(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	f := &faulty{Store: s}
	f.set(func(entries []Entry) error {
		if slices.ContainsFunc(entries, func(l Entry) bool { return l.OriginalMessageID == "7" }) {
			return &pgconn.PgError{Code: "22P05"}
		}
		return nil
	}, nil)
	var messages []publish.Message
	for n := range 40 {
		messages = append(messages, deadMessage(tenantA, fmt.Sprint(n)))
	}
	publishAll(t, publisher, messages...)
	component.Run(t, recorder(t, link, f).Run)
	bare := 0
	for _, l := range waitForEntries(t, s, tenantA, 40) {
		require.NotEmpty(t, l.Payload)
		if l.OriginalMessageID == "" {
			bare++
			require.Equal(t, "{7", string(l.Payload))
			require.Equal(t, uuid.UUID(contract.MessageID(tenantA, "7")), l.ReplayID())
		}
	}
	require.Equal(t, 1, bare)
}

func TestRecorderCountsWhatItDiscards(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	dropPartition(t, operator, tenantA)
	link, publisher := broker(t)
	r := recorder(t, link, s)
	component.Run(t, r.Run)
	publishAll(t, publisher, deadMessage(tenantA, "1"), deadMessage(tenantB, "1"))
	waitForEntries(t, s, tenantB, 1)
	require.Eventually(t, func() bool { return testutil.ToFloat64(r.metrics.discarded) == 1 }, waitLimit, time.Millisecond)
	require.Empty(t, list(t, s, tenantA, Filter{}))
}
