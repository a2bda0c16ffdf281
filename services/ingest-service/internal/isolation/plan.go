package isolation

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
)

// limits are the times and numbers of a plan.
type limits struct {
	// window is how close two losses of a shared connection are for the second to begin an experiment. What breaks a connection
	// at each delivery does so within seconds.
	window time.Duration
	// judge is how long after a loss it is judged: by then others with the same cause are known, and all consumers of the
	// connection have asked for their next one.
	judge time.Duration
	// hold is how long a connection has to live with a consumer on it before that is taken for harmless. A delivery follows the
	// start of its consumer by milliseconds, and what it does to the connection by as little.
	hold time.Duration
	// longestStay ends a candidacy although messages still wait: a queue with a constant backlog has no other end.
	longestStay time.Duration
	// start is how long a consumer may take to start. One that does not (the database is away, its queue has no leader) gets
	// no deliveries, and must not keep the connection from others.
	start time.Duration
	// groups is in how many parts the tenants of a connection are split.
	groups int
	// connections is how many there are beside the shared ones, at most.
	connections int
	// aloneLosses is how often a tenant alone has to break its connection to count as failed.
	aloneLosses int
	// firstPause and longestPause are those before the probes of a failed tenant.
	firstPause, longestPause time.Duration
}

func defaultLimits() limits {
	return limits{
		window: time.Minute, judge: time.Second, hold: 5 * time.Second, longestStay: 2 * time.Minute, start: 30 * time.Second,
		groups: 8, connections: 16, aloneLosses: 2, firstPause: 10 * time.Second, longestPause: 10 * time.Minute,
	}
}

// losses is how many losses of a shared connection within a window begin an experiment.
const losses = 2

// stage is where a member is in the experiment.
type stage int

const (
	candidate  stage = iota // in a group, whose connection is lost or holds
	failed                  // breaks connections; waits for its next probe
	probed                  // failed, and consumed with a prefetch of 1
	catchingUp              // its probe has held: consumed as usual, on a connection of its own
	returning               // harmless: to move to its shared connection as soon as its consumer lets go
)

// member is a tenant that is not consumed on its shared connection.
type member struct {
	tenant uuid.UUID
	shared int
	stage  stage
	group  *group // nil while failed
	// running is when its consumer began on the connection of the group; zero when it has not.
	running time.Time
	// empty says that nothing waited in its queue after it had run for long enough.
	empty bool
	// relocate has the consumer ask for its connection again; nil while there is none.
	relocate func()

	breaks, aloneLosses int       // connections that were lost with it, and that since it was alone
	first               time.Time // the first of those losses
	cause               error     // of the last one
	pause               time.Duration
	due                 time.Time // of the next probe
}

// group is members that share a connection, or wait for one.
type group struct {
	id      int // numbered from 1 in the order of opening; 0 while it waits
	members map[uuid.UUID]*member
	opened  time.Time
	lost    time.Time // a loss that is still to be judged; zero without
	cause   error     // of it
}

// shared is one of the shared connections.
type shared struct {
	losses []time.Time // the last ones that nothing explains yet
	cause  error       // of the last one
	judged time.Time   // when they are to be judged; zero without an experiment. Until then consumers wait
	asked  map[uuid.UUID]func()
}

// plan decides which tenant is consumed on which connection. It is not safe for concurrent use.
type plan struct {
	limits  limits
	shared  []*shared
	members map[uuid.UUID]*member
	groups  map[int]*group // those with a connection
	queue   []*group       // those that wait for one
	opened  int            // how many groups have had a connection
	others  []time.Time    // losses of connections that no tenant is consumed on
	found   []finding      // what is to be logged
}

// finding is that a tenant breaks connections, or, without a cause, that it does so no longer.
type finding struct {
	tenant uuid.UUID
	breaks int
	pause  time.Duration
	cause  error
}

func newPlan(l limits, connections int) *plan {
	p := &plan{limits: l, members: make(map[uuid.UUID]*member), groups: make(map[int]*group)}
	for range connections {
		p.shared = append(p.shared, &shared{asked: make(map[uuid.UUID]func())})
	}
	return p
}

// placement is the answer to a consumer.
type placement struct {
	wait     bool
	group    int // 0 for the shared connection
	prefetch int // 0 for the usual one
	fault    error
}

// acquire answers a consumer that is about to start on the connection with that index, or on another one.
func (p *plan) acquire(tenant uuid.UUID, index int, relocate func()) placement {
	m := p.members[tenant]
	if m != nil && m.stage == returning {
		p.drop(m)
		m = nil
	}
	if m == nil {
		if s := p.shared[index]; !s.judged.IsZero() {
			s.asked[tenant] = relocate
			return placement{wait: true}
		}
		return placement{}
	}
	m.relocate, m.running, m.empty = relocate, time.Time{}, false
	at := placement{}
	if m.stage == failed || m.stage == probed {
		at.prefetch, at.fault = 1, m.fault()
	}
	if m.group == nil || m.group.id == 0 || !m.group.lost.IsZero() {
		at.wait = true
		return at
	}
	at.group = m.group.id
	return at
}

// fault is what is said of a failed tenant.
func (m *member) fault() error {
	return fmt.Errorf("%w (%d connections lost since %s); last error: %w", consumer.ErrIsolated, m.breaks, m.first.UTC().Format(time.RFC3339), m.cause)
}

// began notes that the broker delivers to a consumer on the connection of a group.
func (p *plan) began(tenant uuid.UUID, id int, now time.Time) {
	if m := p.members[tenant]; m != nil && m.group != nil && m.group.id == id {
		m.running = now
	}
}

// ended notes that the consumer of a tenant has ended. What is known to break connections is remembered.
func (p *plan) ended(tenant uuid.UUID) {
	for _, s := range p.shared {
		delete(s.asked, tenant)
	}
	m := p.members[tenant]
	switch {
	case m == nil:
	case m.stage == candidate, m.stage == returning:
		p.drop(m)
	default:
		p.leave(m)
		m.stage, m.relocate = failed, nil
	}
}

// forget lets go of all that is known of a tenant.
func (p *plan) forget(tenant uuid.UUID) {
	p.ended(tenant)
	delete(p.members, tenant)
}

// lostShared notes that a shared connection was lost without an explanation. culprit is the tenant whose delivery could not be
// read, if that is known; it is on that connection.
func (p *plan) lostShared(index int, culprit uuid.UUID, cause error, now time.Time) {
	s := p.shared[index]
	if culprit != uuid.Nil {
		m := p.add(culprit, index, nil)
		m.breaks, m.first, m.cause = 1, now, cause
		p.enqueue([]*member{m})
		p.open(now)
		return
	}
	s.losses = append(slices.DeleteFunc(s.losses, func(at time.Time) bool { return now.Sub(at) > p.limits.window }), now)
	s.cause = cause
	if len(s.losses) >= losses && s.judged.IsZero() {
		s.judged = now.Add(p.limits.judge)
	}
}

// lostGroup is lostShared for the connection of a group.
func (p *plan) lostGroup(id int, culprit uuid.UUID, cause error, now time.Time) {
	g := p.groups[id]
	if g == nil {
		return
	}
	for _, m := range g.members {
		m.running, m.empty = time.Time{}, false
	}
	if m := g.members[culprit]; m != nil && len(g.members) > 1 {
		p.leave(m)
		m.stage = candidate
		p.recordLoss(m, cause, now)
		p.enqueue([]*member{m})
		p.open(now)
		return
	}
	if g.lost.IsZero() {
		g.lost, g.cause = now, cause
	}
}

// unmade notes that a shared connection, or that of a group, cannot be made: then the broker was away, which explains the loss.
func (p *plan) unmade(index, id int, now time.Time) {
	if g := p.groups[id]; g != nil {
		g.excuse(now)
		return
	}
	if id == 0 {
		p.explain(p.shared[index], now)
	}
}

// lostOther notes the loss of a connection that no tenant is consumed on, which explains others at the same time.
func (p *plan) lostOther(now time.Time) {
	p.others = append(slices.DeleteFunc(p.others, func(at time.Time) bool { return now.Sub(at) > p.limits.window+p.limits.judge }), now)
}

// excuse takes back the loss of the connection of a group, whose consumers continue.
func (g *group) excuse(now time.Time) { g.lost, g.cause, g.opened = time.Time{}, nil, now }

// explained reports whether another connection was lost at that time.
func (p *plan) explained(lost time.Time) bool {
	return slices.ContainsFunc(p.others, func(at time.Time) bool { return at.Sub(lost).Abs() <= p.limits.judge })
}

// explain takes back the loss of a shared connection that was at that time.
func (p *plan) explain(s *shared, at time.Time) {
	s.losses = slices.DeleteFunc(s.losses, func(lost time.Time) bool { return at.Sub(lost).Abs() <= p.limits.judge })
	if len(s.losses) < losses {
		s.end()
	}
}

// end ends an experiment; consumers continue.
func (s *shared) end() {
	s.judged = time.Time{}
	clear(s.asked)
}

// recordLoss notes a loss.
func (p *plan) recordLoss(m *member, cause error, now time.Time) {
	if m.breaks++; m.first.IsZero() {
		m.first = now
	}
	m.cause = cause
}

// add makes a tenant a candidate.
func (p *plan) add(tenant uuid.UUID, index int, relocate func()) *member {
	m := p.members[tenant]
	if m == nil {
		m = &member{tenant: tenant, relocate: relocate}
		p.members[tenant] = m
	}
	p.leave(m)
	m.shared, m.stage, m.aloneLosses = index, candidate, 0
	return m
}

// drop has a member consumed on its shared connection again.
func (p *plan) drop(m *member) {
	p.leave(m)
	delete(p.members, m.tenant)
}

// leave takes a member out of its group. A group without members is no more.
func (p *plan) leave(m *member) {
	g := m.group
	m.group, m.running, m.empty = nil, time.Time{}, false
	if g == nil {
		return
	}
	delete(g.members, m.tenant)
	if len(g.members) > 0 {
		return
	}
	delete(p.groups, g.id)
	p.queue = slices.DeleteFunc(p.queue, func(waiting *group) bool { return waiting == g })
}

// enqueue makes a group of members, which waits for a connection.
func (p *plan) enqueue(members []*member) {
	g := &group{members: make(map[uuid.UUID]*member, len(members))}
	for _, m := range members {
		p.leave(m)
		g.members[m.tenant], m.group = m, g
	}
	p.queue = append(p.queue, g)
}

// open gives connections to groups that wait, as far as there are any. Half of them is for candidates alone, most of which are
// harmless.
func (p *plan) open(now time.Time) {
	failing := 0
	for _, g := range p.groups {
		if g.isFailing() {
			failing++
		}
	}
	waiting := p.queue
	p.queue = nil
	for _, g := range waiting {
		if len(p.groups) >= p.limits.connections || g.isFailing() && failing >= (p.limits.connections+1)/2 {
			p.queue = append(p.queue, g)
			continue
		}
		if g.isFailing() {
			failing++
		}
		p.opened++
		g.id, g.opened = p.opened, now
		p.groups[g.id] = g
	}
}

// isFailing reports whether the group is a tenant that has failed.
func (g *group) isFailing() bool {
	for _, m := range g.members {
		return m.stage == probed || m.stage == catchingUp
	}
	return false
}
