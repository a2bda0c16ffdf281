package isolation

import (
	"cmp"
	"slices"
	"time"

	"github.com/google/uuid"
)

// split is a loss that nothing explains, and the tenants of which one, or several, is its cause.
type split struct {
	shared *shared // nil if it is a group
	group  *group
	all    []*member
}

// tenants are those of all.
func (s *split) tenants() []uuid.UUID {
	ids := make([]uuid.UUID, len(s.all))
	for i, m := range s.all {
		ids[i] = m.tenant
	}
	return ids
}

// judge looks at the losses that are due. What they have in common with others explains them; a tenant alone is the cause; and
// one of several is split off by the caller, who may look into their queues before. Their consumers wait for that.
func (p *plan) judge(now time.Time) (splits []split) {
	for i, s := range p.shared {
		if s.judged.IsZero() || now.Before(s.judged) {
			continue
		}
		for _, lost := range slices.Clone(s.losses) {
			if p.explained(lost) {
				p.explain(s, lost)
			}
		}
		if s.judged.IsZero() {
			continue
		}
		splits = append(splits, split{shared: s, all: p.candidates(s, i)})
	}
	for _, g := range p.groups {
		switch {
		case g.lost.IsZero() || now.Before(g.lost.Add(p.limits.judge)):
		case p.explained(g.lost):
			g.excuse(now)
		case len(g.members) > 1:
			s := split{group: g}
			for _, m := range g.members {
				s.all = append(s.all, m)
			}
			splits = append(splits, s)
		default:
			cause := g.cause
			g.excuse(now)
			for _, m := range g.members {
				p.broke(m, cause, now)
			}
		}
	}
	p.open(now)
	return splits
}

// candidates are the tenants that have asked for a shared connection since it was lost.
func (p *plan) candidates(s *shared, index int) (all []*member) {
	for tenant, relocate := range s.asked {
		m := p.add(tenant, index, relocate)
		m.breaks, m.first, m.cause = len(s.losses)-1, s.losses[0], s.cause // one more with the split
		all = append(all, m)
	}
	return all
}

// broke notes that a tenant alone has broken its connection.
func (p *plan) broke(m *member, cause error, now time.Time) {
	p.recordLoss(m, cause, now)
	if m.stage == candidate || m.stage == returning && m.pause == 0 {
		m.stage = candidate
		if m.aloneLosses++; m.aloneLosses < p.limits.aloneLosses {
			return // once more
		}
	}
	p.fail(m, now, min(max(2*m.pause, p.limits.firstPause), p.limits.longestPause))
	p.found = append(p.found, finding{tenant: m.tenant, breaks: m.breaks, pause: m.pause, cause: cause})
}

// fail has a member wait for its next probe.
func (p *plan) fail(m *member, now time.Time, pause time.Duration) {
	p.leave(m)
	m.stage, m.pause, m.due = failed, pause, now.Add(pause)
}

// apply splits candidates up. ready is how many messages wait in their queues, as far as that is known: those in which nothing
// waits are the least probable cause, and stay together.
func (p *plan) apply(s split, ready map[uuid.UUID]int64, now time.Time) {
	var cause error
	lost := now
	if s.shared != nil {
		cause = s.shared.cause
		s.shared.losses = nil
		s.shared.end()
	} else {
		cause, lost = s.group.cause, s.group.lost
		delete(p.groups, s.group.id)
	}
	var likely, unlikely []*member
	for _, m := range s.all {
		if p.members[m.tenant] != m || s.group != nil && m.group != s.group {
			continue // gone meanwhile
		}
		p.recordLoss(m, cause, lost)
		m.stage = candidate
		if n, known := ready[m.tenant]; known && n == 0 {
			unlikely = append(unlikely, m)
			continue
		}
		likely = append(likely, m)
	}
	byTenant := func(a, b *member) int { return cmp.Compare(a.tenant.String(), b.tenant.String()) }
	slices.SortFunc(likely, byTenant)
	slices.SortFunc(unlikely, byTenant)
	parts := p.limits.groups
	if len(likely) > 0 && len(unlikely) > 0 {
		parts--
	} else {
		likely, unlikely = append(likely, unlikely...), nil
	}
	for _, part := range deal(likely, parts) {
		p.enqueue(part)
	}
	if len(unlikely) > 0 {
		p.enqueue(unlikely)
	}
	p.open(now)
}

// deal shares members out to at most n parts.
func deal(members []*member, n int) [][]*member {
	parts := make([][]*member, min(n, len(members)))
	for i, m := range members {
		parts[i%len(parts)] = append(parts[i%len(parts)], m)
	}
	return parts
}

// unseen are the tenants whose queue is to be looked at: their consumers have run for long enough, and have had all that
// waited if nothing waits any more.
func (p *plan) unseen(now time.Time) (tenants []uuid.UUID) {
	for _, m := range p.members {
		if (m.stage == candidate || m.stage == catchingUp) && !m.empty && p.hasHeld(m, now) {
			tenants = append(tenants, m.tenant)
		}
	}
	return tenants
}

// saw notes that nothing waits in the queue of a tenant.
func (p *plan) saw(tenant uuid.UUID, now time.Time) {
	if m := p.members[tenant]; m != nil && p.hasHeld(m, now) {
		m.empty = true
	}
}

// hasHeld reports whether the connection has held with a member on it.
func (p *plan) hasHeld(m *member, now time.Time) bool {
	return m.group != nil && m.group.lost.IsZero() && !m.running.IsZero() && now.Sub(m.running) >= p.limits.hold
}

// tick moves on the consumers that have waited for long enough. relocations are the consumers that are to ask for their connection again.
func (p *plan) tick(now time.Time) (relocations []func()) {
	for _, m := range p.members {
		switch {
		case m.stage == failed:
			// Without a consumer there is nothing to probe with.
			if m.relocate != nil && !now.Before(m.due) {
				m.stage = probed
				p.enqueue([]*member{m})
			}
		case m.group == nil || m.group.id == 0 || !m.group.lost.IsZero() || m.stage == returning:
		case m.running.IsZero():
			p.idle(m, now)
		case p.advance(m, now):
			relocations = append(relocations, m.relocate)
		}
	}
	p.open(now)
	return relocations
}

// idle ends the turn of a member whose consumer does not start.
func (p *plan) idle(m *member, now time.Time) {
	switch {
	case now.Sub(m.group.opened) < p.limits.start:
	case m.stage == candidate:
		p.drop(m)
	default:
		p.fail(m, now, m.pause)
	}
}

// advance moves on a member whose consumer runs, and reports whether it is to be consumed in another way.
func (p *plan) advance(m *member, now time.Time) bool {
	held := p.hasHeld(m, now)
	switch {
	case m.stage == probed && held:
		m.stage = catchingUp
	case (m.stage == candidate || m.stage == catchingUp) && held && (m.empty || now.Sub(m.running) >= p.limits.longestStay):
		m.stage = returning
	default:
		return false
	}
	if m.stage == returning && m.pause > 0 {
		p.found = append(p.found, finding{tenant: m.tenant})
	}
	return true
}

// next is how long nothing is to be done unless something happens; false if that is for ever.
func (p *plan) next(now time.Time) (time.Duration, bool) {
	const often = 4 // times within the shortest wait
	if len(p.groups)+len(p.queue) > 0 || slices.ContainsFunc(p.shared, func(s *shared) bool { return !s.judged.IsZero() }) {
		return p.limits.judge / often, true
	}
	next, due := time.Duration(0), false
	for _, m := range p.members {
		if m.stage == failed && m.relocate != nil && (!due || m.due.Sub(now) < next) {
			next, due = max(m.due.Sub(now), 0), true
		}
	}
	return next, due
}
