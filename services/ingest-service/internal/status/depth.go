package status

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// depthChunk and depthPause limit the questions to 200 a second, whatever the number of tenants. Scrapes and requests
	// read what the last answer was.
	depthChunk = 50
	depthPause = 250 * time.Millisecond
	// depthRound is the shortest time between the beginnings of two rounds, and between two questions about a queue in
	// which messages wait or whose consumer has something to do.
	depthRound = 2 * time.Second
	// restRound is between two questions about a queue that was empty and whose consumer has had nothing to do since: a
	// consumer takes what arrives at once, and shows it. Without one the queue alone tells, which is restRoundUnconsumed.
	restRound           = 5 * time.Minute
	restRoundUnconsumed = 15 * time.Second
)

// Depth is what is known of the depth of one queue.
type Depth struct {
	// Ready is how many messages wait in the queue, as of the last look; below 0 if that is not known, or the queue is missing.
	Ready int64
	// Unacked is how many the consumer was working on when that was reported last.
	Unacked int64

	looked  time.Time // when Ready was read
	handled int64     // messages that the consumer had handled then
	resting bool      // then nothing waited, and nothing was worked on
}

// Activity is what the consumer of the queue is doing at one moment.
type Activity struct {
	Unacked   int64 // messages that are being worked on
	Handled   int64 // messages that were handled so far
	Consuming bool
}

// IsDue reports whether the queue is to be looked at. One that was busy is looked at until it has come to rest, so
// that what is reported in the end is that.
func (d Depth) IsDue(now time.Time, consumer Activity) bool {
	switch age := now.Sub(d.looked); {
	case !d.resting, consumer.Unacked != d.Unacked, consumer.Handled != d.handled:
		return true
	case consumer.Consuming:
		return age >= restRound
	default:
		return age >= restRoundUnconsumed
	}
}

// Observe is d after a look at the queue, and whether that is to be reported.
func (d Depth) Observe(now time.Time, ready int64, consumer Activity) (next Depth, changed bool) {
	return Depth{
		Ready: ready, Unacked: d.Unacked,
		looked: now, handled: consumer.Handled, resting: ready == 0 && consumer.Unacked == 0,
	}, d.Ready != ready || d.Unacked != consumer.Unacked
}

// Depths reads the number of messages that wait in the queue of each of tenants, which is below 0 for one that does not exist.
type Depths func(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error

// PollDepths reads how many messages wait in the queues of which that may have changed, in rounds, until ctx ends. The
// broker is asked with passive declarations, which need nothing but the connection that is there.
func PollDepths(ctx context.Context, read Depths, due func(now time.Time) []uuid.UUID, observe func(tenant uuid.UUID, ready int64), log *zap.Logger) {
	for retry.Sleep(ctx, depthRound) == nil {
		tenants := due(time.Now())
		for len(tenants) > 0 {
			chunk := tenants[:min(depthChunk, len(tenants))]
			tenants = tenants[len(chunk):]
			if err := read(ctx, chunk, observe); err != nil {
				log.Debug("queue depths could not be read", zap.Error(err))
				break
			}
			if len(tenants) > 0 && retry.Sleep(ctx, depthPause) != nil {
				return
			}
		}
	}
}
