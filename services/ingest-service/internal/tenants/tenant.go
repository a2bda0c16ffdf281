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
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// environment is what all tenants of an instance act on. It is never changed.
type environment struct {
	maxAttempts int // unless a tenant says otherwise
	provisioner *provision.Provisioner
	existing    *provision.Existing
	members     *members.Members
	reporter    *status.Reporter
	registry    Registry // nil: what the control channel says is all there is
	corrections *corrections
	newConsumer NewConsumer
	starts      starts // capacity maxStarts
	outage      func() error
	storage     Storage                                                              // nil: no tenant has a limit
	queueLimits func(tenant uuid.UUID, limits contract.Limits) *contract.QueueLimits // nil: nobody looks
	forget      []func(tenant uuid.UUID)
	hook        step.Hook
	log         *zap.Logger
}

// forgetTenant has everybody forget a tenant.
func (e *environment) forgetTenant(id uuid.UUID) {
	for _, forget := range e.forget {
		forget(id)
	}
}

// isFull reports whether a tenant is known to have stored as much as it may.
func (e *environment) isFull(id uuid.UUID, s state) bool {
	if e.storage == nil || !s.hasStorageLimit() {
		return false
	}
	room, known := e.storage.Room(id, s.spec.Limits.StoredMaxBytes)
	return known && room <= 0
}

// tenant is one tenant on this instance. The goroutine of run acts; everyone else sets what is wanted and reads what was
// observed.
type tenant struct {
	id   uuid.UUID
	env  *environment
	wake chan struct{} // capacity 1: something has changed, look again

	// counts is what the consumer counts; it outlives single consumers.
	counts consumer.State

	running running // owned by the goroutine of run

	mu    sync.Mutex
	state state // guarded by mu
}

// log is the logger of this tenant. It is made for each line: a tenant says little, and a logger takes almost a kilobyte.
func (t *tenant) log() *zap.Logger { return t.env.log.With(zap.Stringer("tenant_id", t.id)) }

func (t *tenant) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tenant) current() state {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// change makes a transition that nobody is told of.
func (t *tenant) change(transition func(state) state) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = transition(t.state)
}

// report makes a transition and, if it says so, has the tenant reported.
func (t *tenant) report(transition func(state) (next state, report bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.state.observed
	next, report := transition(t.state)
	t.state = next
	if !report {
		return
	}
	if o := next.observed; !o.equals(before) {
		t.log().Info("tenant observed", zap.String("state", string(o.state)), zap.Int64("generation", o.generation), zap.NamedError("fault", o.fault))
	}
	t.env.reporter.Mark(t.id, t)
}

// observe notes the outcome of acting on a generation and has it reported.
func (t *tenant) observe(outcome contract.ConsumerState, generation int64, fault error) {
	t.report(func(s state) (state, bool) { return s.observe(observation{outcome, generation, fault}), true })
}

// want sets the desired state, unless that is refused.
func (t *tenant) want(spec contract.TenantSpec) {
	var err error
	var known int64
	t.change(func(s state) (next state) {
		known = s.spec.Generation
		next, err = s.want(spec)
		return next
	})
	switch {
	case errors.Is(err, errContradicted):
		t.log().Warn(err.Error(), zap.Int64("generation", spec.Generation))
	case err != nil:
		t.log().Info(err.Error(), zap.Int64("generation", spec.Generation), zap.Int64("known", known))
	default:
		t.nudge()
	}
}

// vanish notes that the control channel no longer names the tenant.
func (t *tenant) vanish() {
	t.change(state.vanish)
	t.nudge()
}

// correct makes what the registry says the desired state. before is what it was before the registry was asked.
func (t *tenant) correct(r store.Registration, before contract.TenantSpec) {
	t.mu.Lock()
	next, how := t.state.correct(r, before)
	t.state = next
	t.mu.Unlock()
	if how != "" {
		t.env.corrections.note(t.id, how, next.spec)
	}
	if how != "" || r.Retired {
		t.nudge()
	}
}

// requestVerification has the tenant verify its partition, its queue and the bindings, while it is consumed.
func (t *tenant) requestVerification() {
	t.change(state.markUnverified)
	t.nudge()
}

// observeStorage reports the tenant anew if it has stored as much as it may, or no longer has.
func (t *tenant) observeStorage() {
	t.mu.Lock()
	full := t.env.isFull(t.id, t.state)
	changed := full != t.state.full
	t.state.full = full
	t.mu.Unlock()
	if changed {
		t.observeConsumer(nil)
	}
}

// divide has the share of the workers applied if it is another one now.
func (t *tenant) divide() {
	s := t.current()
	if share, known := t.env.members.Share(t.id, s.spec.Workers); known && s.needsShare(share) {
		t.nudge()
	}
}

// Status is what this instance has to say about the tenant now.
func (t *tenant) Status() contract.TenantStatus {
	t.mu.Lock()
	t.state = t.state.markReported(t.counts.Unacked())
	s := t.state
	t.mu.Unlock()
	status := s.status(t.id, time.Now().UTC(), int(t.counts.Workers.Load()))
	if t.env.queueLimits != nil && s.spec.State != contract.DesiredDeleting {
		status.QueueLimits = t.env.queueLimits(t.id, s.spec.Limits)
	}
	return status
}

// activity is what the consumer does now.
func (t *tenant) activity() status.Activity {
	return status.Activity{
		Unacked: t.counts.Unacked(), Consuming: t.counts.Consuming.Load(),
		Handled: t.counts.Stats.Stored.Load() + t.counts.Stats.Duplicates.Load() + t.counts.Stats.Retried.Load(),
	}
}

// observeDepth notes how many messages wait in the queue.
func (t *tenant) observeDepth(ready int64) {
	t.mu.Lock()
	next, report, lost := t.state.observeDepth(time.Now(), ready, t.activity())
	t.state = next
	t.mu.Unlock()
	if lost {
		t.nudge()
	}
	if report {
		t.env.reporter.Mark(t.id, t)
	}
}

// run brings the tenant to its desired state whenever that changes, and again after every fault, until ctx ends or release
// reports that the tenant is let go. A running consumer is finished before it returns. An idle tenant waits in it, so that its stack is
// kept small as that of consumer.Run is.
func (t *tenant) run(ctx context.Context, release func() bool) {
	defer func() { t.stopConsumer(t.current().spec) }()
	pauses := retry.Backoff(100*time.Millisecond, 10*time.Second)
	for {
		generation, err := t.act(ctx)
		if err == nil && release() {
			return
		}
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			again = time.After(pauses.NextBackOff())
		} else {
			pauses.Reset()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-again:
		case err := <-t.running.ended():
			t.loseConsumer(generation, err)
		}
	}
}

// act brings the tenant to the state that is desired now, which is of that generation.
func (t *tenant) act(ctx context.Context) (generation int64, err error) {
	spec := t.current().spec
	err = t.reconcile(ctx, spec)
	if errors.Is(err, store.ErrRetired) && t.current().vanished {
		// It was deleted while the control channel did not reach this instance.
		err = t.teardown(ctx, spec)
	}
	if err != nil && ctx.Err() == nil {
		t.observe(contract.StateFailed, spec.Generation, err)
	}
	return spec.Generation, err
}

// loseConsumer takes in that the consumer has ended: the queue or the partition is gone under it, and is to be provisioned again.
func (t *tenant) loseConsumer(generation int64, err error) {
	t.log().Warn("the consumer has ended", zap.Error(err))
	t.forgetConsumer()
	t.change(state.markMissing)
	t.observe(contract.StateFailed, generation, err)
}

// reconcile makes the one next state true. Every step can be repeated.
func (t *tenant) reconcile(ctx context.Context, spec contract.TenantSpec) error {
	t.step(spec, step.Begun)
	switch spec.State {
	case contract.DesiredActive:
		return t.activate(ctx, spec)
	case contract.DesiredSuspended:
		t.change(state.withoutStandby)
		t.stopConsumer(spec) // first: whatever else fails, nothing is consumed any more
		if err := t.provision(ctx, spec); err != nil {
			return err
		}
		t.observe(contract.StateSuspended, spec.Generation, nil)
		return nil
	case contract.DesiredDeleting:
		if t.current().isOver() {
			return nil
		}
		if doomed, err := t.confirmDeletion(ctx, spec); err != nil || !doomed {
			return err
		}
		return t.teardown(ctx, spec)
	}
	return fmt.Errorf("unknown desired state %q", spec.State)
}

func (t *tenant) step(spec contract.TenantSpec, done step.Step) {
	t.env.hook.Done(t.id, spec.Generation, done)
}

// activate provisions the tenant and has this instance's share of the workers consume. An instance without a share stands by:
// the queue and the partition are its concern as well as anybody's.
func (t *tenant) activate(ctx context.Context, spec contract.TenantSpec) error {
	share, known := t.env.members.Share(t.id, spec.Workers)
	t.change(func(s state) state { return s.withShare(share).withFull(t.env.isFull(t.id, s)) })
	if known && share == 0 {
		t.stopConsumer(spec) // first: whatever else fails, the workers are others'
	}
	if err := t.provision(ctx, spec); err != nil {
		return err
	}
	switch {
	case !known: // the consumer starts as soon as that is
	case share == 0:
		t.change(func(s state) state { return s.withStandby(spec.Generation) })
		t.observeConsumer(nil)
	default:
		t.startConsumer(ctx, spec, share)
	}
	return nil
}

// provision has partition, queue and bindings made, unless they are there and need not be verified.
func (t *tenant) provision(ctx context.Context, spec contract.TenantSpec) error {
	switch s := t.current(); {
	case s.provisioned && !s.unverified:
		return nil
	case s.provisioned: // and in use: what is observed stays
	case t.env.existing.Claim(ctx, t.id):
		t.change(state.markProvisioned)
		return nil
	default:
		t.change(state.withoutStandby)
		t.observe(contract.StateProvisioning, spec.Generation, nil)
	}
	if err := t.env.provisioner.Provision(ctx, t.id, func(done step.Step) { t.step(spec, done) }); err != nil {
		return err
	}
	t.change(state.markVerified)
	return nil
}

// confirmDeletion asks the registry, unless what is wanted comes from there, whether the tenant is to be deleted: that cannot be
// undone, and the control channel is a hint. Of a tenant that the registry has never known the channel's word counts.
func (t *tenant) confirmDeletion(ctx context.Context, spec contract.TenantSpec) (doomed bool, err error) {
	if s := t.current(); t.env.registry == nil || s.registered && s.spec == spec {
		return true, nil
	}
	found, err := t.env.registry.RegisteredAmong(ctx, []uuid.UUID{t.id})
	if err != nil {
		return false, fmt.Errorf("confirm the deletion: %w", err)
	}
	if len(found) == 0 || found[0].Retired || found[0].Spec.State == contract.DesiredDeleting {
		return true, nil
	}
	t.correct(found[0], spec)
	return false, nil
}

// teardown takes everything of the tenant away: first what produces work, then what holds it.
func (t *tenant) teardown(ctx context.Context, spec contract.TenantSpec) error {
	t.change(state.withoutStandby)
	t.observe(contract.StateDeleting, spec.Generation, nil)
	t.change(state.markMissing)
	t.env.existing.Remove(t.id)
	t.stopConsumer(spec)
	if err := t.env.provisioner.Remove(ctx, t.id, func(done step.Step) { t.step(spec, done) }); err != nil {
		return err
	}
	t.env.forgetTenant(t.id)
	t.step(spec, step.Forgotten)
	t.observe(contract.StateDeleted, spec.Generation, nil)
	return nil
}

// startConsumer makes the consumer run with what spec says and so many workers; one that runs is configured anew, not
// restarted.
func (t *tenant) startConsumer(ctx context.Context, spec contract.TenantSpec, workers int) {
	maxAttempts := spec.MaxAttempts
	if maxAttempts == 0 {
		maxAttempts = t.env.maxAttempts
	}
	if t.running.consumer != nil {
		t.running.consumer.Configure(workers, maxAttempts)
		t.running.consumer.Limit(spec.Limits)
		t.change(func(s state) state { return s.withConsumer(spec.Generation) })
		t.step(spec, step.ConsumerConfigured)
		t.observeConsumer(nil)
		return
	}
	// It has started, or not, once it has anything to say, or has ended.
	started := sync.OnceFunc(t.env.starts.release)
	made := t.env.newConsumer(t.id, &t.counts, func(fault error) {
		started()
		t.change(func(s state) state { return s.withIsolation(fault) })
		t.observeConsumer(fault)
	})
	made.Configure(workers, maxAttempts)
	made.Limit(spec.Limits)
	t.change(func(s state) state { return s.withConsumer(spec.Generation) })
	t.running = runConsumer(ctx, made, t.env.starts, started)
	t.step(spec, step.ConsumerStarted)
}

// observeConsumer reports what the consumer says of itself, or that none is needed here. Both the consumer and the tenant's goroutine
// call it, and the code that notices that the database has gone or come back.
func (t *tenant) observeConsumer(fault error) {
	if outage := t.env.outage(); outage != nil {
		fault = outage
	}
	t.report(func(s state) (state, bool) { return s.observeConsumer(fault, t.counts.Consuming.Load()) })
}

// stopConsumer lets the consumer finish and waits for it.
func (t *tenant) stopConsumer(spec contract.TenantSpec) {
	if t.running.consumer == nil {
		return
	}
	if err := t.running.stop(); err != nil {
		t.log().Info("the consumer has stopped", zap.Error(err))
	}
	t.forgetConsumer()
	t.step(spec, step.ConsumerStopped)
}

// forgetConsumer lets go of a consumer that has ended.
func (t *tenant) forgetConsumer() {
	t.running.cancel()
	t.change(state.withoutConsumer)
	t.running = running{}
}
