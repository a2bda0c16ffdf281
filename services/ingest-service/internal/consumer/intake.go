package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

const (
	// minPrefetch is how far a consumer with large messages is throttled: one that is written, one that is on its way.
	minPrefetch = 2
	// prefetchStep is by how much the prefetch is lowered and raised.
	prefetchStep = 4
	// prefetchCooldown is how long a lowered prefetch stays before it is raised again.
	prefetchCooldown = time.Minute
)

var (
	errIntakeClosed = errors.New("the broker ended the consumer")
	errOverBudget   = errors.New("large messages: starting over with a lower prefetch")
	errRaise        = errors.New("starting over with a higher prefetch")
	errForeignKey   = errors.New("the routing key is not the tenant of the queue")
)

// intake is one consumer on one channel. Its fields are owned by the goroutine of run; writers own their batch until
// they have sent it back through results.
//
//	deliveries ──▶ current ──▶ writers (at most Workers) ──▶ results ──▶ tracker ──▶ ack
type intake struct {
	*Consumer
	consumption *rabbitmq.Consumption
	tracker     batch.Tracker

	current   *batch.Batch // being gathered; nil while there is none
	firstTag  uint64       // of current
	lastTag   uint64       // taken last
	gathering time.Time    // when current was begun

	busy    int
	results chan result // unbuffered: run takes every result before it returns

	meanBytes int64 // moving average of the size of a body
	claimed   bool

	timer *time.Timer // fires when current has waited long enough, a hole is old, or the prefetch may be raised
}

type result struct {
	span  *batch.Span
	batch *batch.Batch
	err   error
}

func newIntake(c *Consumer, consumption *rabbitmq.Consumption) *intake {
	timer := time.NewTimer(0)
	timer.Stop()
	return &intake{Consumer: c, consumption: consumption, results: make(chan result), timer: timer}
}

// run takes deliveries until ctx ends, the channel dies, or a batch says that it makes no sense to go on.
func (in *intake) run(ctx context.Context) error {
	// Writers outlive ctx, so that what is in flight is finished; patience ends with it, so that nobody waits for a
	// database that is away. Both end at once with the channel: what they write comes again.
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	patience, hurry := context.WithCancel(work)
	defer hurry()

	in.state.Consuming.Store(true)
	in.onChange(nil)
	if in.prefetch < in.cfg.Prefetch {
		in.timer.Reset(prefetchCooldown)
	}
	began := time.Now()
	err := in.loop(ctx, work, patience, began)

	hurry()
	if !errors.Is(err, errIntakeClosed) {
		in.finish(work, patience)
	} else {
		abandon()
		in.collect()
		in.consumption.Release() // the channel outlives a consumer that the broker has cancelled
	}
	in.timer.Stop()
	in.budget.release(in.Consumer)
	in.state.Consuming.Store(false)
	in.state.Unacked.Store(0)
	in.state.Busy.Store(0)
	switch {
	case errors.Is(err, errOverBudget):
		in.prefetch = max(in.prefetch/prefetchStep, minPrefetch)
	case errors.Is(err, errRaise):
		in.prefetch = min(in.prefetch*prefetchStep, in.cfg.Prefetch)
		return nil
	}
	return err
}

func (in *intake) loop(ctx, work, patience context.Context, began time.Time) error {
	for {
		// A nil channel is never ready: with a full batch and no writer free, the intake stands still.
		deliveries := in.consumption.Deliveries
		if in.full() {
			deliveries = nil
		}
		select {
		case d, open := <-deliveries:
			if !open {
				return errIntakeClosed
			}
			if err := in.take(d); err != nil {
				return err
			}
		case r := <-in.results:
			if err := in.settle(r); err != nil {
				return err
			}
		case <-in.resized:
		case now := <-in.timer.C:
			in.passHoles(now)
			if in.prefetch < in.cfg.Prefetch && now.Sub(began) >= prefetchCooldown && in.idle() {
				return errRaise
			}
		case <-in.consumption.Done():
			return errIntakeClosed
		case <-ctx.Done():
			return ctx.Err()
		}
		in.dispatch(work, patience)
		in.arm(began)
	}
}

// take adds a delivery and all that can be had without waiting: one select for each would cost more than the rest.
func (in *intake) take(d amqp.Delivery) error {
	in.add(d)
	for !in.full() {
		select {
		case d, open := <-in.consumption.Deliveries:
			if !open {
				return errIntakeClosed
			}
			in.add(d)
			continue
		default:
		}
		return nil
	}
	if !in.withinBudget() {
		return errOverBudget
	}
	return nil
}

func (in *intake) add(d amqp.Delivery) {
	if in.current == nil {
		in.current = &batch.Batch{Tenant: in.tenant, MaxAttempts: int(in.maxAttempts.Load())}
		in.firstTag = d.DeliveryTag
		in.gathering = time.Now()
	}
	in.lastTag = d.DeliveryTag
	size := int64(len(d.Body))
	in.meanBytes += (size - in.meanBytes) / 16
	in.current.Bytes += size
	in.state.Unacked.Add(1)

	id := in.messageID(d)
	index := len(in.current.Deliveries)
	if reason, err := in.check(d); err != nil {
		in.current.Rejected = append(in.current.Rejected, batch.Rejection{Delivery: index, ID: id, Reason: reason, Err: err})
	} else {
		in.current.Messages = append(in.current.Messages, store.Message{ID: id, Payload: d.Body})
		in.current.Index = append(in.current.Index, index)
	}
	in.current.Deliveries = append(in.current.Deliveries, d)
}

// check tells why a delivery cannot be stored.
func (in *intake) check(d amqp.Delivery) (contract.Reason, error) {
	if d.RoutingKey != in.tenant.String() {
		return contract.ReasonForeignKey, errForeignKey
	}
	err := contract.CheckPayload(d.Body, in.cfg.MaxPayload)
	if bad, ok := errors.AsType[*contract.PayloadError](err); ok {
		return bad.Reason, err
	}
	return "", err
}

// messageID is the id under which a delivery is stored: its message id if that is a UUID, else one that follows from it
// and the tenant, else a random one.
func (in *intake) messageID(d amqp.Delivery) uuid.UUID {
	if d.MessageId == "" {
		in.state.WithoutID.Add(1)
		return uuid.New()
	}
	return contract.MessageID(in.tenant, d.MessageId)
}

func (in *intake) full() bool {
	return in.current != nil &&
		(len(in.current.Deliveries) >= in.cfg.BatchMessages || in.current.Bytes >= in.cfg.BatchBytes)
}

func (in *intake) idle() bool { return in.busy == 0 && in.current == nil }

// dispatch hands the batch to a writer: at once if none is busy, so that a lone message waits for nothing; otherwise
// when it is full or has waited, so that a backlog is committed in large pieces.
func (in *intake) dispatch(work, patience context.Context) {
	if in.current == nil || in.busy >= int(in.state.Workers.Load()) {
		return
	}
	if in.busy > 0 && !in.full() && time.Since(in.gathering) < in.cfg.BatchDelay {
		return
	}
	b := in.current
	in.current = nil
	span := in.tracker.Open(in.firstTag, in.lastTag)
	in.busy++
	in.state.Busy.Store(int64(in.busy))
	go func() {
		in.results <- result{span: span, batch: b, err: in.writer.Write(work, patience, b, &in.state.Stats)}
	}()
}

// settle takes a finished batch back and acknowledges what can be.
func (in *intake) settle(r result) error {
	in.busy--
	in.state.Busy.Store(int64(in.busy))
	if r.err != nil {
		return r.err
	}
	in.tracker.Finish(r.span, time.Now())
	in.state.Unacked.Add(-int64(r.span.Last - r.span.First + 1))
	if tag, ok := in.tracker.Prefix(); ok {
		if err := in.consumption.Ack(tag, true); err != nil {
			return errIntakeClosed // the channel is gone
		}
	}
	if in.idle() && in.claimed {
		in.budget.release(in.Consumer)
		in.claimed = false
	}
	return nil
}

// passHoles acknowledges one by one what has waited too long behind a batch that does not finish.
func (in *intake) passHoles(now time.Time) {
	for _, span := range in.tracker.Beyond(now, in.cfg.HoleLimit) {
		for tag := span.First; tag <= span.Last; tag++ {
			if err := in.consumption.Ack(tag, false); err != nil {
				return // the channel is gone; Done says so
			}
		}
	}
}

// arm sets the timer to the next thing that happens by itself. An idle consumer sets none.
func (in *intake) arm(began time.Time) {
	var next time.Time
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if in.current != nil && in.busy > 0 && in.busy < int(in.state.Workers.Load()) {
		sooner(in.gathering.Add(in.cfg.BatchDelay))
	}
	if since, waiting := in.tracker.Waiting(); waiting {
		sooner(since.Add(in.cfg.HoleLimit))
	}
	if in.prefetch < in.cfg.Prefetch {
		at := began.Add(prefetchCooldown)
		if !at.After(time.Now()) {
			at = time.Now().Add(prefetchCooldown)
		}
		sooner(at)
	}
	if next.IsZero() {
		in.timer.Stop()
		return
	}
	in.timer.Reset(time.Until(next))
}

func (in *intake) withinBudget() bool {
	in.claimed = true
	return in.budget.claim(in.Consumer, max(in.meanBytes, 1)*int64(in.prefetch)) || in.prefetch == minPrefetch
}

// finish ends the intake in order: nothing more is taken, what was gathered is written, what is written is
// acknowledged, and the rest goes back without counting as a failed delivery.
func (in *intake) finish(work, patience context.Context) {
	if err := in.consumption.Stop(); err != nil {
		in.log.Debug("the consumer could not be stopped in order", zap.Error(err))
	}
	if in.busy < int(in.state.Workers.Load()) && in.current != nil && in.gate.Err() == nil {
		in.gathering = time.Time{} // it has waited long enough
		in.dispatch(work, patience)
	}
	in.collect()
	in.passHoles(time.Now().Add(in.cfg.HoleLimit))
	in.consumption.Release()
}

// collect waits for all writers.
func (in *intake) collect() {
	for in.busy > 0 {
		if err := in.settle(<-in.results); err != nil {
			in.log.Debug("a batch goes back to its queue", zap.Error(err))
		}
	}
}
