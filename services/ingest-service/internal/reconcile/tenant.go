package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// tenant is one tenant on this instance. The goroutine of run acts; everyone else sets what is wanted and reads what was
// observed.
type tenant struct {
	id      uuid.UUID
	control *Controller
	wake    chan struct{} // capacity 1: something has changed, look again

	// state is what the consumer counts; it outlives single consumers.
	state consumer.State

	mu          sync.Mutex
	spec        contract.TenantSpec    // guarded by mu: what is wanted
	provisioned bool                   // guarded by mu: queue and partition are there
	unverified  bool                   // guarded by mu: though provisioned, that is to be made sure of
	observed    contract.ConsumerState // guarded by mu
	generation  int64                  // guarded by mu: what observed is the result of
	fault       error                  // guarded by mu: what is in the way
	depth       status.Depth           // guarded by mu
	vanished    bool                   // guarded by mu: the control channel no longer names the tenant
	consuming   bool                   // guarded by mu: there is a consumer, and what it says counts
	configured  int64                  // guarded by mu: the generation that the consumer was configured for
	standby     bool                   // guarded by mu: all workers belong to other instances, as is desired
	share       int                    // guarded by mu: the workers of this instance that were applied last
	registered  bool                   // guarded by mu: spec is what the registry says, not just the control channel
	isolated    error                  // guarded by mu: what the consumer says of deliveries that break the connection
}

func newTenant(c *Controller, id uuid.UUID, spec contract.TenantSpec) *tenant {
	return &tenant{
		id: id, control: c, spec: spec, observed: contract.StateProvisioning, depth: status.Depth{Ready: -1},
		wake: make(chan struct{}, 1),
	}
}

// log is the logger of this tenant. It is made for each line: a tenant says little, and a logger takes almost a kilobyte.
func (t *tenant) log() *zap.Logger { return t.control.deps.Log.With(zap.Stringer("tenant_id", t.id)) }

// want sets the desired state, unless it is older than what is known: an update that was overtaken on its way.
func (t *tenant) want(spec contract.TenantSpec) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if spec.Generation == t.spec.Generation && t.registered && spec != t.spec {
		t.log().Warn("the control channel says something else than the registry and is ignored", zap.Int64("generation", spec.Generation))
		return
	}
	if spec.Generation < t.spec.Generation {
		t.log().Info("an older generation arrived late and is ignored",
			zap.Int64("generation", spec.Generation), zap.Int64("known", t.spec.Generation))
		return
	}
	t.registered = t.registered && spec == t.spec
	t.spec, t.vanished = spec, false
	t.nudge()
}

func (t *tenant) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tenant) wanted() contract.TenantSpec {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spec
}

// vanish notes that the control channel no longer names the tenant.
func (t *tenant) vanish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.vanished = true
	t.nudge()
}

func (t *tenant) hasVanished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.vanished
}

// observe notes the outcome of acting on a generation and has it reported.
func (t *tenant) observe(state contract.ConsumerState, generation int64, fault error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(state, generation, fault)
}

// note is observe for whoever holds the lock.
func (t *tenant) note(state contract.ConsumerState, generation int64, fault error) {
	changed := t.observed != state || t.generation != generation || fmt.Sprint(t.fault) != fmt.Sprint(fault)
	t.observed, t.generation, t.fault = state, generation, fault
	if changed {
		t.log().Info("tenant observed", zap.String("state", string(state)), zap.Int64("generation", generation), zap.NamedError("fault", fault))
	}
	t.control.reporter.Mark(t.id, t)
}

// isOver reports whether the teardown is done and nobody waits for the report of it any more.
func (t *tenant) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.observed == contract.StateDeleted && t.vanished
}

func (t *tenant) setProvisioned(provisioned bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.provisioned = provisioned
}

// requestVerification has the tenant make sure of its partition, its queue and the bindings, while it goes on.
func (t *tenant) requestVerification() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unverified = true
	t.nudge()
}

// setVerified notes that everything was made sure of.
func (t *tenant) setVerified() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.provisioned, t.unverified = true, false
}

// run brings the tenant to its desired state whenever that changes, and again after every fault, until ctx ends or the
// tenant is forgotten. A running consumer is finished before it returns.
func (t *tenant) run(ctx context.Context) {
	job := job{tenant: t}
	defer func() { job.stopConsumer(t.wanted()) }()
	pauses := retry.Backoff(100*time.Millisecond, 10*time.Second)
	for {
		spec := t.wanted()
		err := job.reconcile(ctx, spec)
		if errors.Is(err, store.ErrRetired) && t.hasVanished() {
			// It was deleted while the control channel did not reach this instance.
			err = job.teardown(ctx, spec)
		}
		if err == nil && t.control.release(t) {
			return
		}
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			t.observe(contract.StateFailed, spec.Generation, err)
			again = time.After(pauses.NextBackOff())
		} else {
			pauses.Reset()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-again:
		case err := <-job.ended():
			// The queue or the partition is gone under the consumer: provision again.
			t.log().Warn("the consumer has ended", zap.Error(err))
			job.forgetConsumer()
			t.setProvisioned(false)
			t.observe(contract.StateFailed, spec.Generation, err)
		}
	}
}

// job is what a tenant's goroutine has running. That goroutine owns it.
type job struct {
	*tenant
	consumer Consumer // nil while none runs
	cancel   context.CancelFunc
	done     chan error // capacity 1: the consumer's goroutine never waits
}

func (j *job) ended() <-chan error { return j.done }

// reconcile makes the one next state true. Every step can be repeated.
func (j *job) reconcile(ctx context.Context, spec contract.TenantSpec) error {
	j.step(spec, step.Begun)
	switch spec.State {
	case contract.DesiredActive:
		return j.activate(ctx, spec)
	case contract.DesiredSuspended:
		j.setStandby(false, 0)
		j.stopConsumer(spec) // first: whatever else fails, nothing is consumed any more
		if err := j.provision(ctx, spec); err != nil {
			return err
		}
		j.observe(contract.StateSuspended, spec.Generation, nil)
		return nil
	case contract.DesiredDeleting:
		if j.isOver() {
			return nil
		}
		if doomed, err := j.confirmDeletion(ctx, spec); err != nil || !doomed {
			return err
		}
		return j.teardown(ctx, spec)
	}
	return fmt.Errorf("unknown desired state %q", spec.State)
}

// activate provisions the tenant and has this instance's share of the workers consume. An instance without a share stands by:
// the queue and the partition are its concern as well as anybody's.
func (j *job) activate(ctx context.Context, spec contract.TenantSpec) error {
	share, known := j.control.members.Share(j.id, spec.Workers)
	j.setShare(share)
	if known && share == 0 {
		j.stopConsumer(spec) // first: whatever else fails, the workers are others'
	}
	if err := j.provision(ctx, spec); err != nil {
		return err
	}
	switch {
	case !known: // it goes on as soon as that is
	case share == 0:
		j.setStandby(true, spec.Generation)
		j.observeConsumer(nil)
	default:
		j.startConsumer(ctx, spec, share)
	}
	return nil
}

func (j *job) provision(ctx context.Context, spec contract.TenantSpec) error {
	j.mu.Lock()
	provisioned, unverified := j.provisioned, j.unverified
	j.mu.Unlock()
	switch {
	case provisioned && !unverified:
		return nil
	case provisioned: // and in use: what is observed stays
	case j.control.existing.Claim(ctx, j.id):
		j.setProvisioned(true)
		return nil
	default:
		j.setStandby(false, 0)
		j.observe(contract.StateProvisioning, spec.Generation, nil)
	}
	if err := j.control.provisioner.Provision(ctx, j.id, func(done step.Step) { j.step(spec, done) }); err != nil {
		return err
	}
	j.setVerified()
	return nil
}

// teardown takes everything of the tenant away: first what produces work, then what holds it.
func (j *job) teardown(ctx context.Context, spec contract.TenantSpec) error {
	j.setStandby(false, 0)
	j.observe(contract.StateDeleting, spec.Generation, nil)
	j.setProvisioned(false)
	j.control.existing.Remove(j.id)
	j.stopConsumer(spec)
	if err := j.control.provisioner.Remove(ctx, j.id, func(done step.Step) { j.step(spec, done) }); err != nil {
		return err
	}
	j.control.deps.Forget(j.id)
	j.step(spec, step.Forgotten)
	j.observe(contract.StateDeleted, spec.Generation, nil)
	return nil
}

func (j *job) step(spec contract.TenantSpec, done step.Step) {
	j.control.deps.Step.Done(j.id, spec.Generation, done)
}

// startConsumer makes the consumer run with what spec says and so many workers; one that runs is configured anew, not
// restarted.
func (j *job) startConsumer(ctx context.Context, spec contract.TenantSpec, workers int) {
	maxAttempts := spec.MaxAttempts
	if maxAttempts == 0 {
		maxAttempts = j.control.cfg.MaxAttempts
	}
	if j.consumer != nil {
		j.consumer.Configure(workers, maxAttempts)
		j.setConsuming(true, spec.Generation)
		j.step(spec, step.ConsumerConfigured)
		j.observeConsumer(nil)
		return
	}
	// It has started, or not, once it has anything to say, or has ended.
	started := sync.OnceFunc(func() { <-j.control.starts })
	running := j.control.deps.NewConsumer(j.id, &j.state, func(fault error) {
		started()
		j.onConsumerChange(fault)
	})
	running.Configure(workers, maxAttempts)
	j.setConsuming(true, spec.Generation)
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		if !j.control.mayStart(own) {
			done <- nil
			return
		}
		err := running.Run(own)
		started()
		done <- err
	}()
	j.consumer, j.cancel, j.done = running, cancel, done
	j.step(spec, step.ConsumerStarted)
}

func (t *tenant) setConsuming(consuming bool, configured int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.consuming, t.configured = consuming, configured
	if !consuming {
		t.isolated = nil
	}
}

// onConsumerChange takes in what the consumer says. That its deliveries break the connection stays true between two probes, whatever becomes
// of each.
func (t *tenant) onConsumerChange(fault error) {
	t.mu.Lock()
	if fault == nil || errors.Is(fault, consumer.ErrIsolated) {
		t.isolated = fault
	}
	t.mu.Unlock()
	t.observeConsumer(fault)
}

// setShare notes which share of the workers is being applied.
func (t *tenant) setShare(share int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.share = share
}

// setStandby notes whether this instance stands by, and for which generation.
func (t *tenant) setStandby(standby bool, generation int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.standby = standby; standby {
		t.configured = generation
	}
}

// divide has the share of the workers applied if it is another one now.
func (t *tenant) divide() {
	t.mu.Lock()
	defer t.mu.Unlock()
	share, known := t.control.members.Share(t.id, t.spec.Workers)
	if known && t.spec.State == contract.DesiredActive && (share != t.share || !t.consuming && !t.standby) {
		t.nudge()
	}
}

// observeConsumer reports what the consumer says of itself, or that none is needed here. Both the consumer and the tenant's goroutine call it, and
// whoever notices that the database has gone or come back. It speaks of the generation that the consumer was configured
// for, which may not be the newest one that is wanted, and says nothing once the consumer has been stopped.
func (t *tenant) observeConsumer(fault error) {
	if outage := t.control.deps.Outage(); outage != nil {
		fault = outage
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.consuming && !t.standby:
	case t.isolated != nil:
		t.note(contract.StateFailed, t.configured, t.isolated)
	case fault == nil && t.consuming && t.state.Consuming.Load():
		t.standby = false
		t.note(contract.StateRunning, t.configured, nil)
	case fault == nil && !t.consuming:
		t.note(contract.StateRunning, t.configured, nil)
	case fault != nil && !errors.Is(fault, context.Canceled):
		t.note(contract.StatePaused, t.configured, fault)
	}
}

// stopConsumer lets the consumer finish and waits for it. A timeout is not needed: everything that it waits for has one.
func (j *job) stopConsumer(spec contract.TenantSpec) {
	if j.consumer == nil {
		return
	}
	j.cancel()
	if err := <-j.done; err != nil {
		j.log().Info("the consumer has stopped", zap.Error(err))
	}
	j.forgetConsumer()
	j.step(spec, step.ConsumerStopped)
}

func (j *job) forgetConsumer() {
	j.cancel()
	j.setConsuming(false, 0)
	j.consumer, j.cancel, j.done = nil, nil, nil
}

// Status is what this instance has to say about the tenant now.
func (t *tenant) Status() contract.TenantStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.depth.Unacked = t.state.Unacked()
	status := contract.TenantStatus{
		TenantID:           t.id.String(),
		ObservedGeneration: t.generation, State: t.observed,
		QueueReady: t.depth.Ready, QueueUnacked: t.depth.Unacked,
		ObservedAt: time.Now().UTC(),
	}
	if t.observed == contract.StateRunning && !t.standby {
		status.Workers = int(t.state.Workers.Load())
	}
	if t.fault != nil {
		status.Error = t.fault.Error()
	}
	return status
}

// activity is what the consumer does now.
func (t *tenant) activity() status.Activity {
	return status.Activity{
		Unacked: t.state.Unacked(), Consuming: t.state.Consuming.Load(),
		Handled: t.state.Stored.Load() + t.state.Duplicates.Load() + t.state.Retried.Load(),
	}
}

// isDepthDue reports whether the queue is to be looked at.
func (t *tenant) isDepthDue(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.provisioned && t.depth.IsDue(now, t.activity())
}

// observeDepth notes how many messages wait in the queue.
func (t *tenant) observeDepth(ready int64) {
	t.mu.Lock()
	next, changed := t.depth.Observe(time.Now(), ready, t.activity())
	t.depth = next
	if ready == provision.Missing && t.provisioned {
		// A running consumer would notice; a suspended tenant has none.
		t.provisioned = false
		t.nudge()
	}
	t.mu.Unlock()
	if changed {
		t.control.reporter.Mark(t.id, t)
	}
}
