// Package usage counts what tenants have stored, for GET /tenants/{id}/usage: a second after it was stored, as a rule.
//
// It counts rows, not writes. Every tenant has a position in the reading order, up to which its messages are counted; a step sums the
// next ones, up to the horizon, and moves the position in the same transaction. So the sums are exactly those of the rows, whatever
// dies, comes twice or is counted by several instances, and storing costs nothing more ([store.Store.RollUp]).
//
// Looked at are the tenants that this process has written messages of, every second, and all tenants when it starts and every
// few minutes: an instance that has died may have left messages that nobody has counted. What a transaction that is open for long
// keeps behind the horizon is counted late.
package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

const (
	// interval is the pause between two rounds.
	interval = time.Second
	// sweepPart is how many of all tenants a round looks at, beside those that were written: 10,000 tenants take a hundred seconds.
	sweepPart = 100
	// sweepInterval is the pause between two looks at all tenants, give or take a tenth.
	sweepInterval = 5 * time.Minute
	// maxSteps is how often a round counts a page of one tenant: as many as it can have stored meanwhile, and more. What is left, such as
	// what an earlier version has stored, is for the next rounds.
	maxSteps = 20
	// lastRound bounds the round after the end, for what was stored last.
	lastRound = 2 * time.Second
)

// Counter counts messages; store.Store is one.
type Counter interface {
	Written() map[uuid.UUID]struct{}
	RollUp(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error)
	AttachedLongerThan(ctx context.Context, age time.Duration) ([]uuid.UUID, error)
	ExpireUsage(ctx context.Context, before time.Time) (int64, error)
}

// Roller counts the usage of all tenants. Its fields but the metrics are owned by the goroutine of Run.
type Roller struct {
	counter   Counter
	retention time.Duration
	log       *zap.Logger

	// behind are the tenants that are not counted up to what was written: by the ahead that the horizon has to reach, 0 if none is known yet.
	behind  map[uuid.UUID]uint64
	sweep   []uuid.UUID // left of all tenants
	swept   time.Time   // when the next look at all tenants is due
	failing bool        // the last round has failed

	counted, failed prometheus.Counter
}

// New returns a roller, which removes the hours of usage that are older than retention, and registers its metrics on reg.
func New(counter Counter, retention time.Duration, reg prometheus.Registerer, log *zap.Logger) *Roller {
	r := &Roller{
		counter: counter, retention: retention, log: log, behind: make(map[uuid.UUID]uint64),
		counted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_usage_messages_counted_total", Help: "Messages that this instance has counted for the usage of tenants.",
		}),
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_usage_failures_total", Help: "Rounds in which the usage of tenants could not be counted; they are repeated.",
		}),
	}
	reg.MustRegister(r.counted, r.failed)
	return r
}

// Run counts until ctx ends, and then once more what was written last.
func (r *Roller) Run(ctx context.Context) error {
	for {
		r.report(ctx, r.round(ctx, time.Now()))
		if retry.Sleep(ctx, interval) != nil {
			break
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRound)
	defer cancel()
	if err := r.countWritten(ctx); err != nil {
		r.log.Info("what was stored last is not counted yet; it will be at the next start", zap.Error(err))
	}
	return nil
}

// report logs the first failure of several in a row, and that they are over.
func (r *Roller) report(ctx context.Context, err error) {
	switch {
	case err != nil && ctx.Err() == nil:
		r.failed.Inc()
		if !r.failing {
			r.log.Warn("the usage of tenants could not be counted; it will be repeated", zap.Error(err))
		}
		r.failing = true
	case err == nil && r.failing:
		r.failing = false
		r.log.Info("the usage of tenants is counted again")
	}
}

// round counts the tenants that were written, and a part of all.
func (r *Roller) round(ctx context.Context, now time.Time) error {
	failed := r.countWritten(ctx)
	if isForAll(failed) {
		return failed
	}
	if len(r.sweep) == 0 && !now.Before(r.swept) {
		if _, err := r.counter.ExpireUsage(ctx, now.Add(-r.retention)); err != nil {
			return err
		}
		all, err := r.counter.AttachedLongerThan(ctx, 0)
		if err != nil {
			return err
		}
		r.sweep, r.swept = all, now.Add(retry.Jitter(sweepInterval))
	}
	failures := []error{failed}
	for range min(sweepPart, len(r.sweep)) {
		tenant := r.sweep[0]
		step, err := r.step(ctx, tenant)
		if isForAll(err) {
			return err
		}
		r.sweep, failures = r.sweep[1:], append(failures, err)
		if _, written := r.behind[tenant]; !written && (step.More || step.Counted > 0) {
			r.behind[tenant] = step.Ahead // somebody has written it
		}
	}
	return errors.Join(failures...)
}

// countWritten counts the tenants that are behind, each up to the horizon. The fault of one is not that of the others.
func (r *Roller) countWritten(ctx context.Context) error {
	for tenant := range r.counter.Written() {
		r.behind[tenant] = 0
	}
	var failures []error
	for tenant := range r.behind {
		err := r.catchUp(ctx, tenant)
		if isForAll(err) {
			return err
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// isForAll reports whether the next tenant would meet err as well.
func isForAll(err error) bool {
	return sqlstate.IsServerWide(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// catchUp counts a tenant that is behind up to the horizon, unless another instance does. It is behind no more once the horizon has
// passed everything that it was told of.
func (r *Roller) catchUp(ctx context.Context, tenant uuid.UUID) error {
	for range maxSteps {
		step, err := r.step(ctx, tenant)
		if err != nil {
			return err
		}
		if r.behind[tenant] == 0 {
			r.behind[tenant] = step.Ahead
		}
		switch {
		case !step.More && step.Horizon >= r.behind[tenant]:
			delete(r.behind, tenant)
			return nil
		case !step.More || step.Counted == 0:
			return nil
		}
	}
	return nil
}

func (r *Roller) step(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error) {
	step, err := r.counter.RollUp(ctx, tenant)
	if err != nil {
		return step, fmt.Errorf("tenant %s: %w", tenant, err)
	}
	r.counted.Add(float64(step.Counted))
	return step, nil
}
