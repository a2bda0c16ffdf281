package attempt_test

import (
	"math"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/attempt"
)

// delivery is a message that came through an exchange with headers.
func delivery(exchange string, headers amqp.Table) consume.Delivery {
	return consume.Delivery{Delivery: amqp.Delivery{Exchange: exchange}, Properties: amqptest.Encode(amqp.Publishing{Headers: headers})}
}

// The header counts only on what comes back from our own exchange: a producer could else skip the retries, or have none.
func TestAttemptsOfAProducerDoNotCount(t *testing.T) {
	for value, want := range map[any]int{int32(7): 7, int64(7): 7, "7": 0, int32(-1): 0, int64(math.MaxInt64): 1 << 20, nil: 0} {
		headers := amqp.Table{contract.HeaderAttempt: value}
		require.Equal(t, 0, attempt.Of(delivery(contract.MessagesExchange, headers), time.Now()).Attempts)
		require.Equal(t, want, attempt.Of(delivery(contract.RetryReturnExchange, headers), time.Now()).Attempts, "%T", value)
	}
}

// The retries and the dead letters once read the time of the first failure each in its own way, and a dead letter was
// older or younger than what its retries had passed on: where the clock of another instance is ahead, and where there is a
// time without a count of attempts.
func TestTheFirstFailureIsReadInOneWay(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := now.Add(-time.Hour)
	for name, test := range map[string]struct {
		attempts, first any
		want            time.Time
	}{
		"an hour ago":                {int32(2), before.UnixMilli(), before},
		"by a clock that is ahead":   {int32(2), now.Add(time.Hour).UnixMilli(), now},
		"without a count":            {nil, before.UnixMilli(), before},
		"a count of none":            {int32(0), before.UnixMilli(), before},
		"a count without a time":     {int32(2), nil, now},
		"a text":                     {int32(2), "yesterday", now},
		"before all time":            {int32(2), int64(math.MinInt64), now},
		"the beginning of 1970":      {int32(2), int64(0), now},
		"after all time":             {int32(2), int64(math.MaxInt64), now},
		"neither a count nor a time": {nil, nil, now},
	} {
		t.Run(name, func(t *testing.T) {
			d := delivery(contract.RetryReturnExchange, amqp.Table{contract.HeaderAttempt: test.attempts, contract.HeaderFirstFailedAt: test.first})
			returned, dead := attempt.Of(d, now), attempt.Read(d.Properties.Headers(), now)
			require.True(t, test.want.Equal(returned.FirstFailedAt), "%v", returned.FirstFailedAt)
			require.Equal(t, returned, dead)
			d.Exchange = contract.MessagesExchange // a producer may claim what it likes
			require.Equal(t, attempt.History{FirstFailedAt: now}, attempt.Of(d, now))
		})
	}
}

func TestHeadersAreReadAsTheyWereWritten(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	for written, read := range map[int]int{0: 0, 1: 1, 3: 3, -1: 0, 1 << 40: 1 << 20} {
		headers := attempt.History{Attempts: written, FirstFailedAt: now.Add(-time.Minute)}.Headers()
		require.NoError(t, headers.Validate())
		got := attempt.Of(delivery(contract.RetryReturnExchange, headers), now)
		require.Equal(t, read, got.Attempts)
		require.True(t, now.Add(-time.Minute).Equal(got.FirstFailedAt))
	}
}
