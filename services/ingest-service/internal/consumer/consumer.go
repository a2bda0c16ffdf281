// Package consumer consumes one tenant's queue and has its messages written in batches.
//
// One collector per tenant owns the channel: it gathers deliveries while workers are busy, hands batches to at most W of
// them, and acknowledges what is finished. W workers that each consumed their own messages would commit batches of one or
// two; one collector in front of them gets five to ten times the throughput with the same guarantee.
//
// The guarantee: a delivery is acknowledged only after its batch was committed (or its message handed on to a retry
// tier or the dead letters), so nothing is lost; a message is stored under its id, once, so nothing is stored twice.
// When the channel dies, its batches are dropped, and the broker delivers them again.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Config is how deliveries are gathered.
type Config struct {
	// Prefetch is how many deliveries of a tenant may be unacknowledged. It is lowered for a tenant with large messages,
	// see [Budget].
	Prefetch int
	// BatchMessages is the size at which a batch is handed over although other workers are busy.
	BatchMessages int
	// BatchBytes is the same in bytes.
	BatchBytes int64
	// BatchDelay is how long a batch waits for that size while other workers of the tenant are busy; with a backlog it waits up to
	// 50 ms whether they are or not (see pace.go), and without either it does not wait at all.
	BatchDelay time.Duration
	// MaxPayload is the limit of a payload in bytes; a larger one is a dead letter.
	MaxPayload int
	// HoleLimit is how long finished messages wait behind one that is not, before they are acknowledged one by one.
	HoleLimit time.Duration
	// Prober asks a queue that did not answer, before it is consumed again; nil: nobody asks.
	Prober *consume.Prober
	// Rates hold the limits per second of tenants that have any; nil: nobody has.
	Rates Rates
	// Storage holds the limit of what is stored of tenants that have one; nil: nobody has.
	Storage Storage
}

// State is what the outside sees of a consumer. Its fields may be read at any time.
type State struct {
	// Stats is what became of the messages.
	Stats batch.Stats
	// WithoutID counts messages that came without an id; they are stored at least once.
	WithoutID atomic.Int64
	// TypesIgnored counts messages whose AMQP property type is no type, and is not stored.
	TypesIgnored atomic.Int64
	// Workers is how many batches may be written at a time, Busy how many are.
	Workers, Busy atomic.Int64
	// Consuming says that the broker delivers to this consumer.
	Consuming atomic.Bool
	// Held is how many deliveries have come and wait because the tenant is over a limit per second.
	Held atomic.Int64

	taken   atomic.Int64                     // deliveries that were taken from the consumption and are not finished
	waiting atomic.Pointer[consume.Consumer] // has those that were not taken yet; nil while there is none
}

// Unacked is how many deliveries have come and are not finished, those included that wait until a worker is free: for the broker none of
// them waits any more.
func (s *State) Unacked() int64 {
	n := s.taken.Load()
	if c := s.waiting.Load(); c != nil {
		n += int64(c.Waiting())
	}
	return n
}

// ErrQueueMissing says that the tenant's queue does not exist (any more).
var ErrQueueMissing = errors.New("the tenant's queue does not exist")

// Consumer consumes the queue of one tenant.
type Consumer struct {
	cfg       Config
	tenant    uuid.UUID
	placement Placement
	gate      *batch.Gate
	writer    *batch.Writer
	budget    *Budget
	state     *State
	base      *zap.Logger

	prefetch   int     // of the next channel; owned by Run
	unanswered bool    // the queue did not answer the last time; owned by Run
	pauses     *pauses // nil until one was needed; owned by Run

	maxProbePause time.Duration // between two probes of a queue that does not answer

	flow        batch.Flow // its share of the slots
	maxAttempts atomic.Int64
	limits      atomic.Pointer[contract.Limits] // nil: none
	meanBytes   int64                           // of a message, as far as known; owned by Run
	resized     chan struct{}                   // capacity 1: a wake-up is enough, the number is in state
	relocated   atomic.Bool                     // another place is to be acquired; resized tells
	// onChange is told that Consuming has changed, or why the broker or the database keeps this consumer from working.
	onChange func(error)
}

// New returns a consumer of tenant's queue, where placement says. state outlives it; onChange is called from Run.
func New(cfg Config, tenant uuid.UUID, placement Placement, gate *batch.Gate, writer *batch.Writer, budget *Budget,
	state *State, onChange func(error), log *zap.Logger,
) *Consumer {
	return &Consumer{
		cfg: cfg, tenant: tenant, placement: placement, gate: gate, writer: writer, budget: budget, state: state,
		prefetch: cfg.Prefetch, base: log, resized: make(chan struct{}, 1), onChange: onChange,
		maxProbePause: time.Minute,
	}
}

// log is the logger of this tenant. It is made for each line: a consumer says little, and a logger takes almost a kilobyte.
func (c *Consumer) log() *zap.Logger { return c.base.With(zap.Stringer("tenant_id", c.tenant)) }

// Configure sets how many batches may be written at a time and how often a message is tried. It takes effect at once:
// more workers start with the next batch, fewer do once the surplus ones have finished theirs.
func (c *Consumer) Configure(workers, maxAttempts int) {
	c.state.Workers.Store(int64(workers))
	c.flow.SetWorkers(workers)
	c.maxAttempts.Store(int64(maxAttempts))
	c.wake()
}

// Limit sets the limits of the tenant, of which those of publishing and the weight count here. It takes effect at once, also on what
// waits.
func (c *Consumer) Limit(limits contract.Limits) {
	c.limits.Store(&limits)
	c.flow.SetWeight(limits.Weight)
	c.wake()
}

// relocate has the consumer acquire its place again, once it has finished what is in flight.
func (c *Consumer) relocate() {
	c.relocated.Store(true)
	c.wake()
}

func (c *Consumer) wake() {
	select {
	case c.resized <- struct{}{}:
	default:
	}
}

// Run consumes until ctx ends; it then finishes and acknowledges what is in flight, and gives the rest back. It
// starts over whenever the broker or the database has been away. An error is [ErrQueueMissing] or
// [store.ErrRetired]: there is nothing to consume or nowhere to store.
//
// An idle tenant waits below it, in [collector.next]. The runtime halves a stack of which less than a quarter is in use, so what
// is on the way there is kept small: all else is in functions that have returned by then.
func (c *Consumer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		began := time.Now()
		in, err := c.startCollector(ctx)
		if err == nil {
			c.prefetch, err = in.run(ctx)
		}
		if err := c.startOver(ctx, err, time.Since(began)); err != nil {
			c.placement.Release(c.tenant)
			return err
		}
	}
	c.placement.Release(c.tenant)
	return nil
}

// startCollector starts one consumer on one channel, once the gate is open and the tenant may store.
func (c *Consumer) startCollector(ctx context.Context) (*collector, error) {
	if err := c.gate.Wait(ctx); err != nil {
		return nil, err
	}
	if err := c.awaitRoom(ctx); err != nil {
		return nil, err
	}
	metered := c.meter()
	consumption, fault, err := c.consume(ctx, contract.QueueName(c.tenant.String()), metered.prefetch)
	if refused, ok := errors.AsType[*amqp.Error](err); ok && refused.Code == amqp.NotFound {
		return nil, fmt.Errorf("%w: %s", ErrQueueMissing, refused.Reason)
	}
	if err != nil {
		return nil, err
	}
	return newCollector(c, consumption, metered, fault), nil
}

// consume consumes queue on the connection where the tenant is placed. A queue that did not answer the last time must first answer on a
// connection that is there for that. fault is what is said of the tenant all the same. most bounds the prefetch.
func (c *Consumer) consume(ctx context.Context, queue string, most int) (consumption *consume.Consumer, fault, err error) {
	c.relocated.Store(false)
	place, err := c.placement.Acquire(ctx, c.tenant, c.relocate, c.onChange)
	if err != nil {
		return nil, nil, err
	}
	if c.unanswered {
		if err := c.cfg.Prober.Probe(ctx, queue); err != nil {
			return nil, nil, err
		}
	}
	session, err := place.Link.Session(ctx)
	if err != nil {
		return nil, nil, err
	}
	prefetch := min(c.prefetch, most)
	if place.Prefetch > 0 {
		prefetch = min(prefetch, place.Prefetch)
	}
	consumption, err = consume.Start(ctx, session, queue, TagPrefix+c.tenant.String(), prefetch)
	c.unanswered = errors.Is(err, conn.ErrUnanswered)
	if err == nil && place.Began != nil {
		place.Began()
	}
	return consumption, place.Fault, err
}

// startOver returns when it is time to start over, or ctx has ended. It returns err if that makes no sense.
func (c *Consumer) startOver(ctx context.Context, err error, lasted time.Duration) error {
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // the end of ctx is the way to stop a consumer
	case errors.Is(err, ErrStorageFull):
		return nil // the next start waits
	case errors.Is(err, ErrQueueMissing), errors.Is(err, store.ErrRetired):
		return err
	case err != nil:
		c.log().Info("consuming was interrupted", zap.Error(err))
		c.onChange(err)
	}
	if c.pauses == nil {
		c.pauses = newPauses(c.maxProbePause)
	}
	_ = retry.Sleep(ctx, c.pauses.next(lasted, c.unanswered)) // the end of ctx is the way to stop a consumer
	return nil
}

// pauses are those before starting over.
type pauses struct {
	usual *backoff.ExponentialBackOff
	// A probe of a queue that does not answer keeps others from theirs for 10 s, and costs their connection. When it was
	// the whole broker that did not answer, the first probe succeeds.
	unanswered *backoff.ExponentialBackOff
}

func newPauses(maxProbePause time.Duration) *pauses {
	p := &pauses{usual: retry.Backoff(50*time.Millisecond, 5*time.Second), unanswered: retry.Backoff(time.Second, maxProbePause)}
	p.unanswered.Multiplier = 3
	return p
}

// next is the pause after a try that has lasted so long.
func (p *pauses) next(lasted time.Duration, unanswered bool) time.Duration {
	if lasted > p.usual.MaxInterval {
		p.usual.Reset()
	}
	if unanswered {
		return p.unanswered.NextBackOff()
	}
	p.unanswered.Reset()
	return p.usual.NextBackOff()
}
