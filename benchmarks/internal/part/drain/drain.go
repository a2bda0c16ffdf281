// Package drain measures how fast the backlog of one tenant goes from its queue into the table, for small, usual and large
// messages and for different numbers of workers.
//
// The time of the platform runs from the request that resumes the tenant to the last commit, so it contains the way of
// that request through registry, control channel and broker. The ceiling and the other ways are those of package
// rival; their time runs from the consumer's start, in this process.
package drain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rival"
)

const part = "drain"

// load is the messages of one size.
type load struct {
	name    string
	size    int // bytes of a payload
	backlog int // messages: seconds of work, far beyond any warm-up
	slow    int // messages for what takes them one by one
	workers []int
}

func loads(quick bool) []load {
	if quick {
		return []load{{"1 KB", 1 << 10, 20_000, 1_500, []int{rig.Workers}}}
	}
	workers := []int{1, 3, 8}
	return []load{
		{"256 B", 256, 60_000, 5_000, workers},
		{"1 KB", 1 << 10, 40_000, 5_000, workers},
		{"16 KB", 16 << 10, 6_000, 2_000, workers},
	}
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	for _, l := range loads(r.Quick) {
		if err := measure(ctx, r, rec, l); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

// cell is what a number of workers gives.
type cell struct {
	workers  int
	platform report.Series
	// rivals at rig.Workers only, in the order of others.
	rivals  []report.Series
	speedup report.Series // of the platform over one INSERT a message
}

// other is another way to do the work.
type other struct {
	name  string
	drain rival.Drain
	slow  bool
}

func others() []other {
	return []other{
		{"one INSERT a message", rival.OneInsert, true},
		{"Watermill, AMQP to SQL", rival.Watermill, true},
		{"GORM, CreateInBatches of 500", rival.Gorm, false},
	}
}

func measure(ctx context.Context, r *rig.Rig, rec report.Recorder, l load) error {
	payload := rig.Payload(l.size)
	var discards, copies, spreads, ceilings report.Series
	cells := make([]cell, len(l.workers))
	for i, workers := range l.workers {
		cells[i] = cell{workers: workers, rivals: make([]report.Series, len(others()))}
	}
	for round := range r.Rounds {
		discard, err := Rate(ctx, r, rival.Discard, rig.Workers, l.backlog, payload)
		if err != nil {
			return fmt.Errorf("discard: %w", err)
		}
		stored, err := copied(ctx, r, 1, l.backlog, payload)
		if err != nil {
			return err
		}
		wide, err := copied(ctx, r, rig.Workers, l.backlog, payload)
		if err != nil {
			return err
		}
		ceiling := rival.Ceiling(discard, stored)
		discards.Add(discard, 0)
		copies.Add(stored, 0)
		spreads.Add(wide, 0)
		ceilings.Add(ceiling, 0)
		rec.Progress("drain %s, round %d of %d: take %.0f, copy %.0f (%d connections: %.0f), ceiling %.0f msg/s",
			l.name, round+1, r.Rounds, discard, stored, rig.Workers, wide, ceiling)
		for i := range cells {
			if err := cells[i].round(ctx, r, rec, l, payload, ceiling); err != nil {
				return err
			}
		}
	}
	limits := "limit, 1 connection"
	rec.Add(withNote(discards.Result(part, l.name+", take and discard", "msg/s", ""), "limit"))
	rec.Add(withNote(copies.Result(part, l.name+", COPY into the partition", "msg/s", ""), limits))
	rec.Add(withNote(spreads.Result(part, fmt.Sprintf("%s, COPY over %d connections", l.name, rig.Workers), "msg/s", ""), "for information"))
	rec.Add(withNote(ceilings.Result(part, l.name+", ceiling", "msg/s", ""), "1/(1/take + 1/COPY)"))
	for i := range cells {
		cells[i].add(rec, l)
	}
	return nil
}

func withNote(r report.Result, note string) report.Result {
	r.Note = note
	return r
}

// round measures the platform and, at the usual number of workers, the other ways.
func (c *cell) round(ctx context.Context, r *rig.Rig, rec report.Recorder, l load, payload []byte, ceiling float64) error {
	platform, err := Rate(ctx, r, Platform, c.workers, l.backlog, payload)
	if err != nil {
		return fmt.Errorf("platform: %w", err)
	}
	c.platform.Add(platform, ceiling)
	rec.Progress("drain %s, %d workers: platform %.0f msg/s, %.2f of the ceiling", l.name, c.workers, platform, platform/ceiling)
	if c.workers != rig.Workers {
		return nil
	}
	for i, o := range others() {
		n := l.backlog
		if o.slow {
			n = l.slow
		}
		value, err := Rate(ctx, r, o.drain, c.workers, n, payload)
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		c.rivals[i].Add(value, ceiling)
		rec.Progress("drain %s, %d workers: %s %.0f msg/s", l.name, c.workers, o.name, value)
		if i == 0 {
			c.speedup.Add(platform, value)
		}
	}
	return nil
}

func (c *cell) add(rec report.Recorder, l load) {
	name := fmt.Sprintf("%s, %d workers", l.name, c.workers)
	if c.workers == 1 {
		name = l.name + ", 1 worker"
	}
	usual := l.size == 1<<10 && c.workers == rig.Workers
	goal := ">= 0.85"
	if usual {
		goal = ">= 1.0"
	}
	rec.Add(c.platform.Result(part, name, "msg/s", goal))
	if c.speedup.Len() == 0 {
		return
	}
	goal = ""
	if usual {
		goal = ">= 10"
	}
	rec.Add(withNote(c.speedup.Result(part, name+", over one INSERT", "msg/s", goal), "ceiling: one INSERT and one ack a message"))
	for i, o := range others() {
		rec.Add(withNote(c.rivals[i].Result(part, name+", "+o.name, "msg/s", ""), "alternative"))
	}
}

// Rate makes a tenant with a backlog of n messages, has it drained, and returns how many messages a second that were.
func Rate(ctx context.Context, r *rig.Rig, drain rival.Drain, workers, n int, payload []byte) (perSecond float64, err error) {
	tenant, err := r.Backlog(ctx, workers, n, payload)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	took, err := drain(ctx, r, tenant, workers, n)
	if err != nil {
		return 0, err
	}
	return float64(n) / took.Seconds(), nil
}

func copied(ctx context.Context, r *rig.Rig, connections, n int, payload []byte) (perSecond float64, err error) {
	tenant, err := r.Backlog(ctx, rig.Workers, 0, payload)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	took, err := rival.Copy(ctx, r, tenant, connections, n, payload)
	if err != nil {
		return 0, err
	}
	return float64(n) / took.Seconds(), nil
}

// Platform resumes the tenant and waits until its backlog is stored.
func Platform(ctx context.Context, r *rig.Rig, tenant uuid.UUID, _, n int) (time.Duration, error) {
	watch, err := r.Watch(ctx, tenant)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	resumed := make(chan error, 1)
	go func() { resumed <- r.Resume(ctx, tenant) }()
	at, err := watch.Await(ctx, n)
	return at.Sub(began), errors.Join(err, <-resumed)
}
