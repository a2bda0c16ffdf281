package tenants

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
)

// Controller holds the tenants of this instance.
type Controller struct {
	deps    Dependencies
	env     *environment
	tenants *table
	resync  *resync

	first     chan struct{} // closed once the first snapshot of the control channel was taken in
	firstOnce sync.Once     // closes it
}

// New returns a controller that works once Run is called.
func New(cfg Config, deps Dependencies) *Controller {
	alive := members.New(cfg.Instance, deps.Presence, deps.Log)
	env := &environment{
		maxAttempts: cfg.MaxAttempts,
		provisioner: provision.New(deps.Partitions, deps.Topology, cfg.Concurrency),
		existing:    provision.NewExisting(deps.Partitions, deps.Log),
		members:     alive,
		reporter:    status.NewReporter(deps.Statuses, cfg.Instance, deps.Step, alive.Beaten, deps.Log),
		registry:    deps.Registry,
		corrections: newCorrections(deps.Log),
		newConsumer: deps.NewConsumer,
		starts:      make(starts, maxStarts),
		outage:      deps.Outage,
		forget:      deps.Forget,
		hook:        deps.Step,
		log:         deps.Log,
	}
	tenants := newTable(env)
	return &Controller{
		deps: deps, env: env, tenants: tenants, resync: newResync(tenants, cfg.Resync), first: make(chan struct{}),
	}
}

// Run reconciles until ctx ends. It then lets every consumer finish what is in flight, and reports that it has stopped.
func (c *Controller) Run(ctx context.Context) error {
	reports, stopReports := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReports()
	var background sync.WaitGroup
	background.Go(func() { c.env.reporter.Run(reports) })
	background.Go(func() { status.PollDepths(ctx, c.deps.Topology.Depths, c.depthsDue, c.observeDepth, c.deps.Log) })
	background.Go(func() { c.check(ctx) })
	background.Go(func() { c.env.members.Run(ctx, c.deps.Heartbeats) })
	background.Go(func() { c.divide(ctx) })

	var learning sync.WaitGroup // of tenants; what it has begun is waited for after it has ended
	learning.Go(func() { c.resync.run(ctx, c.first, c.setSynced) })
	err := c.deps.Specs.Watch(ctx, func(entry control.Entry[contract.TenantSpec]) { c.apply(ctx, entry) }, c.setSynced)
	learning.Wait()
	c.tenants.work.Wait()
	stopReports()
	background.Wait()
	c.withdraw(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("watch the tenants: %w", err)
	}
	return nil
}

// withdrawTimeout bounds how long a stopping instance takes to say so; otherwise its heartbeat expires.
const withdrawTimeout = 2 * time.Second

// withdraw tells the others that this instance has stopped, as far as there is time.
func (c *Controller) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	if err := c.env.members.Leave(ctx); err != nil {
		c.deps.Log.Info("the database could not be told that this instance ends", zap.Error(err))
	}
	c.env.reporter.Withdraw(ctx)
}

func (c *Controller) setSynced() {
	c.firstOnce.Do(func() {
		close(c.first)
		c.deps.Synced()
	})
}

func (c *Controller) isSynced() bool {
	select {
	case <-c.first:
		return true
	default:
		return false
	}
}

// apply takes in one change of the control channel.
func (c *Controller) apply(ctx context.Context, entry control.Entry[contract.TenantSpec]) {
	c.resync.entriesSeen.Add(1)
	id, err := uuid.Parse(entry.Key)
	if err != nil {
		c.deps.Log.Warn("the control channel has a key that is no tenant id", zap.String("key", entry.Key))
		return
	}
	if entry.Deleted {
		c.tenants.vanish(id)
		return
	}
	if err := verify(id, entry.Value); err != nil {
		c.deps.Log.Warn("the control channel has a value that is ignored", zap.Stringer("tenant_id", id), zap.Error(err))
		return
	}
	c.tenants.want(ctx, id, entry.Value)
}

// verify says what is wrong with a value of the control channel: it belongs to another tenant, or asks for what nobody can do.
func verify(id uuid.UUID, spec contract.TenantSpec) error {
	switch spec.State {
	case contract.DesiredActive, contract.DesiredSuspended, contract.DesiredDeleting:
	default:
		return fmt.Errorf("unknown desired state %q", spec.State)
	}
	switch {
	case spec.TenantID != id.String():
		return fmt.Errorf("it is that of tenant %q", spec.TenantID)
	case spec.Workers < 1 || spec.Generation < 1 || spec.MaxAttempts < 0:
		return fmt.Errorf("workers %d, max_attempts %d, generation %d", spec.Workers, spec.MaxAttempts, spec.Generation)
	case spec.Limits.Negative():
		return fmt.Errorf("a limit is negative: %+v", spec.Limits)
	}
	return nil
}

// divide has the tenants of which this instance's share of the workers has changed apply it, until ctx ends.
func (c *Controller) divide(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.env.members.Changed():
		}
		for _, t := range c.tenants.all() {
			t.divide()
		}
	}
}

// checkPause is between two tenants that are verified although they are assumed to be provisioned: 25 a second, or 10,000 in
// less than seven minutes, and next to nothing for the broker and the database.
const checkPause = 40 * time.Millisecond

// checkLead is how long the tenants have to start before the first of them is verified: one that is verified first is not assumed to be
// provisioned any more, and waits for its partition and its queue.
const checkLead = 2 * time.Second

// check has every tenant that was assumed to be provisioned provisioned once more in the background, the youngest first, since
// it is the one whose provisioning may have been cut off.
func (c *Controller) check(ctx context.Context) {
	all := c.env.existing.Read(ctx)
	select {
	case <-c.first:
	case <-ctx.Done():
	}
	_ = retry.Sleep(ctx, checkLead) // the loop ends with ctx
	for _, id := range all {
		if retry.Sleep(ctx, checkPause) != nil {
			return
		}
		c.env.existing.Remove(id)
		c.Verify(id)
	}
}

// depthsDue are the tenants whose queue is to be looked at.
func (c *Controller) depthsDue(now time.Time) (due []uuid.UUID) {
	for _, t := range c.tenants.all() {
		if t.current().isDepthDue(now, t.activity()) {
			due = append(due, t.id)
		}
	}
	return due
}

func (c *Controller) observeDepth(id uuid.UUID, ready int64) {
	if t, known := c.tenants.find(id); known {
		t.observeDepth(ready)
	}
}

// Reobserve has every tenant that is to run reported again: the database has gone or come back.
func (c *Controller) Reobserve() {
	for _, t := range c.tenants.all() {
		t.observeConsumer(nil)
	}
}

// Verify has a tenant's partition, queue and bindings verified, soon and at most once at a time. It does not wait for that, and the
// tenant continues meanwhile.
func (c *Controller) Verify(id uuid.UUID) {
	if t, known := c.tenants.find(id); known {
		t.requestVerification()
	}
}

// Instances are those that are alive, as this one knows, in order; none if it is cut off from the others, or knows of nobody yet.
func (c *Controller) Instances() []string { return c.env.members.Instances() }

// Limits are those in force for a tenant; none for one that this instance does not know.
func (c *Controller) Limits(id uuid.UUID) contract.Limits {
	t, known := c.tenants.find(id)
	if !known {
		return contract.Limits{}
	}
	return t.current().spec.Limits
}

// EachLimits calls visit with the limits in force for every tenant of this instance that is not being deleted.
func (c *Controller) EachLimits(visit func(tenant uuid.UUID, limits contract.Limits)) {
	for _, t := range c.tenants.all() {
		if spec := t.current().spec; spec.State != contract.DesiredDeleting {
			visit(t.id, spec.Limits)
		}
	}
}

// lookupTimeout bounds the questions about a tenant that is not known yet.
const lookupTimeout = 500 * time.Millisecond

// Lookup tells what is wanted of a tenant and whether its queue is there; ok is false for a tenant that does not exist. A
// tenant that this instance does not know is looked up in the control channel, for it may have been created this very
// moment, and then among the partitions, for a missing key never means deletion: the channel may have lost its data. As
// long as nobody can tell, every tenant may exist. One whose deletion the registry has not confirmed continues as it is: a
// producer that is told of a deletion gives up, and the control channel may be wrong.
func (c *Controller) Lookup(ctx context.Context, id uuid.UUID) (spec contract.TenantSpec, provisioned, ok bool) {
	synced := c.isSynced() // first: the snapshot was taken in before that
	t, known := c.tenants.find(id)
	unknown := contract.TenantSpec{TenantID: id.String(), State: contract.DesiredActive}
	switch {
	case known:
		s := t.current()
		if s.deletionUnconfirmed() {
			return unknown, s.provisioned, true
		}
		return s.spec, s.provisioned, s.observed.state != contract.StateDeleted
	case !synced:
		return unknown, false, true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	entry, err := c.deps.Specs.Get(ctx, id.String())
	if err == nil {
		return entry.Value, false, true
	}
	if !errors.Is(err, control.ErrNotFound) {
		return unknown, false, true
	}
	if spec, registered, retired, err := c.registered(ctx, id); err != nil || registered {
		return spec, false, err != nil || !retired
	}
	attached, err := c.deps.Partitions.Attached(ctx, id)
	return unknown, false, err != nil || attached
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
