package deadletter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// largeInTests is the size above which dead letters are large in these tests.
const largeInTests = 10_000

// ofSize is a dead letter of that size, as a worker publishes it.
func ofSize(tenant uuid.UUID, id string, size int) publish.Message {
	d := delivered("", "", amqp.Publishing{
		MessageId: id, ContentType: "text/plain", Expiration: "60000", Headers: amqp.Table{"h": "of " + id}, Body: bytes.Repeat([]byte{'{'}, size),
	})
	m := Publishing(tenant, d, contract.ReasonTooLarge, errors.New("it is too large"), 3)
	m.Exchange = contract.DeadLettersExchange // at the size of these tests it is not where workers publish large ones
	return m
}

// slowDatabase makes the database take for ever for dead letters from largeInTests bytes on, and gives the store little time.
func slowDatabase(t *testing.T, s *Store, operator *pgxpool.Pool) {
	t.Helper()
	_, err := operator.Exec(t.Context(), fmt.Sprintf(`
		CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE INSERT ON dead_letters FOR EACH ROW WHEN (octet_length(NEW.payload) > %d) EXECUTE FUNCTION slow()`, largeInTests))
	require.NoError(t, err)
	s.timeout = 3 * time.Second
}

// A dead letter that is so large that the database never writes it in time holds up nobody else's, small or large. It ends in quarantine as it
// was, with its tenant and reason; from there it can be published again, and is recorded once the database can.
func TestDeadLetterThatIsNeverRecordedInTime(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	slowDatabase(t, s, operator)
	link, publisher := broker(t)
	r := recorder(t, link, s)
	r.limits, r.ping = limits{prefetch: 16, large: largeInTests / 2, tries: 3}, s.Ping
	publishAll(t, publisher, ofSize(tenantA, "huge", largeInTests+1), ofSize(tenantB, "large", largeInTests), ofSize(tenantB, "small", 1))
	stop := component.Run(t, r.Run)
	waitForEntries(t, s, tenantB, 2)
	require.Eventually(t, func() bool { return depth(t, link, contract.QuarantineQueue) == 1 }, waitLimit, 10*time.Millisecond, "it is not in quarantine")
	stop()
	require.Zero(t, depth(t, link, contract.DeadLettersQueue))
	require.Zero(t, depth(t, link, contract.LargeDeadLettersQueue))
	require.Empty(t, list(t, s, tenantA, Filter{}))

	_, err := operator.Exec(t.Context(), `DROP TRIGGER slow ON dead_letters`)
	require.NoError(t, err)
	want := fromDeadLetters(deliveryIn(ofSize(tenantA, "huge", largeInTests+1)), time.Now())
	amqptest.Do(t, link, func(ch *amqp.Channel) error {
		d, ok, err := ch.Get(contract.QuarantineQueue, true)
		if err != nil || !ok {
			return fmt.Errorf("the quarantine is empty: %w", err)
		}
		require.Equal(t, tenantA.String(), d.Headers[contract.HeaderTenant])
		require.Equal(t, string(contract.ReasonTooLarge), d.Headers[contract.HeaderReason])
		require.EqualValues(t, 3, d.Headers[contract.HeaderRecordTries])
		return ch.PublishWithContext(t.Context(), contract.DeadLettersExchange, d.RoutingKey, true, false, amqp.Publishing{
			Headers: d.Headers, MessageId: d.MessageId, ContentType: d.ContentType, DeliveryMode: amqp.Persistent, Body: d.Body,
		})
	})
	component.Run(t, r.Run)
	got := waitForEntries(t, s, tenantA, 1)[0]
	want.came, want.FirstFailedAt, want.LastFailedAt = nil, got.FirstFailedAt, got.LastFailedAt
	require.Equal(t, want, got)
}

// deliveryIn is how a message arrives.
func deliveryIn(m publish.Message) consume.Delivery {
	return delivered(m.Exchange, m.Key, m.Publishing)
}

// While the database writes nothing at all, the size of a dead letter is not the cause.
func TestLargeDeadLetterWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	slowDatabase(t, s, operator)
	s.timeout = 100 * time.Millisecond
	link, publisher := broker(t)
	r := recorder(t, link, s)
	pings := make(chan struct{}, 1000)
	r.limits, r.ping = limits{prefetch: 16, large: 1, tries: 1}, func(context.Context) error {
		pings <- struct{}{}
		return errors.New("nothing is written")
	}
	publishAll(t, publisher, ofSize(tenantA, "huge", largeInTests+1))
	stop := component.Run(t, r.Run)
	<-pings
	<-pings
	stop()
	require.Eventually(t, func() bool { return depth(t, link, contract.LargeDeadLettersQueue) == 1 }, waitLimit, 10*time.Millisecond)
	require.Zero(t, depth(t, link, contract.QuarantineQueue))
}

// Large messages that expire in the queues of their tenants come from the broker, so the recorder moves them: whole, and not behind each other
// in its memory.
func TestLargeParkedMessageIsMoved(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t, tenantA)
	r := recorder(t, link, s)
	r.limits.large = largeInTests
	body := bytes.Repeat([]byte{'1'}, largeInTests+1)
	publishAll(t, publisher, publish.Message{Exchange: contract.TenantsExchange, Key: tenantA.String(), Publishing: amqp.Publishing{
		MessageId: "m", Expiration: "1", Headers: amqp.Table{"h": "x"}, Body: body,
	}})
	require.Eventually(t, func() bool { return depth(t, link, contract.ParkingQueue) == 1 }, waitLimit, 10*time.Millisecond)
	component.Run(t, r.Run)
	l := waitForEntries(t, s, tenantA, 1)[0]
	require.Equal(t, ReasonExpired, l.Reason)
	require.Equal(t, body, l.Payload)
	require.Equal(t, "m", l.OriginalMessageID)
	p, headers, err := l.Properties.Decode()
	require.NoError(t, err)
	require.Equal(t, "1", p.Expiration)
	require.Equal(t, amqp.Table{"h": "x"}, headers.Decode())
	require.Equal(t, EntryID(tenantA, "m", ReasonExpired, body), l.ID)
}

// When one large dead letter has come, no other is held: the broker keeps them until the first is done with. Where large ones cannot be moved,
// because the broker has an alarm for example, they are recorded all the same.
func TestLargeDeadLettersAreHeldOneAtATime(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	link, publisher := broker(t)
	amqptest.Do(t, link, func(ch *amqp.Channel) error {
		return ch.QueueUnbind(contract.LargeDeadLettersQueue, "", contract.LargeDeadLettersExchange, nil)
	})
	f := &faulty{Store: s}
	var hold atomic.Bool
	held, free := make(chan int), make(chan struct{})
	f.set(func(letters []Entry) error {
		if hold.Load() && slices.ContainsFunc(letters, func(l Entry) bool { return len(l.Payload) > largeInTests }) {
			held <- len(letters)
			<-free
		}
		return nil
	}, nil)
	r := recorder(t, link, f)
	r.limits = limits{prefetch: 4, large: largeInTests, tries: 1}
	component.Run(t, r.Run)
	for n := range probation { // from now on four at a time
		publishAll(t, publisher, ofSize(tenantB, fmt.Sprint(n), 1))
	}
	waitForEntries(t, s, tenantB, probation)
	hold.Store(true)
	const all = 8
	for n := range all {
		publishAll(t, publisher, ofSize(tenantA, fmt.Sprint(n), largeInTests+1))
	}
	for n := range all {
		require.Equal(t, 1, <-held)
		if n >= r.limits.prefetch {
			require.Equal(t, all-1-n, depth(t, link, contract.DeadLettersQueue), "more than one is held")
		}
		free <- struct{}{}
	}
	waitForEntries(t, s, tenantA, all)
}

// What is written with a large dead letter gets more time, and never as much as the reading order relies on.
func TestTimeLimitGrowsWithTheSize(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	sized := func(mib int) []Entry { return []Entry{{Payload: make([]byte, mib<<20)}} }
	require.Equal(t, 10*time.Second, s.limit(sized(0)))
	require.Equal(t, 15*time.Second, s.limit(sized(20)))
	require.Less(t, s.limit(sized(128)), postgres.MaxStatementTimeout)
	require.Equal(t, 28*time.Second, NewStore(nil, 28*time.Second).limit(sized(128)), "it is not shortened either")
	_, err := operator.Exec(t.Context(), `
		CREATE TABLE limits (v text); GRANT INSERT ON limits TO mtm_ingest;
		CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO limits VALUES (current_setting('statement_timeout')); RETURN NEW; END $$;
		CREATE TRIGGER note BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION note()`)
	require.NoError(t, err)
	l := newTestEntry(tenantA, 1)
	l.Payload = make([]byte, 4<<20)
	record(t, s, l)
	var limit string
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT v FROM limits`).Scan(&limit))
	require.Equal(t, "11s", limit)
}

// Workers publish large dead letters to the queue of large ones in the first place.
func TestWhereWorkersPublishDeadLetters(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]string{1: contract.DeadLettersExchange, 1 << 20: contract.DeadLettersExchange, 1<<20 + 1: contract.LargeDeadLettersExchange} {
		d := delivered("", "", amqp.Publishing{Body: []byte(strings.Repeat("{", size))})
		require.Equal(t, want, Publishing(tenantA, d, contract.ReasonTooLarge, nil, 1).Exchange, size)
	}
}
