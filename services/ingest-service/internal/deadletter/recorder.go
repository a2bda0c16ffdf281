package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/bisect"
)

const (
	// batchBytes ends a batch, besides the prefetch.
	batchBytes = 8 << 20
	// probation is how many small dead letters in a row have to come one at a time before they come many at a time.
	probation = 64
	// holdTimeout is how long dead letters are held while the database is away, before they go back to their queue. The broker
	// closes a channel that holds one for 30 minutes.
	holdTimeout = 10 * time.Minute
	// firstRetry and longestRetry bound the pause before the next try.
	firstRetry   = 100 * time.Millisecond
	longestRetry = 10 * time.Second
)

// limits are numbers that tests make smaller.
type limits struct {
	// prefetch is how many small dead letters are held. AMQP has no limit in bytes for what a consumer holds, and bodies can have 16 MiB
	// (RabbitMQ 4) or 128 MiB (3.10), so the number is kept small: as many large ones can come before the first was looked at.
	prefetch int
	// large is the size in bytes above which a dead letter is moved to the queue of large ones.
	large int
	// tries is how often a large dead letter may take too long to be recorded before it is put into quarantine.
	tries int
}

// usual are the limits of a recorder.
func usual() limits { return limits{prefetch: 16, large: 1 << 20, tries: 5} }

// errHeld says that dead letters were held for too long.
var errHeld = errors.New("the database has been away for too long; the dead letters go back to their queue")

// recorderStore is what a [Recorder] needs of [Store]. Tests make it fail.
type recorderStore interface {
	Record(ctx context.Context, entries []Entry) (discarded int, err error)
}

// Links are the connections of a [Recorder]. Each queue has one to itself: there are messages that the broker cannot deliver without
// ending the connection.
type Links struct {
	DeadLetters, Parked, Large *conn.Link
	// Shared is for looks at the quarantine. Nothing is consumed on it.
	Shared *conn.Link
}

// Recorder moves dead letters and parked messages from the broker into the table.
//
// A message that ends the connection at each delivery is never seen, and comes again on the next connection. The broker puts it into
// quarantine once it was delivered too often, and takes whatever is held together with it for delivered as well; so every
// connection begins with one message at a time, and only what does the harm is delivered again and again.
//
// A large dead letter takes the database as long as thousands of small ones, so it is moved to a queue of its own kind, and recorded from
// there, one at a time: see large.go.
type Recorder struct {
	limits  limits
	links   Links
	store   recorderStore
	ping    func(context.Context) error // whether the database can be written to
	metrics *Metrics
	faults  *faults
	log     *zap.Logger
}

// NewRecorder returns a recorder. report is called with what keeps dead letters from
// being recorded, nil for nothing, whenever that may have changed, and once before NewRecorder returns.
func NewRecorder(links Links, store *Store, metrics *Metrics, report func(error), log *zap.Logger) *Recorder {
	return &Recorder{
		limits: usual(), links: links, store: store, ping: store.Ping, metrics: metrics, faults: newFaults(report), log: log,
	}
}

// Run records until ctx ends. Then it commits and acknowledges what it is at, and gives the rest back.
func (r *Recorder) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, s := range []source{
		{link: r.links.DeadLetters, queue: contract.DeadLettersQueue, read: fromDeadLetters},
		{link: r.links.Parked, queue: contract.ParkingQueue, read: fromParking},
		{link: r.links.Large, queue: contract.LargeDeadLettersQueue, read: fromDeadLetters, large: true},
	} {
		group.Go(func() error { r.keep(ctx, s); return nil })
	}
	group.Go(func() error { r.watchQuarantine(ctx); return nil })
	return group.Wait()
}

// reading makes a dead letter of a delivery.
type reading func(d consume.Delivery, now time.Time) Entry

// source is a queue of dead letters.
type source struct {
	link  *conn.Link
	queue string
	read  reading
	large bool // it has the large ones
}

// keep consumes a queue until ctx ends, beginning anew after every fault.
func (r *Recorder) keep(ctx context.Context, s source) {
	log := r.log.With(zap.String("queue", s.queue))
	pauses := retry.Backoff(firstRetry, longestRetry)
	lost := &losses{recorder: r, queue: s.queue}
	for {
		began := time.Now()
		var over <-chan struct{}
		session, err := s.link.Session(ctx)
		if err == nil {
			over = session.Done()
			err = r.consume(ctx, log, session, s, lost.held)
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
	for r.ping(ctx) != nil {
		if retry.Sleep(ctx, longestRetry) != nil {
			return
		}
	}
}

// consume records what comes from s until ctx ends or something fails for good. held is called when deliveries do no harm.
func (r *Recorder) consume(ctx context.Context, log *zap.Logger, session *conn.Session, s source, held func()) error {
	const one = 1
	for {
		if err := r.consumeSome(ctx, log, session, s, held, one); err != nil {
			return err
		}
		if err := r.consumeSome(ctx, log, session, s, held, r.limits.prefetch); err != nil {
			return err
		}
	}
}

// consumeSome is consume with a prefetch, as long as it is the right one: one, until [probation] small ones have come, and
// more until a large one has.
func (r *Recorder) consumeSome(
	ctx context.Context, log *zap.Logger, session *conn.Session, s source, held func(), prefetch int,
) error {
	consumption, err := consume.Start(ctx, session, s.queue, "recorder", prefetch)
	if err != nil {
		return err
	}
	defer consumption.Release()
	harmless := time.NewTimer(hold)
	defer harmless.Stop()
	for small := 0; prefetch > 1 || s.large || small < probation; {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), consumption.Stop())
		case <-consumption.Ended():
			return fmt.Errorf("%w: the consumer was cancelled", conn.ErrUnavailable)
		case <-consumption.Done():
			return fmt.Errorf("%w: the connection was lost", conn.ErrUnavailable)
		case <-harmless.C:
			held()
			continue
		case <-consumption.Ready():
		}
		arrived := consumption.Drain(nil)
		small += len(arrived)
		if slices.ContainsFunc(arrived, r.large) {
			small = 0
			if prefetch > 1 { // nothing more of that size, as soon as possible
				return errors.Join(consumption.Stop(), r.recordArrived(ctx, log, consumption, s, arrived), ctx.Err())
			}
		}
		if err := r.recordArrived(ctx, log, consumption, s, arrived); err != nil {
			return errors.Join(err, consumption.Stop())
		}
	}
	return errors.Join(ctx.Err(), consumption.Stop())
}

// recordArrived records and acknowledges what has arrived, until ctx ends.
func (r *Recorder) recordArrived(
	ctx context.Context, log *zap.Logger, consumption *consume.Consumer, s source, arrived []consume.Delivery,
) error {
	for len(arrived) > 0 && ctx.Err() == nil {
		deliveries := arrived[:batch(arrived)]
		arrived = arrived[len(deliveries):]
		if err := r.recordAll(ctx, log, s, deliveries, consumption.Done()); err != nil {
			return err
		}
		if err := consumption.Ack(deliveries[len(deliveries)-1].DeliveryTag, true); err != nil {
			return fmt.Errorf("acknowledge dead letters: %w", err)
		}
		clear(deliveries) // they would keep their bodies
	}
	return nil
}

// recordAll records deliveries: the small ones first, together, then each large one.
func (r *Recorder) recordAll(ctx context.Context, log *zap.Logger, s source, deliveries []consume.Delivery, lost <-chan struct{}) error {
	entries := make([]Entry, 0, len(deliveries))
	for _, d := range deliveries {
		if !isCanary(d) && !s.large && !r.large(d) {
			entries = append(entries, s.read(d, time.Now()))
		}
	}
	if err := r.record(ctx, log, entries, lost, never); err != nil {
		return err
	}
	for _, d := range deliveries {
		var err error
		switch {
		case isCanary(d):
		case s.large:
			err = r.recordLarge(ctx, log, s.read(d, time.Now()), tries(d), lost)
		case r.large(d):
			err = r.divert(ctx, log, s.read(d, time.Now()), lost)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// batch is how many of what has arrived are recorded together.
func batch(arrived []consume.Delivery) (n int) {
	for size := 0; n < len(arrived) && size < batchBytes; n++ {
		size += sizeOf(arrived[n])
	}
	return n
}

// never is for dead letters that are not given up.
func never(error) bool { return false }

// lastTry is what a try that is under way may still take when ctx has ended.
const lastTry = 3 * time.Second

// record commits dead letters, trying again until it succeeds, ctx ends, the session is lost, it has taken too long, or giveUp says so of
// an error. The end of ctx leaves a try that is under way a little time.
func (r *Recorder) record(ctx context.Context, log *zap.Logger, entries []Entry, lost <-chan struct{}, giveUp func(error) bool) error {
	if len(entries) == 0 {
		return nil
	}
	pauses := retry.Backoff(firstRetry, longestRetry)
	for held := time.Now(); ; {
		err := r.try(ctx, log, entries)
		if err == nil {
			return nil
		}
		if giveUp(err) {
			return err
		}
		log.Warn("dead letters could not be recorded; it will be repeated", zap.Int("dead_letters", len(entries)), zap.Error(err))
		if time.Since(held) > holdTimeout {
			return fmt.Errorf("%w: %w", errHeld, err)
		}
		select {
		case <-time.After(pauses.NextBackOff()):
		case <-lost:
			return fmt.Errorf("%w while dead letters were held", conn.ErrUnavailable)
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
