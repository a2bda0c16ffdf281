// Package noisy measures what a tenant notices of another one that floods the platform: how long its messages take from publishing to the
// broker's confirm, and from there until a page shows them, at the 99th percentile, quiet and beside each flood.
//
// The victim publishes 100 messages of 1 KB a second, starting one every 10 ms whatever became of those before. The flooder has 64 workers,
// the most there are, and does one thing as fast as it can. Where it publishes it does so a second time with a publish_rate of half of what
// the machine takes in, which is measured first: the rate at which a backlog of such messages is stored.
//
// Quiet and beside are measured in the same round, one after the other.
package noisy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/look"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/part/drain"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	part = "noisy"
	// workers are the flooder's.
	workers = 64
	// warmUp is how long a flood goes on before the victim is looked at.
	warmUp = time.Second
)

// amounts are how long the victim is looked at, and what the machine's rate is measured with: a backlog of 1 KB and one of 256 KB.
type amounts struct {
	length       time.Duration
	small, large int // messages
	pages        int // messages of a tenant that is paged through
}

func amountsOf(quick bool) amounts {
	if quick {
		return amounts{length: 2 * time.Second, small: 10_000, large: 80, pages: 20_000}
	}
	return amounts{length: 15 * time.Second, small: 60_000, large: 800, pages: 500_000}
}

// measured is a flood, with or without a limit, and what the victim had beside it in each round.
type measured struct {
	flood
	rate            int64  // the publish_rate of the flooder; 0 for none
	limited         string // the same in words
	published, read report.Series
}

func (m *measured) label() string {
	if m.rate == 0 {
		return m.name
	}
	return fmt.Sprintf("%s, publish_rate %s", m.name, m.limited)
}

// Run is the part.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) (err error) {
	a := amountsOf(r.Quick)
	victims, err := r.Neighbours(ctx, 1)
	if err != nil {
		return err
	}
	looker, err := look.Open(ctx, r)
	if err != nil {
		return err
	}
	defer looker.Close()
	victim := victim{r: r, looker: looker, tenant: victims[0], length: a.length}
	all, err := planned(ctx, r, rec, a)
	if err != nil {
		return err
	}
	var published, read report.Series
	rounds := r.Rounds
	if r.Quick {
		rounds = 1
	}
	for round := range rounds {
		quiet, err := victim.measure(ctx)
		if err != nil {
			return fmt.Errorf("quiet: %w", err)
		}
		published.Add(p99(quiet.published), 0)
		read.Add(p99(quiet.read), 0)
		rec.Progress("noisy, round %d of %d, quiet, p99 of %d: publish to confirmed %.1f ms, confirmed to readable on a page %.1f ms",
			round+1, rounds, len(quiet.published), p99(quiet.published), p99(quiet.read))
		for _, m := range all {
			beside, err := m.beside(ctx, r, victim, a)
			if err != nil {
				return fmt.Errorf("%s: %w", m.label(), err)
			}
			m.published.Add(p99(beside.published), p99(quiet.published))
			m.read.Add(p99(beside.read), p99(quiet.read))
			rec.Progress("noisy, round %d of %d, beside %s, p99: publish to confirmed %.1f ms, confirmed to readable on a page %.1f ms",
				round+1, rounds, m.label(), p99(beside.published), p99(beside.read))
		}
	}
	rec.Add(published.Result(part, "publish to confirmed, quiet, p99", "ms", ""))
	rec.Add(read.Result(part, "confirmed to readable on a page, quiet, p99", "ms", ""))
	for _, m := range all {
		m.report(rec)
	}
	return nil
}

func p99(values []float64) float64 { return report.Percentile(values, 99) }

func (m *measured) report(rec report.Recorder) {
	goal := ""
	if m.rate > 0 {
		goal = "<= 2"
	}
	for _, line := range []report.Result{
		m.published.Result(part, "publish to confirmed beside "+m.label()+", p99", "ms", "<= 10"),
		m.read.Result(part, "confirmed to readable beside "+m.label()+", p99", "ms", goal),
	} {
		line.Note = "held against the victim alone"
		rec.Add(line)
	}
}

// planned are all floods, each as often as it has limits. It measures what half of the machine is.
func planned(ctx context.Context, r *rig.Rig, rec report.Recorder, a amounts) ([]*measured, error) {
	half := map[int]int64{}
	for _, backlog := range []struct{ size, messages int }{{small, a.small}, {large, a.large}} {
		perSecond, err := drain.Rate(ctx, r, drain.Platform, rig.Workers, backlog.messages, rig.Payload(backlog.size))
		if err != nil {
			return nil, fmt.Errorf("the rate of the machine: %w", err)
		}
		half[backlog.size] = max(int64(perSecond/2), 1)
		rec.Progress("noisy: the machine stores %.0f messages of %d bytes a second; half of that is the limit of the limited floods", perSecond, backlog.size)
	}
	var all []*measured
	for _, f := range floods() {
		if !f.atLimit {
			all = append(all, &measured{flood: f})
		}
		if f.size == 0 {
			continue // it publishes nothing
		}
		all = append(all, &measured{flood: f, rate: half[f.size], limited: "half the machine"})
		if f.atLimit {
			all = append(all, &measured{flood: f, rate: lowRate, limited: fmt.Sprint(lowRate)})
		}
	}
	return all, nil
}

// beside measures the victim while the flood goes on. It returns when nothing of the flood is left.
func (m *measured) beside(ctx context.Context, r *rig.Rig, v victim, a amounts) (t times, err error) {
	flooder, err := r.Create(ctx, workers)
	if err != nil {
		return t, err
	}
	defer func() {
		err = errors.Join(err, r.Delete(ctx, flooder))
		if err == nil {
			err = awaitRest(ctx, r)
		}
	}()
	if m.rate > 0 {
		if err := r.Limit(ctx, flooder, client.LimitPatch{client.LimitPublishRate: &m.rate}); err != nil {
			return t, err
		}
	}
	if m.prepare != nil {
		if err := m.prepare(ctx, r, flooder, a); err != nil {
			return t, err
		}
	}
	flooding, stop := context.WithCancel(ctx)
	defer stop()
	group, flooding := errgroup.WithContext(flooding)
	for range m.clients {
		group.Go(func() error { return m.run(flooding, r, flooder) })
	}
	err = retry.Sleep(ctx, warmUp)
	if err == nil {
		t, err = v.measure(ctx)
	}
	broken := flooding.Err() != nil && ctx.Err() == nil
	stop()
	if flooded := group.Wait(); flooded != nil {
		err = errors.Join(err, fmt.Errorf("the flood: %w", flooded))
	} else if broken {
		err = errors.Join(err, errors.New("the flood ended before it was stopped"))
	}
	return t, err
}

// restLimit and restPause bound the wait for what a flood has left behind.
const (
	restLimit = 2 * time.Minute
	restPause = 50 * time.Millisecond
)

// awaitRest waits until the dead letters of a deleted flooder are gone.
func awaitRest(ctx context.Context, r *rig.Rig) error {
	ctx, cancel := context.WithTimeout(ctx, restLimit)
	defer cancel()
	for {
		waiting, err := r.DeadLetters(ctx)
		if err != nil || waiting == 0 {
			return err
		}
		if err := retry.Sleep(ctx, restPause); err != nil {
			return fmt.Errorf("%d dead letters of a flood wait: %w", waiting, err)
		}
	}
}
