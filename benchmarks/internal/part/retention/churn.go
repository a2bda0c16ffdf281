package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// looksInAll is how many looks at the table there are.
	looksInAll = 20
	// tick is how often messages are published: those of a tick at once.
	tick = 100 * time.Millisecond
	// fewest is how many looks there have to be, on a machine that is too slow for the rate.
	fewest = 8
	mib    = 1 << 20
)

// table is what a tenant's table takes.
type table struct {
	rows, dead int64
	// In bytes: the rows, and the indexes.
	heap, indexes int64
}

// churning keeps a tenant at its limit, and reports what its table becomes.
func churning(ctx context.Context, r *rig.Rig, rec report.Recorder, a amounts) (err error) {
	payload := rig.Payload(size)
	tenant, err := r.Create(ctx, rig.Workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	room := int64(a.level) * size
	if err := r.Limit(ctx, tenant, client.LimitPatch{client.LimitRetentionBytes: &room}); err != nil {
		return err
	}
	var seen []table
	began, published := time.Now(), 0
	for time.Since(began) < r.Churn || len(seen) < fewest {
		// What could not be published in time is published over the next ticks.
		due := min(int(time.Since(began).Seconds()*float64(a.perSecond)), published+a.perSecond/4)
		if err := r.Fill(ctx, due-published, payload, tenant); err != nil {
			return err
		}
		published = due
		if time.Since(began) >= r.Churn*time.Duration(len(seen)+1)/looksInAll {
			now, err := look(ctx, r, tenant)
			if err != nil {
				return err
			}
			seen = append(seen, now)
			rec.Progress("retention, churn, %v of %v, %.1f turnovers: %d rows, %d dead, heap %.1f MiB, indexes %.1f MiB", time.Since(began).Round(time.Second), r.Churn,
				float64(published)/float64(a.level), now.rows, now.dead, float64(now.heap)/mib, float64(now.indexes)/mib)
		}
		if err := retry.Sleep(ctx, tick-time.Since(began)%tick); err != nil {
			return fmt.Errorf("publish at a steady rate: %w", err)
		}
	}
	return judge(rec, seen, published)
}

// judge holds the second half of the time against the first.
func judge(rec report.Recorder, seen []table, published int) error {
	most := func(of []table, what func(table) int64) (most float64) {
		for _, one := range of {
			most = max(most, float64(what(one)))
		}
		return most
	}
	// While the table fills up to its limit it grows: the first quarter does not count.
	early, late := seen[len(seen)/4:len(seen)*5/8], seen[len(seen)*5/8:]
	if end := seen[len(seen)-1]; end.rows >= int64(published) {
		return fmt.Errorf("%d messages were published and %d are there: no message was removed", published, end.rows)
	}
	add := func(name, unit, goal string, scale float64, what func(table) int64) {
		var s report.Series
		s.Add(most(late, what)/scale, most(early, what)/scale)
		result := s.Result(part, name, unit, goal)
		result.Note = "its highest in the last three eighths of the time, held against the three before"
		rec.Add(result)
	}
	add("churn, heap", "MiB", "<= 1.2", mib, func(t table) int64 { return t.heap })
	add("churn, indexes", "MiB", "<= 1.2", mib, func(t table) int64 { return t.indexes })
	add("churn, rows", "rows", "", 1, func(t table) int64 { return t.rows })
	add("churn, dead rows", "rows", "", 1, func(t table) int64 { return t.dead })
	return nil
}

func look(ctx context.Context, r *rig.Rig, tenant uuid.UUID) (t table, err error) {
	name := rig.Partition(tenant).Sanitize()
	err = r.Database.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM `+name+`), pg_stat_get_dead_tuples(oid), pg_table_size(oid), pg_indexes_size(oid)
		FROM pg_class WHERE oid = $1::text::regclass`, name).Scan(&t.rows, &t.dead, &t.heap, &t.indexes)
	if err != nil {
		return t, fmt.Errorf("look at the table: %w", err)
	}
	return t, nil
}
