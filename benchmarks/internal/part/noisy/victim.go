package noisy

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
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// perSecond is how many messages the victim publishes; one of sampled is looked for.
	perSecond = 100
	sampled   = 3
	// inFlight bounds the messages that wait for their confirm: as many as the victim publishes in half a minute.
	inFlight = 30 * perSecond
)

// times are what the victim had, in milliseconds.
type times struct {
	published []float64 // from publishing to the confirm
	read      []float64 // from the confirm until a page shows it
}

// victim is the tenant that is looked at.
type victim struct {
	r      *rig.Rig
	looker *look.Looker
	tenant uuid.UUID
	length time.Duration
}

// measure publishes for the victim, and returns when all of it is confirmed and what is looked for was seen.
func (v victim) measure(ctx context.Context) (t times, err error) {
	payload := rig.Payload(small)
	var mu sync.Mutex // guards t
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	total := int(v.length.Seconds() * perSecond)
	began := time.Now()
	for i := range total {
		// Where the time has passed already nothing is waited for.
		if err := retry.Sleep(ctx, time.Until(began.Add(time.Duration(i)*time.Second/perSecond))); err != nil {
			return t, errors.Join(group.Wait(), fmt.Errorf("%d of %d messages were published: %w", i, total, err))
		}
		group.Go(func() error {
			message := rig.Message(v.tenant.String(), payload)
			sent := time.Now()
			if err := v.publish(ctx, message); err != nil {
				return err
			}
			confirmed := time.Now()
			mu.Lock()
			t.published = append(t.published, milliseconds(confirmed.Sub(sent)))
			mu.Unlock()
			if i%sampled != 0 {
				return nil
			}
			read, err := v.looker.Paged(ctx, v.tenant, message.Publishing.MessageId)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			t.read = append(t.read, milliseconds(read.Sub(confirmed)))
			return nil
		})
	}
	return t, group.Wait()
}

const (
	// confirmLimit bounds the wait for a confirm, and again is the pause before a message is published again.
	confirmLimit = time.Minute
	again        = 10 * time.Millisecond
)

// publish publishes until the broker confirms. Beside some floods it stops confirming for so long that the publisher gives the connection up.
func (v victim) publish(ctx context.Context, message publish.Message) error {
	ctx, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	for {
		err := v.r.Publisher.Publish(ctx, message)
		if err == nil {
			return nil
		}
		if !errors.Is(err, conn.ErrUnavailable) || retry.Sleep(ctx, again) != nil {
			return fmt.Errorf("publish for the victim: %w", err)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
