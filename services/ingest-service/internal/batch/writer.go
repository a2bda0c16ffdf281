// Package batch turns deliveries into committed rows, and decides what becomes of those that cannot be stored.
//
// Its guarantee: when [Writer.Write] returns nil, every delivery of the batch is in the broker's or the database's
// safe keeping elsewhere (stored, in a retry tier, or among the dead letters), so that it may be acknowledged. Until
// then it must not be. Whatever Write does can be done twice.
//
// What is at fault decides what happens (see [sqlstate.Classify]). A fault of the infrastructure never costs a
// message an attempt: Write waits and tries again. A batch that the database refuses for its content is bisected, so
// that only the message at fault pays.
package batch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/attempt"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/bisect"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Batch is a run of consecutive deliveries of one channel.
type Batch struct {
	Tenant uuid.UUID
	// MaxAttempts is how often a message is tried before it becomes a dead letter.
	MaxAttempts int
	// Deliveries in the order of their tags. Messages[i] is what is to be stored of Deliveries[Index[i]].
	Deliveries []consume.Delivery
	Messages   []store.Row
	Index      []int
	// Rejected are the deliveries that were found to be unstorable before the database was asked.
	Rejected []Rejection
	// Bytes is the size of all bodies and properties.
	Bytes int64
	// Slot is freed after the first try: what has to be repeated must not keep the others from writing. It may be nil.
	Slot *Slot
}

// Reset empties b, keeps its memory, and lets go of all that the messages hold.
func (b *Batch) Reset() {
	clear(b.Deliveries)
	clear(b.Messages)
	clear(b.Rejected)
	b.Deliveries, b.Messages, b.Index, b.Rejected = b.Deliveries[:0], b.Messages[:0], b.Index[:0], b.Rejected[:0]
	b.Bytes, b.Slot = 0, nil
}

// Rejection says why a delivery cannot be stored.
type Rejection struct {
	Delivery int // index in Batch.Deliveries
	ID       uuid.UUID
	Reason   contract.Reason
	Err      error
	// Transient: worth another attempt.
	Transient bool
}

// Stats counts what became of a tenant's messages. All fields only rise.
type Stats struct {
	Stored, Duplicates, Retried atomic.Int64
	deadLettered                [reasonCount]atomic.Int64
}

// reasonCount is held to the number of contract.Reasons by a test.
const reasonCount = 9

// DeadLettered is the counter of one reason.
func (s *Stats) DeadLettered(reason contract.Reason) *atomic.Int64 {
	for i, known := range contract.Reasons() {
		if known == reason {
			return &s.deadLettered[i]
		}
	}
	panic("reason without a counter: " + string(reason))
}

// Inserter stores messages; [store.Store] is one.
type Inserter interface {
	Insert(ctx context.Context, tenant uuid.UUID, messages []store.Row) (stored int, err error)
	Attach(ctx context.Context, tenant uuid.UUID) error
}

// Publisher publishes with confirms; [publish.Publisher] is one.
type Publisher interface {
	PublishBatch(ctx context.Context, messages []publish.Message) []error
}

// DeadLetterBuilder builds the dead letter of a delivery.
type DeadLetterBuilder func(tenant uuid.UUID, d consume.Delivery, reason contract.Reason, cause error, attempts int) publish.Message

// Config is how a writer deals with faults.
type Config struct {
	// RetryDelays are the tiers in which a message waits for its next attempt, shortest first.
	RetryDelays []time.Duration
	// HoldTimeout is how long a batch is held while the infrastructure is away. It must be well below the broker's
	// limit for an unacknowledged delivery, 30 minutes by default.
	HoldTimeout time.Duration
	// PublishTimeout bounds one try to publish dead letters and retries.
	PublishTimeout time.Duration
	// Slots is how many batches of all tenants are written at a time; 0 for no limit.
	Slots int
}

// ErrHeld says that the infrastructure has been away for so long that the deliveries are better given back.
var ErrHeld = errors.New("the infrastructure is away; the messages go back to their queue")

// Writer writes batches. It is safe for concurrent use.
type Writer struct {
	cfg        Config
	store      Inserter
	gate       *Gate
	publisher  Publisher
	deadLetter DeadLetterBuilder
	metrics    *Metrics
	log        *zap.Logger
	slots      *fairQueue
}

// NewWriter returns a writer. deadLetter builds the publishing of a dead letter.
func NewWriter(cfg Config, s Inserter, gate *Gate, publisher Publisher, deadLetter DeadLetterBuilder, m *Metrics, log *zap.Logger) *Writer {
	if cfg.Slots <= 0 {
		cfg.Slots = math.MaxInt32
	}
	return &Writer{
		cfg: cfg, store: s, gate: gate, publisher: publisher, deadLetter: deadLetter, metrics: m, log: log,
		slots: newFairQueue(cfg.Slots),
	}
}

// Reserve waits for a slot for a batch of f's tenant until ctx ends; nil then. full says that the batch was ended by its size: the tenant has a backlog.
func (w *Writer) Reserve(ctx context.Context, f *Flow, full bool) *Slot {
	return w.slots.wait(ctx, f, full)
}

// TryReserve is a slot if there is one for f right now, else nil. It does not pass anybody who waits.
func (w *Writer) TryReserve(f *Flow, full bool) *Slot { return w.slots.try(f, full) }

// Write stores b. It returns nil when all of it may be acknowledged, and an error when none of it may: because ctx or
// waitCtx has ended, because of [ErrHeld], or because the tenant is retired ([store.ErrRetired]). The end of ctx
// interrupts at once, the end of waitCtx only what waits for something to come back.
func (w *Writer) Write(ctx, waitCtx context.Context, b *Batch, stats *Stats) error {
	defer b.Slot.Free()
	call := write{batch: b, stats: stats, rejected: b.Rejected, began: time.Now()}
	if len(b.Messages) > 0 {
		insert := func(from, to int) error { return w.insert(ctx, waitCtx, &call, from, to) }
		if err := bisect.Range(0, len(b.Messages), insert, call.reject); err != nil {
			return err
		}
	}
	b.Slot.Free() // what is left to do is the broker's work
	return w.dispose(ctx, waitCtx, &call)
}

// write is what the steps of one call of Write share.
type write struct {
	batch    *Batch
	stats    *Stats
	rejected []Rejection
	began    time.Time // the hold timeout counts from here, whatever is waited for
}

// tenantLog is the logger of the batch's tenant. It is made for each line: under small batches one for each would be a quarter
// of all that is allocated.
func (w *Writer) tenantLog(b *Batch) *zap.Logger {
	return w.log.With(zap.Stringer("tenant_id", b.Tenant))
}

// insert stores the messages from one index up to another. It repeats that until the store returns something else than a fault of
// the infrastructure.
func (w *Writer) insert(ctx, waitCtx context.Context, call *write, from, to int) error {
	messages := call.batch.Messages[from:to]
	pauses := newPauses()
	for {
		begin := time.Now()
		stored, err := w.store.Insert(ctx, call.batch.Tenant, messages)
		call.batch.Slot.Free()
		if err == nil {
			w.metrics.storeSeconds.Observe(time.Since(begin).Seconds())
			w.metrics.batchSize.Observe(float64(len(messages)))
			call.stats.Stored.Add(int64(stored))
			call.stats.Duplicates.Add(int64(len(messages) - stored))
			return nil
		}
		if sqlstate.Classify(err) != sqlstate.Infrastructure || errors.Is(err, store.ErrRetired) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write: %w", ctx.Err())
		}
		w.tenantLog(call.batch).Debug("writing failed; it will be repeated", zap.Error(err))
		if sqlstate.IsPartitionMissing(err) { // the one fault that a writer can fix
			if err := w.store.Attach(ctx, call.batch.Tenant); errors.Is(err, store.ErrRetired) {
				return err
			}
		} else if sqlstate.IsServerWide(err) {
			w.gate.Close(err)
		}
		if err := w.waitForReturn(waitCtx, call, pauses); err != nil {
			return err
		}
	}
}

// reject notes a message that the database refuses for its content.
func (c *write) reject(i int, err error) error {
	c.rejected = append(c.rejected, Rejection{
		Delivery: c.batch.Index[i], ID: c.batch.Messages[i].ID,
		Reason: contract.ReasonRejected, Err: err, Transient: sqlstate.Classify(err) == sqlstate.Transient,
	})
	return nil
}

// waitForReturn pauses, with jitter, and then waits until the gate is open.
func (w *Writer) waitForReturn(waitCtx context.Context, call *write, pauses backoff.BackOff) error {
	ctx, cancel := context.WithDeadline(waitCtx, call.began.Add(w.cfg.HoldTimeout))
	defer cancel()
	if retry.Sleep(ctx, pauses.NextBackOff()) == nil && w.gate.Wait(ctx) == nil && ctx.Err() == nil {
		return nil
	}
	if waitCtx.Err() != nil {
		return fmt.Errorf("write: %w", waitCtx.Err())
	}
	return ErrHeld
}

func newPauses() backoff.BackOff {
	return retry.Backoff(20*time.Millisecond, 5*time.Second)
}

// dispose hands what cannot be stored on to the retry tiers and the dead letters.
func (w *Writer) dispose(ctx, waitCtx context.Context, call *write) error {
	if len(call.rejected) == 0 {
		return nil
	}
	messages := make([]publish.Message, len(call.rejected))
	dead := make([]contract.Reason, len(call.rejected)) // empty: another attempt
	for i, rejection := range call.rejected {
		d := call.batch.Deliveries[rejection.Delivery]
		failed := attempt.Of(d, time.Now())
		failed.Attempts++
		if rejection.Transient && failed.Attempts < call.batch.MaxAttempts {
			messages[i] = retryMessage(d, call.batch.Tenant, rejection.ID, failed, w.cfg.RetryDelays)
			continue
		}
		dead[i] = rejection.Reason
		if rejection.Transient {
			dead[i] = contract.ReasonMaxAttempts
		}
		messages[i] = w.deadLetter(call.batch.Tenant, d, dead[i], rejection.Err, failed.Attempts)
	}
	if err := w.publish(ctx, waitCtx, call, messages); err != nil {
		return err
	}
	for i, reason := range dead {
		if reason == "" {
			call.stats.Retried.Add(1)
			continue
		}
		call.stats.DeadLettered(reason).Add(1)
		w.tenantLog(call.batch).Debug("dead letter", zap.Stringer("message_id", call.rejected[i].ID), zap.String("reason", string(reason)), zap.Error(call.rejected[i].Err))
	}
	return nil
}

// publish repeats until every message is confirmed. One that is published twice, because its confirmation was lost, is
// recognised by its id further on.
func (w *Writer) publish(ctx, waitCtx context.Context, call *write, messages []publish.Message) error {
	pauses := newPauses()
	for {
		attempt, cancel := context.WithTimeout(ctx, w.cfg.PublishTimeout)
		results := w.publisher.PublishBatch(attempt, messages)
		cancel()
		var failed []publish.Message
		var cause error
		for i, err := range results {
			if err != nil {
				failed, cause = append(failed, messages[i]), err
			}
		}
		if len(failed) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("publish: %w", ctx.Err())
		}
		w.tenantLog(call.batch).Warn("dead letters or retries could not be published; they will be repeated", zap.Int("messages", len(failed)), zap.Error(cause))
		messages = failed
		if err := w.waitForReturn(waitCtx, call, pauses); err != nil {
			return err
		}
	}
}
