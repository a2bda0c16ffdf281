// Package cost measures what a drain takes from the machine: CPU time by process, and allocations of ingest-service, for a
// million messages of 1 KB and three workers. The same for one INSERT and one ack a message, where the benchmark itself is
// the process that ingests.
//
// Rates depend on how many cores there are and on what else runs on them; this does much less.
package cost

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rival"
)

const (
	part = "cost"
	size = 1 << 10
)

// amounts are how many messages the platform and one INSERT a message drain: CPU time is counted in hundredths of a second.
func amounts(quick bool) (platform, oneInsert int) {
	if quick {
		return 15_000, 1_500
	}
	return 60_000, 10_000
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	names := []string{"ingest", "broker", "database", "all three"}
	series := make([]report.Series, len(names))
	others := make([]report.Series, len(names))
	var allocations report.Series
	for round := range r.Rounds {
		ours, mallocs, err := platform(ctx, r)
		if errors.Is(err, rig.ErrElsewhere) {
			rec.Progress("cost: not measured: %v", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("platform: %w", err)
		}
		theirs, err := oneInsert(ctx, r)
		if err != nil {
			return fmt.Errorf("one INSERT a message: %w", err)
		}
		for i := range names {
			series[i].Add(ours[i], theirs[i])
			others[i].Add(theirs[i], 0)
		}
		allocations.Add(mallocs, 0)
		rec.Progress("cost, round %d of %d: %.1f s of CPU time for a million messages, one INSERT a message: %.1f s; %.1f allocations a message",
			round+1, r.Rounds, ours[len(ours)-1], theirs[len(theirs)-1], mallocs)
	}
	const unit = "CPU-s / million"
	for i, name := range names {
		result := series[i].Result(part, name, unit, "")
		result.Note = "held against one INSERT a message: less is better"
		rec.Add(result)
	}
	for i, name := range names {
		result := others[i].Result(part, name+", one INSERT a message", unit, "")
		result.Note = "alternative"
		rec.Add(result)
	}
	rec.Add(allocations.Result(part, "allocations of ingest-service", "allocations / message", ""))
	return nil
}

// withBacklog makes a suspended tenant with n messages, calls do, and deletes the tenant.
func withBacklog(ctx context.Context, r *rig.Rig, n int, do func(tenant uuid.UUID) error) (err error) {
	tenant, err := r.Backlog(ctx, rig.Workers, n, rig.Payload(size))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	return do(tenant)
}

func platform(ctx context.Context, r *rig.Rig) (spent rig.Usage, allocations float64, err error) {
	n, _ := amounts(r.Quick)
	err = withBacklog(ctx, r, n, func(tenant uuid.UUID) error {
		watch, err := r.Watch(ctx, tenant)
		if err != nil {
			return err
		}
		// Reading the metrics allocates, too: what one reading takes is found out first.
		first, err := mallocs(ctx, r)
		if err != nil {
			return err
		}
		before, err := mallocs(ctx, r)
		if err != nil {
			return err
		}
		spent, err = r.Spend(ctx, false, n, func() error {
			if err := r.Resume(ctx, tenant); err != nil {
				return err
			}
			_, err := watch.Await(ctx, n)
			return err
		})
		if err != nil {
			return err
		}
		after, err := mallocs(ctx, r)
		readings := float64(watch.Looks()) // one before the first reading of the counter, and the one of the last
		allocations = (after - before - readings*(before-first)) / float64(n)
		return err
	})
	return spent, allocations, err
}

func mallocs(ctx context.Context, r *rig.Rig) (float64, error) {
	const total = "go_memstats_mallocs_total"
	samples, err := r.Metrics(ctx, r.Stack.Ingest, total, rig.StoredTotal) // the latter to cost what a look of the watch does
	if err != nil {
		return 0, err
	}
	return samples.Sum(total), nil
}

func oneInsert(ctx context.Context, r *rig.Rig) (spent rig.Usage, err error) {
	_, n := amounts(r.Quick)
	err = withBacklog(ctx, r, n, func(tenant uuid.UUID) error {
		spent, err = r.Spend(ctx, true, n, func() error {
			_, err := rival.OneInsert(ctx, r, tenant, rig.Workers, n)
			return err
		})
		return err
	})
	return spent, err
}
