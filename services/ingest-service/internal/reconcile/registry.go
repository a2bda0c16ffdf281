package reconcile

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
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Registry is the registry of tenants, as far as this service sees it; store.Store does that.
type Registry interface {
	// RegistryVersion changes with every change of the registry.
	RegistryVersion(ctx context.Context) (string, error)
	// Registered is a page of the tenants that are not deleted, in the order of their ids; an empty one is the end.
	Registered(ctx context.Context, behind uuid.UUID) ([]store.Registration, error)
	// RegisteredAmong are those that the registry has ever known, the deleted ones included.
	RegisteredAmong(ctx context.Context, ids []uuid.UUID) ([]store.Registration, error)
}

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

// resynced is what was found equal last.
type resynced struct {
	version     string
	entriesSeen int64 // entries of the control channel until then
	at          time.Time
	failing     bool // the last comparison failed, which was logged
}

// disagreement is how control channel and registry disagree on a tenant. The registry counts.
type disagreement string

// The disagreements.
const (
	channelMissing disagreement = "missing" // the channel has not told of a tenant
	channelBehind  disagreement = "behind"  // it has told of an older generation
	channelForeign disagreement = "foreign" // it has told of what the registry has never said
	channelRetired disagreement = "retired" // it has told of a tenant that is deleted, or not of its deletion
)

func disagreements() []disagreement {
	return []disagreement{channelMissing, channelBehind, channelForeign, channelRetired}
}

// healed counts what was corrected.
type healed map[disagreement]*atomic.Int64

func newHealed() healed {
	h := make(healed)
	for _, how := range disagreements() {
		h[how] = new(atomic.Int64)
	}
	return h
}

// resync compares what runs with the registry, once the first snapshot of the control channel is there, or does not come, and
// then again and again until ctx ends. While the database is away nothing changes.
func (c *Controller) resync(ctx context.Context) {
	if c.deps.Registry == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-c.first:
	case <-time.After(channelTimeout):
		c.deps.Log.Warn("the control channel does not tell which tenants there are; they are read from the registry")
	}
	interval := c.cfg.Resync
	if interval == 0 {
		interval = defaultResync
	}
	for ctx.Err() == nil {
		pause := interval*2/3 + rand.N(interval*2/3+1) //nolint:gosec // spreads load, decides nothing
		err := c.compare(ctx)
		if err != nil {
			pause = min(pause, resyncRetry)
		} else {
			c.setSynced()
		}
		if ctx.Err() == nil && (err != nil) != c.resynced.failing {
			c.resynced.failing = err != nil
			c.deps.Log.Info("what runs is compared with the registry", zap.NamedError("fault", err))
		}
		_ = retry.Sleep(ctx, pause) // the loop ends with ctx
	}
}

// compare corrects every tenant of which the registry says something else than what runs, unless nothing has changed on either
// side since that was the same.
func (c *Controller) compare(ctx context.Context) error {
	entriesSeen := c.entriesSeen.Load() // before the registry is read: what arrives meanwhile is compared the next time
	version, err := c.deps.Registry.RegistryVersion(ctx)
	if err != nil {
		return err
	}
	last := &c.resynced
	if last.version == version && last.entriesSeen == entriesSeen && time.Since(last.at) < resyncFull {
		return nil
	}
	running := make(map[uuid.UUID]contract.TenantSpec)
	for _, t := range c.all() {
		running[t.id] = t.wanted()
	}
	left, err := c.compareRegistered(ctx, running)
	if err != nil {
		return err
	}
	if err := c.compareUnregistered(ctx, left, running); err != nil {
		return err
	}
	last.version, last.entriesSeen, last.at = version, entriesSeen, time.Now()
	return nil
}

// compareRegistered corrects the tenants that the registry has, and returns those that it does not have.
func (c *Controller) compareRegistered(ctx context.Context, running map[uuid.UUID]contract.TenantSpec) (left []uuid.UUID, err error) {
	found := make(map[uuid.UUID]struct{}, len(running))
	for behind := uuid.Nil; ; {
		page, err := c.deps.Registry.Registered(ctx, behind)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			if behind, err = uuid.Parse(r.Spec.TenantID); err != nil {
				return nil, fmt.Errorf("read the registry: %w", err)
			}
			found[behind] = struct{}{}
			c.correct(ctx, behind, r, running)
		}
	}
	for id := range running {
		if _, ok := found[id]; !ok {
			left = append(left, id)
		}
	}
	return left, nil
}

// compareUnregistered tears down those of the tenants that are deleted. One that the registry does not know goes on as it is.
func (c *Controller) compareUnregistered(ctx context.Context, ids []uuid.UUID, running map[uuid.UUID]contract.TenantSpec) error {
	for len(ids) > 0 {
		chunk := ids[:min(amongLimit, len(ids))]
		ids = ids[len(chunk):]
		known, err := c.deps.Registry.RegisteredAmong(ctx, chunk)
		if err != nil {
			return err
		}
		for _, r := range known {
			id, err := uuid.Parse(r.Spec.TenantID)
			if err != nil {
				return fmt.Errorf("read the registry: %w", err)
			}
			c.correct(ctx, id, r, running)
		}
	}
	return nil
}

// correct makes a tenant what the registry says. running is what was wanted before the registry was asked.
func (c *Controller) correct(ctx context.Context, id uuid.UUID, r store.Registration, running map[uuid.UUID]contract.TenantSpec) {
	c.mu.Lock()
	t, known := c.tenants[id]
	if !known && !r.Retired {
		t = newTenant(c, id, r.Spec)
		t.registered = true
		c.add(ctx, t)
	}
	c.mu.Unlock()
	switch {
	case known:
		if before, ok := running[id]; ok {
			t.correct(r, before)
		} // else it came meanwhile
	case !r.Retired:
		c.noteHealed(id, channelMissing, r.Spec)
	}
}

func (c *Controller) noteHealed(id uuid.UUID, how disagreement, spec contract.TenantSpec) {
	c.healed[how].Add(1)
	c.deps.Log.Warn("the control channel disagrees with the registry, which counts", zap.Stringer("tenant_id", id),
		zap.String("how", string(how)), zap.String("state", string(spec.State)), zap.Int64("generation", spec.Generation))
}

// registered is what the registry says of one tenant.
func (c *Controller) registered(ctx context.Context, id uuid.UUID) (spec contract.TenantSpec, known, retired bool, err error) {
	if c.deps.Registry == nil {
		return spec, false, false, nil
	}
	found, err := c.deps.Registry.RegisteredAmong(ctx, []uuid.UUID{id})
	if err != nil || len(found) == 0 {
		return contract.TenantSpec{TenantID: id.String(), State: contract.DesiredActive}, false, false, err
	}
	return found[0].Spec, true, found[0].Retired, nil
}

// correct makes what the registry says the desired state. before is what it was before the registry was asked.
//
// What the control channel says was in the registry first. So what was wanted before and is newer than the registry cannot have
// come from there: somebody else has written it, or it is the other way round with what the registry says, which was restored
// from a backup. Either way the registry counts. The generation stays, since it only goes up: tenant-service lifts that of the
// registry above what was observed.
func (t *tenant) correct(r store.Registration, before contract.TenantSpec) {
	t.mu.Lock()
	defer t.mu.Unlock()
	spec, how := r.Spec, channelForeign
	switch {
	case r.Retired:
		how = channelRetired
		spec.Generation = max(spec.Generation, t.spec.Generation)
		t.vanished = true // nobody waits for the report of a teardown that is over for everybody else
		if t.spec.State == contract.DesiredDeleting {
			t.registered = true
			t.nudge()
			return
		}
	case spec.Generation > t.spec.Generation:
		how = channelBehind
	case spec.Generation < t.spec.Generation && t.spec != before:
		return // it has changed since the registry was asked
	default:
		spec.Generation = t.spec.Generation
	}
	t.registered = true
	if spec == t.spec {
		return
	}
	t.spec = spec
	t.control.noteHealed(t.id, how, spec)
	t.nudge()
}

// deletionUnconfirmed reports whether the control channel alone says that the tenant is to be deleted. The caller holds the
// lock.
func (t *tenant) deletionUnconfirmed() bool {
	return t.spec.State == contract.DesiredDeleting && !t.registered &&
		t.observed != contract.StateDeleting && t.observed != contract.StateDeleted
}

// confirmDeletion asks the registry, unless what is wanted comes from there, whether the tenant is to be deleted: that cannot be
// undone, and the control channel is a hint. Of a tenant that the registry has never known the channel's word counts.
func (j *job) confirmDeletion(ctx context.Context, spec contract.TenantSpec) (doomed bool, err error) {
	j.mu.Lock()
	confirmed := j.registered && j.spec == spec
	j.mu.Unlock()
	if confirmed || j.control.deps.Registry == nil {
		return true, nil
	}
	found, err := j.control.deps.Registry.RegisteredAmong(ctx, []uuid.UUID{j.id})
	if err != nil {
		return false, fmt.Errorf("confirm the deletion: %w", err)
	}
	if len(found) == 0 || found[0].Retired || found[0].Spec.State == contract.DesiredDeleting {
		return true, nil
	}
	j.correct(found[0], spec)
	return false, nil
}
