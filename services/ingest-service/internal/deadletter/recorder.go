package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/bisect"
)

const (
	// batchLetters and batchBytes end a batch. AMQP has no limit in bytes for what a consumer holds, and bodies can have
	// 16 MiB (RabbitMQ 4) or 128 MiB (3.10), so the number is kept small.
	batchLetters = 64
	batchBytes   = 8 << 20
	// holdTimeout is how long letters are held while the database is away, before they go back to their queue. The broker
	// closes a channel that holds one for 30 minutes.
	holdTimeout = 10 * time.Minute
	// firstRetry and longestRetry bound the pause before the next try.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// errHeld says that letters were held for too long.
var errHeld = errors.New("the database has been away for too long; the dead letters go back to their queue")

// recorderStore is what a [Recorder] needs of [Store]. Tests make it fail.
type recorderStore interface {
	Record(ctx context.Context, letters []Letter) (discarded int, err error)
}

// Recorder moves dead letters and parked messages from the broker into the table.
type Recorder struct {
	link    *rabbitmq.Link
	store   recorderStore
	metrics *Metrics
	log     *zap.Logger
}

// NewRecorder returns a recorder that consumes over link.
func NewRecorder(link *rabbitmq.Link, store *Store, metrics *Metrics, log *zap.Logger) *Recorder {
	return &Recorder{link: link, store: store, metrics: metrics, log: log}
}

// Run records until ctx ends. Then it commits and acknowledges what it is at, and gives the rest back.
func (r *Recorder) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { r.keep(ctx, contract.DeadLettersQueue, fromDeadLetters); return nil })
	group.Go(func() error { r.keep(ctx, contract.ParkingQueue, fromParking); return nil })
	return group.Wait()
}

// keep consumes queue until ctx ends, beginning anew after every fault.
func (r *Recorder) keep(ctx context.Context, queue string, read func(rabbitmq.Delivery, time.Time) Letter) {
	log := r.log.With(zap.String("queue", queue))
	pauses := retry.Backoff(firstRetry, longestRetry)
	for {
		began := time.Now()
		err := r.consume(ctx, log, queue, read)
		if ctx.Err() != nil {
			return
		}
		log.Warn("recording dead letters was interrupted", zap.Error(err))
		if time.Since(began) > longestRetry {
			pauses.Reset()
		}
		if retry.Sleep(ctx, pauses.NextBackOff()) != nil {
			return
		}
	}
}

// consume records what comes from queue until ctx ends or something fails for good.
func (r *Recorder) consume(ctx context.Context, log *zap.Logger, queue string, read func(rabbitmq.Delivery, time.Time) Letter) error {
	session, err := r.link.Session(ctx)
	if err != nil {
		return err
	}
	consumption, err := session.ConsumeBatches(ctx, queue, "recorder", batchLetters)
	if err != nil {
		return err
	}
	defer consumption.Release()
	for {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), consumption.Stop())
		case <-consumption.Deliveries: // only ever closed
			return fmt.Errorf("%w: the consumer was cancelled", rabbitmq.ErrUnavailable)
		case <-consumption.Done():
			return fmt.Errorf("%w: the connection was lost", rabbitmq.ErrUnavailable)
		case <-consumption.Ready():
		}
		for arrived := consumption.Take(nil); len(arrived) > 0 && ctx.Err() == nil; {
			deliveries := arrived[:batch(arrived)]
			arrived = arrived[len(deliveries):]
			letters := make([]Letter, 0, len(deliveries))
			for _, d := range deliveries {
				if !isCanary(d) {
					letters = append(letters, read(d, time.Now()))
				}
			}
			if err := r.record(ctx, log, letters, consumption.Done()); err != nil {
				return errors.Join(err, consumption.Stop())
			}
			if err := consumption.Ack(deliveries[len(deliveries)-1].DeliveryTag, true); err != nil {
				return fmt.Errorf("acknowledge dead letters: %w", err)
			}
		}
	}
}

// batch is how many of what has arrived are recorded together.
func batch(arrived []rabbitmq.Delivery) (n int) {
	for size := 0; n < len(arrived) && n < batchLetters && size < batchBytes; n++ {
		size += len(arrived[n].Body) + len(arrived[n].Properties)
	}
	return n
}

// lastTry is what a try that is under way may still take when ctx has ended.
const lastTry = 3 * time.Second

// record commits letters, trying again until it succeeds, ctx ends, the session is lost, or it has taken too long. The
// end of ctx leaves a try that is under way a little time.
func (r *Recorder) record(ctx context.Context, log *zap.Logger, letters []Letter, lost <-chan struct{}) error {
	if len(letters) == 0 {
		return nil
	}
	pauses := retry.Backoff(firstRetry, longestRetry)
	for held := time.Now(); ; {
		err := r.try(ctx, log, letters)
		if err == nil {
			return nil
		}
		log.Warn("dead letters could not be recorded; it will be repeated", zap.Int("letters", len(letters)), zap.Error(err))
		if time.Since(held) > holdTimeout {
			return fmt.Errorf("%w: %w", errHeld, err)
		}
		select {
		case <-time.After(pauses.NextBackOff()):
		case <-lost:
			return fmt.Errorf("%w while dead letters were held", rabbitmq.ErrUnavailable)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try writes under a context that ends a little later than ctx.
func (r *Recorder) try(ctx context.Context, log *zap.Logger, letters []Letter) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if retry.Sleep(own, lastTry) == nil {
			cancel()
		}
	})()
	return r.write(own, log, letters)
}

// write tries once. A dead letter that the database refuses for its content is kept with its bytes, payload and properties,
// and without texts that people have written.
func (r *Recorder) write(ctx context.Context, log *zap.Logger, letters []Letter) error {
	insert := func(from, to int) error { return r.insert(ctx, letters[from:to]) }
	return bisect.Range(0, len(letters), insert, func(i int, refused error) error {
		bare := letters[i]
		log.Error("a dead letter is kept without its texts, which the database refuses",
			zap.Stringer("tenant_id", bare.TenantID), zap.Stringer("dead_letter_id", bare.ID), zap.Error(refused))
		bare.OriginalMessageID, bare.ContentType, bare.Headers, bare.Error = "", "", []byte(`{}`), ""
		return r.insert(ctx, []Letter{bare}) // after an error it is tried again, and stays in its queue
	})
}

// insert records letters in one transaction.
func (r *Recorder) insert(ctx context.Context, letters []Letter) error {
	discarded, err := r.store.Record(ctx, letters)
	if err != nil {
		return err
	}
	r.metrics.discarded.Add(float64(discarded))
	r.metrics.recorded.Add(float64(len(letters) - discarded))
	return nil
}
