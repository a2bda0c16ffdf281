package isolation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
)

// Open makes a link, which is run by its caller. report is as in [conn.NewLink].
type Open func(name string, report func(error)) *conn.Link

// Depths calls observe with the number of messages that wait in the queue of each of tenants, as far as it can be told; -1 for a
// queue that does not exist.
type Depths func(ctx context.Context, tenants []uuid.UUID, observe func(tenant uuid.UUID, ready int64)) error

// depthsTimeout bounds a look at the queues of candidates; without it they are split up all the same.
const depthsTimeout = 5 * time.Second

// Connections are those that tenants are consumed on. It is safe for concurrent use.
type Connections struct {
	open   Open
	log    *zap.Logger
	shared []*conn.Link

	wake chan struct{} // capacity 1: something has happened, look again

	mu      sync.Mutex
	plan    *plan              // guarded by mu
	groups  map[int]*conn.Link // guarded by mu: by the number of their group
	changed chan struct{}      // guarded by mu: closed when a consumer that waits should ask again
}

// New returns count shared connections, which are for the caller to run, and those that [Connections.Run] makes and runs when
// they are needed.
func New(count int, share, open Open, log *zap.Logger) *Connections {
	return newConnections(defaultLimits(), count, share, open, log)
}

func newConnections(l limits, count int, share, open Open, log *zap.Logger) *Connections {
	c := &Connections{
		open: open, log: log, wake: make(chan struct{}, 1), plan: newPlan(l, count),
		groups: make(map[int]*conn.Link), changed: make(chan struct{}),
	}
	for i := range count {
		c.shared = append(c.shared, share(fmt.Sprintf("consume %d", i+1), func(err error) { c.onReport(i, 0, err) }))
	}
	return c
}

// sharedBy is the index of the connection that a tenant shares with others.
func (c *Connections) sharedBy(tenant uuid.UUID) int {
	// The last bytes are random in every version of UUID that is in use.
	return (int(tenant[14])<<8 | int(tenant[15])) % len(c.shared)
}

// onReport takes in what a link reports: the shared one with that index, or the one of the group with that number if it is not 0.
func (c *Connections) onReport(index, group int, err error) {
	if err == nil || errors.Is(err, conn.ErrBlocked) {
		return
	}
	now := time.Now()
	lost, isLost := errors.AsType[*conn.LostError](err)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !isLost:
		c.plan.unmade(index, group, now)
	case lost.Explained:
	case group == 0:
		c.plan.lostShared(index, c.culprit(lost.Consumer, index), lost.Cause, now)
	default:
		c.plan.lostGroup(group, tenantOf(lost.Consumer), lost.Cause, now)
	}
	c.nudge()
}

// culprit is the tenant whose delivery could not be read on a shared connection.
func (c *Connections) culprit(tag string, index int) uuid.UUID {
	tenant := tenantOf(tag)
	if tenant == uuid.Nil || c.sharedBy(tenant) != index {
		return uuid.Nil
	}
	return tenant
}

// tenantOf is the tenant of a consumer with that tag.
func tenantOf(tag string) uuid.UUID {
	name, ok := strings.CutPrefix(tag, consumer.TagPrefix)
	if !ok || len(name) < len(uuid.Nil.String()) {
		return uuid.Nil
	}
	tenant, err := uuid.Parse(name[:len(uuid.Nil.String())])
	if err != nil {
		return uuid.Nil
	}
	return tenant
}

// Unrelated is told what a link that no tenant is consumed on reports: a loss there explains others at the same time.
func (c *Connections) Unrelated(err error) {
	if _, isLost := errors.AsType[*conn.LostError](err); !isLost {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plan.lostOther(time.Now())
}

// Acquire returns the connection that a tenant is to be consumed on. While that is being found out, and between the probes of a
// tenant that breaks its connections, it waits, until ctx ends. relocate is called, from another goroutine, when the consumer is
// to ask again; report, from this one, when the tenant has to wait because it breaks connections.
func (c *Connections) Acquire(ctx context.Context, tenant uuid.UUID, relocate func(), report func(error)) (consumer.Place, error) {
	index, reported := c.sharedBy(tenant), false
	for first := true; ; first = false {
		c.mu.Lock()
		at := c.plan.acquire(tenant, index, relocate)
		link, changed := c.shared[index], c.changed
		if at.group != 0 {
			link = c.groups[at.group] // nil before Run has made it
		}
		c.mu.Unlock()
		if !at.wait && link != nil {
			place := consumer.Place{Link: link, Prefetch: at.prefetch, Fault: at.fault}
			if at.group != 0 {
				place.Began = func() { c.began(tenant, at.group) }
			}
			return place, nil
		}
		if at.fault != nil && !reported {
			report(at.fault)
			reported = true
		}
		if first { // what it waits for may depend on it
			c.nudge()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return consumer.Place{}, ctx.Err()
		}
	}
}

func (c *Connections) began(tenant uuid.UUID, group int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plan.began(tenant, group, time.Now())
}

// Release says that the consumer of a tenant has ended.
func (c *Connections) Release(tenant uuid.UUID) { c.change(func(p *plan) { p.ended(tenant) }) }

// Forget lets go of a tenant that was deleted.
func (c *Connections) Forget(tenant uuid.UUID) { c.change(func(p *plan) { p.forget(tenant) }) }

func (c *Connections) change(fn func(p *plan)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c.plan)
	if len(c.groups) > 0 {
		c.nudge() // one may have lost its last member
	}
}

func (c *Connections) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run finds the tenants that break connections, until ctx ends. Stop all consumers before.
func (c *Connections) Run(ctx context.Context, depths Depths) error {
	var links sync.WaitGroup
	defer links.Wait()
	ctx, stop := context.WithCancel(ctx) // of the links, too
	defer stop()
	run := func(link *conn.Link) (stop func()) {
		ctx, stop := context.WithCancel(ctx)
		links.Go(func() {
			defer link.End() // a consumer may be about to use it
			if err := link.Run(ctx); err != nil {
				c.log.Error("a connection cannot be made", zap.Error(err))
			}
		})
		return stop
	}
	running := make(map[int]func()) // stops the link of a group
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		c.step(ctx, depths)
		c.connect(run, running)
		if next, due := c.next(); due {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
		}
	}
}

func (c *Connections) next() (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.plan.next(time.Now())
}

// step does what is due.
func (c *Connections) step(ctx context.Context, depths Depths) {
	c.mu.Lock()
	splits := c.plan.judge(time.Now())
	c.mu.Unlock()
	for _, s := range splits {
		ready := c.look(ctx, depths, s.tenants())
		c.mu.Lock()
		c.plan.apply(s, ready, time.Now())
		c.mu.Unlock()
		c.log.Warn("connections break for no known reason; their tenants are consumed on separate ones, to find whose deliveries do that",
			zap.Int("tenants", len(s.all)))
	}
	c.mu.Lock()
	unseen := c.plan.unseen(time.Now())
	c.mu.Unlock()
	var empty []uuid.UUID
	for tenant, ready := range c.look(ctx, depths, unseen) {
		if ready == 0 {
			empty = append(empty, tenant)
		}
	}
	c.mu.Lock()
	now := time.Now()
	for _, tenant := range empty {
		c.plan.saw(tenant, now)
	}
	relocations := c.plan.tick(now)
	found := c.plan.found
	c.plan.found = nil
	c.mu.Unlock()
	for _, f := range found {
		c.say(f)
	}
	for _, relocate := range relocations {
		relocate()
	}
}

// say logs what was found of a tenant.
func (c *Connections) say(f finding) {
	log := c.log.With(zap.Stringer("tenant_id", f.tenant))
	if f.cause == nil {
		log.Info("the deliveries of a tenant break connections no longer; it shares one again")
		return
	}
	log.Error("the deliveries of a tenant break connections; it is consumed on one of its own, a probe at a time",
		zap.Int("connections_lost", f.breaks), zap.Duration("next_probe_in", f.pause), zap.Error(f.cause))
}

// look is how many messages wait in the queues of tenants, as far as the broker tells.
func (c *Connections) look(ctx context.Context, depths Depths, tenants []uuid.UUID) map[uuid.UUID]int64 {
	if len(tenants) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, depthsTimeout)
	defer cancel()
	ready := make(map[uuid.UUID]int64, len(tenants))
	if err := depths(ctx, tenants, func(tenant uuid.UUID, n int64) { ready[tenant] = n }); err != nil {
		c.log.Info("which queues have messages could not be read", zap.Error(err))
	}
	return ready
}

// connect runs the links of the groups that have one by now, and stops those of groups that are no more. Then those that wait ask
// again.
func (c *Connections) connect(run func(*conn.Link) func(), running map[int]func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, stop := range running {
		if c.plan.groups[id] == nil {
			delete(running, id)
			delete(c.groups, id)
			stop()
		}
	}
	for id := range c.plan.groups {
		if running[id] == nil {
			link := c.open(fmt.Sprintf("isolated %d", id), func(err error) { c.onReport(0, id, err) })
			c.groups[id], running[id] = link, run(link)
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// counts are the tenants that break connections, and how many others are consumed apart to find that out.
func (c *Connections) counts() (broken []uuid.UUID, candidates int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.plan.members {
		if m.pause > 0 {
			broken = append(broken, m.tenant)
			continue
		}
		candidates++
	}
	return broken, candidates
}
