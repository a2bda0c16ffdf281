// Package spread measures how fast a backlog is stored that is spread over 1,000 tenants, beside the same backlog of a single
// tenant: many small queues must not be much slower than one long one.
//
// Resuming 1,000 tenants takes seconds, so the backlog is made while ingest-service is paused (SIGSTOP), with its
// consumers attached, and the time runs from its going on (SIGCONT) to the last commit. The single tenant is measured in
// the same way.
package spread

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rival"
)

const (
	part = "spread"
	size = 1 << 10
)

type amounts struct{ tenants, backlog, slow int }

// of is the load; the backlog is that of the drain part. It has to be published well within the time after which the broker
// gives a silent consumer up, 20 s.
func of(quick bool) amounts {
	if quick {
		return amounts{tenants: 100, backlog: 10_000, slow: 1_500}
	}
	return amounts{tenants: 1000, backlog: 60_000, slow: 6_000}
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	load := of(r.Quick)
	rec.Progress("spread: making %d tenants", load.tenants)
	tenants, err := r.Neighbours(ctx, load.tenants)
	if err != nil {
		return err
	}
	payload := rig.Payload(size)
	var firsts, singles, spreads, inserts report.Series
	for round := range r.Rounds {
		// A new connection of PostgreSQL reads the catalog of each partition when it meets it. That is a figure of its own.
		cold, err := burst(ctx, r, load.backlog, payload, tenants...)
		if err != nil {
			return fmt.Errorf("%d tenants, for the first time: %w", len(tenants), err)
		}
		single, err := burst(ctx, r, load.backlog, payload, tenants[round%len(tenants)])
		if err != nil {
			return fmt.Errorf("one tenant: %w", err)
		}
		spread, err := burst(ctx, r, load.backlog, payload, tenants...)
		if err != nil {
			return fmt.Errorf("%d tenants: %w", len(tenants), err)
		}
		insert, err := oneInsert(ctx, r, load.slow, payload, tenants)
		if err != nil {
			return fmt.Errorf("one INSERT a message: %w", err)
		}
		firsts.Add(cold, single)
		singles.Add(single, 0)
		spreads.Add(spread, single)
		inserts.Add(insert, 0)
		rec.Progress("spread, round %d of %d: %d tenants %.0f msg/s (after a start %.0f), one tenant %.0f, one INSERT a message %.0f",
			round+1, r.Rounds, len(tenants), spread, cold, single, insert)
	}
	name := fmt.Sprintf("%d tenants", load.tenants)
	result := spreads.Result(part, name, "msg/s", ">= 0.8")
	result.Note = "held against one tenant"
	rec.Add(result)
	result = firsts.Result(part, name+", first burst after a start", "msg/s", "")
	result.Note = "held against one tenant; the connections of the database do not know the partitions yet"
	rec.Add(result)
	rec.Add(singles.Result(part, "one tenant", "msg/s", ""))
	result = inserts.Result(part, name+", one INSERT a message", "msg/s", "")
	result.Note = "alternative"
	rec.Add(result)
	return nil
}

// burst publishes n messages while ingest-service is paused, and returns the rate at which they are stored afterwards.
func burst(ctx context.Context, r *rig.Rig, n int, payload []byte, tenants ...uuid.UUID) (perSecond float64, err error) {
	watch, err := r.Watch(ctx, uuid.Nil)
	if err != nil {
		return 0, err
	}
	if err := r.Stack.Ingest.Signal(syscall.SIGSTOP); err != nil {
		return 0, fmt.Errorf("pause: %w", err)
	}
	filled := r.Fill(ctx, n, payload, tenants...)
	began := time.Now()
	// Whatever has happened, it must not stay paused.
	if err := errors.Join(filled, r.Stack.Ingest.Signal(syscall.SIGCONT)); err != nil {
		return 0, err
	}
	at, err := watch.Await(ctx, n)
	if err != nil {
		return 0, err
	}
	return float64(n) / at.Sub(began).Seconds(), nil
}

// oneInsert takes the place of ingest-service for a while.
func oneInsert(ctx context.Context, r *rig.Rig, n int, payload []byte, tenants []uuid.UUID) (perSecond float64, err error) {
	if _, err := r.Stack.Ingest.Term(ctx); err != nil {
		return 0, fmt.Errorf("stop ingest-service: %w", err)
	}
	defer func() { err = errors.Join(err, restart(ctx, r, len(tenants))) }()
	inserter, err := rival.StartOneInsert(ctx, r, rig.Workers, tenants...)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, inserter.Stop()) }()
	if err := r.Fill(ctx, n, payload, tenants...); err != nil {
		return 0, err
	}
	began := time.Now()
	inserter.Go()
	if err := inserter.Await(ctx, n); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// restart starts ingest-service again and returns when it consumes at least so many tenants.
func restart(ctx context.Context, r *rig.Rig, tenants int) error {
	if err := r.Stack.Ingest.Start(ctx); err != nil {
		return fmt.Errorf("start ingest-service again: %w", err)
	}
	return r.AwaitConsumers(ctx, tenants)
}
