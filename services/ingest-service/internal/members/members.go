// Package members knows which instances are alive, and divides the workers of each tenant among them.
//
// Each instance sees that for itself. What it sees is the same for all within moments as long as the control channel works. When
// it does not, this instance cannot tell whether the others have gone or are cut off as well: every instance keeps its
// share. One that alone is cut off, which the others replace when its heartbeat has run out, finds out in the database, without
// which it could not store anything either, and then works for no tenant until its heartbeat arrives again.
package members

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Heartbeats are those of all instances; control.Statuses returns the bucket that they are in.
type Heartbeats interface {
	WatchKeys(ctx context.Context, pattern string, handle func(control.Entry[contract.TenantStatus]), synced func()) error
}

// Presence is where the instances note, outside the control channel, that their heartbeats arrive through it; store.Store does.
type Presence interface {
	MarkAlive(ctx context.Context, instance string) error
	// OthersAlive reports whether a heartbeat of another instance arrived within the given time.
	OthersAlive(ctx context.Context, instance string, within time.Duration) (bool, error)
	RemoveMark(ctx context.Context, instance string) error
}

// Timing of the members.
const (
	// memberTick is how late the end of a member may be noticed.
	memberTick = time.Second
	// memberGone is how long a heartbeat that was removed keeps its place: a channel that was wiped has removed this instance's
	// own, too, which is then known.
	memberGone = time.Second
	// memberGrace is how long members stay, whatever the channel says, after its own heartbeats did not arrive for a while: the
	// others, which may have lost it as well, are about to send theirs again.
	memberGrace = contract.HeartbeatInterval + 5*time.Second
	// silentAfter is how long after the last heartbeat this instance no longer judges others.
	silentAfter = contract.HeartbeatTTL / 2
	// silentAtStart is how long an instance that starts waits for its own heartbeat before it works as if it were the only one.
	silentAtStart = 10 * time.Second
	// isolationAfter is how long its own heartbeat is missing until it asks the database whether those of others arrive, and isolationConfirm
	// for how long that has to be so. Both end before the others take over, which is contract.HeartbeatTTL.
	isolationAfter   = 2 * contract.HeartbeatInterval
	isolationConfirm = 4 * time.Second
	// aliveWithin is how recent a heartbeat counts as arriving. It is longer than between two heartbeats.
	aliveWithin = contract.HeartbeatInterval * 3 / 2
	// presenceTimeout bounds one access to the database.
	presenceTimeout = 2 * time.Second
)

// Members are the instances among which the workers of each tenant are divided: this one, and those whose heartbeat is alive.
type Members struct {
	self     string
	presence Presence      // nil: nobody can tell whether others are alive
	changed  chan struct{} // capacity 1: that shares may have changed is enough
	log      *zap.Logger

	mu            sync.Mutex
	began         time.Time            // guarded by mu
	synced        bool                 // guarded by mu: the heartbeats that there were at the start are known
	lastHeartbeat time.Time            // guarded by mu: when its own heartbeat arrived last, zero before the first time
	again         time.Time            // guarded by mu: since when its heartbeats arrive without a gap
	others        map[string]time.Time // guarded by mu: until when each counts
	isolated      time.Time            // guarded by mu: since when others are known to be alive while this one is cut off, or zero
	known         bool                 // guarded by mu: shares can be told
	current       []string             // guarded by mu: the result, never changed in place; empty if this one is cut off

	// Owned by the goroutine of Run.
	noted time.Time // when the presence was noted
	asked time.Time // when the presence of others was asked for
}

// New returns the members as self sees them. Without a presence an instance that is cut off cannot tell whether others are alive.
func New(self string, presence Presence, log *zap.Logger) *Members {
	return &Members{
		self: self, presence: presence, changed: make(chan struct{}, 1), log: log, others: make(map[string]time.Time),
	}
}

// Changed has a value whenever shares may have changed. It is for one receiver.
func (m *Members) Changed() <-chan struct{} { return m.changed }

// Share is how many workers of a tenant belong to this instance; ok is false as long as that is not known.
func (m *Members) Share(tenant uuid.UUID, workers int) (share int, ok bool) {
	m.mu.Lock()
	current, known := m.current, m.known
	m.mu.Unlock()
	if !known {
		return 0, false
	}
	return Share(tenant, workers, m.self, current), true
}

// Size is the number of instances that this one knows of, itself included; 0 if it is cut off, or knows of nobody yet.
func (m *Members) Size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.current)
}

// Instances are those that this one knows of, itself included, in order; none if it is cut off, or knows of nobody yet. The slice is
// never changed.
func (m *Members) Instances() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}

// Run keeps the members up to date until ctx ends.
func (m *Members) Run(ctx context.Context, heartbeats Heartbeats) {
	m.mu.Lock()
	m.began = time.Now()
	m.mu.Unlock()
	var watching sync.WaitGroup
	watching.Go(func() {
		err := heartbeats.WatchKeys(ctx, contract.InstanceKey("*"), m.observe, m.setSynced)
		if err != nil && ctx.Err() == nil {
			m.log.Error("heartbeats are not watched any more", zap.Error(err))
		}
	})
	defer watching.Wait()
	for retry.Sleep(ctx, memberTick) == nil {
		m.update(time.Now())
		m.compare(ctx, time.Now())
	}
}

// observe takes in a heartbeat, or the end of one.
func (m *Members) observe(entry control.Entry[contract.TenantStatus]) {
	instance, ok := contract.ParseInstanceKey(entry.Key)
	if !ok {
		return
	}
	now := time.Now()
	m.mu.Lock()
	switch {
	case instance == m.self:
		if entry.Deleted { // by a channel that has lost its data: the others' heartbeats are gone, too
			m.again = now
		}
	case !entry.Deleted:
		m.others[instance] = now.Add(contract.HeartbeatTTL)
	default:
		if _, member := m.others[instance]; member {
			m.others[instance] = now.Add(memberGone)
		}
	}
	m.mu.Unlock()
	m.update(now)
}

// setSynced notes that every heartbeat that there was has been observed.
func (m *Members) setSynced() {
	m.mu.Lock()
	m.synced = true
	m.mu.Unlock()
	m.update(time.Now())
}

// Beaten notes that its own heartbeat arrived. lapsed says that its heartbeat had been lost before.
func (m *Members) Beaten(lapsed bool) {
	now := time.Now()
	m.mu.Lock()
	if lapsed || !m.lastHeartbeat.IsZero() && now.Sub(m.lastHeartbeat) > silentAfter {
		m.again = now
	}
	m.lastHeartbeat, m.isolated = now, time.Time{}
	m.mu.Unlock()
	m.update(now)
}

// update draws the conclusion, and tells if it is another one.
func (m *Members) update(now time.Time) {
	m.mu.Lock()
	current, known := m.conclude(now)
	changed := known != m.known || !slices.Equal(current, m.current)
	m.known, m.current = known, current
	m.mu.Unlock()
	if changed {
		m.log.Info("workers are divided among other instances", zap.Strings("instances", current))
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// conclude determines the members. The caller holds the lock.
func (m *Members) conclude(now time.Time) (current []string, known bool) {
	switch {
	case !m.isolated.IsZero() && now.Sub(m.isolated) >= isolationConfirm:
		return nil, true
	case m.known:
	case now.Sub(m.began) >= silentAtStart:
		// There is no last share to keep. That messages flow is worth more than that they do with few workers.
	case m.lastHeartbeat.IsZero() || !m.synced:
		return nil, false
	}
	if now.Sub(m.lastHeartbeat) <= silentAfter && now.Sub(m.again) >= memberGrace {
		for instance, until := range m.others {
			if !now.Before(until) {
				delete(m.others, instance)
			}
		}
	}
	current = []string{m.self}
	for instance := range m.others {
		current = append(current, instance)
	}
	slices.Sort(current)
	return current, true
}

// compare notes in the database that this instance is alive, or asks whether others are while its own heartbeat is missing.
func (m *Members) compare(ctx context.Context, now time.Time) {
	if m.presence == nil {
		return
	}
	m.mu.Lock()
	lastHeartbeat, silent := m.lastHeartbeat, now.Sub(m.lastHeartbeat)
	if lastHeartbeat.IsZero() {
		silent = now.Sub(m.began)
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, presenceTimeout)
	defer cancel()
	var err error
	switch {
	case lastHeartbeat.After(m.noted):
		if err = m.presence.MarkAlive(ctx, m.self); err == nil {
			m.noted = now
		}
	case silent >= isolationAfter && now.Sub(m.asked) >= presenceTimeout:
		m.asked = now
		var others bool
		if others, err = m.presence.OthersAlive(ctx, m.self, aliveWithin); err == nil {
			m.recordOthers(others, lastHeartbeat, now)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		m.log.Debug("which instances are alive could not be compared with the database", zap.Error(err))
	}
}

// recordOthers notes whether others are alive, unless its own heartbeat arrived meanwhile.
func (m *Members) recordOthers(others bool, lastHeartbeat, now time.Time) {
	m.mu.Lock()
	switch {
	case m.lastHeartbeat != lastHeartbeat:
	case !others:
		m.isolated = time.Time{}
	case m.isolated.IsZero():
		m.isolated = now
	}
	m.mu.Unlock()
	m.update(now)
}

// Leave is for an instance that ends in order.
func (m *Members) Leave(ctx context.Context) error {
	if m.presence == nil {
		return nil
	}
	return m.presence.RemoveMark(ctx, m.self)
}
