// Package status keeps what the instances of ingest-service report on tenants, as far as it is still true, and begins
// the retirement of tenants whose teardown they report.
//
// It is a view in memory of the status bucket of the control channel, never written to the database. A report counts while
// the heartbeat of its instance does, for [contract.HeartbeatTTL] after it was received, and only if the same process has
// made both. So nothing stays "running" after its instance died or NATS went away. What a dead instance has left in the
// bucket is removed after a while.
package status

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// sweepInterval is how late the end of a report may be noticed.
	sweepInterval = 2 * time.Second
	// cleanInterval is between two looks for what dead instances have left, which is removed at the second one.
	cleanInterval = 30 * time.Second
	// retireRetry is the pause after a retirement that failed.
	retireRetry = time.Second
)

// Retire ends the deletion of a tenant, if it is to be deleted and observed, the lowest generation for which every
// instance reports that nothing is left of it, is not too old. It reports whether the tenant is deleted now. Doing it
// twice does no harm.
type Retire func(ctx context.Context, id uuid.UUID, observed int64) (bool, error)

// Directory is the current reports of all instances on all tenants. It is safe for concurrent use.
type Directory struct {
	bucket *control.Bucket[contract.TenantStatus]
	log    *zap.Logger
	wake   chan struct{} // capacity 1: there is something in torn

	mu          sync.Mutex
	reports     map[uuid.UUID]map[string]*report // by tenant and instance
	beats       map[string]beat                  // the living instances
	watchers    map[uuid.UUID]map[chan struct{}]struct{}
	tornDownIDs map[uuid.UUID]struct{} // tenants that may be ready to be retired
}

type report struct {
	status   contract.TenantStatus
	revision uint64
	left     bool // by an instance that was found dead
}

// beat is the last heartbeat of an instance.
type beat struct {
	run   string
	until time.Time
}

// NewDirectory makes a directory of what is in bucket, which is empty until it runs.
func NewDirectory(bucket *control.Bucket[contract.TenantStatus], log *zap.Logger) *Directory {
	return &Directory{
		bucket:      bucket,
		log:         log,
		wake:        make(chan struct{}, 1),
		reports:     make(map[uuid.UUID]map[string]*report),
		beats:       make(map[string]beat),
		watchers:    make(map[uuid.UUID]map[chan struct{}]struct{}),
		tornDownIDs: make(map[uuid.UUID]struct{}),
	}
}

// Run keeps the directory up to date, and calls retire for tenants whose teardown is reported, until ctx ends.
func (d *Directory) Run(ctx context.Context, retire Retire) error {
	group, ctx := errgroup.WithContext(ctx)
	// Nobody is retired on half a snapshot: the instance that still works for the tenant may be in the other half.
	complete := make(chan struct{})
	synced := sync.OnceFunc(func() { close(complete) })
	group.Go(func() error { return d.bucket.Watch(ctx, d.observe, synced) })
	group.Go(func() error {
		select {
		case <-complete:
			return d.retireTorn(ctx, retire)
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return d.sweep(ctx) })
	group.Go(func() error { return d.clean(ctx) })
	return group.Wait()
}

// Of returns the current reports on a tenant, in no order.
func (d *Directory) Of(id uuid.UUID) []contract.TenantStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var current []contract.TenantStatus
	for _, r := range d.reports[id] {
		if d.counts(r, now) {
			current = append(current, r.status)
		}
	}
	return current
}

// Observed returns the highest generation of a tenant that an instance reports to have seen, 0 if there is none.
func (d *Directory) Observed(id uuid.UUID) int64 {
	var highest int64
	for _, s := range d.Of(id) {
		highest = max(highest, s.ObservedGeneration)
	}
	return highest
}

// Subscribe returns a channel that gets a value after every change of the reports on a tenant, and after it was retired;
// several changes at a time are one value. cancel ends the subscription.
func (d *Directory) Subscribe(id uuid.UUID) (changed <-chan struct{}, cancel func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ch := make(chan struct{}, 1) // one value says all there is to say
	if d.watchers[id] == nil {
		d.watchers[id] = make(map[chan struct{}]struct{})
	}
	d.watchers[id][ch] = struct{}{}
	return ch, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.watchers[id], ch)
		if len(d.watchers[id]) == 0 {
			delete(d.watchers, id)
		}
	}
}

// counts reports whether the process that made a report is alive. The caller holds the lock.
func (d *Directory) counts(r *report, now time.Time) bool {
	b, alive := d.beats[r.status.Instance]
	return alive && b.run == r.status.Run && now.Before(b.until)
}

// observe takes one change of the bucket.
func (d *Directory) observe(entry control.Entry[contract.TenantStatus]) {
	if instance, ok := contract.ParseInstanceKey(entry.Key); ok {
		d.observeBeat(instance, entry)
		return
	}
	tenantID, instance, ok := contract.ParseStatusKey(entry.Key)
	id, err := uuid.Parse(tenantID)
	if !ok || err != nil {
		d.log.Warn("ignored a status under a foreign key", zap.String("key", entry.Key))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if entry.Deleted {
		d.drop(id, instance)
		return
	}
	if d.reports[id] == nil {
		d.reports[id] = make(map[string]*report)
	}
	entry.Value.Instance = instance // the key is what counts
	d.reports[id][instance] = &report{status: entry.Value, revision: entry.Revision}
	d.changed(id)
}

// observeBeat takes one heartbeat, or the end of an instance.
func (d *Directory) observeBeat(instance string, entry control.Entry[contract.TenantStatus]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	last, known := d.beats[instance]
	if entry.Deleted {
		delete(d.beats, instance)
	} else {
		d.beats[instance] = beat{run: entry.Value.Run, until: now.Add(contract.HeartbeatTTL)}
	}
	if known && !entry.Deleted && last.run == entry.Value.Run && now.Before(last.until) {
		return // as most of them
	}
	d.allChanged(instance)
}

// allChanged tells of all tenants that an instance has reported on. The caller holds the lock.
func (d *Directory) allChanged(instance string) {
	for id, reports := range d.reports {
		if _, ok := reports[instance]; ok {
			d.changed(id)
		}
	}
}

// drop removes one report. The caller holds the lock.
func (d *Directory) drop(id uuid.UUID, instance string) {
	if _, ok := d.reports[id][instance]; !ok {
		return
	}
	delete(d.reports[id], instance)
	if len(d.reports[id]) == 0 {
		delete(d.reports, id)
	}
	d.changed(id)
}

// changed tells the subscribers that the reports on a tenant have changed. The caller holds the lock.
func (d *Directory) changed(id uuid.UUID) {
	d.notify(id)
	d.consider(id)
}

// consider lets a tenant be retired if its reports say so. The caller holds the lock.
func (d *Directory) consider(id uuid.UUID) {
	if _, torn := d.tornDown(id); !torn {
		return
	}
	d.tornDownIDs[id] = struct{}{}
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// notify wakes the subscribers of a tenant. The caller holds the lock.
func (d *Directory) notify(id uuid.UUID) {
	for ch := range d.watchers[id] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// tornDown reports whether there are reports on a tenant that count, and all of them say that nothing is left, and the
// lowest generation that they say it about. The caller holds the lock.
func (d *Directory) tornDown(id uuid.UUID) (observed int64, torn bool) {
	now := time.Now()
	for _, r := range d.reports[id] {
		if !d.counts(r, now) {
			continue
		}
		if r.status.State != contract.StateDeleted {
			return 0, false
		}
		if !torn || r.status.ObservedGeneration < observed {
			observed = r.status.ObservedGeneration
		}
		torn = true
	}
	return observed, torn
}

// sweep drops the heartbeats that nobody has repeated. NATS does that, too, but it may be away.
func (d *Directory) sweep(ctx context.Context) error {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			d.dropExpired(now)
		}
	}
}

func (d *Directory) dropExpired(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for instance, b := range d.beats {
		if !now.Before(b.until) {
			delete(d.beats, instance)
			d.allChanged(instance)
		}
	}
}

// clean removes what dead instances have left in the bucket, again and again.
func (d *Directory) clean(ctx context.Context) error {
	ticker := time.NewTicker(cleanInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := d.remove(ctx, d.leftovers(now)); err != nil && ctx.Err() == nil {
				d.log.Debug("what dead instances have left could not be removed; it will be repeated", zap.Error(err))
			}
		}
	}
}

// leftovers are the reports that did not count the last time, nor now.
func (d *Directory) leftovers(now time.Time) map[string]report {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := make(map[string]report)
	for id, reports := range d.reports {
		for instance, r := range reports {
			dead := !d.counts(r, now)
			if dead && r.left {
				found[contract.StatusKey(id.String(), instance)] = *r
			}
			r.left = dead
		}
	}
	return found
}

// remove removes reports, unless only this process has not received a heartbeat of their instance. One that comes back reports everything
// again if its heartbeat had expired; what it has written by then has another revision.
func (d *Directory) remove(ctx context.Context, leftovers map[string]report) error {
	dead := make(map[[2]string]bool) // by instance and run
	for key, r := range leftovers {
		process := [2]string{r.status.Instance, r.status.Run}
		gone, known := dead[process]
		if !known {
			entry, err := d.bucket.Get(ctx, contract.InstanceKey(r.status.Instance))
			if err != nil && !errors.Is(err, control.ErrNotFound) {
				return err
			}
			gone = err != nil || entry.Value.Run != r.status.Run
			dead[process] = gone
		}
		if !gone {
			continue
		}
		if err := d.bucket.DeleteRevision(ctx, key, r.revision); err != nil && !errors.Is(err, control.ErrConflict) {
			return err
		}
	}
	return nil
}

// retireTorn retires tenants one after the other. What fails is tried again for as long as it is reported.
func (d *Directory) retireTorn(ctx context.Context, retire Retire) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		left := d.swapTornDown()
		for id := range left {
			if err := d.retireOne(ctx, id, retire); err != nil {
				if ctx.Err() == nil {
					d.log.Warn("a deleted tenant could not be retired; trying again", zap.Stringer("tenant_id", id), zap.Error(err))
				}
				break // the others have the same fate now
			}
			delete(left, id)
		}
		d.retryLater(ctx, left)
	}
}

func (d *Directory) swapTornDown() map[uuid.UUID]struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := d.tornDownIDs
	d.tornDownIDs = make(map[uuid.UUID]struct{})
	return taken
}

// retryLater puts tenants back after a pause.
func (d *Directory) retryLater(ctx context.Context, left map[uuid.UUID]struct{}) {
	if len(left) == 0 || retry.Sleep(ctx, retireRetry) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range left {
		d.consider(id)
	}
}

func (d *Directory) retireOne(ctx context.Context, id uuid.UUID, retire Retire) error {
	d.mu.Lock()
	observed, torn := d.tornDown(id)
	var instances []string
	for instance := range d.reports[id] {
		instances = append(instances, instance)
	}
	d.mu.Unlock()
	if !torn {
		return nil
	}
	retired, err := retire(ctx, id, observed)
	if err != nil || !retired {
		return err
	}
	d.log.Info("tenant deleted", zap.Stringer("tenant_id", id))
	for _, instance := range instances {
		if err := d.bucket.Delete(ctx, contract.StatusKey(id.String(), instance)); err != nil {
			d.log.Debug("a status of a deleted tenant stays until it expires", zap.Stringer("tenant_id", id), zap.Error(err))
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(id) // also where the watch has not seen the deletion of the status yet
	return nil
}
