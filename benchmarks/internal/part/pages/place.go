package pages

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

// The orders of GET /messages.
const (
	ascending  = "asc"
	descending = "desc"
)

// depths are shares of the messages that lie before the place, in its order.
func depths() []float64 { return []float64{0, 0.5, 0.99} }

// place is where pages are read: one order, one depth.
type place struct {
	order string
	depth float64
	skip  int // messages before it

	pages []page // walked of them, in a row

	ours, theirs []time.Duration // of the current round

	p50, p99, offset, depthRatio report.Series
	platformP50                  []float64 // of each round
}

// page is where one page begins, in the terms of both ways to read it.
type page struct {
	cursor string    // empty at the start of the order
	behind *position // nil there
}

func (p *place) name() string { return fmt.Sprintf("%s, depth %.0f %%", p.order, p.depth*100) }

// prepare finds the places and the pages at each, and makes sure that both ways give the same messages.
func prepare(ctx context.Context, platform *reader, raw *raw, r *rig.Rig, s size) ([]*place, error) {
	var places []*place
	for _, order := range []string{ascending, descending} {
		for _, depth := range depths() {
			p := &place{order: order, depth: depth, skip: int(depth * float64(s.messages))}
			var begin *position
			var from string
			if p.skip > 0 {
				var err error
				if begin, err = raw.at(ctx, r.Database, p.order, p.skip); err != nil {
					return nil, err
				}
				if from, err = platform.cursorNear(ctx, p.order, begin); err != nil {
					return nil, err
				}
			}
			if err := p.walk(ctx, platform, raw, from); err != nil {
				return nil, fmt.Errorf("%s: %w", p.name(), err)
			}
			places = append(places, p)
		}
	}
	return places, nil
}

// walk follows the cursors from the first one, and finds the same places for raw SQL.
func (p *place) walk(ctx context.Context, platform *reader, raw *raw, cursor string) error {
	var behind *position
	if cursor != "" {
		var err error
		if behind, err = raw.before(ctx, platform, p.order, cursor); err != nil {
			return err
		}
	}
	for range walked {
		answer, err := platform.page(ctx, p.order, cursor)
		if err != nil {
			return err
		}
		rows, err := raw.page(ctx, p.order, behind)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(answer.Data, rows[:min(pageSize, len(rows))], func(m message, row row) bool { return m.ID == row.id }) {
			return fmt.Errorf("the platform and raw SQL read different messages behind cursor %q", cursor)
		}
		if len(answer.Data) != pageSize {
			return fmt.Errorf("a page of %d messages, want %d", len(answer.Data), pageSize)
		}
		p.pages = append(p.pages, page{cursor: cursor, behind: behind})
		cursor, behind = answer.NextCursor, &rows[pageSize-1].position
	}
	return nil
}

// measure reads n pages in both ways. The platform is first if it is to be.
func (p *place) measure(ctx context.Context, platform *reader, raw *raw, n int, platformFirst bool) error {
	turns := []func() error{
		func() error {
			took, err := p.time(ctx, n, func(ctx context.Context, at page) error { return platform.fetch(ctx, p.order, at.cursor) })
			p.ours = append(p.ours, took...)
			return err
		},
		func() error {
			took, err := p.time(ctx, n, func(ctx context.Context, at page) error {
				_, err := raw.page(ctx, p.order, at.behind)
				return err
			})
			p.theirs = append(p.theirs, took...)
			return err
		},
	}
	if !platformFirst {
		slices.Reverse(turns)
	}
	for _, turn := range turns {
		if err := turn(); err != nil {
			return err
		}
	}
	return nil
}

// warm reads every page once, so that the one measured first does not pay for what the other finds in the cache.
func (p *place) warm(ctx context.Context, raw *raw) error {
	_, err := p.time(ctx, len(p.pages), func(ctx context.Context, at page) error {
		_, err := raw.page(ctx, p.order, at.behind)
		return err
	})
	return err
}

// endRound takes the figures of a round.
func (p *place) endRound() {
	p.p50.Add(milliseconds(p.ours, 50), milliseconds(p.theirs, 50))
	p.p99.Add(milliseconds(p.ours, 99), milliseconds(p.theirs, 99))
	p.platformP50 = append(p.platformP50, milliseconds(p.ours, 50))
	p.ours, p.theirs = p.ours[:0], p.theirs[:0]
}

// measureOffset is one round of the alternative, in which every client reads one page.
func (p *place) measureOffset(ctx context.Context, raw *raw) error {
	slow, err := p.time(ctx, clients, func(ctx context.Context, _ page) error { return raw.offset(ctx, p.order, p.skip) })
	if err != nil {
		return err
	}
	p.offset.Add(milliseconds(slow, 50), p.platformP50[len(p.platformP50)-1])
	return nil
}

// time reads n pages with all clients and returns how long each took.
func (p *place) time(ctx context.Context, n int, read func(context.Context, page) error) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	took := make([]time.Duration, n)
	var next atomic.Int64
	var reading sync.WaitGroup
	failed := make(chan error, clients) // room for all, so that nobody waits
	for range clients {
		reading.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				began := time.Now()
				if err := read(ctx, p.pages[i%len(p.pages)]); err != nil {
					failed <- err
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	reading.Wait()
	close(failed)
	return took, <-failed // nil if it is empty
}

func milliseconds(took []time.Duration, percentile float64) float64 {
	return float64(report.Percentile(took, percentile)) / float64(time.Millisecond)
}

// report adds the lines of this place. The start of the same order is among places.
func (p *place) report(rec report.Recorder, places []*place) {
	p99 := p.p99.Result(part, p.name()+", p99", "ms", "<= 1.5")
	p99.Note = fmt.Sprintf("HTTP from end to end; the ceiling is the same statement as raw SQL through pgx; %d clients each", clients)
	rec.Add(p99)
	p50 := p.p50.Result(part, p.name()+", p50", "ms", "")
	rec.Add(p50)
	if p.depth == depths()[len(depths())-1] {
		start := places[slices.IndexFunc(places, func(other *place) bool { return other.order == p.order && other.depth == 0 })]
		for round, value := range p.platformP50 {
			p.depthRatio.Add(value, start.platformP50[round])
		}
		against := p.depthRatio.Result(part, p.name()+" against depth 0, p50", "ms", "<= 1.1")
		against.Note = "the ceiling is the platform at depth 0"
		rec.Add(against)
	}
	offset := p.offset.Result(part, p.name()+", by OFFSET, p50", "ms", "")
	offset.Note = fmt.Sprintf("raw SQL, %d clients; the ceiling is the platform with a cursor", clients)
	rec.Add(offset)
}
