package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// entries is a snapshot of the bucket.
type entries map[string]control.Entry[contract.TenantSpec]

// compare repairs every difference between registry and bucket. The bucket is read first: what it has then was in the
// registry before, so that a tenant that is created meanwhile is not taken for one that the registry does not know.
func (r *Relay) compare(ctx context.Context) error {
	start := time.Now()
	snapshot, err := r.bucket.Snapshot(ctx)
	if err != nil {
		return err
	}
	after := uuid.Nil
	known := 0
	for {
		batch, err := r.registry.Batch(ctx, after, batchSize)
		if err != nil {
			return err
		}
		if err := r.compareBatch(ctx, batch, snapshot); err != nil {
			return err
		}
		for _, t := range batch {
			delete(snapshot, t.ID.String())
			after = t.ID
			known++
		}
		if len(batch) < batchSize {
			break
		}
	}
	for key, entry := range snapshot {
		if err := r.dropOrphan(ctx, key, entry.Revision); err != nil {
			return err
		}
	}
	r.log.Debug("compared registry and bucket", zap.Int("tenants", known), zap.Duration("took", time.Since(start)))
	return nil
}

func (r *Relay) compareBatch(ctx context.Context, batch []tenant.Tenant, snapshot entries) error {
	var done []tenant.Tenant
	for _, t := range batch {
		if r.observed(t.ID) > t.Generation {
			var err error
			if t, err = r.overtakeObserved(ctx, t.ID); err != nil {
				return err
			}
		}
		seen, ok := snapshot[t.ID.String()]
		if ok && seen.Value == t.Spec() {
			if t.PublishedGeneration < t.Generation {
				done = append(done, t)
			}
			continue
		}
		if t.State == tenant.Deleted {
			continue
		}
		if t.PublishedGeneration >= t.Generation { // else it is just not published yet
			r.metrics.repairs.WithLabelValues(repairRestored).Inc()
			r.log.Info("the control channel has lost or changed a tenant; publishing it again", zap.Stringer("tenant_id", t.ID),
				zap.Bool("missing", !ok), zap.Int64("seen_generation", seen.Value.Generation), zap.Int64("generation", t.Generation))
		}
		known := &seen
		if !ok {
			known = nil // it may be malformed, which a snapshot leaves out
		}
		published, err := r.publish(ctx, t, known)
		if err != nil {
			return err
		}
		if published != nil {
			done = append(done, *published)
		}
	}
	return r.mark(ctx, done)
}

// overtakeObserved lifts a tenant above what an instance has seen. See [tenant.Tenant.Overtake].
func (r *Relay) overtakeObserved(ctx context.Context, id uuid.UUID) (tenant.Tenant, error) {
	observed := r.observed(id)
	t, err := r.registry.Change(ctx, id, audit.System(), audit.TenantRaised, func(t *tenant.Tenant) error {
		t.RaiseAboveObserved(observed)
		return nil
	})
	if err != nil {
		return tenant.Tenant{}, fmt.Errorf("overtake observed generation %d of tenant %s: %w", observed, id, err)
	}
	return t, nil
}

// dropOrphan removes a key from the bucket whose tenant is deleted, or that the registry has never known.
func (r *Relay) dropOrphan(ctx context.Context, key string, revision uint64) error {
	id, err := uuid.Parse(key)
	if err == nil {
		_, err = r.registry.Find(ctx, id)
		if err == nil {
			return nil // created since
		}
		if !errors.Is(err, tenant.ErrNotFound) {
			return err
		}
	}
	err = r.bucket.DeleteRevision(ctx, key, revision)
	if errors.Is(err, control.ErrConflict) {
		return nil // somebody has just written it; the next comparison looks again
	}
	if err != nil {
		return err
	}
	r.metrics.repairs.WithLabelValues(repairRemoved).Inc()
	r.log.Warn("removed a tenant from the control channel that the registry does not have", zap.String("tenant_id", key))
	return nil
}
