// Package pages measures what a page of a hundred messages costs a reader whose tenant has millions of them, at the start
// of the reading order, in its middle and near its end, in both orders.
//
// Three ways to the same pages take turns in every round:
//
//   - the platform: GET /messages with a cursor, from the request to the last byte of the answer;
//   - raw SQL: the page statement of query-service through pgx, as the same role and so under the same row-level security,
//     on as many connections as there are clients. It has neither HTTP nor tokens nor JSON to pay for, so it is a ceiling
//     that nobody reaches;
//   - OFFSET, also as raw SQL: what one would write first. It is read once by each client, for a deep page takes seconds.
//
// Before anything is measured, the first two ways are compared message by message.
package pages

import (
	"context"
	"fmt"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const part = "pages"

const (
	// pageSize is the platform's default limit.
	pageSize = 100
	// clients read at the same time, each over one connection: more than the machine of a small installation has cores.
	clients = 4
	// walked is how many pages in a row are read at each depth, as a client would that follows a cursor. A single page,
	// read again and again, would be the one that is in every cache.
	walked = 8
	// passes are in a round; an even number, so that each way is first as often as the other.
	passes = 10
)

// size is how much is loaded and read.
type size struct {
	messages int // of the tenant that is read
	tenants  int // in all
	requests int // for each depth and order, in each round, in each way
}

func sizeOf(r *rig.Rig) size {
	if r.Quick {
		return size{messages: 200_000, tenants: 100, requests: 300}
	}
	return size{messages: 5_000_000, tenants: 1000, requests: 2000}
}

// Run loads the tenants and measures pages of the large one.
func Run(ctx context.Context, r *rig.Rig, rec report.Recorder) error {
	s := sizeOf(r)
	began := time.Now()
	rec.Progress("%s: loading %d messages of one tenant, and %d tenants beside it", part, s.messages, s.tenants-1)
	tenant, err := load(ctx, r.Database, s)
	if err != nil {
		return err
	}
	rec.Progress("%s: loaded in %.0f s", part, time.Since(began).Seconds())

	raw, err := openRaw(ctx, r.Database.Config().ConnString(), tenant)
	if err != nil {
		return err
	}
	defer raw.close()
	platform, err := newReader(r, tenant)
	if err != nil {
		return err
	}
	places, err := prepare(ctx, platform, raw, r, s)
	if err != nil {
		return err
	}
	for round := range r.Rounds {
		rec.Progress("%s: round %d of %d", part, round+1, r.Rounds)
		if err := oneRound(ctx, platform, raw, places, s); err != nil {
			return err
		}
	}
	for _, p := range places {
		p.report(rec, places)
	}
	return nil
}

// oneRound measures every place. It goes round all of them several times, so that what is compared, one way with the other
// and one depth with another, is read within a second or two.
func oneRound(ctx context.Context, platform *reader, raw *raw, places []*place, s size) error {
	for _, p := range places {
		if err := p.warm(ctx, raw); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	for pass := range passes {
		for _, p := range places {
			if err := p.measure(ctx, platform, raw, s.requests/passes, pass%2 == 0); err != nil {
				return fmt.Errorf("%s: %w", p.name(), err)
			}
		}
	}
	for _, p := range places {
		p.endRound()
		// After all others: counting off millions of rows drives everything else out of the cache.
		if err := p.measureOffset(ctx, raw); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	return nil
}
