// Package status tells the other services what this instance observes of its tenants: their state, and how many messages wait in
// their queues. It knows nothing of tenants but what a [Source] says.
//
// A report counts as long as the heartbeat of the process that has written it.
package status

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
)

// Statuses is the bucket of observed states; control.Statuses returns one.
type Statuses interface {
	Put(ctx context.Context, key string, value contract.TenantStatus) (revision uint64, err error)
	// Renew fails with control.ErrConflict unless the key has that revision, or revision is 0.
	Renew(ctx context.Context, key string, value contract.TenantStatus, ttl time.Duration, revision uint64) (uint64, error)
	Delete(ctx context.Context, key string) error
}

// Source is a tenant, as far as it is reported.
type Source interface {
	// Status is what is to be reported now, but for the instance and its run.
	Status() contract.TenantStatus
}

const (
	// putTimeout bounds one report; a control channel that is away must not pile them up.
	putTimeout = 2 * time.Second
	// reportPause is the shortest time between two rounds of reports, and the pause after a failed one. What changes
	// often, such as a queue's depth, is thus reported at most so often.
	reportPause = 100 * time.Millisecond
	// reportLimit is how many are reported in one round: the heartbeat must not wait for ten thousand.
	reportLimit = 1000
	// reportsAtOnce is how many reports wait for their confirmation at a time. After a start there are as many as tenants, and
	// what goes together wakes each process once.
	reportsAtOnce = 32
	// beatRetry is the pause after a heartbeat that failed.
	beatRetry = 200 * time.Millisecond
)

// Reporter writes what was observed into the control channel when it changes, and a heartbeat as long as this process
// lives.
type Reporter struct {
	statuses Statuses
	instance string
	process  string // another one after each start
	hook     step.Hook
	beaten   func(lapsed bool) // is told of every heartbeat that was written
	log      *zap.Logger
	wake     chan struct{} // capacity 1

	// Owned by the goroutine of Run.
	revision uint64    // of the heartbeat, 0 before the first one
	last     time.Time // when that was

	mu      sync.Mutex
	tenants map[uuid.UUID]Source   // guarded by mu: everything ever reported and not forgotten
	changed map[uuid.UUID]struct{} // guarded by mu: to be reported
	gone    map[uuid.UUID]struct{} // guarded by mu: forgotten, and what was reported is to be removed
	cycle   []uuid.UUID            // guarded by mu: still to be repeated before those that were repeated first come again
}

// NewReporter returns the reporter of an instance. beaten is told of every heartbeat that was written, and whether the one before had
// lapsed.
func NewReporter(statuses Statuses, instance string, hook step.Hook, beaten func(lapsed bool), log *zap.Logger) *Reporter {
	return &Reporter{
		statuses: statuses, instance: instance, process: uuid.NewString(), hook: hook, beaten: beaten, log: log, wake: make(chan struct{}, 1),
		tenants: make(map[uuid.UUID]Source), changed: make(map[uuid.UUID]struct{}), gone: make(map[uuid.UUID]struct{}),
	}
}

// Mark has a tenant reported soon. It does not call source before it returns.
func (r *Reporter) Mark(id uuid.UUID, source Source) {
	r.mu.Lock()
	r.tenants[id] = source
	r.changed[id] = struct{}{}
	delete(r.gone, id)
	r.mu.Unlock()
	r.nudge()
}

func (r *Reporter) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Forget ends the reports of a tenant and has the last one removed.
func (r *Reporter) Forget(id uuid.UUID) {
	r.mu.Lock()
	delete(r.tenants, id)
	delete(r.changed, id)
	r.gone[id] = struct{}{}
	r.mu.Unlock()
	r.nudge()
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	beats := time.NewTimer(0)
	defer beats.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-beats.C:
			beats.Reset(r.beat(ctx))
		}
		r.flush(ctx)
		if retry.Sleep(ctx, reportPause) != nil {
			return
		}
	}
}

// beat repeats the heartbeat and returns when the next one is due. One that somebody else has written or that has expired,
// be it because the control channel has lost its data, means that nobody knows the reports any more.
func (r *Reporter) beat(ctx context.Context) (next time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	key := contract.InstanceKey(r.instance)
	value := contract.TenantStatus{Instance: r.instance, Run: r.process, ObservedAt: time.Now().UTC()}
	lapsed := r.revision > 0 && time.Since(r.last) >= contract.HeartbeatTTL
	revision, err := r.statuses.Renew(ctx, key, value, contract.HeartbeatTTL, r.revision)
	if errors.Is(err, control.ErrConflict) {
		lapsed = true
		revision, err = r.statuses.Renew(ctx, key, value, contract.HeartbeatTTL, 0)
	}
	if err != nil {
		if ctx.Err() == nil {
			r.log.Debug("the heartbeat could not be reported; it will be repeated", zap.Error(err))
		}
		return beatRetry
	}
	r.revision, r.last = revision, time.Now()
	r.beaten(lapsed)
	if lapsed {
		r.log.Info("the heartbeat had lapsed; everything is reported again")
	}
	r.repeat(lapsed)
	return contract.HeartbeatInterval
}

// repeat has tenants reported again: all of them, or as many as are due with this heartbeat.
func (r *Reporter) repeat(all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const beats = int(contract.StatusRefresh / contract.HeartbeatInterval)
	due := (len(r.tenants) + beats - 1) / beats
	if all || len(r.cycle) == 0 {
		r.cycle = slices.Collect(maps.Keys(r.tenants))
	}
	if all {
		due = len(r.cycle)
	}
	for ; due > 0 && len(r.cycle) > 0; due-- {
		last := len(r.cycle) - 1
		if _, known := r.tenants[r.cycle[last]]; known {
			r.changed[r.cycle[last]] = struct{}{}
		}
		r.cycle = r.cycle[:last]
	}
}

// flush reports what has changed, and removes what is gone. What fails is left for the next time.
func (r *Reporter) flush(ctx context.Context) {
	r.mu.Lock()
	changed, gone := some(r.changed), some(r.gone)
	if len(r.changed) > 0 || len(r.gone) > 0 {
		r.nudge()
	}
	r.mu.Unlock()
	err := r.each(changed, func(id uuid.UUID, source Source) error {
		if source == nil {
			return nil // forgotten meanwhile
		}
		return r.put(ctx, id, source)
	})
	if err == nil {
		err = r.each(gone, func(id uuid.UUID, source Source) error {
			if source != nil {
				return nil // there is another one with that id
			}
			return r.remove(ctx, id)
		})
	}
	if err == nil {
		return
	}
	if ctx.Err() == nil {
		r.log.Debug("a status could not be reported; it will be repeated", zap.Error(err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.changed, changed)
	maps.Copy(r.gone, gone)
	r.nudge()
}

// some takes up to reportLimit ids out of from.
func some(from map[uuid.UUID]struct{}) map[uuid.UUID]struct{} {
	taken := make(map[uuid.UUID]struct{}, min(len(from), reportLimit))
	for id := range from {
		if len(taken) == reportLimit {
			break
		}
		taken[id] = struct{}{}
		delete(from, id)
	}
	return taken
}

// each calls do for each of ids, with the source unless it was forgotten, and takes out those that are done. It ends with the
// first error.
func (r *Reporter) each(ids map[uuid.UUID]struct{}, do func(uuid.UUID, Source) error) error {
	var group errgroup.Group
	group.SetLimit(reportsAtOnce)
	var failed atomic.Bool
	for _, id := range slices.Collect(maps.Keys(ids)) {
		if failed.Load() {
			break
		}
		group.Go(func() error {
			r.mu.Lock()
			source := r.tenants[id]
			r.mu.Unlock()
			if err := do(id, source); err != nil {
				failed.Store(true)
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(ids, id)
			return nil
		})
	}
	return group.Wait()
}

func (r *Reporter) remove(ctx context.Context, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	return r.statuses.Delete(ctx, contract.StatusKey(id.String(), r.instance))
}

func (r *Reporter) put(ctx context.Context, id uuid.UUID, source Source) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	status := source.Status()
	status.Instance, status.Run = r.instance, r.process
	if _, err := r.statuses.Put(ctx, contract.StatusKey(status.TenantID, r.instance), status); err != nil {
		return err
	}
	if isGoal(status.State) {
		r.hook.Done(id, status.ObservedGeneration, step.Reported)
	}
	return nil
}

// isGoal reports whether state is one in which a desired state has been reached.
func isGoal(state contract.ConsumerState) bool {
	return state == contract.StateRunning || state == contract.StateStorageFull || state == contract.StateSuspended || state == contract.StateDeleted
}

// Withdraw removes the heartbeat, so that nobody takes this instance for running, and then what it has reported, as far as there
// is time. It is for an instance that stops, once Run has returned.
func (r *Reporter) Withdraw(ctx context.Context) {
	r.mu.Lock()
	keys := make([]string, 0, 1+len(r.tenants))
	keys = append(keys, contract.InstanceKey(r.instance))
	for id := range r.tenants {
		keys = append(keys, contract.StatusKey(id.String(), r.instance))
	}
	r.mu.Unlock()
	for _, key := range keys {
		if err := r.statuses.Delete(ctx, key); err != nil {
			r.log.Info("a status could not be withdrawn; it will expire", zap.Error(err))
			return
		}
	}
}
