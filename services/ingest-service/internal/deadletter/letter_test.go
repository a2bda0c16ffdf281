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

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

var (
	tenantA = uuid.MustParse("11111111-1111-4111-8111-111111111111") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	tenantB = uuid.MustParse("22222222-2222-4222-8222-222222222222") //nolint:gochecknoglobals // a fixed value of a type that has no constants
)

// One message that fails for one reason is one letter, however often a worker dies over it.
func TestLetterID(t *testing.T) {
	t.Parallel()
	id := LetterID(tenantA, "m", contract.ReasonNotJSON, []byte("x"))
	require.Equal(t, id, LetterID(tenantA, "m", contract.ReasonNotJSON, []byte("x")))
	require.Equal(t, uuid.Version(5), id.Version())
	mapped := uuid.UUID(contract.MessageID(tenantA, "m"))
	require.Equal(t, id, LetterID(tenantA, mapped.String(), contract.ReasonNotJSON, []byte("x")), "the same message under the id that it is stored by")
	for name, other := range map[string]uuid.UUID{
		"tenant":     LetterID(tenantB, "m", contract.ReasonNotJSON, []byte("x")),
		"message id": LetterID(tenantA, "n", contract.ReasonNotJSON, []byte("x")),
		"reason":     LetterID(tenantA, "m", contract.ReasonTooDeep, []byte("x")),
		"content":    LetterID(tenantA, "m", contract.ReasonNotJSON, []byte("y")),
		"no id":      LetterID(tenantA, "", contract.ReasonNotJSON, []byte("x")),
	} {
		require.NotEqual(t, id, other, name)
	}
	first, second := LetterID(tenantA, "", contract.ReasonNotJSON, nil), LetterID(tenantA, "", contract.ReasonNotJSON, nil)
	require.NotEqual(t, first, second, "two messages without ids may be two messages")
}

// delivered is m as a consumer of the dead letters gets it.
func delivered(exchange, key string, p amqp.Publishing) amqp.Delivery {
	return amqp.Delivery{Exchange: exchange, RoutingKey: key, Headers: p.Headers, ContentType: p.ContentType, MessageId: p.MessageId, Body: p.Body}
}

func TestPublishingAndReadingALetter(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	first := now.Add(-time.Hour)
	d := amqp.Delivery{
		Exchange: contract.RetryReturnExchange, RoutingKey: tenantA.String(), MessageId: "order-1", ContentType: "text/plain",
		Headers: amqp.Table{
			"trace": "abc", contract.HeaderAttempt: int32(2), contract.HeaderFirstFailedAt: first.UnixMilli(),
			contract.HeaderTenant: tenantB.String(), // forged
			"CC":                  []any{tenantB.String()}, "x-death": []any{amqp.Table{}},
		},
		Expiration: "1", UserId: "someone", Body: []byte("{"),
	}
	m := Publishing(tenantA, d, contract.ReasonMaxAttempts, errors.New(strings.Repeat("ä", 1000)), 3)
	require.Equal(t, contract.DeadLettersExchange, m.Exchange)
	require.Equal(t, amqp.Persistent, m.Publishing.DeliveryMode)
	require.Empty(t, m.Publishing.Expiration, "it would expire before it is recorded")
	require.Empty(t, m.Publishing.UserId, "the broker would close the channel")
	require.NotContains(t, m.Publishing.Headers, "CC", "it would be delivered to another tenant")
	require.NoError(t, m.Publishing.Headers.Validate())

	l := fromDeadLetters(delivered(m.Exchange, m.Key, m.Publishing), now)
	mapped := uuid.UUID(contract.MessageID(tenantA, "order-1"))
	require.Equal(t, Letter{
		ID: LetterID(tenantA, "order-1", contract.ReasonMaxAttempts, d.Body), TenantID: tenantA, MessageID: &mapped,
		OriginalMessageID: "order-1", Payload: d.Body, PayloadSize: 1, ContentType: "text/plain", Headers: json.RawMessage(`{"trace":"abc"}`),
		Reason: contract.ReasonMaxAttempts, Error: strings.Repeat("ä", contract.MaxErrorBytes/2), Attempts: 3, Version: 1,
		FirstFailedAt: first, LastFailedAt: now,
	}, l)

	d.Exchange = contract.MessagesExchange // headers of ours that a producer has sent count for nothing
	l = fromDeadLetters(delivered("", "", Publishing(tenantA, d, contract.ReasonNotJSON, nil, 1).Publishing), time.Now())
	require.Less(t, time.Since(l.FirstFailedAt), time.Minute)
	require.Equal(t, 1, l.Attempts)
}

// A worker must get rid of every message, whatever a producer has put around it.
func TestPublishingOfHostileMessages(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]amqp.Delivery{
		"headers as large as a frame": {Headers: amqp.Table{"x": strings.Repeat("x", 120<<10)}},
		"our headers with wrong types": {Exchange: contract.RetryReturnExchange, Headers: amqp.Table{
			contract.HeaderAttempt: "many", contract.HeaderFirstFailedAt: "once", contract.HeaderTenant: int32(1),
		}},
		"times that cannot be": {Exchange: contract.RetryReturnExchange, Headers: amqp.Table{contract.HeaderFirstFailedAt: int64(math.MaxInt64)}},
		"nothing":              {},
	} {
		m := Publishing(tenantA, d, contract.ReasonNotJSON, errors.New("bad"), 1)
		require.LessOrEqual(t, len(text(m.Publishing.Headers["x"])), 64<<10, name)
		l := fromDeadLetters(delivered(m.Exchange, m.Key, m.Publishing), time.Now())
		require.Equal(t, tenantA, l.TenantID, name)
		require.Equal(t, 1, l.Attempts, name)
		require.Less(t, time.Since(l.FirstFailedAt), time.Minute, name)
		require.NotNil(t, l.Payload, name)
	}
}

func TestLettersWithoutATenantAreKept(t *testing.T) {
	t.Parallel()
	l := fromDeadLetters(amqp.Delivery{Body: []byte("x")}, time.Now())
	require.Equal(t, uuid.Nil, l.TenantID)
	require.NotEqual(t, uuid.Nil, l.ID)
	l = fromParking(amqp.Delivery{RoutingKey: contract.ParkingRoutingKey}, time.Now())
	require.Equal(t, uuid.Nil, l.TenantID)
}

func TestParkedMessages(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Millisecond)
	first := now.Add(-time.Hour)
	headers := func(death amqp.Table) amqp.Table {
		return amqp.Table{
			"x-death": []any{death, amqp.Table{"queue": contract.QueueName(tenantB.String())}}, "trace": "abc",
			contract.HeaderAttempt: int32(4), contract.HeaderFirstFailedAt: first.UnixMilli(),
		}
	}
	died := func(exchange, reason string) amqp.Delivery {
		return amqp.Delivery{
			RoutingKey: contract.ParkingRoutingKey, MessageId: "m", Body: []byte("1"),
			Headers: headers(amqp.Table{"queue": contract.QueueName(tenantA.String()), "exchange": exchange, "reason": reason}),
		}
	}
	returned := amqp.Delivery{
		Exchange: contract.RetryReturnExchange, RoutingKey: tenantA.String(), MessageId: "m", Body: []byte("1"),
		Headers: headers(amqp.Table{"queue": contract.RetryTierName(time.Second), "reason": "expired"}),
	}
	cases := map[string]struct {
		d        amqp.Delivery
		reason   contract.Reason
		attempts int
		first    time.Time
	}{
		"delivered too often":               {died(contract.MessagesExchange, "delivery_limit"), contract.ReasonDeliveryLimit, 1, now},
		"delivered too often after a retry": {died(contract.RetryReturnExchange, "delivery_limit"), contract.ReasonDeliveryLimit, 4, first},
		"expired":                           {died(contract.MessagesExchange, "expired"), ReasonExpired, 1, now},
		"rejected by hand":                  {died(contract.MessagesExchange, "rejected"), contract.ReasonRejected, 1, now},
		"back from a retry to nobody":       {returned, ReasonUnroutable, 4, first},
	}
	for name, c := range cases {
		l := fromParking(c.d, now)
		require.Equal(t, tenantA, l.TenantID, name)
		require.Equal(t, c.reason, l.Reason, name)
		require.Contains(t, Reasons(), l.Reason, name)
		require.NotEmpty(t, l.Error, name)
		require.Equal(t, c.attempts, l.Attempts, name)
		require.True(t, c.first.Equal(l.FirstFailedAt), name)
		require.Equal(t, LetterID(tenantA, "m", c.reason, []byte("1")), l.ID, name)
		require.JSONEq(t, `{"trace":"abc"}`, string(l.Headers), name)
	}
}

func TestHeadersAsJSON(t *testing.T) {
	t.Parallel()
	var deep any = "bottom"
	for range 1000 {
		deep = []any{deep}
	}
	encoded := headersJSON(amqp.Table{
		"s": "a\x00b\xff", "k\x00\xff": 1, "b": []byte{0, 1}, "t": time.Unix(0, 0), "f": math.NaN(), "i": int64(math.MaxInt64),
		"n": nil, "o": amqp.Table{"x": true}, "d": amqp.Decimal{Scale: 1, Value: 2}, contract.HeaderReason: "ours",
	})
	require.JSONEq(t, `{"s":"a�b�","k��":1,"b":"AAE=","t":"1970-01-01T00:00:00Z","f":"NaN","i":9223372036854775807,"n":null,"o":{"x":true},"d":"{1 2}"}`, string(encoded))
	require.Less(t, strings.Count(string(headersJSON(amqp.Table{"deep": deep})), "["), 20)
	require.Equal(t, "{}", string(headersJSON(nil)))
	require.Less(t, len(headersJSON(amqp.Table{"x": strings.Repeat("\x01", 63<<10)})), maxHeaders+1)
}
