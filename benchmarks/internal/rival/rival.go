// Package rival is what the platform is held against: the limits of the machine below it, and other ways to do its work.
//
// Limits are lean on purpose: [Discard] takes and throws away, [Copy] gives PostgreSQL rows in the one way that is faster
// than any statement. No client can store messages faster than both of them one after the other, unless it does both at
// a time.
//
// The other ways keep the platform's guarantee: they acknowledge after the commit. [OneInsert] and [Gorm] also store a
// message that comes twice once; [Watermill] stores it twice. They run in the benchmark's own process, without HTTP, metrics,
// checks of payloads, dead letters or isolation, which is in their favour.
package rival

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// prefetch is that of ingest-service.
	prefetch = 2000
	// batch is the size of its batches.
	batch = 500
)

// Drain empties the backlog of n messages of a suspended tenant and returns the time that took.
type Drain func(ctx context.Context, r *rig.Rig, tenant uuid.UUID, workers, n int) (time.Duration, error)

// errEnded says that the broker has ended a consumer.
var errEnded = errors.New("the broker ended the consumer")

func start(ctx context.Context, r *rig.Rig, tenant uuid.UUID, prefetch int) (*consume.Consumer, error) {
	session, err := r.Link.Session(ctx)
	if err != nil {
		return nil, err
	}
	return consume.Plain(ctx, session, contract.QueueName(tenant.String()), "benchmark-"+uuid.NewString(), prefetch)
}

// end closes a consumer of which nothing more is wanted.
func end(c *consume.Consumer) error {
	err := c.Stop()
	c.Release()
	return err
}

// next is the next delivery.
func next(ctx context.Context, c *consume.Consumer) (amqp.Delivery, error) {
	select {
	case d, open := <-c.Deliveries:
		if !open {
			return d, errEnded
		}
		return d, nil
	case <-ctx.Done():
		return amqp.Delivery{}, fmt.Errorf("wait for a delivery: %w", ctx.Err())
	}
}

// Discard is the limit of taking: n deliveries are acknowledged 500 at a time and forgotten. It needs one consumer,
// whatever workers says.
func Discard(ctx context.Context, r *rig.Rig, tenant uuid.UUID, _, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	began := time.Now()
	c, err := start(ctx, r, tenant, prefetch)
	if err != nil {
		return 0, err
	}
	for i := 1; i <= n; i++ {
		d, err := next(ctx, c)
		if err == nil && (i%batch == 0 || i == n) {
			err = c.Ack(d.DeliveryTag, true)
		}
		if err != nil {
			return 0, errors.Join(fmt.Errorf("discard: %w", err), end(c))
		}
	}
	took := time.Since(began)
	return took, end(c)
}

// Copy is the limit of storing: n rows go into the tenant's partition by COPY, 500 a transaction, over so many connections
// of an operator, who is bound by no policy. All that could be computed once is: the ids are made before, and the epoch
// is a constant, where the column's default would ask for it row by row.
func Copy(ctx context.Context, r *rig.Rig, tenant uuid.UUID, connections, n int, payload []byte) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	var epoch int32
	if err := r.Database.QueryRow(ctx, `SELECT reading_epoch()`).Scan(&epoch); err != nil {
		return 0, fmt.Errorf("read the epoch: %w", err)
	}
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	columns := []string{"tenant_id", "id", "payload", "epoch", "ord"}
	var taken atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	began := time.Now()
	for range connections {
		group.Go(func() error {
			connection, err := r.Database.Acquire(ctx)
			if err != nil {
				return fmt.Errorf("copy: %w", err)
			}
			defer connection.Release()
			row := make([]any, len(columns))
			for {
				from := int(taken.Add(batch)) - batch
				if from >= n {
					return nil
				}
				_, err := connection.CopyFrom(ctx, rig.Partition(tenant), columns, pgx.CopyFromSlice(min(batch, n-from), func(i int) ([]any, error) {
					row[0], row[1], row[2], row[3], row[4] = tenant, ids[from+i], payload, epoch, int32(i)
					return row, nil
				}))
				if err != nil {
					return fmt.Errorf("copy: %w", err)
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// Ceiling is the rate of a client that takes as fast as [Discard] and stores as fast as [Copy], one after the other.
func Ceiling(discard, stored float64) float64 { return 1 / (1/discard + 1/stored) }
