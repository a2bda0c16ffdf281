// Package retention measures what removing messages costs those who write and read, and what it does to a table over time.
//
// Drain: two tenants have the same messages and the same backlog. Of one the messages are being removed, as fast as retention goes, while
// its backlog is stored: it was given a small retention_bytes, and the drain begins when the first of its messages has gone. The other has no
// limit. Meanwhile one reader reads the first page of the tenant, which is where dead index entries lie, and the age of the reading horizon is
// measured.
//
// Churn: a tenant at its retention_bytes gets messages at a steady rate, and the size of its table and the dead rows in it are
// looked at. Size and dead rows should level off.
package retention

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/drain"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	part = "retention"
	size = 1 << 10
	// beginLimit bounds the wait until retention begins, and poll is the pause between two looks.
	beginLimit = time.Minute
	poll       = 20 * time.Millisecond
)

// amounts are the backlog of a drain, what there is to remove beside it, and the steady rate and the level of the churn.
type amounts struct {
	backlog, stored int
	perSecond       int
	level           int
}

func amountsOf(quick bool) amounts {
	if quick {
		return amounts{backlog: 10_000, stored: 20_000, perSecond: 2000, level: 5000}
	}
	return amounts{backlog: 100_000, stored: 200_000, perSecond: 4000, level: 100_000}
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	a := amountsOf(r.Quick)
	if err := draining(ctx, r, rec, a); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if err := churning(ctx, r, rec, a); err != nil {
		return fmt.Errorf("churn: %w", err)
	}
	return nil
}

// figures are those of one drain.
type figures struct {
	rate    float64 // messages a second
	removed float64 // messages meanwhile, as a share of those stored
	horizon float64 // its age in ms, p99
	page    float64 // ms, p99
}

func draining(ctx context.Context, r *rig.Rig, rec report.Recorder, a amounts) error {
	var rates, alone, removed, pages, quietPages, horizons, quietHorizons, later report.Series
	for round := range r.Rounds {
		quiet, err := drained(ctx, r, a, false)
		if err != nil {
			return fmt.Errorf("without retention: %w", err)
		}
		beside, err := drained(ctx, r, a, true)
		if err != nil {
			return fmt.Errorf("beside retention: %w", err)
		}
		rates.Add(beside.rate, quiet.rate)
		alone.Add(quiet.rate, 0)
		removed.Add(beside.removed, 0)
		pages.Add(beside.page, quiet.page)
		quietPages.Add(quiet.page, 0)
		horizons.Add(beside.horizon, 0)
		quietHorizons.Add(quiet.horizon, 0)
		later.Add(beside.horizon-quiet.horizon, 0)
		rec.Progress("retention, round %d of %d: %.0f msg/s, without %.0f; %.2f removed for each that was stored; horizon p99 %.1f ms, without %.1f; first page p99 %.1f ms, without %.1f",
			round+1, r.Rounds, beside.rate, quiet.rate, beside.removed, beside.horizon, quiet.horizon, beside.page, quiet.page)
	}
	line := func(s *report.Series, name, unit, goal, note string) {
		result := s.Result(part, name, unit, goal)
		result.Note = note
		rec.Add(result)
	}
	line(&rates, "drain, 1 KB, beside retention", "msg/s", ">= 0.85", "held against the drain without")
	line(&alone, "drain, 1 KB, without retention", "msg/s", "", "reference")
	line(&removed, "removed meanwhile for each message stored", "messages", "", "")
	line(&later, "age of the horizon, p99, more than without retention", "ms", "<= 15 ms", "")
	line(&horizons, "age of the horizon, p99, beside retention", "ms", "", "")
	line(&quietHorizons, "age of the horizon, p99, without retention", "ms", "", "reference")
	line(&pages, "first page of 100, p99, beside retention", "ms", "<= 1.5", "held against the page without")
	line(&quietPages, "first page of 100, p99, without retention", "ms", "", "reference")
	return nil
}

// drained drains the backlog of a tenant that has messages, of which retention removes as many as it can meanwhile.
func drained(ctx context.Context, r *rig.Rig, a amounts, retained bool) (f figures, err error) {
	payload := rig.Payload(size)
	tenant, err := r.Create(ctx, rig.Workers)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	if err := fill(ctx, r, tenant, a, payload); err != nil {
		return f, err
	}
	for _, statement := range []string{`VACUUM (ANALYZE, PARALLEL 0) ` + rig.Partition(tenant).Sanitize(), `CHECKPOINT`} { // neither is to fall into the drain
		if _, err := r.Database.Exec(ctx, statement); err != nil {
			return f, fmt.Errorf("tidy up after loading: %w", err)
		}
	}
	if retained {
		if err := begin(ctx, r, tenant, a); err != nil {
			return f, err
		}
	}
	looked, stop := watch(ctx, r, tenant)
	before, err := count(ctx, r, tenant)
	if err != nil {
		return f, errors.Join(err, stop())
	}
	took, err := drain.Platform(ctx, r, tenant, rig.Workers, a.backlog)
	if err := errors.Join(err, stop()); err != nil {
		return f, err
	}
	after, err := count(ctx, r, tenant)
	if err != nil {
		return f, err
	}
	return figures{
		rate: float64(a.backlog) / took.Seconds(), removed: float64(before+a.backlog-after) / float64(a.backlog),
		horizon: report.Percentile(looked.horizon, 99), page: report.Percentile(looked.pages, 99),
	}, nil
}

// fill gives a tenant messages, and then a backlog. The messages come through the platform: retention removes what it has counted.
func fill(ctx context.Context, r *rig.Rig, tenant uuid.UUID, a amounts, payload []byte) error {
	stored, err := r.Watch(ctx, tenant)
	if err != nil {
		return err
	}
	if err := r.Fill(ctx, a.stored, payload, tenant); err != nil {
		return err
	}
	if _, err := stored.Await(ctx, a.stored); err != nil {
		return err
	}
	if err := r.Suspend(ctx, tenant); err != nil {
		return err
	}
	return r.Fill(ctx, a.backlog, payload, tenant)
}

// begin gives a tenant so little room that all of its messages are to go, and returns when the first have gone.
func begin(ctx context.Context, r *rig.Rig, tenant uuid.UUID, a amounts) error {
	room := int64(size)
	if err := r.Limit(ctx, tenant, client.LimitPatch{client.LimitRetentionBytes: &room}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, beginLimit)
	defer cancel()
	for {
		n, err := count(ctx, r, tenant)
		if err != nil {
			return err
		}
		if n < a.stored {
			return nil
		}
		if err := retry.Sleep(ctx, poll); err != nil {
			return fmt.Errorf("no message was removed: %w", err)
		}
	}
}

func count(ctx context.Context, r *rig.Rig, tenant uuid.UUID) (n int, err error) {
	if err := r.Database.QueryRow(ctx, `SELECT count(*) FROM `+rig.Partition(tenant).Sanitize()).Scan(&n); err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	return n, nil
}

// looks are what was seen meanwhile, in milliseconds.
type looks struct {
	pages, horizon []float64
}

// watch reads pages and looks at the horizon until it is stopped; looks may be read then.
func watch(ctx context.Context, r *rig.Rig, tenant uuid.UUID) (seen *looks, stop func() error) {
	seen = &looks{}
	ctx, cancel := context.WithCancel(ctx)
	group, watching := errgroup.WithContext(ctx)
	for _, look := range []struct {
		one func(context.Context) error
		to  *[]float64
	}{
		{firstPage(r, tenant), &seen.pages}, {horizon(r), &seen.horizon},
	} {
		group.Go(func() error {
			for watching.Err() == nil {
				began := time.Now()
				if err := look.one(watching); err != nil {
					return ended(ctx, err)
				}
				*look.to = append(*look.to, float64(time.Since(began))/float64(time.Millisecond))
				_ = retry.Sleep(watching, poll) // the end is seen above
			}
			return nil
		})
	}
	return seen, sync.OnceValue(func() error {
		cancel()
		return group.Wait()
	})
}

// ended is err, unless the watch was stopped.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // its end is the reason
	}
	return err
}

// firstPage reads the oldest messages of a tenant.
func firstPage(r *rig.Rig, tenant uuid.UUID) func(context.Context) error {
	return func(ctx context.Context) error {
		token, err := r.Stack.TenantToken(tenant)
		if err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		return r.Send(ctx, rig.Request{URL: r.Stack.Query.URL + "/messages?limit=100", Token: token}, func([]byte) error { return nil })
	}
}

// horizon writes, and waits until readers could see it: until no older transaction is open that has written.
func horizon(r *rig.Rig) func(context.Context) error {
	return func(ctx context.Context) error {
		var written string
		if err := r.Database.QueryRow(ctx, `SELECT pg_current_xact_id()::text`).Scan(&written); err != nil {
			return fmt.Errorf("begin a transaction: %w", err)
		}
		for passed := false; !passed; {
			err := r.Database.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8`, written).Scan(&passed)
			if err != nil {
				return fmt.Errorf("look at the horizon: %w", err)
			}
		}
		return nil
	}
}
