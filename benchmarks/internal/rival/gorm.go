package rival

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// gormMessage is a row of messages; all other columns have defaults.
type gormMessage struct {
	TenantID uuid.UUID `gorm:"type:uuid;primaryKey"`
	ID       string    `gorm:"type:uuid;primaryKey"`
	Payload  string    `gorm:"type:jsonb"`
}

// TableName implements gorm's Tabler.
func (gormMessage) TableName() string { return "messages" }

// gormDelay is how long a batch that is not full waits for another message: what ingest-service waits, too.
const gormDelay = 5 * time.Millisecond

// Gorm is batching with the usual means: so many workers, each with a consumer of its own, that gather up to 500 deliveries,
// store them with GORM's CreateInBatches and acknowledge them together.
func Gorm(ctx context.Context, r *rig.Rig, tenant uuid.UUID, workers, n int) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	db, closer, err := postgres.Gorm(r.Database, zap.NewNop())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	began := time.Now()
	working, done := context.WithCancel(ctx)
	defer done()
	var stored atomic.Int64
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			c, err := start(ctx, r, tenant, prefetch/workers)
			if err == nil {
				err = errors.Join(gormWork(working, db, tenant, c, &stored, int64(n)), end(c))
			}
			done() // all is stored, or nothing more will be
			return err
		})
	}
	err = group.Wait()
	took = time.Since(began)
	if err == nil && stored.Load() < int64(n) {
		err = fmt.Errorf("%d of %d messages are stored: %w", stored.Load(), n, ctx.Err())
	}
	return took, err
}

// gormWork stores until all n messages are stored or ctx ends.
func gormWork(ctx context.Context, db *gorm.DB, tenant uuid.UUID, c *consume.Consumer, stored *atomic.Int64, n int64) error {
	rows := make([]gormMessage, 0, batch)
	for stored.Load() < n {
		rows = rows[:0]
		last, err := gather(ctx, c, func(d amqp.Delivery) bool {
			rows = append(rows, gormMessage{TenantID: tenant, ID: d.MessageId, Payload: string(d.Body)})
			return len(rows) < batch
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		// What has been taken is finished, also when another worker has stored the last one meanwhile.
		orm := db.WithContext(context.WithoutCancel(ctx)).Clauses(clause.OnConflict{DoNothing: true})
		if err := orm.CreateInBatches(rows, batch).Error; err != nil {
			return fmt.Errorf("create in batches: %w", err)
		}
		if err := c.Ack(last, true); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		stored.Add(int64(len(rows)))
	}
	return nil
}

// gather gives deliveries to add until it answers false or none has come for a while. It returns the last tag. Nothing
// gathered and no error means that ctx has ended.
func gather(ctx context.Context, c *consume.Consumer, add func(d amqp.Delivery) bool) (last uint64, err error) {
	timer := time.NewTimer(gormDelay)
	defer timer.Stop()
	late := (<-chan time.Time)(nil) // the first one may take as long as it likes
	for {
		select {
		case d, open := <-c.Deliveries:
			if !open {
				return last, errEnded
			}
			last = d.DeliveryTag
			if !add(d) {
				return last, nil
			}
			if late == nil {
				timer.Reset(gormDelay)
				late = timer.C
			}
		case <-late:
			return last, nil
		case <-ctx.Done():
			return last, nil
		}
	}
}
