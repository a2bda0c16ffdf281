package tenants

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// defaultResync is the default of [Config.Resync].
	defaultResync = 45 * time.Second
	// channelTimeout is how long a start waits for the control channel before the tenants are read from the registry.
	channelTimeout = 10 * time.Second
	// resyncRetry is the longest pause after a comparison that failed.
	resyncRetry = 5 * time.Second
	// resyncFull is how often everything is compared although nothing seems to have changed.
	resyncFull = 10 * time.Minute
	// amongLimit is how many tenants are asked for at a time.
	amongLimit = 1000
)

// resync compares the tenants that run with the registry, again and again.
type resync struct {
	registry Registry
	tenants  *table
	interval time.Duration // between two comparisons, give or take a third
	log      *zap.Logger

	entriesSeen atomic.Int64 // entries that the control channel has told of

	// What was found equal last; owned by the goroutine of run.
	version string
	entries int64 // entriesSeen then
	at      time.Time
	failing bool // the last comparison failed, which was logged
}

func newResync(tenants *table, interval time.Duration) *resync {
	if interval == 0 {
		interval = defaultResync
	}
	return &resync{registry: tenants.env.registry, tenants: tenants, interval: interval, log: tenants.env.log}
}

// run begins once the first snapshot of the control channel is there, or does not come, and ends with ctx. It tells synced of every
// comparison that has succeeded. While the database is away nothing changes.
func (r *resync) run(ctx context.Context, first <-chan struct{}, synced func()) {
	if r.registry == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-first:
	case <-time.After(channelTimeout):
		r.log.Warn("the control channel does not tell which tenants there are; they are read from the registry")
	}
	for ctx.Err() == nil {
		pause := r.interval*2/3 + rand.N(r.interval*2/3+1) //nolint:gosec // spreads load, decides nothing
		err := r.compare(ctx)
		if err != nil {
			pause = min(pause, resyncRetry)
		} else {
			synced()
		}
		if ctx.Err() == nil && (err != nil) != r.failing {
			r.failing = err != nil
			r.log.Info("what runs is compared with the registry", zap.NamedError("fault", err))
		}
		_ = retry.Sleep(ctx, pause) // the loop ends with ctx
	}
}

// compare corrects every tenant of which the registry says something else than what runs, unless nothing has changed on either
// side since that was the same.
func (r *resync) compare(ctx context.Context) error {
	entries := r.entriesSeen.Load() // before the registry is read: what arrives meanwhile is compared the next time
	version, err := r.registry.RegistryVersion(ctx)
	if err != nil {
		return err
	}
	if r.version == version && r.entries == entries && time.Since(r.at) < resyncFull {
		return nil
	}
	running := make(map[uuid.UUID]contract.TenantSpec)
	for _, t := range r.tenants.all() {
		running[t.id] = t.current().spec
	}
	left, err := r.compareRegistered(ctx, running)
	if err != nil {
		return err
	}
	if err := r.compareUnregistered(ctx, left, running); err != nil {
		return err
	}
	r.version, r.entries, r.at = version, entries, time.Now()
	return nil
}

// compareRegistered corrects the tenants that the registry has, and returns those that it does not have.
func (r *resync) compareRegistered(ctx context.Context, running map[uuid.UUID]contract.TenantSpec) (left []uuid.UUID, err error) {
	found := make(map[uuid.UUID]struct{}, len(running))
	for behind := uuid.Nil; ; {
		page, err := r.registry.Registered(ctx, behind)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, registration := range page {
			if behind, err = uuid.Parse(registration.Spec.TenantID); err != nil {
				return nil, fmt.Errorf("read the registry: %w", err)
			}
			found[behind] = struct{}{}
			r.tenants.correct(ctx, behind, registration, running)
		}
	}
	for id := range running {
		if _, ok := found[id]; !ok {
			left = append(left, id)
		}
	}
	return left, nil
}

// compareUnregistered tears down those of the tenants that are deleted. One that the registry does not know continues as it is.
func (r *resync) compareUnregistered(ctx context.Context, ids []uuid.UUID, running map[uuid.UUID]contract.TenantSpec) error {
	for len(ids) > 0 {
		chunk := ids[:min(amongLimit, len(ids))]
		ids = ids[len(chunk):]
		known, err := r.registry.RegisteredAmong(ctx, chunk)
		if err != nil {
			return err
		}
		for _, registration := range known {
			id, err := uuid.Parse(registration.Spec.TenantID)
			if err != nil {
				return fmt.Errorf("read the registry: %w", err)
			}
			r.tenants.correct(ctx, id, registration, running)
		}
	}
	return nil
}
