package deadletter

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/bisect"
)

const (
	// maxBatch and batchBytes end a batch. AMQP has no limit in bytes for what a consumer holds, and bodies can have
	// 16 MiB (RabbitMQ 4) or 128 MiB (3.10), so the number is kept small.
	maxBatch   = 64
	batchBytes = 8 << 20
	// holdTimeout is how long dead letters are held while the database is away, before they go back to their queue. The broker
	// closes a channel that holds one for 30 minutes.
	holdTimeout = 10 * time.Minute
	// firstRetry and longestRetry bound the pause before the next try.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// errHeld says that dead letters were held for too long.
var errHeld = errors.New("the database has been away for too long; the dead letters go back to their queue")

// recorderStore is what a [Recorder] needs of [Store]. Tests make it fail.
type recorderStore interface {
	Record(ctx context.Context, entries []Entry) (discarded int, err error)
}

// Links are the connections of a [Recorder]. Each queue has one to itself: there are messages that the broker cannot deliver without
// ending the connection.
type Links struct {
	Letters, Parked *rabbitmq.Link
	// Shared is for looks at the quarantine. Nothing is consumed on it.
	Shared *rabbitmq.Link
}

// Recorder moves dead letters and parked messages from the broker into the table.
//
// A message that ends the connection at each delivery is never seen, and comes again on the next connection. The broker puts it into
// quarantine once it was delivered too often, and takes whatever is held together with it for delivered as well; so every
// connection begins with one message at a time, and only what does the harm is delivered again and again.
type Recorder struct {
	links   Links
	store   recorderStore
	ping    func(context.Context) error
	metrics *Metrics
	faults  *faults
	log     *zap.Logger
}

// NewRecorder returns a recorder. ping asks the database whether it can be written to. report is called with what keeps dead letters from
// being recorded, nil for nothing, whenever that may have changed, and once before NewRecorder returns.
func NewRecorder(links Links, store *Store, ping func(context.Context) error, metrics *Metrics, report func(error), log *zap.Logger) *Recorder {
	return &Recorder{links: links, store: store, ping: ping, metrics: metrics, faults: newFaults(report), log: log}
}

// Run records until ctx ends. Then it commits and acknowledges what it is at, and gives the rest back.
func (r *Recorder) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { r.keep(ctx, r.links.Letters, contract.DeadLettersQueue, fromDeadLetters); return nil })
	group.Go(func() error { r.keep(ctx, r.links.Parked, contract.ParkingQueue, fromParking); return nil })
	group.Go(func() error { r.watchQuarantine(ctx); return nil })
	return group.Wait()
}

// reading makes a dead letter of a delivery.
type reading func(d rabbitmq.Delivery, now time.Time) Entry

// keep consumes queue until ctx ends, beginning anew after every fault.
func (r *Recorder) keep(ctx context.Context, link *rabbitmq.Link, queue string, read reading) {
	log := r.log.With(zap.String("queue", queue))
	pauses := retry.Backoff(firstRetry, longestRetry)
	lost := &losses{Recorder: r, queue: queue}
	for {
		began := time.Now()
		var over <-chan struct{}
		session, err := link.Session(ctx)
		if err == nil {
			over = session.Done()
			err = r.consume(ctx, log, session, queue, read, lost.held)
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("recording dead letters was interrupted", zap.Error(err))
		if errors.Is(err, errHeld) {
			r.awaitDatabase(ctx)
		}
		if time.Since(began) > longestRetry {
			pauses.Reset()
		}
		timer := time.NewTimer(pauses.NextBackOff())
		select {
		case <-timer.C:
		case <-over: // the link makes the pause
			timer.Stop()
			pauses.Reset()
			if lost.lost(session.Err()); lost.count > lossesBeforePause && retry.Sleep(ctx, longestRetry) != nil {
				return
			}
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// awaitDatabase returns when the database can be written to. Until then dead letters stay in their queue: each time that they are given
// back counts towards its delivery limit.
func (r *Recorder) awaitDatabase(ctx context.Context) {
	for r.ping(ctx) != nil && retry.Sleep(ctx, longestRetry) == nil {
	}
}

// consume records what comes from queue until ctx ends or something fails for good. held is called when deliveries do no harm.
func (r *Recorder) consume(ctx context.Context, log *zap.Logger, session *rabbitmq.Session, queue string, read reading, held func()) error {
	const one = 1
	if err := r.consumeSome(ctx, log, session, queue, read, held, one, maxBatch); err != nil {
		return err
	}
	return r.consumeSome(ctx, log, session, queue, read, held, maxBatch, math.MaxInt)
}

// consumeSome is consume for as many dead letters.
func (r *Recorder) consumeSome(
	ctx context.Context, log *zap.Logger, session *rabbitmq.Session, queue string, read reading, held func(), prefetch, left int,
) error {
	consumption, err := session.ConsumeBatches(ctx, queue, "recorder", prefetch)
	if err != nil {
		return err
	}
	defer consumption.Release()
	harmless := time.NewTimer(hold)
	defer harmless.Stop()
	for left > 0 {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), consumption.Stop())
		case <-consumption.Deliveries: // only ever closed
			return fmt.Errorf("%w: the consumer was cancelled", rabbitmq.ErrUnavailable)
		case <-consumption.Done():
			return fmt.Errorf("%w: the connection was lost", rabbitmq.ErrUnavailable)
		case <-harmless.C:
			held()
			continue
		case <-consumption.Ready():
		}
		for arrived := consumption.Drain(nil); len(arrived) > 0 && ctx.Err() == nil; {
			deliveries := arrived[:batch(arrived)]
			arrived = arrived[len(deliveries):]
			if err := r.recordAll(ctx, log, deliveries, read, consumption.Done()); err != nil {
				return errors.Join(err, consumption.Stop())
			}
			if err := consumption.Ack(deliveries[len(deliveries)-1].DeliveryTag, true); err != nil {
				return fmt.Errorf("acknowledge dead letters: %w", err)
			}
			left -= len(deliveries)
		}
	}
	return errors.Join(ctx.Err(), consumption.Stop())
}

// recordAll records deliveries.
func (r *Recorder) recordAll(ctx context.Context, log *zap.Logger, deliveries []rabbitmq.Delivery, read reading, lost <-chan struct{}) error {
	entries := make([]Entry, 0, len(deliveries))
	for _, d := range deliveries {
		if !isCanary(d) {
			entries = append(entries, read(d, time.Now()))
		}
	}
	return r.record(ctx, log, entries, lost)
}

// batch is how many of what has arrived are recorded together.
func batch(arrived []rabbitmq.Delivery) (n int) {
	for size := 0; n < len(arrived) && n < maxBatch && size < batchBytes; n++ {
		size += len(arrived[n].Body) + len(arrived[n].Properties)
	}
	return n
}

// lastTry is what a try that is under way may still take when ctx has ended.
const lastTry = 3 * time.Second

// record commits dead letters, trying again until it succeeds, ctx ends, the session is lost, or it has taken too long. The
// end of ctx leaves a try that is under way a little time.
func (r *Recorder) record(ctx context.Context, log *zap.Logger, entries []Entry, lost <-chan struct{}) error {
	if len(entries) == 0 {
		return nil
	}
	pauses := retry.Backoff(firstRetry, longestRetry)
	for held := time.Now(); ; {
		err := r.try(ctx, log, entries)
		if err == nil {
			return nil
		}
		log.Warn("dead letters could not be recorded; it will be repeated", zap.Int("letters", len(entries)), zap.Error(err))
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
func (r *Recorder) try(ctx context.Context, log *zap.Logger, entries []Entry) error {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		if retry.Sleep(own, lastTry) == nil {
			cancel()
		}
	})()
	return r.write(own, log, entries)
}

// write tries once. A dead letter that the database refuses for its content is kept with its bytes, payload and properties,
// and without texts that people have written.
func (r *Recorder) write(ctx context.Context, log *zap.Logger, entries []Entry) error {
	insert := func(from, to int) error { return r.insert(ctx, entries[from:to]) }
	return bisect.Range(0, len(entries), insert, func(i int, refused error) error {
		bare := entries[i]
		log.Error("a dead letter is kept without its texts, which the database refuses",
			zap.Stringer("tenant_id", bare.TenantID), zap.Stringer("dead_letter_id", bare.ID), zap.Error(refused))
		bare.OriginalMessageID, bare.ContentType, bare.Headers, bare.Error = "", "", []byte(`{}`), ""
		return r.insert(ctx, []Entry{bare}) // after an error it is tried again, and stays in its queue
	})
}

// insert records dead letters in one transaction.
func (r *Recorder) insert(ctx context.Context, entries []Entry) error {
	discarded, err := r.store.Record(ctx, entries)
	if err != nil {
		return err
	}
	r.metrics.discarded.Add(float64(discarded))
	r.metrics.recorded.Add(float64(len(entries) - discarded))
	return nil
}
