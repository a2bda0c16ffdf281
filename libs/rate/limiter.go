package rate

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// tick is the shortest time between two requests to one instance.
	tick = 20 * time.Millisecond
	// askTimeout is how long an owner may take to answer.
	askTimeout = 250 * time.Millisecond
	// failedTick is the shortest time between two requests to an instance that did not answer.
	failedTick = 100 * time.Millisecond
	// farAhead is for how long a tenant that needs little borrows, where little is less than one of littleParts of its limit.
	farAhead    = 100 * time.Millisecond
	littleParts = 10
	// nearAhead is the same for all others.
	nearAhead = 2 * tick
	// idleAfter is how long what was borrowed stays unused until it is given up.
	idleAfter = 2 * time.Second
	// keepBorrower is how long a tenant is known that needs nothing.
	keepBorrower = time.Minute
	// sweepInterval is how late a change of the instances may be noticed by one that is asked for nothing.
	sweepInterval = time.Second
)

// Transport carries requests between instances; [OverNATS] is one.
type Transport interface {
	// Connected is false while no request can succeed.
	Connected() bool
	// Request asks an instance.
	Request(ctx context.Context, instance string, request []byte) ([]byte, error)
	// Serve answers what others ask of instance, with nothing where answer returns nil, until stop is called. answer does not wait.
	Serve(instance string, answer func(request []byte) []byte) (stop func(), err error)
}

// Config is what a limiter needs to know.
type Config struct {
	// Self is this instance.
	Self string
	// Instances are those that are alive and lend, in the same order for each caller; none as long as they are not known, or while
	// this one is cut off from them. The slice is not changed.
	Instances func() []string
	// Owner is the one of instances that has the buckets of a tenant; empty without any. It has to be the same everywhere.
	Owner func(tenant uuid.UUID, instances []string) string
	// Limits are those of a tenant in tokens a second, for what others borrow.
	Limits func(tenant uuid.UUID) Amounts
	// Largest is the most that one message costs; whoever needs more is refused.
	Largest Amounts
	// Transport leads to the other instances; nil if there are none.
	Transport Transport
}

// Limiter holds the limits of tenants, together with those of the other instances. It is safe for concurrent use.
type Limiter struct {
	cfg    Config
	lender *lender
	kick   chan struct{} // capacity 1: somebody waits
	ended  chan struct{} // closed at the end of Run

	mu        sync.Mutex
	borrowers map[uuid.UUID]*borrower // guarded by mu
	waiting   []*borrower             // guarded by mu: those that are to be asked for
	peers     map[string]*peer        // guarded by mu
	size      int64                   // guarded by mu: how many instances were known last, at least 1
	away      time.Time               // guarded by mu: since when there is no connection; zero while there is
}

// peer is another instance, or this one.
type peer struct {
	asking bool      // a request is under way
	next   time.Time // when the next one may begin
	failed time.Time // since when it does not answer; zero if it does
}

// New returns a limiter. Without a transport it works at once, with one as soon as Run does.
func New(cfg Config) *Limiter {
	l := &Limiter{
		cfg: cfg, kick: make(chan struct{}, 1), ended: make(chan struct{}), size: 1,
		borrowers: make(map[uuid.UUID]*borrower), peers: make(map[string]*peer),
		lender: &lender{
			self: cfg.Self, instances: cfg.Instances, owner: cfg.Owner, limits: cfg.Limits, largest: cfg.Largest,
			buckets: make(map[place]*account),
		},
	}
	l.lender.sweep(time.Now())
	return l
}

// Run lends to other instances and borrows from them until ctx ends.
func (l *Limiter) Run(ctx context.Context) error {
	defer close(l.ended)
	if l.cfg.Transport != nil {
		stop, err := l.cfg.Transport.Serve(l.cfg.Self, l.answer)
		if err != nil {
			return fmt.Errorf("lend to other instances: %w", err)
		}
		defer stop()
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	due := time.NewTimer(0)
	defer due.Stop()
	sweep := time.NewTicker(sweepInterval)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			l.sweep(now)
		case <-l.kick:
		case <-due.C:
		}
		if next := l.dispatch(ctx, &asking); !next.IsZero() {
			due.Reset(time.Until(next))
		}
	}
}

// answer lends to another instance.
func (l *Limiter) answer(request []byte) []byte {
	from, asks, err := decodeRequest(request)
	if err != nil || from == l.cfg.Self || !slices.Contains(l.cfg.Instances(), from) {
		return nil
	}
	return encodeAnswer(l.lender.lend(time.Now(), from, asks))
}

// Take lets the first messages of costs pass, as many as the limits allow, and returns how many those are: the others are refused. It
// waits for an answer of the owner at most, or the end of ctx. A limit that differs from the last call's is in force at once.
func (l *Limiter) Take(ctx context.Context, tenant uuid.UUID, limits Amounts, costs []Amounts) (passed int, q Quota) {
	b := l.borrower(tenant)
	now := time.Now()
	b.mu.Lock()
	b.begin(now, limits)
	if len(b.waiters) == 0 {
		passed = b.spend(costs)
	}
	var w *waiter
	if left := costs[passed:]; len(left) > 0 {
		switch how, owner, since := l.route(now, tenant); how {
		case own:
			passed += l.spendOwn(now, b, left)
		case divided:
			passed += b.spendShare(now, left, since, l.parts())
			if owner != "" {
				l.enqueue(b) // to find out whether it answers again
			}
		case borrowed:
			w = &waiter{costs: left, done: make(chan struct{})}
			b.waiters = append(b.waiters, w)
			l.enqueue(b)
		}
	} else if b.runsLow() {
		l.enqueue(b)
	}
	b.mu.Unlock()
	if w != nil {
		select {
		case <-w.done:
		case <-ctx.Done():
		case <-l.ended:
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w != nil {
		b.leave(w)
		passed += w.passed
	}
	return passed, b.quota(len(costs) - passed)
}

// Try lets one message pass, or says after which time to try again; wake, which must not wait, is called if that is worth it before.
// waiting is what waits together with it, and comes after it.
func (l *Limiter) Try(tenant uuid.UUID, limits, cost, waiting Amounts, wake func()) (again time.Duration, ok bool) {
	b := l.borrower(tenant)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin(now, limits)
	one := []Amounts{cost}
	if len(b.waiters) == 0 && b.spend(one) == 1 {
		if b.runsLow() {
			l.enqueue(b)
		}
		return 0, true
	}
	switch how, owner, since := l.route(now, tenant); how {
	case own:
		l.lendOwn(now, b, cost, waiting)
		if b.spend(one) == 1 {
			return 0, true
		}
	case divided:
		if owner != "" {
			l.enqueue(b)
		}
		if b.spendShare(now, one, since, l.parts()) == 1 {
			return 0, true
		}
	case borrowed:
		b.head, b.queued, b.wake = cost, waiting, wake
		l.enqueue(b)
		return min(max(b.quota(1).Wait, farAhead), time.Second), false
	}
	return min(max(b.quota(1).Wait, tick), time.Second), false
}

// GiveBack returns what was taken for messages that were not accepted after all.
func (l *Limiter) GiveBack(tenant uuid.UUID, tokens Amounts) {
	now := time.Now()
	if how, _, _ := l.route(now, tenant); how == own {
		l.lender.giveBack(now, tenant, tokens)
		return
	}
	b := l.borrower(tenant)
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, limit := range b.limits {
		if limit > 0 {
			b.balance[k] = min(b.balance[k]+tokens[k], max(limit/depthParts, tokens[k]))
		}
	}
}

// Charge takes what has been used already, whether it is there or not: what comes next waits until it is paid for.
func (l *Limiter) Charge(tenant uuid.UUID, limits, tokens Amounts) {
	b := l.borrower(tenant)
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begin(now, limits)
	b.remove(tokens)
	switch how, _, _ := l.route(now, tenant); how {
	case own:
		l.lendOwn(now, b, Amounts{}, Amounts{})
	case borrowed:
		l.enqueue(b)
	case divided: // what comes next pays for it
	}
}

// way is where the tokens of a tenant come from.
type way int

const (
	own      way = iota // from a bucket of this instance
	borrowed            // from the owner
	divided             // from this instance's part of the limit: nobody can tell what the others take
)

// route decides where the tokens of a tenant come from; since is how long it has been so if they are divided.
func (l *Limiter) route(now time.Time, tenant uuid.UUID) (how way, owner string, since time.Time) {
	instances, away := l.reach(now)
	owner = l.cfg.Owner(tenant, instances)
	if !away.IsZero() {
		return divided, "", away
	}
	if owner == l.cfg.Self && (len(instances) == 1 || !l.lender.disputed(now, tenant)) {
		return own, owner, time.Time{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[owner]; p != nil && !p.failed.IsZero() {
		return divided, owner, p.failed
	}
	return borrowed, owner, time.Time{}
}

// reach returns the instances, and since when this one cannot reach the others; zero if it can, or there are none.
func (l *Limiter) reach(now time.Time) (instances []string, away time.Time) {
	instances = l.cfg.Instances()
	lost := len(instances) == 0 || len(instances) > 1 && (l.cfg.Transport == nil || !l.cfg.Transport.Connected())
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(instances) > 0 {
		l.size = int64(len(instances))
	}
	switch {
	case !lost:
		l.away = time.Time{}
	case l.away.IsZero():
		l.away = now
	}
	return instances, l.away
}

// parts is into how many parts a limit is divided.
func (l *Limiter) parts() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

// spendOwn lets messages pass out of a bucket of this instance, and leaves there what they do not need. The caller holds the lock of b.
func (l *Limiter) spendOwn(now time.Time, b *borrower, costs []Amounts) (passed int) {
	before := b.balance
	l.lendOwn(now, b, costs[0], sum(costs[1:]))
	passed = b.spend(costs)
	var unused Amounts
	for k := range unused {
		unused[k] = max(b.balance[k]-max(before[k], 0), 0) // what paid a debt was used
		b.balance[k] -= unused[k]
	}
	l.lender.giveBack(now, b.tenant, unused)
	return passed
}

// lendOwn adds to the balance from a bucket of this instance. The caller holds the lock of b.
func (l *Limiter) lendOwn(now time.Time, b *borrower, first, rest Amounts) {
	for paying := true; paying; {
		paying = b.inDebt()
		if asks := b.asks(first, rest); len(asks) > 0 {
			b.receive(asks, l.lender.lend(now, l.cfg.Self, asks))
		}
		if b.inDebt() {
			return
		}
	}
}

// enqueue has the owner asked on behalf of b, whose lock the caller holds.
func (l *Limiter) enqueue(b *borrower) {
	if b.enqueued {
		return
	}
	b.enqueued = true
	l.mu.Lock()
	l.waiting = append(l.waiting, b)
	l.mu.Unlock()
	l.wakeUp()
}

func (l *Limiter) wakeUp() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// borrower finds or makes what is known of a tenant.
func (l *Limiter) borrower(tenant uuid.UUID) *borrower {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.borrowers[tenant]
	if b == nil {
		b = &borrower{tenant: tenant}
		l.borrowers[tenant] = b
	}
	return b
}

// Forget lets go of what is known of a tenant that is deleted.
func (l *Limiter) Forget(tenant uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.borrowers, tenant)
}

// sweep lets go of what is not needed any more.
func (l *Limiter) sweep(now time.Time) {
	l.lender.sweep(now)
	alive, _ := l.reach(now)
	l.mu.Lock()
	known := make([]*borrower, 0, len(l.borrowers))
	for _, b := range l.borrowers {
		known = append(known, b)
	}
	for name, p := range l.peers {
		if !p.asking && !slices.Contains(alive, name) {
			delete(l.peers, name)
		}
	}
	l.mu.Unlock()
	for _, b := range known {
		b.mu.Lock()
		debt := b.inDebt() && !l.cfg.Limits(b.tenant).IsZero()
		idle := len(b.waiters) == 0 && !b.enqueued && !debt && now.Sub(b.used) > keepBorrower
		if debt {
			l.enqueue(b) // so that the others wait for it as well
		}
		b.mu.Unlock()
		if idle {
			l.Forget(b.tenant)
		}
	}
}
