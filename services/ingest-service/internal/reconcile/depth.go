package reconcile

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

// pollDepths reads how many messages wait in the queues of which that may have changed, in rounds, until ctx ends. The
// broker is asked with passive declarations, which need nothing but the connection that is there.
func (c *Controller) pollDepths(ctx context.Context) {
	for retry.Sleep(ctx, depthRound) == nil {
		var due []uuid.UUID
		now := time.Now()
		for _, t := range c.all() {
			if t.isDepthDue(now) {
				due = append(due, t.id)
			}
		}
		for len(due) > 0 {
			chunk := due[:min(depthChunk, len(due))]
			due = due[len(chunk):]
			if err := c.deps.Topology.Depths(ctx, chunk, c.observeDepth); err != nil {
				c.deps.Log.Debug("queue depths could not be read", zap.Error(err))
				break
			}
			if len(due) > 0 && retry.Sleep(ctx, depthPause) != nil {
				return
			}
		}
	}
}

// isDepthDue reports whether the queue is to be looked at. One that was busy is looked at until it has come to rest, so
// that what is reported in the end is that.
func (t *tenant) isDepthDue(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.provisioned {
		return false
	}
	switch age := now.Sub(t.looked); {
	case !t.resting, t.state.Unacked() != t.unacked, t.count() != t.handled:
		return true
	case t.state.Consuming.Load():
		return age >= restRound
	default:
		return age >= restRoundUnconsumed
	}
}

// count is how many messages the consumer has handled.
func (t *tenant) count() int64 {
	return t.state.Stored.Load() + t.state.Duplicates.Load() + t.state.Retried.Load()
}

func (c *Controller) observeDepth(id uuid.UUID, ready int64) {
	t, known := c.tenant(id)
	if !known {
		return
	}
	t.mu.Lock()
	unacked := t.state.Unacked()
	changed := t.ready != ready || t.unacked != unacked
	t.resting = ready == 0 && unacked == 0
	t.ready, t.handled, t.looked = ready, t.count(), time.Now()
	if ready == missing && t.provisioned {
		// A running consumer would notice; a suspended tenant has none.
		t.provisioned = false
		t.nudge()
	}
	t.mu.Unlock()
	if changed {
		c.reporter.mark(t)
	}
}
