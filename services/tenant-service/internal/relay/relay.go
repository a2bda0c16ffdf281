// Package relay brings the registry of tenants into the control channel, where the instances of ingest-service see it.
//
// The registry is the truth; the bucket is a copy that may be lost, wiped, or newer than a registry that was restored
// from a backup. What the relay guarantees: whatever either looks like, the bucket ends up with exactly the tenants of
// the registry, each with its newest generation, and no write of an older state goes over a newer one, also when several
// relays run at once. It does so in three ways:
//
//   - Changes. A row whose published_generation lags is written to the bucket: at once when this process made the
//     change, within a second when another did or the first try failed. There is no second write to a queue or an outbox
//     in the transaction of the change, so none can be forgotten.
//   - Conditions. Every write carries the revision that it replaces, and replaces only a lower generation.
//   - Comparison. A wiped bucket does not show in published_generation, so the whole bucket is compared with the whole
//     registry at the start, after every reconnect, and every 30 seconds or so, and repaired in both directions.
//
// A missing key never means deletion. The key of a tenant goes away after its deletion has been completed everywhere.
package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

const (
	// batchSize is how many rows are read and written at a time.
	batchSize = 500
	// maxAttempts bounds how often one write is tried against competitors. Each loss means that somebody else has
	// written, so a loser has little left to do.
	maxAttempts = 5
	// passTimeout bounds one pass. 10,000 tenants take seconds.
	passTimeout = 2 * time.Minute
	// countInterval is how often the number of tenants is counted although this process has changed none.
	countInterval = 15 * time.Second
)

// Registry is what the relay needs of the registry of tenants. Package store documents the methods.
type Registry interface {
	Unpublished(ctx context.Context, limit int) ([]tenant.Tenant, error)
	MarkPublished(ctx context.Context, tenants []tenant.Tenant) error
	Batch(ctx context.Context, after uuid.UUID, limit int) ([]tenant.Tenant, error)
	Find(ctx context.Context, id uuid.UUID) (tenant.Tenant, error)
	Change(ctx context.Context, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error) (tenant.Tenant, error)
	Counts(ctx context.Context) (map[tenant.State]int, error)
}

// Options of a relay. The zero value of a field is its default.
type Options struct {
	// Poll is how often unpublished changes are looked for that nobody has told of: 1 s.
	Poll time.Duration
	// Compare is how often registry and bucket are compared, give or take a tenth: 30 s.
	Compare time.Duration
	// Changes are those that this process makes; nil: those that the poll finds.
	Changes *Changes
	// Step is told of every step that the relay has done; nil outside of tests.
	Step Hook
}

// Changes tells a relay of changes of the registry. The store tells it, and is there before the relay. Make one with [NewChanges].
type Changes struct {
	wake chan struct{} // capacity 1: look for unpublished changes now
	step Hook
}

// NewChanges makes the Changes of one process. step is told of every change; nil outside of tests.
func NewChanges(step Hook) *Changes { return &Changes{wake: make(chan struct{}, 1), step: step} }

// Committed tells that this process has changed t in the registry. It never blocks.
func (c *Changes) Committed(t tenant.Tenant) {
	if t.State == tenant.Deleted {
		c.step.done(t.ID, StepRetired)
	} else {
		c.step.done(t.ID, StepCommitted)
	}
	c.Notify()
}

// Notify has unpublished changes looked for soon. It never blocks.
func (c *Changes) Notify() {
	select {
	case c.wake <- struct{}{}:
	default: // the relay is going to look anyway
	}
}

// Relay publishes the registry. Make one with [New].
type Relay struct {
	registry Registry
	bucket   *control.Bucket[contract.TenantSpec]
	// connected returns a channel that is closed at the next connect to NATS.
	connected func() <-chan struct{}
	// observed is the highest generation of a tenant that an instance is known to have seen.
	observed func(uuid.UUID) int64
	options  Options
	log      *zap.Logger
	metrics  *metrics

	// Owned by the goroutine of Run.
	failing bool      // the last pass failed, which was logged
	counted time.Time // when the tenants were counted
	changed bool      // a tenant has changed since then
}

// New makes a relay from registry to the tenants bucket of conn. observed tells the highest generation of a tenant that
// an instance is known to have seen, 0 if none has.
func New(
	registry Registry, conn *control.Conn, observed func(uuid.UUID) int64, options Options, reg prometheus.Registerer, log *zap.Logger,
) *Relay {
	if options.Poll == 0 {
		options.Poll = time.Second
	}
	if options.Compare == 0 {
		options.Compare = 30 * time.Second
	}
	if options.Changes == nil {
		options.Changes = NewChanges(options.Step)
	}
	return &Relay{
		registry:  registry,
		bucket:    control.Tenants(conn),
		connected: conn.NextConnect,
		observed:  observed,
		options:   options,
		log:       log,
		metrics:   newMetrics(reg),
	}
}

// Run publishes until ctx ends. Faults of PostgreSQL and NATS are logged once and outlived.
func (r *Relay) Run(ctx context.Context) error {
	poll := time.NewTicker(r.options.Poll)
	defer poll.Stop()
	compare := time.NewTimer(0)
	defer compare.Stop()
	due := false // the last comparison failed, or has not been made yet
	connected := r.connected()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-connected:
			connected, due = r.connected(), true
		case <-compare.C:
			compare.Reset(retry.Jitter(r.options.Compare))
			due = true
		case <-r.options.Changes.wake:
			r.changed = true
		case <-poll.C:
		}
		err := r.pass(ctx, due)
		due = due && err != nil
		r.report(ctx, err)
	}
}

// pass publishes what is unpublished and, if full, compares everything.
func (r *Relay) pass(ctx context.Context, full bool) error {
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	err := r.publishUnpublished(ctx)
	if err == nil && full {
		err = r.compare(ctx)
	}
	return errors.Join(err, r.count(ctx))
}

// report logs the first of a row of failures, and the end of the row.
func (r *Relay) report(ctx context.Context, err error) {
	switch {
	case ctx.Err() != nil:
	case err != nil && !r.failing:
		r.log.Warn("tenants cannot be published now; trying again every second", zap.Error(err))
		r.failing = true
	case err == nil && r.failing:
		r.log.Info("tenants are published again")
		r.failing = false
	}
}

func (r *Relay) publishUnpublished(ctx context.Context) error {
	for {
		batch, err := r.registry.Unpublished(ctx, batchSize)
		if err != nil {
			return err
		}
		waiting, err := r.publishAll(ctx, batch)
		r.metrics.lagging(waiting)
		r.changed = r.changed || len(waiting) < len(batch)
		if err != nil || len(waiting) > 0 || len(batch) < batchSize {
			return err // what waits has busy competitors; the next pass continues
		}
	}
}

// publishAll publishes a batch and returns what of it did not get published.
func (r *Relay) publishAll(ctx context.Context, batch []tenant.Tenant) (waiting []tenant.Tenant, err error) {
	done := make([]tenant.Tenant, 0, len(batch))
	for i, t := range batch {
		published, err := r.publish(ctx, t, nil)
		if err != nil {
			// What was written is noted even if the rest was not.
			return append(waiting, batch[i:]...), errors.Join(err, r.mark(ctx, done))
		}
		if published == nil {
			waiting = append(waiting, t)
			continue
		}
		done = append(done, *published)
	}
	return waiting, r.mark(ctx, done)
}

// mark notes in the registry that tenants are published as they are given.
func (r *Relay) mark(ctx context.Context, done []tenant.Tenant) error {
	if err := r.registry.MarkPublished(ctx, done); err != nil {
		return err
	}
	for _, t := range done {
		r.step(t.ID, StepMarked)
	}
	return nil
}

// publish makes the bucket say about t what the registry says, and returns what that is. seen is what the bucket is
// known to say, nil if that has to be looked up. It returns nil if t is deleted by now, or if others kept writing.
func (r *Relay) publish(ctx context.Context, t tenant.Tenant, seen *control.Entry[contract.TenantSpec]) (*tenant.Tenant, error) {
	for range maxAttempts {
		if seen == nil {
			entry, err := r.bucket.Get(ctx, t.ID.String())
			if err != nil && !errors.Is(err, control.ErrNotFound) && !errors.Is(err, control.ErrMalformed) {
				return nil, err
			}
			seen = &entry // without a revision if there is none, without a value if it is malformed
		}
		r.step(t.ID, StepRead)
		if seen.Revision > 0 && seen.Value.Generation >= t.Generation && seen.Value != t.Spec() {
			// Either t is out of date, or the registry is, compared with the one that published this.
			current, err := r.registry.Change(ctx, t.ID, audit.System(), audit.TenantRaised, func(t *tenant.Tenant) error {
				t.RaiseAbove(seen.Value)
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("overtake generation %d of tenant %s: %w", seen.Value.Generation, t.ID, err)
			}
			if current.State == tenant.Deleted {
				return nil, nil //nolint:nilnil // nothing to publish is no error
			}
			t = current
		}
		if seen.Revision > 0 && seen.Value == t.Spec() {
			return &t, nil
		}
		spec := t.Spec()
		var err error
		if seen.Revision == 0 {
			_, err = r.bucket.Create(ctx, spec.TenantID, spec)
		} else {
			_, err = r.bucket.Update(ctx, spec.TenantID, spec, seen.Revision)
		}
		if err == nil {
			r.step(t.ID, StepPublished)
			r.metrics.published.Inc()
			r.log.Debug("published tenant", zap.Stringer("tenant_id", t.ID), zap.Int64("generation", t.Generation))
			return &t, nil
		}
		if !errors.Is(err, control.ErrConflict) {
			return nil, err
		}
		seen = nil
	}
	return nil, nil //nolint:nilnil // the next pass continues
}

// Retire completes the deletion of a tenant in the registry and takes it out of the bucket, as package status asks
// for.
//
// Both steps can be repeated. If the second one fails, the tenant is deleted nonetheless, and the next comparison makes
// up for it.
func (r *Relay) Retire(ctx context.Context, id uuid.UUID, observed int64) (bool, error) {
	r.step(id, StepReported)
	t, err := r.registry.Change(ctx, id, audit.System(), audit.TenantRetired, func(t *tenant.Tenant) error {
		t.Retire(observed)
		return nil
	})
	if errors.Is(err, tenant.ErrNotFound) {
		return false, nil // reports on a tenant that this registry has never known
	}
	if err != nil || t.State != tenant.Deleted {
		return false, err
	}
	if err := r.bucket.Delete(ctx, id.String()); err != nil {
		return false, err
	}
	r.step(id, StepWithdrawn)
	r.options.Changes.Notify() // so that it is counted
	return true, nil
}
