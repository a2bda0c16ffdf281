package consumer

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/google/uuid"
)

// Storage knows how much tenants may still store; [quota.Tracker] does.
type Storage interface {
	// Room is how many bytes a tenant may still store under a limit of so many; known is false as long as nobody knows.
	Room(tenant uuid.UUID, limit int64) (room int64, known bool)
	// Refreshed is closed once what is known of all tenants is newer.
	Refreshed() <-chan struct{}
}

// ErrStorageFull says that nothing is consumed because the tenant has stored as much as it may, or because nobody knows yet.
var ErrStorageFull = errors.New("the tenant has stored as much as it may: messages wait in the queue until there is room")

// roomPause is how long a collector waits before it asks again for a room that is not known, or that what is being written may take.
const roomPause = 50 * time.Millisecond

// room is how many bytes the tenant may still store.
func (c *Consumer) room() (room int64, known bool) {
	limits := c.limits.Load()
	if limits == nil || limits.StoredMaxBytes == 0 || c.cfg.Storage == nil {
		return math.MaxInt64, true
	}
	return c.cfg.Storage.Room(c.tenant, limits.StoredMaxBytes)
}

// awaitRoom waits until the tenant may store. Nothing is delivered meanwhile: all waits in the queue, and is not returned to it again
// and again, which would count towards its delivery limit.
func (c *Consumer) awaitRoom(ctx context.Context) error {
	for told := false; ; told = true {
		var refreshed <-chan struct{}
		if c.cfg.Storage != nil {
			refreshed = c.cfg.Storage.Refreshed() // first: what is known may become newer between the two
		}
		if room, known := c.room(); known && room > 0 {
			return nil
		}
		if !told {
			c.onChange(ErrStorageFull)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.resized: // the limit may be another one
		case <-refreshed:
		}
	}
}

// fits is how many messages there is room for, at least 1.
func (m *meter) fits(room int64) int {
	if room == math.MaxInt64 {
		return math.MaxInt
	}
	mean := m.meanBytes
	if mean == 0 {
		mean = assumedBytes
	}
	return int(max(min(room/mean, math.MaxInt), 1))
}

// hasRoom reports whether there is room for one more message behind those that are not stored yet. full says that there is none, whatever
// becomes of these; else the collector is to ask again.
func (in *collector) hasRoom() (fits, full bool) {
	room, known := in.c.room()
	if room == math.MaxInt64 {
		return true, false
	}
	unwritten := in.writing
	if in.gather.current != nil {
		unwritten += in.gather.current.Bytes
	}
	switch {
	case known && room > unwritten:
		return true, false
	case known && room <= 0:
		return false, true
	default:
		in.askRoom = time.Now().Add(roomPause)
		return false, false
	}
}

// isCramped reports whether there is room for far more than the prefetch by now: there was little when the collector began.
func (in *collector) isCramped() bool {
	if in.meter.limits.StoredMaxBytes == 0 || time.Since(in.began) < misfitAfter {
		return false
	}
	room, known := in.c.room()
	return known && in.isBelow(min(in.meter.second(), in.meter.fits(room)))
}

// isBelow reports whether the prefetch is far below another one.
func (in *collector) isBelow(prefetch int) bool {
	return min(prefetch, in.prefetch)/misfitFactor >= in.meter.prefetch
}
