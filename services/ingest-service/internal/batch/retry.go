package batch

import (
	"maps"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/attempt"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

// retryMessage builds the publishing that brings d back after a while, under the same id.
func retryMessage(d consume.Delivery, tenant, id uuid.UUID, failed attempt.History, delays []time.Duration) publish.Message {
	publishing := republish.Publishing(d)
	if publishing.MessageId == "" {
		publishing.MessageId = id.String() // from here on it is stored at most once
	}
	maps.Copy(publishing.Headers, failed.Headers())
	return publish.Message{
		Exchange: contract.RetryTierName(delays[tier(failed.Attempts, len(delays))]), Key: tenant.String(), Publishing: publishing,
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
