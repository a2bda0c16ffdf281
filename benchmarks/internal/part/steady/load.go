package steady

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

const (
	// inFlight bounds the messages that wait for their confirm or are looked for: seconds of the load.
	inFlight = 8000
	// look is the pause between two questions for a message.
	look = 500 * time.Microsecond
	// lost is how long a message is looked for.
	lost = 30 * time.Second
)

// load publishes at the rate for so long and returns when all that was sent is confirmed and all samples have been seen.
// Single commits, to compare with, go to the tenant aside.
func load(ctx context.Context, r *rig.Rig, readers *pgxpool.Pool, to []uuid.UUID, aside uuid.UUID, length time.Duration) (seen times, sent int, err error) {
	payload := rig.Payload(size)
	total := int(length.Seconds() * rate)
	var mu sync.Mutex // guards seen
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	began := time.Now()
	for i := range total {
		if err := until(ctx, began.Add(time.Duration(i)*time.Second/rate)); err != nil {
			return seen, 0, errors.Join(group.Wait(), fmt.Errorf("%d of %d messages were published: %w", i, total, err))
		}
		tenant := to[i%len(to)]
		group.Go(func() error {
			message := rig.Message(tenant.String(), payload)
			sent := time.Now()
			if err := r.Publisher.Publish(ctx, message); err != nil {
				return err
			}
			confirmed := time.Now()
			if i%sampled == sampled/2 {
				committed, err := commit(ctx, r, aside, payload)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				seen.steps = append(seen.steps, milliseconds(confirmed.Sub(sent)+committed))
			}
			if i%sampled != 0 {
				return nil
			}
			stored, paged, err := await(ctx, readers, tenant, message.Publishing.MessageId)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			seen.stored = append(seen.stored, milliseconds(stored.Sub(confirmed)))
			seen.paged = append(seen.paged, milliseconds(paged.Sub(confirmed)))
			return nil
		})
	}
	return seen, total, group.Wait()
}

// until waits for a time. Where it has passed already, it does not wait: the rate is kept over the whole load.
func until(ctx context.Context, at time.Time) error {
	pause := time.Until(at)
	if pause <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// lookSQL answers no row until the message is there, and then whether a page may show it.
const lookSQL = `
SELECT (epoch, xid) < ((SELECT reading_epoch()), (SELECT pg_snapshot_xmin(pg_current_snapshot())))
FROM messages WHERE tenant_id = $1 AND id = $2`

// await asks for a message until it can be read by its id, and until it can be read on a page.
func await(ctx context.Context, readers *pgxpool.Pool, tenant uuid.UUID, id string) (stored, paged time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, lost)
	defer cancel()
	connection, err := readers.Acquire(ctx)
	if err != nil {
		return stored, paged, fmt.Errorf("look for a message: %w", err)
	}
	defer connection.Release()
	// For the whole session, so that a question is one round trip; the next one who has the connection sets it again.
	if _, err := connection.Exec(ctx, `SELECT set_config('app.tenant_id', $1, false)`, tenant.String()); err != nil {
		return stored, paged, fmt.Errorf("look for a message: %w", err)
	}
	for {
		var onPage bool
		err := connection.QueryRow(ctx, lookSQL, tenant, id).Scan(&onPage)
		found := err == nil
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return stored, paged, fmt.Errorf("look for a message: %w", err)
		}
		now := time.Now()
		if found && stored.IsZero() {
			stored = now
		}
		if onPage {
			return stored, now, nil
		}
		if err := until(ctx, now.Add(look)); err != nil {
			return stored, paged, fmt.Errorf("a confirmed message is not readable: %w", err)
		}
	}
}
