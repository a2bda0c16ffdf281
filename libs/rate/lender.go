package rate

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// shortFor is how long a bucket counts as short after it could not give what was wanted, and an instance as one that asks.
	shortFor = time.Second
	// keepIdle is how long a full bucket that nobody takes from is kept. One that is made anew is as full.
	keepIdle = 10 * time.Minute
)

// lender has the buckets of the tenants that this instance owns.
type lender struct {
	self      string
	instances func() []string
	owner     func(tenant uuid.UUID, instances []string) string
	limits    func(tenant uuid.UUID) Amounts
	largest   Amounts

	mu      sync.Mutex
	alive   []string           // guarded by mu: the instances that were alive last
	since   time.Time          // guarded by mu: since when it is those
	buckets map[place]*account // guarded by mu
}

// place is one limit of a tenant.
type place struct {
	tenant uuid.UUID
	kind   Kind
}

// account is the bucket of one limit.
type account struct {
	bucket

	short time.Time            // until when the bucket counts as short
	asked map[string]time.Time // when an instance asked last
}

// lend answers the asks of one instance.
func (l *lender) lend(now time.Time, from string, asks []ask) []grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh(now)
	grants := make([]grant, len(asks))
	for i, a := range asks {
		grants[i] = grant{status: unserved}
		if f, ok := l.flow(a.tenant, a.kind); ok && a.need > 0 && a.need <= l.largest[a.kind] {
			grants[i] = l.account(now, a.tenant, a.kind, f).lend(now, from, a, f)
		}
	}
	return grants
}

// flow is what runs into a bucket of this instance; false if it has none for this limit.
func (l *lender) flow(tenant uuid.UUID, kind Kind) (flow, bool) {
	if kind >= kinds || l.owner(tenant, l.alive) != l.self {
		return flow{}, false
	}
	limit := l.limits(tenant)[kind]
	return newFlow(limit, 1), limit > 0
}

// account finds or makes a bucket. One that is made has been filling, from empty, since the instance may have become the owner.
func (l *lender) account(now time.Time, tenant uuid.UUID, kind Kind, f flow) *account {
	a := l.buckets[place{tenant, kind}]
	if a == nil {
		a = &account{bucket: bucket{at: l.since}, asked: make(map[string]time.Time)}
		l.buckets[place{tenant, kind}] = a
	}
	a.fill(now, f)
	return a
}

// lend takes tokens for one instance out of a bucket. While it is short, each of those that ask has an equal part.
func (a *account) lend(now time.Time, from string, q ask, f flow) grant {
	a.asked[from] = now
	for instance, at := range a.asked {
		if now.Sub(at) > shortFor {
			delete(a.asked, instance)
		}
	}
	there, want := a.tokens(), max(q.want, q.need)
	tokens := min(want, there)
	if want > there {
		a.short = now.Add(shortFor)
	}
	if now.Before(a.short) {
		tokens = min(tokens, max(there/int64(len(a.asked)), 1))
	}
	if there > 0 { // what is needed passes, whatever is there
		tokens = max(tokens, q.need)
	}
	a.remove(tokens)
	return grant{status: lent, tokens: tokens, level: a.tokens(), wait: a.until(f)}
}

// giveBack puts tokens back that were not used.
func (l *lender) giveBack(now time.Time, tenant uuid.UUID, tokens Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, n := range tokens {
		f, ok := l.flow(tenant, Kind(k))
		if ok && n > 0 {
			a := l.account(now, tenant, Kind(k), f)
			a.remove(-n)
			a.level = min(a.level, f.depth())
		}
	}
}

// disputed reports whether a bucket of the tenant is short and other instances ask for it.
func (l *lender) disputed(now time.Time, tenant uuid.UUID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range Kind(kinds) {
		a := l.buckets[place{tenant, k}]
		if a == nil || !now.Before(a.short) {
			continue
		}
		for instance, at := range a.asked {
			if instance != l.self && now.Sub(at) <= shortFor {
				return true
			}
		}
	}
	return false
}

// refresh looks at which instances are alive, and lets go of the buckets that others have now. The caller holds the lock.
func (l *lender) refresh(now time.Time) {
	if alive := l.instances(); !slices.Equal(alive, l.alive) {
		l.alive, l.since = alive, now
		for p := range l.buckets {
			if l.owner(p.tenant, alive) != l.self {
				delete(l.buckets, p)
			}
		}
	}
}

// sweep is to be called often enough that no change of the instances is missed, and lets go of buckets that nobody takes from.
func (l *lender) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refresh(now)
	for p, a := range l.buckets {
		if now.Sub(a.at) < keepIdle {
			continue
		}
		f, ok := l.flow(p.tenant, p.kind)
		if a.fill(now, f); !ok || a.level == f.depth() {
			delete(l.buckets, p)
		}
	}
}
