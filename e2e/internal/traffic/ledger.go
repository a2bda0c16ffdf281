package traffic

import (
	"bytes"
	"cmp"
	"slices"
	"sync"

	"github.com/google/uuid"
)

// phase is where a tenant is in its life, as far as the ledger has brought it.
type phase int

const (
	phaseLive     phase = iota
	phaseDeleting       // asked for; what becomes of its messages does not matter any more
	phaseDeleted        // gone: nothing of it may be found
)

// account is what is known of one tenant: its messages, and what became of them as producers and readers see it.
type account struct {
	identity
	// turn is held by the goroutine that changes the tenant, so that a change that is awaited is not overtaken.
	turn     chan struct{}
	follower follower
	// neighbour is the tenant for which hostile messages have copies.
	neighbour uuid.UUID

	mu        sync.Mutex
	phase     phase
	next      uint32 // the number of the next message; all below have been offered
	confirmed bitset // the broker, or the API, has taken responsibility
	refused   bitset // told to be impossible before any try could have been accepted
	poison    bitset // cannot be stored
	declined  bitset // over a limit, or with a token that was revoked: certainly not accepted, and not published again
	direct    bitset // published over AMQP, all others over HTTP: they differ in their size
	tooLarge  bitset // good ones that a limit of the payload has made dead letters, as far as a drain has looked
	seen      bitset // a follower has met it
	order     []uint32
	quiet     bool   // suspended: what was offered from quietFrom on must not be consumed
	quietFrom uint32 // guarded as all of them by mu
	limited   bool   // limits may be in force
	squeezed  bool   // that of the payload was once

	retains   bool             // messages are removed; what follows is empty unless they are
	removed   bitset           // as far as a drain has looked
	witnessed int64            // owned by the drain: the place of the last removal that it has seen
	reads     map[uint32]int64 // how often a follower has met a message again
	gaps      int64            // how often it was told that messages are gone which it has not read
}

func newAccount(seed int64, tenant uuid.UUID, payloadBytes int) *account {
	return &account{
		identity: newIdentity(seed, tenant, payloadBytes),
		turn:     make(chan struct{}, 1),
		follower: follower{turn: make(chan struct{}, 1)},
	}
}

// tryClaim takes the turn to change the tenant, if nobody else has it; release gives it back.
func (a *account) tryClaim() (release func(), ok bool) {
	select {
	case a.turn <- struct{}{}:
		return func() { <-a.turn }, true
	default:
		return nil, false
	}
}

// offer takes the numbers of n new messages. poisoned says which of them are poison.
func (a *account) offer(n int, poisoned func() bool) []item {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := make([]item, n)
	for i := range items {
		items[i] = item{seq: a.next, poison: poisoned()}
		if items[i].poison {
			a.poison.add(a.next)
		}
		a.next++
	}
	return items
}

// resolve notes what became of a message. A refusal counts only if no earlier try could have been accepted.
func (a *account) resolve(m item, o outcome) {
	if m.repeat {
		return // its first publishing is what counts
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch o {
	case outcomeConfirmed:
		a.confirmed.add(m.seq)
	case outcomeRefused:
		if !m.maybeAccepted && !a.confirmed.has(m.seq) {
			a.refused.add(m.seq)
		}
	case outcomeDeclined:
		if !m.maybeAccepted {
			a.declined.add(m.seq)
		}
	case outcomeUnknown, outcomeReturned:
	}
}

// publishesDirectly notes that items go over AMQP from their first try on.
func (a *account) publishesDirectly(items ...item) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, m := range items {
		if !m.repeat {
			a.direct.add(m.seq)
		}
	}
}

// size is how many bytes of a message are accepted: over HTTP the client sends it without white space. The caller holds a.mu.
func (a *account) size(seq uint32) int64 {
	payload := a.payload(seq, 0)
	size := len(payload)
	if !a.direct.has(seq) {
		size -= bytes.Count(payload, []byte(" ")) // its strings have none
	}
	return int64(size)
}

// met picks one of the messages that a follower has met; false if there is none. It is stored.
func (a *account) met(pick func(n int) int) (uint32, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.order) == 0 {
		return 0, false
	}
	return a.order[pick(len(a.order))], true
}

// unresolved are at most n messages of which it is not known whether they were accepted, by the way in which they were published.
func (a *account) unresolved(n int) (overHTTP, direct []item) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for seq := range a.next {
		m := item{seq: seq, poison: a.poison.has(seq), maybeAccepted: true}
		switch {
		case len(overHTTP)+len(direct) == n:
			return overHTTP, direct
		case a.confirmed.has(seq) || a.refused.has(seq) || a.declined.has(seq):
		case m.poison || a.direct.has(seq):
			direct = append(direct, m)
		default:
			overHTTP = append(overHTTP, m)
		}
	}
	return overHTTP, direct
}

func (a *account) hasSeen(seq uint32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen.has(seq)
}

func (a *account) isLive() bool { return a.in(phaseLive) }

func (a *account) in(p phase) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.phase == p
}

// isQuiet reports whether the tenant is suspended.
func (a *account) isQuiet() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.quiet
}

// hush notes that the tenant is suspended: nothing that is offered from now on may be consumed. It returns from where.
func (a *account) hush() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quiet, a.quietFrom = true, a.next
	return a.next
}

func (a *account) unhush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.quiet = false
}

func (a *account) setPhase(p phase) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.phase = p
}

// meet notes that a reader with the token of this tenant was shown a message, and tells what is wrong about that.
func (a *account) meet(tenant, id uuid.UUID, payload []byte) (fault, string) {
	if tenant != a.tenant {
		return faultForeign, "of tenant " + tenant.String()
	}
	seq, ours := a.seq(id)
	right := ours && a.is(seq, payload)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !ours:
		return faultForeign, "nobody has published this id"
	case seq >= a.next:
		return faultForeign, "nobody has published this number yet"
	case !a.seen.add(seq):
		if !a.retains {
			return faultViolation, "read a second time"
		}
		a.reads[seq]++ // it may have been stored a second time, too
	}
	a.order = append(a.order, seq)
	switch {
	case a.poison.has(seq):
		return faultMisplaced, "it is poison and was stored"
	case !right:
		return faultCorrupted, "read as " + shorten(payload)
	case a.quiet && seq >= a.quietFrom:
		return faultViolation, "published while the tenant was suspended, and consumed"
	}
	return faultNone, ""
}

// counts are the numbers of an account or of many.
type counts struct {
	offered, confirmed, poison, refused, seen int64
	// unknown were offered, and it is not known whether they were accepted; unseen are confirmed, no poison, and have
	// not been read.
	unknown, unseen int64
	poisonConfirmed int64
	declined        int64
}

func (a *account) counts() counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	unseen := a.confirmed.minus(&a.poison, &a.seen, &a.tooLarge, &a.removed)
	healthy := a.confirmed.minus(&a.poison)
	refused := a.refused.minus(&a.confirmed)
	return counts{
		offered: int64(a.next), confirmed: a.confirmed.count, poison: a.poison.count, refused: refused.count, seen: a.seen.count,
		unknown: int64(a.next) - a.confirmed.count - refused.count - a.declined.count, unseen: unseen.count,
		poisonConfirmed: a.confirmed.count - healthy.count, declined: a.declined.count,
	}
}

func (c *counts) plus(d counts) {
	c.offered += d.offered
	c.confirmed += d.confirmed
	c.poison += d.poison
	c.refused += d.refused
	c.seen += d.seen
	c.unknown += d.unknown
	c.unseen += d.unseen
	c.poisonConfirmed += d.poisonConfirmed
	c.declined += d.declined
}

// ledger has an account for every tenant that there is or was.
type ledger struct {
	seed         int64
	payloadBytes int
	large        bool // some messages are larger than others

	mu        sync.Mutex
	accounts  map[uuid.UUID]*account // guarded by mu
	neighbour uuid.UUID              // guarded by mu: of accounts that are opened
}

// setNeighbour sets the tenant for which hostile messages of tenants that are opened from now on have copies.
func (l *ledger) setNeighbour(tenant uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.neighbour = tenant
}

// isCopy reports whether a message is one that another tenant has sent a copy of.
func (l *ledger) isCopy(tenant, id uuid.UUID) bool {
	for _, a := range l.all() {
		seq, theirs := a.seq(id)
		if theirs && a.tenant != tenant && a.neighbour == tenant && a.hostileOf(seq, true) == hostileCopied {
			return true
		}
	}
	return false
}

func newLedger(seed int64, payloadBytes int) *ledger {
	return &ledger{seed: seed, payloadBytes: payloadBytes, accounts: make(map[uuid.UUID]*account)}
}

// open makes the account of a new tenant.
func (l *ledger) open(tenant uuid.UUID) *account {
	a := newAccount(l.seed, tenant, l.payloadBytes)
	a.large = l.large
	l.mu.Lock()
	defer l.mu.Unlock()
	a.neighbour = l.neighbour
	l.accounts[tenant] = a
	return a
}

func (l *ledger) account(tenant uuid.UUID) (*account, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, known := l.accounts[tenant]
	return a, known
}

// all are the accounts, always in the same order.
func (l *ledger) all() []*account {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*account, 0, len(l.accounts))
	for _, a := range l.accounts {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *account) int { return cmp.Compare(a.tenant.String(), b.tenant.String()) })
	return all
}

// in are the accounts of tenants in that phase.
func (l *ledger) in(p phase) []*account {
	return slices.DeleteFunc(l.all(), func(a *account) bool { return !a.in(p) })
}
