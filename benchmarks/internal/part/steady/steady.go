// Package steady measures how long a confirmed message takes until it can be read, while 1,000 messages a second arrive for
// 50 tenants: what a user waits for on an installation that is neither idle nor behind.
//
// A publisher starts a message every millisecond, whatever became of those before. The time runs from the broker's confirm
// to the moment at which the row can be seen. Looking for every message would be a second load, so it is done for 20 a
// second: a function in PostgreSQL asks the partition for the row, again and again, until it is there; and for 20 others until it
// is below the horizon of the reading order, as a page demands. The time at which its answer has come counts.
//
// The ceiling is what no way around it is known for: one confirmed publish and one commit, each measured alone, one at a
// time, on the same servers.
package steady

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/look"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rival"
)

const (
	part    = "steady"
	size    = 1 << 10
	tenants = 50
	rate    = 1000 // messages a second
	// sampled is one message of so many: 20 a second, for each of the samples. It shares no divisor with the number of tenants, so all of them are
	// sampled in turn.
	sampled = 51
)

// lengths are how long the load lasts, and how many single steps the ceiling is made from.
func lengths(quick bool) (load time.Duration, steps int) {
	if quick {
		return 3 * time.Second, 100
	}
	return 20 * time.Second, 400
}

// times are what a round gives, in milliseconds.
type times struct {
	stored, paged []float64
	steps         []float64 // a confirmed publish and a single commit, under the same load
}

// rounds are the figures of one percentile.
type rounds struct {
	p                                              float64
	goal                                           string
	platform, paged, insert, sum, publish, commits report.Series
	loaded                                         report.Series
}

func (p *rounds) add(platform, insert times, published, committed, sums []float64) {
	ceiling := report.Percentile(sums, p.p)
	p.platform.Add(report.Percentile(platform.stored, p.p), ceiling)
	p.paged.Add(report.Percentile(platform.paged, p.p), ceiling)
	p.insert.Add(report.Percentile(insert.stored, p.p), ceiling)
	p.sum.Add(ceiling, 0)
	p.publish.Add(report.Percentile(published, p.p), 0)
	p.commits.Add(report.Percentile(committed, p.p), 0)
	p.loaded.Add(report.Percentile(platform.stored, p.p), report.Percentile(platform.steps, p.p))
}

func (p *rounds) report(rec report.Recorder) {
	line := func(s *report.Series, name, goal, note string) {
		result := s.Result(part, fmt.Sprintf("%s, p%.0f", name, p.p), "ms", goal)
		result.Note = note
		rec.Add(result)
	}
	line(&p.platform, "confirmed to readable by id", p.goal, "held against one publish and one commit")
	line(&p.paged, "confirmed to readable on a page", "", "held against the same")
	line(&p.insert, "confirmed to readable, one INSERT a message", "", "alternative")
	line(&p.sum, "one confirmed publish and one commit", "", "limit")
	line(&p.publish, "one confirmed publish", "", "limit")
	line(&p.commits, "one commit", "", "limit")
	line(&p.loaded, "confirmed to readable by id, against the same steps under this load", "",
		"held against one publish and one commit while the platform does its work: what is lost to busy processors counts on both sides")
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) (err error) {
	running, err := r.Neighbours(ctx, tenants)
	if err != nil {
		return err
	}
	suspended, err := r.Suspended(ctx, tenants)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.DeleteAll(ctx, suspended)) }()
	looker, err := look.Open(ctx, r)
	if err != nil {
		return err
	}
	defer looker.Close()
	length, steps := lengths(r.Quick)
	var cost, insertCost report.Series
	percentiles := []*rounds{{p: 50, goal: "<= 1.5"}, {p: 99, goal: "<= 3"}}
	for round := range r.Rounds {
		published, committed, err := unloaded(ctx, r, steps)
		if err != nil {
			return fmt.Errorf("one publish and one commit: %w", err)
		}
		sums := make([]float64, steps)
		for i := range sums {
			sums[i] = published[i] + committed[i]
		}
		platform, spent, err := platform(ctx, r, looker, running, suspended[0], length)
		if err != nil {
			return fmt.Errorf("platform: %w", err)
		}
		insert, insertSpent, err := oneInsert(ctx, r, looker, suspended, length)
		if err != nil {
			return fmt.Errorf("one INSERT a message: %w", err)
		}
		if spent != nil && insertSpent != nil {
			cost.Add(spent[len(spent)-1], insertSpent[len(insertSpent)-1])
			insertCost.Add(insertSpent[len(insertSpent)-1], 0)
			rec.Progress("steady, round %d of %d, CPU of ingest-service, broker and database and their sum: %.0f µs a message, one INSERT a message %.0f",
				round+1, r.Rounds, spent, insertSpent)
		}
		for _, p := range percentiles {
			p.add(platform, insert, published, committed, sums)
			rec.Progress("steady, round %d of %d, p%.0f of %d: platform %.1f ms, one INSERT a message %.1f, one publish and one commit %.1f",
				round+1, r.Rounds, p.p, len(platform.stored), report.Percentile(platform.stored, p.p),
				report.Percentile(insert.stored, p.p), report.Percentile(sums, p.p))
		}
	}
	for _, p := range percentiles {
		p.report(rec)
	}
	if cost.Len() == 0 {
		rec.Progress("steady: CPU time not measured: %v", rig.ErrElsewhere)
		return nil
	}
	ours := cost.Result(part, "CPU of ingest, broker and database", "µs / message", "")
	ours.Note = "held against one INSERT a message"
	rec.Add(ours)
	theirs := insertCost.Result(part, "CPU of the same, one INSERT a message", "µs / message", "")
	theirs.Note = "alternative; the client is the benchmark, its publishing and looking included"
	rec.Add(theirs)
	return nil
}

// unloaded measures single steps, in milliseconds: a confirmed publish into a queue that nobody consumes, and the commit of
// one row of the same tenant.
func unloaded(ctx context.Context, r *rig.Rig, steps int) (published, committed []float64, err error) {
	payload := rig.Payload(size)
	tenant, err := r.Backlog(ctx, rig.Workers, 0, nil)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, r.Delete(ctx, tenant)) }()
	for range steps {
		message := rig.Message(tenant.String(), payload)
		began := time.Now()
		if err := r.Publisher.Publish(ctx, message); err != nil {
			return nil, nil, err
		}
		published = append(published, milliseconds(time.Since(began)))
	}
	for range steps {
		took, err := commit(ctx, r, tenant, payload)
		if err != nil {
			return nil, nil, err
		}
		committed = append(committed, milliseconds(took))
	}
	return published, committed, nil
}

// commit is how long it takes to commit one row.
func commit(ctx context.Context, r *rig.Rig, tenant uuid.UUID, payload []byte) (time.Duration, error) {
	id := uuid.New()
	began := time.Now()
	_, err := r.Database.Exec(ctx, `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, $3)`, tenant, id, payload)
	if err != nil {
		return 0, fmt.Errorf("insert: %w", err)
	}
	return time.Since(began), nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func platform(ctx context.Context, r *rig.Rig, looker *look.Looker, to []uuid.UUID, aside uuid.UUID, length time.Duration) (seen times, spent rig.Usage, err error) {
	watch, err := r.Watch(ctx, uuid.Nil)
	if err != nil {
		return seen, nil, err
	}
	spent, err = spend(ctx, r, false, length, func() error {
		var sent int
		if seen, sent, err = load(ctx, r, looker, to, aside, length); err != nil {
			return err
		}
		_, err = watch.Await(ctx, sent)
		return err
	})
	return seen, spent, err
}

// spend measures CPU time where that is possible.
func spend(ctx context.Context, r *rig.Rig, ourselves bool, length time.Duration, do func() error) (rig.Usage, error) {
	spent, err := r.Spend(ctx, ourselves, int((warmUp+length).Seconds()*rate), do)
	if errors.Is(err, rig.ErrElsewhere) {
		return nil, do()
	}
	return spent, err
}

func oneInsert(ctx context.Context, r *rig.Rig, looker *look.Looker, to []uuid.UUID, length time.Duration) (seen times, spent rig.Usage, err error) {
	inserter, err := rival.StartOneInsert(ctx, r, rig.Workers, to...)
	if err != nil {
		return seen, nil, err
	}
	defer func() { err = errors.Join(err, inserter.Stop()) }()
	inserter.Go()
	spent, err = spend(ctx, r, true, length, func() error {
		var sent int
		if seen, sent, err = load(ctx, r, looker, to, to[0], length); err != nil {
			return err
		}
		return inserter.Await(ctx, sent)
	})
	return seen, spent, err
}
