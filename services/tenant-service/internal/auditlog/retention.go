package auditlog

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// stepSize is how many events the function of the database removes at most.
const stepSize = 500

// Run removes events that are older than age, a day at least, every so often, give or take a tenth, until ctx ends. Several
// instances may run it: one of them works. A fault of the database is logged, and left to the next time.
func (l *Log) Run(ctx context.Context, age, every time.Duration) error {
	timer := time.NewTimer(retry.Jitter(every))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		removed, err := l.Expire(ctx, age)
		if removed > 0 {
			l.log.Info("audit events have expired", zap.Int("events", removed))
		}
		if err != nil && ctx.Err() == nil {
			l.log.Warn("audit events cannot be removed now; trying again", zap.Duration("in", every), zap.Error(err))
		}
		timer.Reset(retry.Jitter(every))
	}
}

// Expire removes events that are older than age, a day at least, and returns how many it has removed, also with an error. It works in
// steps of 500, each in a transaction of its own, and leaves off when another instance is working.
func (l *Log) Expire(ctx context.Context, age time.Duration) (removed int, err error) {
	for {
		step, err := l.expireStep(ctx, age)
		if err != nil {
			return removed, wrap("remove audit events", err)
		}
		if step == nil { // another instance is working
			return removed, nil
		}
		if removed += *step; *step < stepSize {
			return removed, nil
		}
	}
}

// expireStep is one step of Expire; nil if another instance is working.
func (l *Log) expireStep(ctx context.Context, age time.Duration) (removed *int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = l.pool.QueryRow(ctx, `SELECT expire_audit_events($1)`, age).Scan(&removed)
	return removed, err
}
