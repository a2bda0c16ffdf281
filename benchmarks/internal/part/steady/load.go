package steady

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/look"
	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// inFlight bounds the messages that wait for their confirm or are looked for: seconds of the load.
	inFlight = 8000
	// warmUp is how long nothing counts: a connection to PostgreSQL that meets a partition for the first time takes longer,
	// and there are twelve of them for fifty partitions.
	warmUp = time.Second
)

// load publishes at the rate for so long, after the warm-up, and returns when all that was sent is confirmed and all samples
// have been seen. Single commits, to compare with, go to the tenant aside.
func load(ctx context.Context, r *rig.Rig, looker *look.Looker, to []uuid.UUID, aside uuid.UUID, length time.Duration) (seen times, sent int, err error) {
	payload := rig.Payload(size)
	warm := int(warmUp.Seconds() * rate)
	total := warm + int(length.Seconds()*rate)
	var mu sync.Mutex // guards seen
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	began := time.Now()
	for i := range total {
		// Where the time has passed already nothing is waited for: the rate is kept over the whole load.
		if err := retry.Sleep(ctx, time.Until(began.Add(time.Duration(i)*time.Second/rate))); err != nil {
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
			count := func(to *[]float64, took time.Duration) {
				if i < warm {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				*to = append(*to, milliseconds(took))
			}
			switch i % sampled {
			case 0:
				stored, err := looker.Stored(ctx, tenant, message.Publishing.MessageId)
				if err != nil {
					return err
				}
				count(&seen.stored, stored.Sub(confirmed))
			case sampled / 3:
				paged, err := looker.Paged(ctx, tenant, message.Publishing.MessageId)
				if err != nil {
					return err
				}
				count(&seen.paged, paged.Sub(confirmed))
			case 2 * sampled / 3:
				committed, err := commit(ctx, r, aside, payload)
				if err != nil {
					return err
				}
				count(&seen.steps, confirmed.Sub(sent)+committed)
			}
			return nil
		})
	}
	return seen, total, group.Wait()
}
