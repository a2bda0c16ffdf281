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
	errConsumerEnded = errors.New("the broker ended the consumer")
	errOverBudget    = errors.New("large messages: starting over with a lower prefetch")
)

// course is what a collector does next.
type course int

const (
	proceed  course = iota
	finish          // ctx has ended, or a batch is not to be written any more
	closed          // the channel is gone
	lower           // to start over with a lower prefetch
	raise           // to start over with a higher prefetch
	relocate        // to start over on another connection, or with the prefetch of another limit
	noRoom          // to start over once the tenant may store again
)

// collector is one consumer on one channel. Its fields are owned by the goroutine of run; workers own their batch until
// they have sent it back through results.
//
//	deliveries ──▶ gatherer ──▶ slot ──▶ workers (at most Workers) ──▶ results ──▶ tracker ──▶ ack
type collector struct {
	c           *Consumer
	consumption *consume.Consumer
	prefetch    int   // of the channel, as far as the consumer decides it
	fault       error // what is said of the tenant while it is consumed; nil as a rule
	began       time.Time

	cancelWait, cancelWork context.CancelFunc // of the contexts that begin returns

	// arrived holds the drained deliveries; arrived[:used] are in a batch already.
	arrived []consume.Delivery
	used    int

	gather  gatherer
	tracker tracker

	busy    int
	writing int64       // bytes of the batches that are being written
	results chan result // unbuffered: end takes every result before it returns

	slots     chan *batch.Slot // capacity 1: the one that is asked for
	reserving bool

	meter   meter
	askRoom time.Time // when to ask again for room for the delivery at the front; zero for not at all

	pace   pace
	probes chan int64 // capacity 1: the depth of the queue, and one question at a time

	asking sync.WaitGroup // goroutines that wait for a slot or a depth

	claimed bool

	timer *time.Timer // fires when current has waited long enough, a hole is old, or the prefetch may be raised
}

type result struct {
	span     *span
	batch    *batch.Batch
	collided bool // some of it was stored already
	err      error
}

func newCollector(c *Consumer, consumption *consume.Consumer, m meter, fault error) *collector {
	in := &collector{
		c: c, consumption: consumption, meter: m, prefetch: c.prefetch, fault: fault, began: time.Now(),
		gather:  gatherer{cfg: c.cfg, tenant: c.tenant, key: c.tenant.String(), maxPayload: m.limits.MaxPayload},
		results: make(chan result), slots: make(chan *batch.Slot, 1), probes: make(chan int64, 1), timer: time.NewTimer(0),
	}
	in.timer.Stop()
	if in.prefetch < c.cfg.Prefetch {
		in.timer.Reset(prefetchCooldown)
	}
	return in
}

// run takes deliveries until ctx ends, the channel dies, or a batch returns an error. It returns the prefetch
// of the next collector, and what has interrupted this one: nil if it is to start over with other settings.
func (in *collector) run(ctx context.Context) (prefetch int, err error) {
	ctx, work := in.begin(ctx)
	for {
		course, err := in.next(ctx, work)
		if course == proceed {
			course = in.advance(ctx, work)
		}
		if course != proceed {
			return in.end(ctx, work, course, err)
		}
		in.arm()
	}
}

// begin returns the contexts of what the collector begins. Workers outlive ctx, so that what is in flight is finished: they end with work.
// Nobody waits for a database that is away once wait has ended, which does so with ctx. Both end at once with the channel: the
// broker delivers again what was being written, unless the queue was deleted.
func (in *collector) begin(ctx context.Context) (wait, work context.Context) {
	wait, in.cancelWait = context.WithCancel(ctx)
	work, in.cancelWork = context.WithCancel(context.WithoutCancel(ctx))
	in.c.state.waiting.Store(in.consumption)
	in.c.state.Consuming.Store(true)
	in.c.onChange(in.fault)
	return wait, work
}

// end ends what was begun, in order if there still is a channel.
func (in *collector) end(wait, work context.Context, course course, err error) (prefetch int, _ error) {
	in.cancelWait()
	if course == closed {
		in.cancelWork()
		in.awaitWorkers()
		in.consumption.Release() // the channel outlives a consumer that the broker has cancelled
	} else {
		in.finish(wait, work)
	}
	in.cancelWork()
	in.asking.Wait()
	if in.reserving {
		(<-in.slots).Free()
	}
	in.timer.Stop()
	in.c.budget.release(in.c)
	in.c.state.Consuming.Store(false)
	in.c.state.waiting.Store(nil)
	in.c.state.taken.Store(0)
	in.c.state.Held.Store(0)
	in.c.meanBytes = in.meter.meanBytes
	in.c.state.Busy.Store(0)
	switch course {
	case lower:
		return max(in.prefetch/prefetchStep, minPrefetch), errOverBudget
	case raise:
		return min(in.prefetch*prefetchStep, in.c.cfg.Prefetch), nil
	case noRoom:
		return in.prefetch, ErrStorageFull
	default:
		return in.prefetch, err
	}
}

// next returns when something has happened, and has dealt with it.
func (in *collector) next(ctx, work context.Context) (course, error) {
	// A nil channel is never ready: with a full batch and no worker free, the collector waits.
	ready := in.consumption.Ready()
	if in.used < len(in.arrived) {
		ready = nil
	}
	select {
	case <-ready:
		in.arrived, in.used = in.consumption.Drain(in.arrived[:0]), 0
		in.c.state.taken.Add(int64(len(in.arrived)))
		in.meter.drained(in.arrived)
	case <-in.consumption.Ended():
		return closed, errConsumerEnded
	case r := <-in.results:
		return in.finishBatch(r)
	case slot := <-in.slots:
		in.reserved(ctx, work, slot)
	case depth := <-in.probes:
		in.pace.answered(depth)
	case <-in.c.resized:
		if in.c.relocated.Load() || in.limited() {
			return relocate, nil
		}
	case now := <-in.timer.C:
		return in.remind(now), nil
	case <-in.consumption.Done():
		return closed, errConsumerEnded
	case <-ctx.Done():
		return finish, ctx.Err()
	}
	return proceed, nil
}

// remind does what the timer was set for.
func (in *collector) remind(now time.Time) course {
	in.passHoles(now)
	in.askRoom = time.Time{} // advance asks, if there still is a delivery
	if in.meter.exhausted(now) {
		return relocate
	}
	if in.prefetch < in.c.cfg.Prefetch && now.Sub(in.began) >= prefetchCooldown && in.idle() {
		return raise
	}
	return proceed
}

// advance makes batches of what has arrived, and hands them over, until there is nothing more or no worker is free.
func (in *collector) advance(ctx, work context.Context) course {
	for {
		before := in.used
		held := false
		for in.used < len(in.arrived) && !in.gather.full() {
			delivery := &in.arrived[in.used]
			fits, none := in.hasRoom()
			if none {
				return noRoom
			}
			if held = !fits || !in.admit(delivery); held {
				break
			}
			in.used++
			in.pace.took()
			if delivery.MessageId == "" {
				in.c.state.WithoutID.Add(1)
			}
			if in.gather.add(delivery, time.Now) {
				in.c.state.TypesIgnored.Add(1)
			}
			*delivery = consume.Delivery{} // it would keep its body
		}
		if in.used > before && in.gather.full() && !in.withinBudget() {
			return lower
		}
		in.dispatch(ctx, work)
		switch {
		case in.meter.misfit(time.Since(in.began), held), in.isCramped():
			return relocate
		case held, in.used == len(in.arrived), in.gather.full():
			return proceed
		}
	}
}

func (in *collector) idle() bool {
	return in.busy == 0 && in.gather.current == nil && in.used == len(in.arrived)
}

// dispatch hands the batch to a worker, unless it pays to wait for more.
func (in *collector) dispatch(ctx, work context.Context) {
	if in.gather.current == nil || in.busy >= int(in.c.state.Workers.Load()) {
		return
	}
	if !in.gather.full() && time.Since(in.gather.began) < in.pace.linger(in.busy > 0, in.c.cfg.BatchDelay) {
		return
	}
	full := in.gather.full()
	if slot := in.c.writer.TryReserve(&in.c.flow, full); slot != nil {
		in.write(ctx, work, slot)
	} else if !in.reserving { // it is asked for; meanwhile the batch grows
		in.reserving = true
		in.asking.Go(func() { in.slots <- in.c.writer.Reserve(work, &in.c.flow, full) })
	}
}

// reserved takes in the slot that was asked for.
func (in *collector) reserved(ctx, work context.Context, slot *batch.Slot) {
	in.reserving = false
	if slot == nil || in.gather.current == nil || in.busy >= int(in.c.state.Workers.Load()) {
		slot.Free()
		return
	}
	in.write(ctx, work, slot)
}

// write starts a worker with the batch.
func (in *collector) write(ctx, work context.Context, slot *batch.Slot) {
	full := in.gather.full()
	b, first, last := in.gather.flush(int(in.c.maxAttempts.Load()))
	slot.Assign(b, full)
	s := in.tracker.open(first, last)
	in.busy++
	in.writing += b.Bytes
	in.c.state.Busy.Store(int64(in.busy))
	if in.pace.handedOver(len(b.Deliveries), full, time.Now()) {
		in.probe(work)
	}
	go func() {
		known := in.c.state.Stats.Duplicates.Load()
		err := in.c.writer.Write(work, ctx, b, &in.c.state.Stats)
		in.results <- result{span: s, batch: b, collided: in.c.state.Stats.Duplicates.Load() > known, err: err}
	}()
}

// probe asks the broker how many messages wait in the queue.
func (in *collector) probe(work context.Context) {
	in.asking.Go(func() {
		depth, err := in.consumption.Depth(work)
		if err != nil { // the channel may be gone; the reader of it finds out
			depth = 0
		}
		in.probes <- depth
	})
}

// finishBatch takes a finished batch back and acknowledges what can be. An error says why the batch, or all, goes back to its queue.
func (in *collector) finishBatch(r result) (course, error) {
	in.busy--
	in.writing -= r.batch.Bytes
	in.c.state.Busy.Store(int64(in.busy))
	idle := in.idle()
	in.gather.giveBack(r.batch, idle)
	if idle { // a tenant at rest keeps no memory
		in.arrived, in.used = nil, 0
		in.consumption.Trim()
	}
	if r.err != nil {
		return finish, r.err
	}
	if r.collided {
		in.gather.careful = carefulFor
	}
	in.tracker.finish(r.span, time.Now())
	in.c.state.taken.Add(-int64(r.span.last - r.span.first + 1))
	if tag, ok := in.tracker.prefix(); ok {
		if err := in.consumption.Ack(tag, true); err != nil {
			return closed, errConsumerEnded // the channel is gone
		}
	}
	if idle && in.claimed {
		in.c.budget.release(in.c)
		in.claimed = false
	}
	return proceed, nil
}

// passHoles acknowledges one by one what has waited too long behind a batch that does not finish.
func (in *collector) passHoles(now time.Time) {
	for _, s := range in.tracker.beyond(now, in.c.cfg.HoleLimit) {
		for tag := s.first; tag <= s.last; tag++ {
			if err := in.consumption.Ack(tag, false); err != nil {
				return // the channel is gone; Done says so
			}
		}
	}
}

// arm sets the timer to whatever is due next. An idle consumer sets none.
func (in *collector) arm() {
	var next time.Time
	sooner := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if in.gather.current != nil && in.busy < int(in.c.state.Workers.Load()) && !in.reserving {
		sooner(in.gather.began.Add(in.pace.linger(in.busy > 0, in.c.cfg.BatchDelay)))
	}
	if since, waiting := in.tracker.waiting(); waiting {
		sooner(since.Add(in.c.cfg.HoleLimit))
	}
	if in.meter.holding() {
		sooner(in.meter.again)
	}
	if !in.askRoom.IsZero() {
		sooner(in.askRoom)
	}
	if in.prefetch < in.c.cfg.Prefetch {
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

func (in *collector) withinBudget() bool {
	in.claimed = true
	held := min(in.prefetch, in.meter.prefetch)
	return in.c.budget.claim(in.c, max(in.gather.meanBytes, 1)*int64(held)) || in.prefetch == minPrefetch
}

// finish ends the collector in order: nothing more is received, what was gathered is written, what is written is
// acknowledged, and the rest goes back without counting as a failed delivery.
func (in *collector) finish(ctx, work context.Context) {
	if err := in.consumption.Stop(); err != nil {
		in.c.log().Debug("the consumer could not be stopped in order", zap.Error(err))
	}
	if in.busy < int(in.c.state.Workers.Load()) && in.gather.current != nil && in.c.gate.Err() == nil {
		in.gather.began = time.Time{} // it has waited long enough
		in.dispatch(ctx, work)
	}
	in.awaitWorkers()
	in.resolve()
	in.consumption.Release()
}

// resolve acknowledges what is finished and gives back what is not, where one lies between the other. Single acks would be
// too many: RabbitMQ 3.10 keeps those after the first 32 back until the quorum queue has taken some, and forgets them when
// the channel is closed at once.
func (in *collector) resolve() {
	for _, run := range in.tracker.rest() {
		do := in.consumption.Return
		if run.finished {
			do = func(tag uint64) error { return in.consumption.Ack(tag, true) }
		}
		if do(run.last) != nil {
			return // the channel is gone, and all that was not acknowledged is delivered again
		}
	}
}

// awaitWorkers waits for all workers.
func (in *collector) awaitWorkers() {
	for in.busy > 0 {
		if _, err := in.finishBatch(<-in.results); err != nil {
			in.c.log().Debug("a batch goes back to its queue", zap.Error(err))
		}
	}
}
