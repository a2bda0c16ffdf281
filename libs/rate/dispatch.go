package rate

import (
	"context"
	"sync"
	"time"
)

// dispatch asks the owners of those that wait, each of them at most once a tick. It returns when it is to be called again; zero if
// nothing is due.
func (l *Limiter) dispatch(ctx context.Context, asking *sync.WaitGroup) (next time.Time) {
	now := time.Now()
	for owner, group := range l.due(now, &next) {
		asks, counts := compose(now, group)
		switch owner {
		case "":
			l.divide(group)
		case l.cfg.Self:
			l.distribute(group, counts, asks, l.lender.lend(now, owner, asks))
		default:
			asking.Go(func() { l.ask(ctx, owner, group, counts, asks) })
		}
	}
	return next
}

// due takes those out of the waiting whose owner may be asked now, and notes that it is; next is when others are due.
func (l *Limiter) due(now time.Time, next *time.Time) map[string][]*borrower {
	instances, away := l.reach(now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	groups := make(map[string][]*borrower)
	var later []*borrower
	for _, b := range l.waiting {
		owner := ""
		if away.IsZero() {
			owner = l.cfg.Owner(b.tenant, instances)
		}
		p := l.peers[owner]
		if p == nil {
			p = &peer{}
			l.peers[owner] = p
		}
		_, grouped := groups[owner]
		switch {
		case owner == "" || grouped && len(groups[owner]) < maxAsks/kinds:
			groups[owner] = append(groups[owner], b)
		case grouped || p.asking || now.Before(p.next):
			later = append(later, b)
			if !p.asking && (next.IsZero() || p.next.Before(*next)) {
				*next = p.next
			} // else the end of the request tells
		default:
			groups[owner] = append(groups[owner], b)
			p.asking, p.next = owner != l.cfg.Self, now.Add(tick)
		}
	}
	l.waiting = later
	return groups
}

// compose returns the asks of a group, and how many are of each.
func compose(now time.Time, group []*borrower) (asks []ask, counts []int) {
	for _, b := range group {
		b.mu.Lock()
		own := b.compose(now)
		b.mu.Unlock()
		asks, counts = append(asks, own...), append(counts, len(own))
	}
	return asks, counts
}

// ask asks another instance.
func (l *Limiter) ask(ctx context.Context, owner string, group []*borrower, counts []int, asks []ask) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answer, err := l.cfg.Transport.Request(ctx, owner, encodeRequest(l.cfg.Self, asks))
	var grants []grant
	if err == nil {
		grants, err = decodeAnswer(answer, len(asks))
	}
	l.answered(owner, began, err)
	if err != nil {
		l.divide(group)
	} else {
		l.distribute(group, counts, asks, grants)
	}
	l.wakeUp()
}

// answered notes that an instance, asked at that time, has answered or not.
func (l *Limiter) answered(owner string, began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[owner]
	p.asking = false
	switch {
	case err == nil:
		p.failed = time.Time{}
	case p.failed.IsZero():
		p.failed = began
	}
	if err != nil {
		p.next = time.Now().Add(failedTick)
	}
}

// distribute gives each of a group what was lent to it.
func (l *Limiter) distribute(group []*borrower, counts []int, asks []ask, grants []grant) {
	for i, b := range group {
		n := counts[i]
		b.mu.Lock()
		if b.receive(asks[:n], grants[:n]) {
			if b.serve(b.spend) {
				l.enqueue(b)
			}
		} else {
			l.divideOne(b)
		}
		b.mu.Unlock()
		asks, grants = asks[n:], grants[n:]
	}
}

// divide serves a group out of this instance's part of their limits.
func (l *Limiter) divide(group []*borrower) {
	for _, b := range group {
		b.mu.Lock()
		l.divideOne(b)
		b.mu.Unlock()
	}
}

// divideOne does that for one, whose lock the caller holds.
func (l *Limiter) divideOne(b *borrower) {
	now, parts := time.Now(), l.parts()
	for _, w := range b.waiters {
		w.asked = true // there is nobody else to ask
	}
	if b.serve(func(costs []Amounts) int { return b.spendShare(now, costs, now, parts) }) {
		l.enqueue(b)
	}
}
