package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// putTimeout bounds one report; a control channel that is away must not pile them up.
	putTimeout = 2 * time.Second
	// reportPause is the shortest time between two rounds of reports, and the pause after a failed one. What changes
	// often, such as a queue's depth, is thus reported at most so often.
	reportPause = 100 * time.Millisecond
)

// reporter writes what was observed into the control channel: a change soon, and everything again before it expires.
type reporter struct {
	statuses Statuses
	instance string
	step     Hook
	log      *zap.Logger
	wake     chan struct{} // capacity 1

	mu      sync.Mutex
	tenants map[uuid.UUID]*tenant   // guarded by mu: everything ever reported and not forgotten
	changed map[uuid.UUID]struct{}  // guarded by mu: to be reported
	sent    map[uuid.UUID]time.Time // guarded by mu: when it was reported last
}

func newReporter(statuses Statuses, instance string, step Hook, log *zap.Logger) *reporter {
	return &reporter{
		statuses: statuses, instance: instance, step: step, log: log, wake: make(chan struct{}, 1),
		tenants: make(map[uuid.UUID]*tenant), changed: make(map[uuid.UUID]struct{}), sent: make(map[uuid.UUID]time.Time),
	}
}

// mark has a tenant reported soon.
func (r *reporter) mark(t *tenant) {
	r.mu.Lock()
	r.tenants[t.id] = t
	r.changed[t.id] = struct{}{}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// postpone has tenants reported in a later round, unless they have been forgotten meanwhile.
func (r *reporter) postpone(tenants []*tenant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tenants {
		if _, known := r.tenants[t.id]; known {
			r.changed[t.id] = struct{}{}
		}
	}
}

// forget ends the reports of a tenant; the last one expires.
func (r *reporter) forget(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tenants, id)
	delete(r.changed, id)
	delete(r.sent, id)
}

// run reports until ctx ends.
func (r *reporter) run(ctx context.Context) {
	refresh := time.NewTicker(contract.StatusRefresh / 10)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-refresh.C:
		}
		r.flush(ctx)
		pause := time.NewTimer(reportPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// due are the tenants that have changed, and those whose last report is about to expire.
func (r *reporter) due(now time.Time) []*tenant {
	r.mu.Lock()
	defer r.mu.Unlock()
	var due []*tenant
	for id, t := range r.tenants {
		_, changed := r.changed[id]
		if changed || now.Sub(r.sent[id]) >= contract.StatusRefresh {
			due = append(due, t)
			delete(r.changed, id)
		}
	}
	return due
}

func (r *reporter) flush(ctx context.Context) {
	due := r.due(time.Now())
	for i, t := range due {
		if err := r.put(ctx, t); err != nil {
			if ctx.Err() == nil {
				r.log.Debug("a status could not be reported; it will be repeated", zap.Error(err))
			}
			r.postpone(due[i:])
			return
		}
	}
}

func (r *reporter) put(ctx context.Context, t *tenant) error {
	ctx, cancel := context.WithTimeout(ctx, putTimeout)
	defer cancel()
	status := t.status(r.instance)
	if _, err := r.statuses.Put(ctx, contract.StatusKey(status.TenantID, r.instance), status); err != nil {
		return err
	}
	if isGoal(status.State) {
		r.step(t.id, status.ObservedGeneration, StepReported)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.tenants[t.id]; known {
		r.sent[t.id] = time.Now()
	}
	return nil
}

// status is what this instance has to say about the tenant now.
func (t *tenant) status(instance string) contract.TenantStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := contract.TenantStatus{
		TenantID: t.id.String(), Instance: instance,
		ObservedGeneration: t.generation, State: t.observed,
		QueueReady: t.ready, QueueUnacked: t.state.Unacked.Load(),
		ObservedAt: time.Now().UTC(),
	}
	if t.observed == contract.StateRunning {
		status.Workers = int(t.state.Workers.Load())
	}
	if t.fault != nil {
		status.Error = t.fault.Error()
	}
	return status
}
