package batch

import (
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
)

// Attempts is how often a delivery was tried before. A producer can send the header, too; it counts only on what comes
// back from our own retry exchange.
func Attempts(d rabbitmq.Delivery) int {
	if d.Exchange != contract.RetryReturnExchange {
		return 0
	}
	attempts, _ := d.Properties.Headers().Lookup(contract.HeaderAttempt).Int()
	return int(min(max(attempts, 0), 1<<20))
}

// FirstFailedAt is when a delivery failed for the first time; now if it has not failed before.
func FirstFailedAt(d rabbitmq.Delivery, now time.Time) time.Time {
	if Attempts(d) == 0 {
		return now
	}
	if at, ok := d.Properties.Headers().Lookup(contract.HeaderFirstFailedAt).Int(); ok {
		return time.UnixMilli(at)
	}
	return now
}

// retryMessage builds the publishing that brings d back after a while, under the same id.
func retryMessage(d rabbitmq.Delivery, tenant, id uuid.UUID, attempts int, delays []time.Duration) rabbitmq.Message {
	publishing := rabbitmq.Republishing(d)
	if publishing.MessageId == "" {
		publishing.MessageId = id.String() // from here on it is stored at most once
	}
	publishing.Headers[contract.HeaderAttempt] = int32(min(attempts, 1<<20))
	publishing.Headers[contract.HeaderFirstFailedAt] = FirstFailedAt(d, time.Now()).UnixMilli()
	return rabbitmq.Message{
		Exchange: contract.RetryTierName(delays[tier(attempts, len(delays))]), Key: tenant.String(), Publishing: publishing,
	}
}

// tier chooses where the wait for the next attempt is spent: each attempt in a longer tier than the one before, and one
// in four a tier further, so that messages which failed together do not come back together.
func tier(attempts, tiers int) int {
	chosen := attempts - 1
	if rand.IntN(4) == 0 { //nolint:gosec // jitter, not a secret
		chosen++
	}
	return min(max(chosen, 0), tiers-1)
}
