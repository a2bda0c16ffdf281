package deadletter

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

var (
	tenantA = uuid.MustParse("11111111-1111-4111-8111-111111111111") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	tenantB = uuid.MustParse("22222222-2222-4222-8222-222222222222") //nolint:gochecknoglobals // a fixed value of a type that has no constants
)

// One message that fails for one reason is one dead letter, however often a worker dies over it.
func TestDeadLetterID(t *testing.T) {
	t.Parallel()
	id := EntryID(tenantA, "m", contract.ReasonNotJSON, []byte("x"))
	require.Equal(t, id, EntryID(tenantA, "m", contract.ReasonNotJSON, []byte("x")))
	require.Equal(t, uuid.Version(5), id.Version())
	mapped := uuid.UUID(contract.MessageID(tenantA, "m"))
	require.Equal(t, id, EntryID(tenantA, mapped.String(), contract.ReasonNotJSON, []byte("x")), "the same message under the id that it is stored by")
	for name, other := range map[string]uuid.UUID{
		"tenant":     EntryID(tenantB, "m", contract.ReasonNotJSON, []byte("x")),
		"message id": EntryID(tenantA, "n", contract.ReasonNotJSON, []byte("x")),
		"reason":     EntryID(tenantA, "m", contract.ReasonTooDeep, []byte("x")),
		"content":    EntryID(tenantA, "m", contract.ReasonNotJSON, []byte("y")),
		"no id":      EntryID(tenantA, "", contract.ReasonNotJSON, []byte("x")),
	} {
		require.NotEqual(t, id, other, name)
	}
	first, second := EntryID(tenantA, "", contract.ReasonNotJSON, nil), EntryID(tenantA, "", contract.ReasonNotJSON, nil)
	require.NotEqual(t, first, second, "two messages without ids may be two messages")
}

// delivered is p as a consumer gets it.
func delivered(exchange, key string, p amqp.Publishing) consume.Delivery {
	return consume.Delivery{
		Delivery: amqp.Delivery{
			Exchange: exchange, RoutingKey: key, ContentType: p.ContentType, MessageId: p.MessageId, ReplyTo: p.ReplyTo, Body: p.Body,
		},
		Properties: amqptest.Encode(p),
	}
}

// headersOf are those of a dead letter, as they are shown.
func headersOf(t *testing.T, l Entry) string {
	t.Helper()
	shown, err := HeadersJSON(l.Properties.Headers())
	require.NoError(t, err)
	return string(shown)
}

func TestPublishingAndReadingADeadLetter(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	first := now.Add(-time.Hour)
	produced := amqp.Publishing{
		MessageId: "order-1", ContentType: "text/plain", Body: []byte("{"), Expiration: "1", UserId: "someone", Priority: 7, Headers: amqp.Table{
			"trace": "abc", "CC": []any{tenantB.String()}, "x-death": []any{amqp.Table{}},
			contract.HeaderTenant: tenantB.String(), contract.HeaderProperties: []byte("forged"),
		},
	}
	failed := republish.Publishing(delivered(contract.MessagesExchange, tenantA.String(), produced))
	failed.Headers[contract.HeaderAttempt], failed.Headers[contract.HeaderFirstFailedAt] = int32(2), first.UnixMilli()
	d := delivered(contract.RetryReturnExchange, tenantA.String(), failed)
	republish.Unwrap(&d)
	m := Publishing(tenantA, d, contract.ReasonMaxAttempts, errors.New(strings.Repeat("ä", 1000)), 3)
	require.Equal(t, contract.DeadLettersExchange, m.Exchange)
	require.Equal(t, amqp.Persistent, m.Publishing.DeliveryMode)
	require.Empty(t, m.Publishing.Expiration, "it would expire before it is recorded")
	require.Empty(t, m.Publishing.UserId, "the broker would close the channel")
	for name := range m.Publishing.Headers {
		require.True(t, strings.HasPrefix(name, contract.HeaderPrefix), "%s acts on the broker: CC would deliver it to another tenant", name)
	}
	require.NoError(t, m.Publishing.Headers.Validate())

	l := fromDeadLetters(delivered(m.Exchange, m.Key, m.Publishing), now)
	mapped := uuid.UUID(contract.MessageID(tenantA, "order-1"))
	moved := fromDeadLetters(deliveryIn(l.moved(contract.QuarantineExchange, 2)), now)
	moved.came, l.came = nil, nil
	require.Equal(t, l, moved, "it is the same one, whatever queue it is moved to")
	require.Equal(t, Entry{
		ID: EntryID(tenantA, "order-1", contract.ReasonMaxAttempts, []byte("{")), TenantID: tenantA, MessageID: &mapped,
		OriginalMessageID: "order-1", Payload: []byte("{"), PayloadSize: 1, ContentType: "text/plain", Headers: json.RawMessage(`{}`),
		Properties: amqptest.Encode(produced),
		Reason:     contract.ReasonMaxAttempts, Error: strings.Repeat("ä", contract.MaxErrorBytes/2), Attempts: 3, Version: 1,
		FirstFailedAt: first, LastFailedAt: now,
	}, l)
	require.JSONEq(t, `{"trace":"abc","CC":["`+tenantB.String()+`"],"x-death":[{}]}`, headersOf(t, l))

	d = delivered(contract.MessagesExchange, tenantA.String(), failed) // headers of ours that a producer has sent count for nothing
	l = fromDeadLetters(delivered("", "", Publishing(tenantA, d, contract.ReasonNotJSON, nil, 1).Publishing), time.Now())
	require.WithinRange(t, l.FirstFailedAt, now, time.Now())
	require.Equal(t, 1, l.Attempts)
	require.Equal(t, header.Properties(amqptest.Encode(failed)), l.Properties)
}

// Messages that an instance of an earlier version has published are read by this one.
func TestDeadLettersOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	p := amqp.Publishing{MessageId: "m", ContentType: "text/plain", Priority: 3, Body: []byte("{"), Headers: amqp.Table{
		"trace": "abc", contract.HeaderTenant: tenantA.String(), contract.HeaderReason: string(contract.ReasonNotJSON),
		contract.HeaderDeadLetterID: uuid.Max.String(), contract.HeaderAttempt: int32(2),
	}}
	l := fromDeadLetters(delivered(contract.DeadLettersExchange, tenantA.String(), p), time.Now())
	require.Equal(t, uuid.Max, l.ID)
	require.Equal(t, 2, l.Attempts)
	require.Equal(t, []byte("{"), l.Payload)
	p.Headers = amqp.Table{"trace": "abc"}
	require.Equal(t, header.Properties(amqptest.Encode(p)), l.Properties)
}

// A worker must get rid of every message, whatever a producer has put around it, and an operator may publish anything.
func TestPublishingOfHostileMessages(t *testing.T) {
	t.Parallel()
	began := time.Now().Truncate(time.Millisecond)
	for name, headers := range map[string]amqp.Table{
		"headers as large as a frame": {"x": strings.Repeat("x", 130_900)},
		"our headers with wrong types": {
			contract.HeaderAttempt: "many", contract.HeaderFirstFailedAt: "once", contract.HeaderTenant: int32(1), contract.HeaderProperties: true,
		},
		"times that cannot be":         {contract.HeaderFirstFailedAt: int64(math.MaxInt64)},
		"more properties than a body":  {contract.HeaderProperties: int64(2)},
		"less properties than nothing": {contract.HeaderProperties: int64(math.MinInt64)},
		"properties that are none":     {contract.HeaderProperties: []byte{0xff}},
		"no properties":                {contract.HeaderProperties: []byte{}},
		"nothing":                      {},
	} {
		for _, exchange := range []string{contract.MessagesExchange, contract.RetryReturnExchange} {
			p := amqp.Publishing{MessageId: "m", Headers: headers, Body: []byte("{")}
			d := delivered(exchange, tenantA.String(), p)
			if exchange == contract.RetryReturnExchange {
				republish.Unwrap(&d)
			}
			m := Publishing(tenantA, d, contract.ReasonNotJSON, errors.New("bad"), 1)
			require.Less(t, len(amqptest.Encode(m.Publishing)), 120_000, name)
			l := fromDeadLetters(delivered(m.Exchange, m.Key, m.Publishing), time.Now())
			require.Equal(t, tenantA, l.TenantID, name)
			require.Equal(t, EntryID(tenantA, "m", contract.ReasonNotJSON, []byte("{")), l.ID, name)
			require.Equal(t, 1, l.Attempts, name)
			require.WithinRange(t, l.FirstFailedAt, began, time.Now(), name)
			require.Equal(t, []byte("{"), l.Payload, name)
			if exchange == contract.MessagesExchange {
				require.Equal(t, d.Properties, l.Properties, name)
			}
		}
		for _, read := range []func(consume.Delivery, time.Time) Entry{fromDeadLetters, fromParking} {
			l := read(delivered("", "", amqp.Publishing{Headers: headers, Body: []byte("{")}), time.Now())
			require.Equal(t, []byte("{"), l.Payload, name)
			require.Equal(t, uuid.Nil, l.TenantID, name)
		}
	}
}

func TestDeadLettersWithoutATenantAreKept(t *testing.T) {
	t.Parallel()
	l := fromDeadLetters(consume.Delivery{Delivery: amqp.Delivery{Body: []byte("x")}}, time.Now())
	require.Equal(t, uuid.Nil, l.TenantID)
	require.NotEqual(t, uuid.Nil, l.ID)
	l = fromParking(consume.Delivery{Delivery: amqp.Delivery{RoutingKey: contract.ParkingRoutingKey}}, time.Now())
	require.Equal(t, uuid.Nil, l.TenantID)
}

func TestParkedMessages(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	first := now.Add(-time.Hour)
	headers := func(death amqp.Table) amqp.Table {
		return amqp.Table{
			"x-death": []any{death, amqp.Table{"queue": contract.QueueName(tenantB.String())}}, "trace": "abc", "x-first-death-reason": "expired",
			contract.HeaderAttempt: int32(4), contract.HeaderFirstFailedAt: first.UnixMilli(),
		}
	}
	died := func(exchange, reason string) consume.Delivery {
		return delivered("", contract.ParkingRoutingKey, amqp.Publishing{MessageId: "m", AppId: "a", Body: []byte("1"), Headers: headers(amqp.Table{
			"queue": contract.QueueName(tenantA.String()), "exchange": exchange, "reason": reason, "original-expiration": "300",
		})})
	}
	returned := delivered(contract.RetryReturnExchange, tenantA.String(), amqp.Publishing{
		MessageId: "m", Body: []byte("1"), Headers: headers(amqp.Table{"queue": contract.RetryTierName(time.Second), "reason": "expired"}),
	})
	cases := map[string]struct {
		d          consume.Delivery
		reason     contract.Reason
		attempts   int
		first      time.Time
		expiration string
	}{
		"delivered too often":               {died(contract.MessagesExchange, "delivery_limit"), contract.ReasonDeliveryLimit, 1, now, "300"},
		"delivered too often after a retry": {died(contract.RetryReturnExchange, "delivery_limit"), contract.ReasonDeliveryLimit, 4, first, ""},
		"expired":                           {died(contract.MessagesExchange, "expired"), ReasonExpired, 1, now, "300"},
		"rejected by hand":                  {died(contract.MessagesExchange, "rejected"), contract.ReasonRejected, 1, now, "300"},
		"back from a retry to nobody":       {returned, ReasonUnroutable, 4, first, ""},
	}
	for name, c := range cases {
		l := fromParking(c.d, now)
		require.Equal(t, tenantA, l.TenantID, name)
		require.Equal(t, c.reason, l.Reason, name)
		require.Contains(t, Reasons(), l.Reason, name)
		require.NotEmpty(t, l.Error, name)
		require.Equal(t, c.attempts, l.Attempts, name)
		require.True(t, c.first.Equal(l.FirstFailedAt), name)
		require.Equal(t, EntryID(tenantA, "m", c.reason, []byte("1")), l.ID, name)
		require.JSONEq(t, `{"trace":"abc"}`, headersOf(t, l), name)
		p, _, err := l.Properties.Decode()
		require.NoError(t, err)
		require.Equal(t, c.expiration, p.Expiration, name)
		require.Equal(t, "m", p.MessageId, name)
	}
}
