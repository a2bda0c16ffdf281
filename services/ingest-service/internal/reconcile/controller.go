package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
)

// Partitions are tenants' partitions; store.Store has them.
type Partitions interface {
	provision.Partitions
	// Attached is false for a tenant that was never provisioned, or was deleted.
	Attached(ctx context.Context, tenant uuid.UUID) (bool, error)
}

// Queues are tenants' queues; [provision.Topology] has them.
type Queues interface {
	provision.Queues
	Depths(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error
}

// Specs is the bucket of desired states; control.Tenants returns one.
type Specs interface {
	Watch(ctx context.Context, handle func(control.Entry[contract.TenantSpec]), synced func()) error
	Get(ctx context.Context, key string) (control.Entry[contract.TenantSpec], error)
}

// Consumer consumes the queue of one tenant; consumer.Consumer does.
type Consumer interface {
	Configure(workers, maxAttempts int)
	Run(ctx context.Context) error
}

// NewConsumer makes the consumer of a tenant. onChange is told when it starts to consume, and what keeps it from consuming.
type NewConsumer func(tenant uuid.UUID, state *consumer.State, onChange func(error)) Consumer

// Config is how a controller works.
type Config struct {
	// Instance names this instance in its reports.
	Instance string
	// MaxAttempts is how often a message is tried unless its tenant says otherwise.
	MaxAttempts int
	// Concurrency is how many tenants are provisioned or torn down at a time.
	Concurrency int
	// Resync is how often what runs is compared with the registry, give or take a third.
	Resync time.Duration
}

// Dependencies are what a controller acts on.
type Dependencies struct {
	Specs       Specs
	Statuses    status.Statuses
	Partitions  Partitions
	Topology    Queues
	NewConsumer NewConsumer
	// Heartbeats are those of all instances, among which the workers of a tenant are divided.
	Heartbeats members.Heartbeats
	// Presence tells an instance that cannot reach the control channel whether others can; nil: it never knows.
	Presence members.Presence
	// Registry is what the control channel is compared with; nil: what the channel says is all there is.
	Registry Registry
	// Synced is called once the first full snapshot of the control channel has been taken in.
	Synced func()
	// Forget is called when a tenant's teardown is done, and again when it is let go: what others keep of it must go, too.
	Forget func(tenant uuid.UUID)
	// Outage tells why nothing can be stored; nil while it can.
	Outage func() error
	// Step is told of every step that is done; nil outside of tests.
	Step step.Hook
	Log  *zap.Logger
}

// Controller holds the tenants of this instance.
type Controller struct {
	cfg         Config
	deps        Dependencies
	reporter    *status.Reporter
	provisioner *provision.Provisioner
	existing    *provision.Existing
	members     *members.Members
	resynced    resynced      // owned by the goroutine of resync
	starts      chan struct{} // capacity maxStarts: held while a consumer starts
	first       chan struct{} // closed once the first snapshot was taken in
	work        sync.WaitGroup

	entriesSeen atomic.Int64 // entries that the control channel has told of
	healed      healed       // by the comparison with the registry

	mu      sync.RWMutex
	tenants map[uuid.UUID]*tenant // guarded by mu
	synced  bool                  // guarded by mu: the first snapshot was taken in
}

// maxStarts is how many consumers start at a time. Each asks the broker three times in a row; what goes together wakes each
// side once, so 5,000 start in 2.1 to 3.0 s, and with 128 at a time in 3.6 s. Thousands that ask a slow broker at once would
// wait for longer than one request may take.
const maxStarts = 512

// mayStart waits until a consumer may start, or ctx ends.
func (c *Controller) mayStart(ctx context.Context) bool {
	select {
	case c.starts <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// New returns a controller that works once Run is called.
func New(cfg Config, deps Dependencies) *Controller {
	c := &Controller{
		cfg: cfg, deps: deps, healed: newHealed(),
		provisioner: provision.New(deps.Partitions, deps.Topology, cfg.Concurrency),
		existing:    provision.NewExisting(deps.Partitions, deps.Log),
		members:     members.New(cfg.Instance, deps.Presence, deps.Log),
		starts:      make(chan struct{}, maxStarts),
		first:       make(chan struct{}),
		tenants:     make(map[uuid.UUID]*tenant),
	}
	c.reporter = status.NewReporter(deps.Statuses, cfg.Instance, deps.Step, c.members.Beaten, deps.Log)
	return c
}

// Run reconciles until ctx ends. It then lets every consumer finish what is in flight, and reports that it has stopped.
func (c *Controller) Run(ctx context.Context) error {
	reports, stopReports := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReports()
	var background sync.WaitGroup
	background.Go(func() { c.reporter.Run(reports) })
	background.Go(func() { status.PollDepths(ctx, c.deps.Topology.Depths, c.depthsDue, c.observeDepth, c.deps.Log) })
	background.Go(func() { c.check(ctx) })
	background.Go(func() { c.members.Run(ctx, c.deps.Heartbeats) })
	background.Go(func() { c.divide(ctx) })

	var learning sync.WaitGroup // of tenants; what it has begun is waited for after it has ended
	learning.Go(func() { c.resync(ctx) })
	err := c.deps.Specs.Watch(ctx, func(entry control.Entry[contract.TenantSpec]) { c.apply(ctx, entry) }, c.setSynced)
	learning.Wait()
	c.work.Wait()
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

// withdraw removes the heartbeat, so that nobody takes this instance for running, and then what it has reported, as far as
// there is time.
func (c *Controller) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, withdrawTimeout)
	defer cancel()
	if err := c.members.Leave(ctx); err != nil {
		c.deps.Log.Info("the database could not be told that this instance ends", zap.Error(err))
	}
	c.reporter.Withdraw(ctx)
}

func (c *Controller) setSynced() {
	c.mu.Lock()
	first := !c.synced
	c.synced = true
	c.mu.Unlock()
	if first {
		close(c.first)
		c.deps.Synced()
	}
}

// apply takes in one change of the control channel.
func (c *Controller) apply(ctx context.Context, entry control.Entry[contract.TenantSpec]) {
	c.entriesSeen.Add(1)
	id, err := uuid.Parse(entry.Key)
	if err != nil {
		c.deps.Log.Warn("the control channel has a key that is no tenant id", zap.String("key", entry.Key))
		return
	}
	if entry.Deleted {
		c.vanish(id)
		return
	}
	if err := verify(id, entry.Value); err != nil {
		c.deps.Log.Warn("the control channel has a value that is ignored", zap.Stringer("tenant_id", id), zap.Error(err))
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, known := c.tenants[id]; known {
		t.want(entry.Value)
		return
	}
	c.add(ctx, newTenant(c, id, entry.Value))
}

// add begins to work for a tenant. The caller holds the lock.
func (c *Controller) add(ctx context.Context, t *tenant) {
	c.tenants[t.id] = t
	c.work.Go(func() { t.run(ctx) })
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
	}
	return nil
}

// divide has the tenants of which this instance's share of the workers has changed apply it, whenever that may be so, until ctx ends.
func (c *Controller) divide(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.members.Changed():
		}
		for _, t := range c.all() {
			t.divide()
		}
	}
}

// vanish takes in that the control channel no longer names a tenant. One whose teardown is done, or is under way, ends
// with that. Any other goes on as it is, and the registry will put it back; should it turn out to be retired, because
// this instance was not told of its deletion, it is torn down then.
func (c *Controller) vanish(id uuid.UUID) {
	t, known := c.tenant(id)
	if !known {
		return
	}
	if t.wanted().State != contract.DesiredDeleting {
		c.deps.Log.Warn("a tenant vanished from the control channel; it goes on as it is", zap.Stringer("tenant_id", id))
	}
	t.vanish()
}

// release lets go of a tenant if its teardown is done and nobody waits for the report of it any more. Its goroutine calls
// it, and ends if it reports true. apply cannot come in between: what it gives a tenant that is let go would be lost.
func (c *Controller) release(t *tenant) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.isOver() {
		return false
	}
	delete(c.tenants, t.id)
	c.reporter.Forget(t.id)
	c.deps.Forget(t.id)
	c.deps.Step.Done(t.id, t.wanted().Generation, step.Released)
	return true
}

// Reobserve has every tenant that is to run reported again: the database has gone or come back.
func (c *Controller) Reobserve() {
	for _, t := range c.all() {
		t.observeConsumer(nil)
	}
}

// Verify has a tenant's partition, queue and bindings verified, soon and at most once at a time. It does not wait for that, and the
// tenant goes on meanwhile.
func (c *Controller) Verify(id uuid.UUID) {
	if t, known := c.tenant(id); known {
		t.requestVerification()
	}
}

func (c *Controller) tenant(id uuid.UUID) (*tenant, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t, known := c.tenants[id]
	return t, known
}

func (c *Controller) all() []*tenant {
	c.mu.RLock()
	defer c.mu.RUnlock()
	tenants := make([]*tenant, 0, len(c.tenants))
	for _, t := range c.tenants {
		tenants = append(tenants, t)
	}
	return tenants
}

// lookupTimeout bounds the questions about a tenant that is not known yet.
const lookupTimeout = 500 * time.Millisecond

// Lookup tells what is wanted of a tenant and whether its queue is there; ok is false for a tenant that does not exist. A
// tenant that this instance does not know is looked up in the control channel, for it may have been created this very
// moment, and then among the partitions, for a missing key never means deletion: the channel may have lost its data. As
// long as nobody can tell, every tenant may exist. One whose deletion the registry has not confirmed goes on as it is: a
// producer that is told of a deletion gives up, and the control channel may be wrong.
func (c *Controller) Lookup(ctx context.Context, id uuid.UUID) (spec contract.TenantSpec, provisioned, ok bool) {
	c.mu.RLock()
	t, known := c.tenants[id]
	synced := c.synced
	c.mu.RUnlock()
	unknown := contract.TenantSpec{TenantID: id.String(), State: contract.DesiredActive}
	switch {
	case known:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.deletionUnconfirmed() {
			return unknown, t.provisioned, true
		}
		return t.spec, t.provisioned, t.observed != contract.StateDeleted
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

// checkPause is between two tenants that are verified although they are assumed to be provisioned: 25 a second, or 10,000 in
// less than seven minutes, and next to nothing for the broker and the database.
const checkPause = 40 * time.Millisecond

// check has every tenant that was assumed to be provisioned provisioned once more in the background, the youngest first, since
// it is the one whose provisioning may have been cut off.
func (c *Controller) check(ctx context.Context) {
	all := c.existing.Read(ctx)
	select {
	case <-c.first:
	case <-ctx.Done():
	}
	for _, id := range all {
		if retry.Sleep(ctx, checkPause) != nil {
			return
		}
		c.existing.Remove(id)
		c.Verify(id)
	}
}

// depthsDue are the tenants whose queue is to be looked at.
func (c *Controller) depthsDue(now time.Time) (due []uuid.UUID) {
	for _, t := range c.all() {
		if t.isDepthDue(now) {
			due = append(due, t.id)
		}
	}
	return due
}

func (c *Controller) observeDepth(id uuid.UUID, ready int64) {
	if t, known := c.tenant(id); known {
		t.observeDepth(ready)
	}
}
