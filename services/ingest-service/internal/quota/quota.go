// Package quota knows how much tenants may still store under their limit stored_max_bytes.
//
// What a tenant has stored is what is counted for its usage, less what was removed, read from PostgreSQL every second: a second late, as
// a rule, and as late as the horizon where a transaction stays open. To that it adds what this process has stored since, as far as that
// is certainly not counted yet. So what it takes for stored is never more than is stored, and less by what other instances have
// stored within the last two seconds: a tenant is not refused below its limit, and may get beyond it by so much.
//
// Only tenants that have the limit are looked at, and the statement only reads: it holds back no reader. Before the first look at a tenant
// its messages are counted: an instance that has died may have stored some that are not.
package quota

import (
	"context"
	"maps"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

const (
	// interval is the pause between two looks.
	interval = time.Second
	// minPause is the shortest one, when somebody asks for a tenant that was not looked at yet.
	minPause = 50 * time.Millisecond
	// newTenants is how many tenants that are not known yet are looked at together.
	newTenants = 100
	// maxSteps is how many pages of messages of such a tenant are counted first.
	maxSteps = 20
)

// Reader reads what is counted; store.Store is one.
type Reader interface {
	RollUp(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error)
	StoredBytes(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, counted, removed int64)) error
}

// Inserter stores messages; store.Store is one.
type Inserter interface {
	Insert(ctx context.Context, tenant uuid.UUID, messages []store.Row) (stored int, err error)
	Attach(ctx context.Context, tenant uuid.UUID) error
}

// Tracker tracks what the tenants with a limit have stored. It is safe for concurrent use.
type Tracker struct {
	reader Reader
	log    *zap.Logger
	wake   chan struct{} // capacity 1: somebody asks for a tenant that is not known

	failing bool // the last look has failed; owned by the goroutine of Run

	mu        sync.RWMutex
	tenants   map[uuid.UUID]*account // guarded by mu
	looks     uint64                 // guarded by mu: how many have ended
	refreshed chan struct{}          // guarded by mu: closed at the end of the next look
}

// account is what is known of one tenant. It is guarded by the lock of its tracker.
//
// At least so much has come in over all time as a look has seen counted, and what this process has begun to store after that look. Of what
// it was storing during a look nobody knows whether that is among what was counted. So there are two such sums, the best one so far and
// that of the last look, and the larger one counts.
type account struct {
	counted    int64 // as it was read last
	removed    int64
	best, last sum
}

// sum is what a look has seen, and what was stored since.
type sum struct {
	bytes int64
	look  uint64
}

func (a *account) better() sum {
	if a.last.bytes > a.best.bytes {
		return a.last
	}
	return a.best // of equal ones that of the earlier look, which misses less
}

// NewTracker returns a tracker that knows nothing until it runs.
func NewTracker(reader Reader, log *zap.Logger) *Tracker {
	return &Tracker{
		reader: reader, log: log, wake: make(chan struct{}, 1),
		tenants: make(map[uuid.UUID]*account), refreshed: make(chan struct{}),
	}
}

// Room is how many bytes a tenant may still store under a limit of so many; below 0 if it has more. known is false as long as nobody has
// looked; a look is then made soon.
func (t *Tracker) Room(tenant uuid.UUID, limit int64) (room int64, known bool) {
	t.mu.RLock()
	a, known := t.tenants[tenant]
	if known {
		room = limit - (a.better().bytes - a.removed)
	}
	t.mu.RUnlock()
	if !known {
		t.nudge()
	}
	return room, known
}

// Refreshed is closed after the next look.
func (t *Tracker) Refreshed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.refreshed
}

// Run looks at the tenants that limited returns, and then calls looked, until ctx ends.
func (t *Tracker) Run(ctx context.Context, limited func() []uuid.UUID, looked func()) error {
	for ctx.Err() == nil {
		err := t.look(ctx, limited())
		t.report(ctx, err)
		looked()
		t.pause(ctx, err != nil)
	}
	return nil
}

// pause waits for the next look. One that is asked for comes sooner, but not while looks fail.
func (t *Tracker) pause(ctx context.Context, failed bool) {
	wake := t.wake
	if failed {
		wake = nil
	}
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
		_ = retry.Sleep(ctx, minPause) // the loop ends with ctx
	}
}

// report logs the first failure of several in a row, and that they are over.
func (t *Tracker) report(ctx context.Context, err error) {
	switch {
	case err != nil && ctx.Err() == nil && !t.failing:
		t.failing = true
		t.log.Warn("what tenants have stored could not be read; what is known of it counts until it can", zap.Error(err))
	case err == nil && t.failing:
		t.failing = false
		t.log.Info("what tenants have stored is read again")
	}
}

// look reads what tenants have stored, and lets go of all others.
func (t *Tracker) look(ctx context.Context, tenants []uuid.UUID) error {
	tenants = t.prepare(ctx, tenants)
	read := make(map[uuid.UUID]account, len(tenants))
	if len(tenants) > 0 {
		err := t.reader.StoredBytes(ctx, tenants, func(tenant uuid.UUID, counted, removed int64) {
			read[tenant] = account{counted: counted, removed: removed}
		})
		if err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looks++
	maps.DeleteFunc(t.tenants, func(tenant uuid.UUID, _ *account) bool { _, limited := read[tenant]; return !limited })
	for tenant, now := range read {
		now.last = sum{now.counted, t.looks}
		now.best = now.last
		// What was counted is never uncounted: if it is less than before, the database is another one, or was restored.
		if before, known := t.tenants[tenant]; known && now.counted >= before.counted {
			now.best = before.better()
		}
		t.tenants[tenant] = &now
	}
	close(t.refreshed)
	t.refreshed = make(chan struct{})
	return nil
}

// prepare returns which of tenants to look at: those that are known, and some that are not, whose messages it has counted. The others are
// for the next look, which is then made soon.
func (t *Tracker) prepare(ctx context.Context, tenants []uuid.UUID) []uuid.UUID {
	var known, unknown []uuid.UUID
	t.mu.RLock()
	for _, tenant := range tenants {
		if _, ok := t.tenants[tenant]; ok {
			known = append(known, tenant)
		} else {
			unknown = append(unknown, tenant)
		}
	}
	t.mu.RUnlock()
	if len(unknown) > newTenants {
		unknown = unknown[:newTenants]
		t.nudge()
	}
	for _, tenant := range unknown {
		t.count(ctx, tenant)
	}
	return append(known, unknown...)
}

// count has what is stored of a tenant counted. If that fails, or another instance does it, what is counted by now has to do.
func (t *Tracker) count(ctx context.Context, tenant uuid.UUID) {
	for range maxSteps {
		step, err := t.reader.RollUp(ctx, tenant)
		if err != nil || !step.More || step.Counted == 0 {
			return
		}
	}
}

func (t *Tracker) nudge() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Counting returns an inserter that tells t what it has stored.
func (t *Tracker) Counting(inserter Inserter) Inserter { return counting{inserter, t} }

type counting struct {
	Inserter
	tracker *Tracker
}

// Insert is that of [Inserter].
func (c counting) Insert(ctx context.Context, tenant uuid.UUID, messages []store.Row) (stored int, err error) {
	look := c.tracker.begin(tenant)
	stored, err = c.Inserter.Insert(ctx, tenant, messages)
	if err == nil && stored == len(messages) { // else nobody knows which of them were new
		c.tracker.end(tenant, look, messages)
	}
	return stored, err
}

// unlimited is the look of tenants that are not tracked.
const unlimited = math.MaxUint64

func (t *Tracker) begin(tenant uuid.UUID) (look uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, limited := t.tenants[tenant]; !limited {
		return unlimited
	}
	return t.looks
}

// end adds what was stored, and begun after a look, to the sums of this look and of earlier ones.
func (t *Tracker) end(tenant uuid.UUID, look uint64, messages []store.Row) {
	if look == unlimited {
		return
	}
	bytes := int64(0)
	for i := range messages {
		bytes += int64(messages[i].Size())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a, limited := t.tenants[tenant]
	if !limited {
		return
	}
	for _, s := range []*sum{&a.best, &a.last} {
		if look >= s.look {
			s.bytes += bytes
		}
	}
}
