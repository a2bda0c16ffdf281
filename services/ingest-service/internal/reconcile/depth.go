package reconcile

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
)

const (
	// depthChunk and depthPause limit the questions to 200 a second, whatever the number of tenants: a round over 1,000
	// tenants takes five seconds, over 10,000 fifty. Scrapes and requests read what the last round found.
	depthChunk = 50
	depthPause = 250 * time.Millisecond
	// depthRound is the shortest time between the beginnings of two rounds.
	depthRound = 2 * time.Second
)

// pollDepths reads how many messages wait in each queue, in rounds, until ctx ends. The broker is asked with passive
// declarations, which need nothing but the connection that is there.
func (c *Controller) pollDepths(ctx context.Context) {
	for wait(ctx, depthRound) {
		var provisioned []uuid.UUID
		for _, t := range c.all() {
			t.mu.Lock()
			if t.provisioned {
				provisioned = append(provisioned, t.id)
			}
			t.mu.Unlock()
		}
		for len(provisioned) > 0 {
			chunk := provisioned[:min(depthChunk, len(provisioned))]
			provisioned = provisioned[len(chunk):]
			if err := c.deps.Topology.Depths(ctx, chunk, c.observeDepth); err != nil {
				c.deps.Log.Debug("queue depths could not be read", zap.Error(err))
				break
			}
			if len(provisioned) > 0 && !wait(ctx, depthPause) {
				return
			}
		}
	}
}

func (c *Controller) observeDepth(id uuid.UUID, ready int64) {
	t, known := c.tenant(id)
	if !known {
		return
	}
	t.mu.Lock()
	changed := t.ready != ready
	t.ready = ready
	if ready == missing && t.provisioned {
		// A running consumer would notice by itself; a suspended tenant has none.
		t.provisioned = false
		t.nudge()
	}
	t.mu.Unlock()
	if changed {
		c.reporter.mark(t)
	}
}

// wait pauses and reports whether ctx is still alive.
func wait(ctx context.Context, d time.Duration) bool {
	pause := time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-pause.C:
		return true
	}
}
