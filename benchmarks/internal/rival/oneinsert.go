package rival

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
)

// OneInsert is what one would write first: so many workers, each of which takes a delivery, inserts it and acknowledges
// it.
func OneInsert(ctx context.Context, r *rig.Rig, tenant uuid.UUID, workers, n int) (time.Duration, error) {
	began := time.Now()
	inserter, err := StartOneInsert(ctx, r, workers, tenant)
	if err != nil {
		return 0, err
	}
	inserter.Go()
	err = inserter.Await(ctx, n)
	took := time.Since(began)
	return took, errors.Join(err, inserter.Stop())
}

// Inserter consumes tenants in the way of [OneInsert].
type Inserter struct {
	rig          *rig.Rig
	consumptions []*consume.Consumer
	start        chan struct{} // closed by Go
	cancel       context.CancelFunc
	group        *errgroup.Group
	ended        context.Context //nolint:containedctx // that of group: it ends when a worker has failed

	stored atomic.Int64
	// reached is told when stored reaches target.
	reached chan struct{} // one element
	target  atomic.Int64
}

// StartOneInsert makes the consumers of the tenants, each with so many workers. They begin to work with [Inserter.Go]; until
// then the broker delivers, and no more.
func StartOneInsert(ctx context.Context, r *rig.Rig, workers int, tenants ...uuid.UUID) (*Inserter, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	group, ended := errgroup.WithContext(running)
	in := &Inserter{
		rig: r, start: make(chan struct{}), cancel: cancel, group: group, ended: ended, reached: make(chan struct{}, 1),
	}
	for _, tenant := range tenants {
		c, err := start(ctx, r, tenant, prefetch)
		if err != nil {
			return nil, errors.Join(err, in.Stop())
		}
		in.consumptions = append(in.consumptions, c)
		for range workers {
			group.Go(func() error { return in.work(ended, tenant, c.Deliveries) })
		}
	}
	return in, nil
}

// Go lets the workers begin. Call it once.
func (in *Inserter) Go() { close(in.start) }

func (in *Inserter) work(ctx context.Context, tenant uuid.UUID, deliveries <-chan amqp.Delivery) error {
	select {
	case <-in.start:
	case <-ctx.Done():
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, open := <-deliveries:
			if !open {
				return nil
			}
			if err := in.insert(ctx, tenant, d); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

func (in *Inserter) insert(ctx context.Context, tenant uuid.UUID, d amqp.Delivery) error {
	_, err := in.rig.Database.Exec(ctx, `
		INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, id) DO NOTHING`,
		tenant, d.MessageId, d.Body)
	if err != nil {
		return fmt.Errorf("insert: %w", err)
	}
	if err := d.Ack(false); err != nil {
		return fmt.Errorf("acknowledge: %w", err)
	}
	if in.stored.Add(1) == in.target.Load() {
		in.reached <- struct{}{}
	}
	return nil
}

// Await returns when n messages have been stored and acknowledged since the start. Call it once, before [Inserter.Go] or
// when fewer than n can have been stored.
func (in *Inserter) Await(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	in.target.Store(int64(n))
	if in.stored.Load() >= int64(n) {
		return nil
	}
	select {
	case <-in.reached:
		return nil
	case <-in.ended.Done(): // Stop tells why
		return errEnded
	case <-ctx.Done():
		return fmt.Errorf("%d of %d messages are stored: %w", in.stored.Load(), n, ctx.Err())
	}
}

// Stop ends the consumers; what they have not acknowledged goes back to its queue.
func (in *Inserter) Stop() error {
	in.cancel()
	err := in.group.Wait()
	var ending sync.WaitGroup
	failures := make([]error, len(in.consumptions))
	for i, c := range in.consumptions {
		ending.Go(func() { failures[i] = end(c) })
	}
	ending.Wait()
	return errors.Join(append(failures, err)...)
}
