package rate

import (
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Quota is what a client may be told of a tenant's limits.
type Quota struct {
	// Left are tokens that are there, as far as this instance knows: they may be gone before they are asked for.
	Left Amounts
	// Wait is how long it takes until there are tokens again, after something was refused; 0 else.
	Wait time.Duration
}

// borrower is what this instance has of the limits of one tenant.
type borrower struct {
	tenant uuid.UUID

	mu       sync.Mutex // before that of the limiter and that of the lender
	limits   Amounts    // guarded by mu
	balance  Amounts    // guarded by mu: tokens at hand; negative: used before they were there
	waiters  []*waiter  // guarded by mu: calls of Take
	enqueued bool       // guarded by mu: it is among those to be asked for
	used     time.Time  // guarded by mu: when tokens were asked for last

	// What waits in calls of Try, guarded by mu: the first, and what comes after it.
	head, queued Amounts
	wake         func()

	// How fast tokens are used, guarded by mu.
	spent    Amounts   // since the owner was asked
	spentAt  time.Time // when that was
	reserved Amounts   // to be at hand for what comes next

	// What the owner has said last, guarded by mu.
	level Amounts
	wait  [kinds]time.Duration

	share *[kinds]bucket // guarded by mu: this instance's parts of the limits while they are divided; else nil
}

// waiter is a call of Take.
type waiter struct {
	costs  []Amounts
	asked  bool          // the owner is being asked for it
	passed int           // how many passed; to be read once done is closed, or it was removed
	done   chan struct{} // closed when there is a result
}

// begin takes in the limits that are in force, and gives up what has not been used for a while. A debt stays.
func (b *borrower) begin(now time.Time, limits Amounts) {
	if now.Sub(b.used) > idleAfter && len(b.waiters) == 0 {
		b.reserved, b.spent, b.spentAt = Amounts{}, Amounts{}, now
		for k := range b.balance {
			b.balance[k] = min(b.balance[k], 0)
		}
	}
	b.used = now
	if limits == b.limits {
		return
	}
	for k, limit := range limits {
		b.balance[k] = min(b.balance[k], limit/depthParts)
	}
	b.limits, b.reserved, b.level, b.wait = limits, Amounts{}, Amounts{}, [kinds]time.Duration{}
}

// inDebt reports whether more was used than was there, of limits that there are.
func (b *borrower) inDebt() bool {
	for k, limit := range b.limits {
		if limit > 0 && b.balance[k] < 0 {
			return true
		}
	}
	return false
}

// lacks is what a cost needs beyond the balance, of limits that there are.
func (b *borrower) lacks(cost Amounts) (missing Amounts) {
	for k, limit := range b.limits {
		if limit > 0 {
			missing[k] = max(cost[k]-b.balance[k], 0)
		}
	}
	return missing
}

// spend lets messages pass from the balance, in their order, and returns how many.
func (b *borrower) spend(costs []Amounts) (passed int) {
	for _, cost := range costs {
		if !b.lacks(cost).IsZero() {
			break
		}
		b.remove(cost)
		passed++
	}
	return passed
}

func (b *borrower) remove(cost Amounts) {
	for k, limit := range b.limits {
		if limit > 0 {
			b.balance[k] -= cost[k]
			b.spent[k] += cost[k]
		}
	}
}

// spendShare lets messages pass out of the balance and this instance's part of the limits, which have been divided since then.
func (b *borrower) spendShare(now time.Time, costs []Amounts, since time.Time, parts int64) (passed int) {
	if b.share == nil { // they have been filling, from empty, since nobody can be asked
		b.share = new([kinds]bucket)
		for k := range b.share {
			b.share[k].at = since
		}
	}
	for k, limit := range b.limits {
		if limit > 0 {
			b.share[k].fill(now, newFlow(limit, parts))
			if debt := -b.balance[k]; debt > 0 && b.share[k].tokens() > 0 { // is paid first, and alone
				b.share[k].remove(debt)
				b.balance[k] = 0
			}
		}
	}
	for _, cost := range costs {
		missing := b.lacks(cost)
		for k, n := range missing {
			if n > 0 && b.share[k].tokens() == 0 {
				return passed
			}
		}
		for k, n := range missing {
			b.share[k].remove(n)
			b.balance[k] += n
		}
		b.remove(cost)
		passed++
	}
	return passed
}

// runsLow reports whether less than half of what is to be at hand is there.
func (b *borrower) runsLow() bool {
	for k, n := range b.reserved {
		if n > 0 && b.balance[k] < n/2 {
			return true
		}
	}
	return false
}

// asks are what is needed for the first message, and wanted for the rest. A debt is paid first, and alone: what comes next has what is left
// then.
func (b *borrower) asks(first, rest Amounts) (asks []ask) {
	need, want := b.lacks(first), b.lacks(first.plus(rest))
	if b.inDebt() {
		need = b.lacks(Amounts{})
		want = need
	}
	for k := range want {
		if want[k] > 0 {
			asks = append(asks, ask{tenant: b.tenant, kind: Kind(k), need: max(need[k], 1), want: want[k]})
		}
	}
	return asks
}

// compose returns the asks of all that wait, and of what is likely to come next.
func (b *borrower) compose(now time.Time) []ask {
	b.enqueued = false
	b.reserve(now)
	if b.inDebt() {
		return b.asks(Amounts{}, Amounts{}) // and for what waits after that
	}
	costs := make([]Amounts, 0, len(b.waiters)+1)
	for _, w := range b.waiters {
		w.asked = true
		costs = append(costs, w.costs[w.passed:]...)
	}
	if !b.head.IsZero() {
		costs = append(costs, b.head)
	}
	first, rest := Amounts{}, b.queued.plus(b.reserved)
	if len(costs) > 0 {
		first, rest = costs[0], rest.plus(sum(costs[1:]))
	}
	b.head, b.queued = Amounts{}, Amounts{}
	return b.asks(first, rest)
}

// reserve decides how much is to be at hand: what was used lately, for as long as it takes to ask again.
func (b *borrower) reserve(now time.Time) {
	elapsed := max(now.Sub(b.spentAt), time.Millisecond)
	for k, limit := range b.limits {
		perSecond := min(b.spent[k], maxRate) * int64(time.Second/time.Microsecond) / max(elapsed.Microseconds(), 1)
		ahead, most := nearAhead, limit*int64(tick)/int64(time.Second)
		if limit > maxRate {
			most = 0 // it is as good as none
		}
		if perSecond < limit/littleParts {
			ahead, most = farAhead, limit/littleParts*int64(farAhead/time.Millisecond)/1000
		}
		b.reserved[k] = min(perSecond*ahead.Milliseconds()/1000, most)
	}
	b.spent, b.spentAt = Amounts{}, now
}

// receive adds what was lent. It reports false if the instance that was asked is not the owner.
func (b *borrower) receive(asks []ask, grants []grant) (served bool) {
	for i, g := range grants {
		if g.status != lent {
			return false
		}
		k := asks[i].kind
		b.balance[k] += g.tokens
		b.level[k], b.wait[k] = g.level, g.wait
	}
	if b.share != nil { // what its part was in debt for is still to be paid
		for k := range b.share {
			b.balance[k] += min(b.share[k].level, 0) / fraction
		}
		b.share = nil
	}
	for _, w := range b.waiters {
		w.asked = w.asked || b.inDebt() // there is nothing for them
	}
	return true
}

// serve lets those pass that wait, in their order. Those that were asked for are refused as far as that did not suffice.
func (b *borrower) serve(spend func([]Amounts) int) (left bool) {
	for len(b.waiters) > 0 {
		w := b.waiters[0]
		w.passed += spend(w.costs[w.passed:])
		if w.passed < len(w.costs) && !w.asked {
			return true
		}
		close(w.done)
		b.waiters = slices.Delete(b.waiters, 0, 1)
	}
	if wake := b.wake; wake != nil {
		b.wake = nil
		wake()
	}
	return false
}

// leave ends a call of Take that did not wait for its result.
func (b *borrower) leave(w *waiter) {
	if i := slices.Index(b.waiters, w); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
	}
}

// quota is what there is to tell, after so many messages were refused.
func (b *borrower) quota(refused int) (q Quota) {
	for k, limit := range b.limits {
		if limit <= 0 {
			continue
		}
		left, wait := b.balance[k]+b.level[k], b.wait[k]
		if b.share != nil {
			f := newFlow(limit, 1)
			left, wait = b.balance[k]+b.share[k].tokens(), b.share[k].until(f)
		}
		q.Left[k] = min(max(left, 0), limit)
		if b.balance[k] < 0 { // it is to be paid as well
			debt := bucket{level: max(b.balance[k], -maxRate) * fraction}
			wait = min(wait+debt.until(newFlow(limit, 1)), maxWait)
		}
		if refused > 0 {
			q.Wait = max(q.Wait, wait)
		}
	}
	return q
}
