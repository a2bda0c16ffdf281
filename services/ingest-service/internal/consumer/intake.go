package consumer

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
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
	errRelocated    = errors.New("starting over on another connection")
)

// intake is one consumer on one channel. Its fields are owned by the goroutine of run; writers own their batch until
// they have sent it back through results.
//
//	deliveries ──▶ gatherer ──▶ slot ──▶ writers (at most Workers) ──▶ results ──▶ tracker ──▶ ack
type intake struct {
	*Consumer
	consumption *consume.Consumer
	fault       error // what is said of the tenant while it is consumed; nil as a rule
	began       time.Time

	// Writers outlive ctx, so that what is in flight is finished; waitCtx ends with it, so that nobody waits for a
	// database that is away. Both end at once with the channel: what they write comes again.
	ctx, workCtx, waitCtx  context.Context //nolint:containedctx // the life of this value is one run
	cancelWork, cancelWait context.CancelFunc

	// arrived is what was taken from the consumption, of which the first used are in a batch already.
	arrived []consume.Delivery
	used    int

	gather  gatherer
	tracker batch.Tracker

	busy    int
	results chan result // unbuffered: end takes every result before it returns

	slots     chan *batch.Slot // capacity 1: the one that is asked for
	reserving bool

	pace   pace
	probes chan int64 // capacity 1: the depth of the queue, and one question at a time

	asking sync.WaitGroup // goroutines that wait for a slot or a depth

	claimed bool

	timer *time.Timer // fires when current has waited long enough, a hole is old, or the prefetch may be raised
}

type result struct {
	span     *batch.Span
	batch    *batch.Batch
	collided bool // some of it was stored already
	err      error
}

func newIntake(ctx context.Context, c *Consumer, consumption *consume.Consumer, fault error) *intake {
	in := &intake{
		Consumer: c, consumption: consumption, fault: fault, began: time.Now(), ctx: ctx,
		gather:  gatherer{cfg: c.cfg, tenant: c.tenant, key: c.tenant.String()},
		results: make(chan result), slots: make(chan *batch.Slot, 1), probes: make(chan int64, 1), timer: time.NewTimer(0),
	}
	in.timer.Stop()
	in.workCtx, in.cancelWork = context.WithCancel(context.WithoutCancel(ctx))
	in.waitCtx, in.cancelWait = context.WithCancel(in.workCtx)
	if in.prefetch < in.cfg.Prefetch {
		in.timer.Reset(prefetchCooldown)
	}
	return in
}

// run takes deliveries until ctx ends, the channel dies, or a batch says that it makes no sense to go on.
func (in *intake) run() error {
	in.state.waiting.Store(in.consumption)
	in.state.Consuming.Store(true)
	in.onChange(in.fault)
	return in.end(in.loop())
}

// end ends what loop has begun, in order if there still is a channel.
func (in *intake) end(err error) error {
	in.cancelWait()
	if !errors.Is(err, errIntakeClosed) {
		in.finish()
	} else {
		in.cancelWork()
		in.collect()
		in.consumption.Release() // the channel outlives a consumer that the broker has cancelled
	}
	in.cancelWork()
	in.asking.Wait()
	if in.reserving {
		(<-in.slots).Free()
	}
	in.timer.Stop()
	in.budget.release(in.Consumer)
	in.state.Consuming.Store(false)
	in.state.waiting.Store(nil)
	in.state.taken.Store(0)
	in.state.Busy.Store(0)
	switch {
	case errors.Is(err, errOverBudget):
		in.prefetch = max(in.prefetch/prefetchStep, minPrefetch)
	case errors.Is(err, errRaise):
		in.prefetch = min(in.prefetch*prefetchStep, in.cfg.Prefetch)
		return nil
	case errors.Is(err, errRelocated):
		return nil
	}
	return err
}

func (in *intake) loop() error {
	for {
		if err := in.next(); err != nil {
			return err
		}
		if err := in.advance(); err != nil {
			return err
		}
		in.arm()
	}
}

// next returns when something has happened, and has dealt with it.
func (in *intake) next() error {
	// A nil channel is never ready: with a full batch and no writer free, the intake stands still.
	ready := in.consumption.Ready()
	if in.used < len(in.arrived) {
		ready = nil
	}
	select {
	case <-ready:
		in.arrived, in.used = in.consumption.Drain(in.arrived[:0]), 0
		in.state.taken.Add(int64(len(in.arrived)))
	case <-in.consumption.Deliveries: // only ever closed
		return errIntakeClosed
	case r := <-in.results:
		return in.finishBatch(r)
	case slot := <-in.slots:
		in.reserved(slot)
	case depth := <-in.probes:
		in.pace.answered(depth)
	case <-in.resized:
		if in.relocated.Load() {
			return errRelocated
		}
	case now := <-in.timer.C:
		return in.remind(now)
	case <-in.consumption.Done():
		return errIntakeClosed
	case <-in.ctx.Done():
		return in.ctx.Err()
	}
	return nil
}

// remind does what the timer was set for.
func (in *intake) remind(now time.Time) error {
	in.passHoles(now)
	if in.prefetch < in.cfg.Prefetch && now.Sub(in.began) >= prefetchCooldown && in.idle() {
		return errRaise
	}
	return nil
}

// advance makes batches of what has arrived, and hands them over, until there is nothing more or no writer is free.
func (in *intake) advance() error {
	for {
		if err := in.gatherArrived(); err != nil {
			return err
		}
		in.dispatch()
		if in.used == len(in.arrived) || in.gather.full() {
			return nil
		}
	}
}

// gatherArrived adds what has arrived to the batch, until it is full.
func (in *intake) gatherArrived() error {
	before := in.used
	for in.used < len(in.arrived) && !in.gather.full() {
		delivery := &in.arrived[in.used]
		in.used++
		in.pace.took()
		if delivery.MessageId == "" {
			in.state.WithoutID.Add(1)
		}
		in.gather.add(delivery, time.Now)
		*delivery = consume.Delivery{} // it would keep its body
	}
	if in.used == before {
		return nil
	}
	if in.gather.full() && !in.withinBudget() {
		return errOverBudget
	}
	return nil
}

func (in *intake) idle() bool {
	return in.busy == 0 && in.gather.current == nil && in.used == len(in.arrived)
}

// dispatch hands the batch to a writer, unless it pays to wait for more.
func (in *intake) dispatch() {
	if in.gather.current == nil || in.busy >= int(in.state.Workers.Load()) {
		return
	}
	if !in.gather.full() && time.Since(in.gather.began) < in.pace.linger(in.busy > 0, in.cfg.BatchDelay) {
		return
	}
	if slot := in.writer.TryReserve(); slot != nil {
		in.write(slot)
	} else if !in.reserving {
		in.reserve()
	}
}

// reserve asks for a slot; meanwhile the batch grows.
func (in *intake) reserve() {
	in.reserving = true
	in.asking.Go(func() { in.slots <- in.writer.Reserve(in.workCtx) })
}

// reserved takes in the slot that was asked for.
func (in *intake) reserved(slot *batch.Slot) {
	in.reserving = false
	if slot == nil || in.gather.current == nil || in.busy >= int(in.state.Workers.Load()) {
		slot.Free()
		return
	}
	in.write(slot)
}

// write hands the batch to a writer.
func (in *intake) write(slot *batch.Slot) {
	full := in.gather.full()
	b, first, last := in.gather.flush(int(in.maxAttempts.Load()))
	b.Slot = slot
	span := in.tracker.Open(first, last)
	in.busy++
	in.state.Busy.Store(int64(in.busy))
	if in.pace.handedOver(len(b.Deliveries), full, time.Now()) {
		in.probe()
	}
	go func() {
		known := in.state.Duplicates.Load()
		err := in.writer.Write(in.workCtx, in.waitCtx, b, &in.state.Stats)
		in.results <- result{span: span, batch: b, collided: in.state.Duplicates.Load() > known, err: err}
	}()
}

// probe asks the broker how many messages wait in the queue.
func (in *intake) probe() {
	in.asking.Go(func() {
		depth, err := in.consumption.Depth(in.workCtx)
		if err != nil { // the channel may be gone; whoever reads from it finds out
			depth = 0
		}
		in.probes <- depth
	})
}

// finishBatch takes a finished batch back and acknowledges what can be.
func (in *intake) finishBatch(r result) error {
	in.busy--
	in.state.Busy.Store(int64(in.busy))
	idle := in.idle()
	in.gather.giveBack(r.batch, idle)
	if idle { // a tenant at rest keeps no memory
		in.arrived, in.used = nil, 0
		in.consumption.Trim()
	}
	if r.err != nil {
		return r.err
	}
	if r.collided {
		in.gather.careful = carefulFor
	}
	in.tracker.Finish(r.span, time.Now())
	in.state.taken.Add(-int64(r.span.Last - r.span.First + 1))
	if tag, ok := in.tracker.Prefix(); ok {
		if err := in.consumption.Ack(tag, true); err != nil {
			return errIntakeClosed // the channel is gone
		}
	}
	if idle && in.claimed {
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

// arm sets the timer to whatever is due next. An idle consumer sets none.
func (in *intake) arm() {
	var next time.Time
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if in.gather.current != nil && in.busy < int(in.state.Workers.Load()) && !in.reserving {
		sooner(in.gather.began.Add(in.pace.linger(in.busy > 0, in.cfg.BatchDelay)))
	}
	if since, waiting := in.tracker.Waiting(); waiting {
		sooner(since.Add(in.cfg.HoleLimit))
	}
	if in.prefetch < in.cfg.Prefetch {
		at := in.began.Add(prefetchCooldown)
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
	return in.budget.claim(in.Consumer, max(in.gather.meanBytes, 1)*int64(in.prefetch)) || in.prefetch == minPrefetch
}

// finish ends the intake in order: nothing more is taken, what was gathered is written, what is written is
// acknowledged, and the rest goes back without counting as a failed delivery.
func (in *intake) finish() {
	if err := in.consumption.Stop(); err != nil {
		in.log().Debug("the consumer could not be stopped in order", zap.Error(err))
	}
	if in.busy < int(in.state.Workers.Load()) && in.gather.current != nil && in.gate.Err() == nil {
		in.gather.began = time.Time{} // it has waited long enough
		in.dispatch()
	}
	in.collect()
	in.resolve()
	in.consumption.Release()
}

// resolve acknowledges what is finished and gives back what is not, where one lies between the other. Single acks would be
// too many: RabbitMQ 3.10 keeps those after the first 32 back until the quorum queue has taken some, and forgets them when
// the channel is closed at once.
func (in *intake) resolve() {
	for _, run := range in.tracker.Rest() {
		do := in.consumption.Return
		if run.Finished {
			do = func(tag uint64) error { return in.consumption.Ack(tag, true) }
		}
		if do(run.Last) != nil {
			return // the channel is gone, and all that was not acknowledged is delivered again
		}
	}
}

// collect waits for all writers.
func (in *intake) collect() {
	for in.busy > 0 {
		if err := in.finishBatch(<-in.results); err != nil {
			in.log().Debug("a batch goes back to its queue", zap.Error(err))
		}
	}
}
