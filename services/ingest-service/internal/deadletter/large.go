package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
)

// moveTimeout bounds the move of a dead letter to another queue: with 128 MiB it takes seconds.
const moveTimeout = time.Minute

// sizeOf is what a delivery takes, in bytes.
func sizeOf(d consume.Delivery) int { return len(d.Body) + len(d.Properties) }

// large tells what does not stay among the small ones.
func (r *Recorder) large(d consume.Delivery) bool { return sizeOf(d) > r.limits.large }

// tries is how often a dead letter from the queue of large ones could not be recorded in time.
func tries(d consume.Delivery) int {
	n, _ := d.Properties.Headers().Lookup(contract.HeaderRecordTries).Int()
	return int(min(max(n, 0), 1<<20))
}

// divert moves a large dead letter to the queue of large ones. If that fails, because the broker has an alarm or takes nothing of that size
// any more, it is recorded where it is.
func (r *Recorder) divert(ctx context.Context, log *zap.Logger, l Entry, lost <-chan struct{}) error {
	err := r.move(ctx, l, contract.LargeDeadLettersExchange, 0)
	if err == nil || ctx.Err() != nil {
		return err
	}
	log.Warn("a large dead letter could not be moved, and is recorded among the small ones",
		zap.Stringer("tenant_id", l.TenantID), zap.Stringer("dead_letter_id", l.ID), zap.Int("bytes", l.size()), zap.Error(err))
	return r.record(ctx, log, []Entry{l}, lost, never)
}

// move publishes a dead letter for another queue. It returns nil once the broker has taken responsibility for it.
func (r *Recorder) move(ctx context.Context, l Entry, exchange string, tries int) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	session, err := r.links.Large.Session(ctx)
	if err != nil {
		return err
	}
	return publish.Single(ctx, session, l.moved(exchange, tries))
}

// recordLarge records a dead letter from the queue of large ones. One that alone takes too long, while the database commits other writes,
// goes to the end of that queue, and into quarantine when that has happened too often. Everything else is waited for.
func (r *Recorder) recordLarge(ctx context.Context, log *zap.Logger, l Entry, tried int, lost <-chan struct{}) error {
	slow := false
	err := r.record(ctx, log, []Entry{l}, lost, func(err error) bool {
		slow = tookTooLong(err) && r.ping(ctx) == nil
		return slow
	})
	if !slow {
		return err
	}
	tried++
	log = log.With(zap.Stringer("tenant_id", l.TenantID), zap.Stringer("dead_letter_id", l.ID), zap.String("reason", string(l.Reason)),
		zap.Int("bytes", l.size()), zap.Int("tries", tried), zap.Error(err))
	if tried < r.limits.tries {
		log.Warn("a large dead letter takes the database too long; others are recorded before it is tried again")
		return wrap("move a dead letter to the end of its queue", r.move(ctx, l, contract.LargeDeadLettersExchange, tried))
	}
	if err := wrap("put a dead letter into quarantine", r.move(ctx, l, contract.QuarantineExchange, tried)); err != nil {
		return err
	}
	log.Error("a large dead letter takes the database too long, and is in quarantine")
	return nil
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// tookTooLong reports whether a write was ended for its time alone.
func tookTooLong(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || sqlstate.Is(err, pgerrcode.QueryCanceled)
}
