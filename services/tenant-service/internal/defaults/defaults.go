// Package defaults brings the tenants up to date with the defaults of the installation, which are others than those that were applied
// to a tenant when the configuration has changed.
//
// What is in force for a tenant is kept in the registry, since it is what the instances of ingest-service are told, and is compared with.
// So every process compares it once with the defaults that it was started with, one step of tenants after the other. Each tenant is a
// change of its own with a generation of its own, which nobody else has to wait for; a process that is killed leaves those behind that
// it has changed, and the next one goes on, since they need no change any more. Several processes may do so at once. If they have been
// given different defaults, those of the last one that was started count.
//
// A version of the registry that knows of no limits may run beside this one, during an upgrade, and create tenants without the defaults.
// They are looked for again and again.
package defaults

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

const (
	// step is how many tenants are read at a time.
	step = 500
	// interval is between two looks for tenants that another version has created, give or take a tenth.
	interval = 5 * time.Minute
	// Pauses after a fault of the registry.
	firstPause, longestPause = 200 * time.Millisecond, 5 * time.Second
)

// Registry is what is needed of the registry of tenants. Package store documents the methods.
type Registry interface {
	Batch(ctx context.Context, after uuid.UUID, limit int) ([]tenant.Tenant, error)
	Change(ctx context.Context, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error) (tenant.Tenant, error)
}

// Run applies the defaults of policy until ctx ends. Faults of the registry are logged once and outlived.
func Run(ctx context.Context, registry Registry, policy tenant.Policy, log *zap.Logger) error {
	all := func(tenant.Tenant) bool { return true }
	if err := untilDone(ctx, registry, policy, all, log); err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	for retry.Sleep(ctx, retry.Jitter(interval)) == nil {
		if err := untilDone(ctx, registry, policy, neverConfigured, log); err != nil {
			return nil //nolint:nilerr // ctx has ended
		}
	}
	return nil
}

// neverConfigured tells the tenants that a version without limits has created.
func neverConfigured(t tenant.Tenant) bool { return t.Config.Workers == 0 }

// untilDone goes on behind the last tenant that was looked at until there is none left. The error is that of ctx.
func untilDone(ctx context.Context, registry Registry, policy tenant.Policy, due func(tenant.Tenant) bool, log *zap.Logger) error {
	pauses := retry.Backoff(firstPause, longestPause)
	changed, failing := 0, false
	for after := uuid.Nil; ; {
		last, n, more, err := refresh(ctx, registry, policy, after, due, log)
		after = last
		changed += n
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if !failing {
				log.Warn("the defaults cannot be applied to the tenants now; trying again", zap.Error(err))
			}
			failing = true
			if err := retry.Sleep(ctx, pauses.NextBackOff()); err != nil {
				return err
			}
		case !more:
			if changed > 0 || failing {
				log.Info("the defaults are applied to all tenants", zap.Int("changed", changed))
			}
			return nil
		}
	}
}

// refresh applies the defaults to the next step of tenants. It returns the last one that was looked at, how many have changed, and whether
// there may be more.
func refresh(ctx context.Context, registry Registry, policy tenant.Policy, after uuid.UUID, due func(tenant.Tenant) bool, log *zap.Logger) (
	last uuid.UUID, changed int, more bool, err error,
) {
	tenants, err := registry.Batch(ctx, after, step)
	if err != nil {
		return after, 0, true, err
	}
	for _, t := range tenants {
		stale := t
		if policy.Refresh(&stale); due(t) && stale.Generation != t.Generation {
			now, err := registry.Change(ctx, t.ID, audit.System(), audit.ConfigChanged, func(t *tenant.Tenant) error {
				policy.Refresh(t)
				return nil
			})
			if err != nil {
				return after, changed, true, err
			}
			if now.Generation > t.Generation {
				changed++
			}
			if err := policy.Contradictions(&now); err != nil {
				log.Warn("limits of a tenant contradict each other since the defaults have changed", zap.Stringer("tenant_id", t.ID), zap.Error(err))
			}
		}
		after = t.ID
	}
	return after, changed, len(tenants) == step, nil
}
