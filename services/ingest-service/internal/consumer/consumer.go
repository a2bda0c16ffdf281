// Package consumer takes one tenant's messages from its queue and has them written in batches.
//
// One collector per tenant owns the channel: it gathers deliveries while writers are busy, hands batches to at most W of
// them, and acknowledges what is finished. W workers that each took their own messages would commit batches of one or
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

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Config is how deliveries are gathered.
type Config struct {
	// Prefetch is how many deliveries of a tenant may be unacknowledged. It is lowered for a tenant with large messages,
	// see [Budget].
	Prefetch int
	// BatchMessages is the size at which a batch is handed over although other writers are busy.
	BatchMessages int
	// BatchBytes is the same in bytes.
	BatchBytes int64
	// BatchDelay is how long a batch waits at most for that size. Without a busy writer it does not wait at all.
	BatchDelay time.Duration
	// MaxPayload is the limit of a payload in bytes; a larger one is a dead letter.
	MaxPayload int
	// HoleLimit is how long finished messages wait behind one that is not, before they are acknowledged one by one.
	HoleLimit time.Duration
}

// State is what the outside sees of a consumer. Its fields may be read at any time.
type State struct {
	batch.Stats
	// WithoutID counts messages that came without an id; they are stored at least once.
	WithoutID atomic.Int64
	// Workers is how many batches may be written at a time, Busy how many are.
	Workers, Busy atomic.Int64
	// Unacked is how many deliveries have been taken and not acknowledged.
	Unacked atomic.Int64
	// Consuming says that the broker delivers to this consumer.
	Consuming atomic.Bool
}

// ErrQueueMissing says that the tenant's queue does not exist (any more).
var ErrQueueMissing = errors.New("the tenant's queue does not exist")

// Consumer consumes the queue of one tenant.
type Consumer struct {
	cfg    Config
	tenant uuid.UUID
	link   *rabbitmq.Link
	gate   *batch.Gate
	writer *batch.Writer
	budget *Budget
	state  *State
	log    *zap.Logger

	prefetch int  // of the next channel; owned by Run
	doubtful bool // the queue did not answer the last time; owned by Run

	longestDoubt time.Duration // between two probes of a queue that does not answer

	maxAttempts atomic.Int64
	resized     chan struct{} // capacity 1: a wake-up is enough, the number is in state
	// onChange hears that Consuming has changed, or why the broker or the database keeps this consumer from working.
	onChange func(error)
}

// New returns a consumer of tenant's queue. state outlives it; onChange is called from Run.
func New(cfg Config, tenant uuid.UUID, link *rabbitmq.Link, gate *batch.Gate, writer *batch.Writer, budget *Budget,
	state *State, onChange func(error), log *zap.Logger,
) *Consumer {
	return &Consumer{
		cfg: cfg, tenant: tenant, link: link, gate: gate, writer: writer, budget: budget, state: state,
		prefetch: cfg.Prefetch, log: log.With(zap.Stringer("tenant_id", tenant)), resized: make(chan struct{}, 1), onChange: onChange,
		longestDoubt: time.Minute,
	}
}

// Configure sets how many batches may be written at a time and how often a message is tried. It takes effect at once:
// more workers start with the next batch, fewer do once the surplus ones have finished theirs.
func (c *Consumer) Configure(workers, maxAttempts int) {
	c.state.Workers.Store(int64(workers))
	c.maxAttempts.Store(int64(maxAttempts))
	select {
	case c.resized <- struct{}{}:
	default:
	}
}

// Run consumes until ctx ends; it then finishes and acknowledges what is in flight, and gives the rest back. It
// starts over by itself whenever the broker or the database has been away. An error is [ErrQueueMissing] or
// [store.ErrRetired]: there is nothing to consume or nowhere to store.
func (c *Consumer) Run(ctx context.Context) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = 50*time.Millisecond, 5*time.Second
	// A probe of a queue that does not answer keeps others from theirs for 10 s, and costs their connection. When it was
	// the whole broker that did not answer, the first probe succeeds.
	doubts := backoff.NewExponentialBackOff()
	doubts.InitialInterval, doubts.MaxInterval, doubts.Multiplier = time.Second, c.longestDoubt, 3
	for ctx.Err() == nil {
		began := time.Now()
		err := c.consume(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end of ctx is the way to stop a consumer
		case errors.Is(err, ErrQueueMissing), errors.Is(err, store.ErrRetired):
			return err
		case err != nil:
			c.log.Info("consuming was interrupted", zap.Error(err))
			c.onChange(err)
		}
		if time.Since(began) > pauses.MaxInterval {
			pauses.Reset()
		}
		next := pauses
		if c.doubtful {
			next = doubts
		} else {
			doubts.Reset()
		}
		pause := time.NewTimer(next.NextBackOff())
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
	return nil
}

// consume is one consumer on one channel, from its start to its end.
func (c *Consumer) consume(ctx context.Context) error {
	if err := c.gate.Wait(ctx); err != nil {
		return err
	}
	consumption, err := c.start(ctx, contract.QueueName(c.tenant.String()))
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		return fmt.Errorf("%w: %s", ErrQueueMissing, refused.Reason)
	}
	if err != nil {
		return err
	}
	return newIntake(c, consumption).run(ctx)
}

// start consumes queue. One that did not answer the last time must first answer where that costs nobody else their
// connection.
func (c *Consumer) start(ctx context.Context, queue string) (*rabbitmq.Consumption, error) {
	if c.doubtful {
		if err := c.link.Probe(ctx, queue); err != nil {
			return nil, err
		}
	}
	session, err := c.link.Session(ctx)
	if err != nil {
		return nil, err
	}
	consumption, err := session.ConsumeBatches(ctx, queue, "ingest-"+c.tenant.String(), c.prefetch)
	c.doubtful = errors.Is(err, rabbitmq.ErrUnanswered)
	return consumption, err
}
