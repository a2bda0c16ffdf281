package traffic

import (
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// made is a world that was made up: what is in the tables, and what readers were shown, in their order.
type made struct {
	ledger      *ledger
	found       findings
	accounts    []*account
	rows        []madeRow
	deadLetters []madeDeadLetter
	shown       map[*account][]madeRow
	// backwards is what a reader meets at the end in descending order; by default the reverse of shown.
	backwards map[*account][]uint32
	// said is what a tenant is told that it has used; by default what is stored.
	said map[*account]Usage
	// removed is what a witness has seen removed.
	removed []madeRow
}

type madeRow struct {
	tenant, id uuid.UUID
	payload    []byte
	size       int64 // 0: as long as it was accepted
}

type madeDeadLetter struct {
	tenant uuid.UUID
	id     *uuid.UUID
	reason string
	sum    []byte
}

// every how many messages one is poison.
const poisonEvery = 5

// perfect is a world in which every promise was kept: tenants with so many messages each, all confirmed.
func perfect(tenants, messages int) *made {
	w := &made{ledger: newLedger(7, 200), shown: make(map[*account][]madeRow), backwards: make(map[*account][]uint32), said: make(map[*account]Usage)}
	w.ledger.large = true
	for range tenants {
		a := w.ledger.open(uuid.New())
		w.accounts = append(w.accounts, a)
		n := 0
		for _, m := range a.offer(messages, func() bool { n++; return n%poisonEvery == 0 }) {
			a.resolve(m, outcomeConfirmed)
			if m.poison {
				w.deadLetters = append(w.deadLetters, w.deadLetter(a, m.seq))
				continue
			}
			w.rows = append(w.rows, w.row(a, m.seq))
			w.shown[a] = append(w.shown[a], w.row(a, m.seq))
		}
	}
	return w
}

func (w *made) row(a *account, seq uint32) madeRow {
	return madeRow{tenant: a.tenant, id: a.id(seq), payload: a.payload(seq, 0)}
}

func (w *made) deadLetter(a *account, seq uint32) madeDeadLetter {
	id, sum := a.id(seq), a.poisonedSum(seq)
	return madeDeadLetter{a.tenant, &id, string(a.poisonOf(seq).reason()), sum[:]}
}

// large is the number of a new message that is larger than a limit may allow; it is confirmed, and nowhere.
func (w *made) large(a *account) uint32 {
	for {
		m := a.offer(1, never)[0]
		a.resolve(m, outcomeConfirmed)
		if a.isLarge(m.seq) {
			return m.seq
		}
		w.store(w.row(a, m.seq))
		w.show(a, w.row(a, m.seq))
	}
}

// overLimit is the dead letter of a good message that is too large.
func (w *made) overLimit(a *account, seq uint32) madeDeadLetter {
	id, sum := a.id(seq), sha256.Sum256(a.payload(seq, 0))
	return madeDeadLetter{a.tenant, &id, string(contract.ReasonTooLarge), sum[:]}
}

// judge reads and judges the world.
func (w *made) judge() Verdict {
	for _, a := range w.accounts {
		for _, m := range w.shown[a] {
			kind, why := a.meet(m.tenant, m.id, m.payload)
			w.found.add(kind, "%s", why)
		}
	}
	j := newJudge(w.ledger)
	for _, r := range w.rows {
		j.row(r.tenant, r.id, r.payload, w.sizeOf(r))
	}
	for _, r := range w.removed {
		j.removed(r.tenant, r.id, w.sizeOf(r))
	}
	for _, l := range w.deadLetters {
		j.deadLetter(l.tenant, l.id, l.reason, l.sum)
	}
	for _, a := range w.accounts {
		descending, given := w.backwards[a]
		if !given {
			descending = j.files[a.tenant].kept()
			slices.Reverse(descending)
		}
		j.backwards(a.tenant, descending)
		if a.isLive() {
			said, given := w.said[a]
			if !given {
				said = j.used(a.tenant)
			}
			j.usage(a.tenant, said)
		}
	}
	return j.verdict(&w.found)
}

// sizeOf is the size of a row, unless that is made up the one of the message that its id is of.
func (w *made) sizeOf(r madeRow) int64 {
	a, known := w.ledger.account(r.tenant)
	if r.size != 0 || !known {
		return r.size
	}
	seq, _ := a.seq(r.id)
	return a.size(seq)
}

// remove has retention remove a message.
func (w *made) remove(a *account, seq uint32) {
	if !a.retains {
		a.setRetains()
	}
	w.drop(a.id(seq))
	w.removed = append(w.removed, w.row(a, seq))
}

// drop takes the row of a message away; those of readers stay.
func (w *made) drop(id uuid.UUID) {
	w.rows = slices.DeleteFunc(w.rows, func(r madeRow) bool { return r.id == id })
}

func (w *made) dropDeadLetter(id uuid.UUID) {
	w.deadLetters = slices.DeleteFunc(w.deadLetters, func(l madeDeadLetter) bool { return l.id != nil && *l.id == id })
}

// hide keeps a message from the reader that follows the cursor.
func (w *made) hide(a *account, id uuid.UUID) {
	w.shown[a] = slices.DeleteFunc(w.shown[a], func(r madeRow) bool { return r.id == id })
}

func (w *made) store(r madeRow) { w.rows = append(w.rows, r) }

func (w *made) show(a *account, r madeRow) { w.shown[a] = append(w.shown[a], r) }

// broken is what a verdict counts of broken promises, without numbers and details.
func broken(v Verdict) Verdict {
	return Verdict{
		Lost: v.Lost, Duplicated: v.Duplicated, Foreign: v.Foreign, Violations: v.Violations, Corrupted: v.Corrupted,
		Misplaced: v.Misplaced, Leftover: v.Leftover, Refused: v.Refused, Unknown: v.Unknown, Miscounted: v.Miscounted,
	}
}

func TestAPerfectWorldIsClean(t *testing.T) {
	v := perfect(3, 100).judge()
	require.True(t, v.Clean(), "%v", v.Details)
	used := Usage{Messages: 240, Stored: 240, Bytes: v.Used.Bytes, StoredBytes: v.Used.Bytes, DeadLetters: 60}
	require.Equal(t, Verdict{Offered: 300, Confirmed: 300, Poison: 60, Stored: 240, DeadLettered: 60, Used: used, Said: used}, v)
	require.Greater(t, used.Bytes, int64(240*150))
}

// A broken promise that is not found makes every green run worthless. In every world here a is the first tenant, b the
// second; message 0 is a good one and message 4 poison.
func TestEachBrokenPromiseIsFound(t *testing.T) {
	const good, poisoned = 0, poisonEvery - 1
	for name, test := range map[string]struct {
		spoil func(w *made, a, b *account)
		want  Verdict
	}{
		"a message is lost": {func(w *made, a, _ *account) {
			w.drop(a.id(good))
			w.hide(a, a.id(good))
		}, Verdict{Lost: 1}},
		"a message was read and is gone": {func(w *made, a, _ *account) { w.drop(a.id(good)) }, Verdict{Lost: 1, Violations: 1}},
		"poison has vanished":            {func(w *made, a, _ *account) { w.dropDeadLetter(a.id(poisoned)) }, Verdict{Lost: 1}},
		"a row is there twice":           {func(w *made, a, _ *account) { w.store(w.row(a, good)) }, Verdict{Duplicated: 1}},
		"a message has a second id": {func(w *made, a, _ *account) {
			w.store(madeRow{tenant: a.tenant, id: uuid.New(), payload: a.payload(good, 0)})
		}, Verdict{Duplicated: 1, Foreign: 1}},
		"a message is stored under the id of another": {func(w *made, a, _ *account) {
			w.drop(a.id(good))
			w.store(madeRow{tenant: a.tenant, id: a.id(good), payload: a.payload(1, 0)})
		}, Verdict{Duplicated: 1, Corrupted: 1}},
		"a message is stored and a dead letter": {func(w *made, a, _ *account) {
			l := w.deadLetter(a, good)
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Duplicated: 1, Misplaced: 1}},
		"a good message is a dead letter": {func(w *made, a, _ *account) {
			w.drop(a.id(good))
			w.hide(a, a.id(good))
			w.deadLetters = append(w.deadLetters, w.deadLetter(a, good))
		}, Verdict{Misplaced: 1}},
		"poison is a dead letter twice": {func(w *made, a, _ *account) {
			w.deadLetters = append(w.deadLetters, w.deadLetter(a, poisoned))
		}, Verdict{Duplicated: 1}},
		"poison has another reason": {func(w *made, a, _ *account) {
			w.dropDeadLetter(a.id(poisoned))
			l := w.deadLetter(a, poisoned)
			l.reason = "max_attempts"
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Misplaced: 1}},
		"poison has another content": {func(w *made, a, _ *account) {
			w.dropDeadLetter(a.id(poisoned))
			l := w.deadLetter(a, poisoned)
			l.sum = make([]byte, len(l.sum))
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Corrupted: 1}},
		"poison is stored": {func(w *made, a, _ *account) {
			w.dropDeadLetter(a.id(poisoned))
			w.store(w.row(a, poisoned))
		}, Verdict{Misplaced: 1, Violations: 1}}, // no reader has met it
		"poison is stored and read": {func(w *made, a, _ *account) {
			w.dropDeadLetter(a.id(poisoned))
			w.store(w.row(a, poisoned))
			w.show(a, w.row(a, poisoned))
		}, Verdict{Misplaced: 2}}, // by the judge and by the reader
		"a dead letter without an id": {func(w *made, a, _ *account) {
			w.deadLetters = append(w.deadLetters, madeDeadLetter{tenant: a.tenant, reason: "not_json"})
		}, Verdict{Foreign: 1}},
		"a dead letter of nobody's message": {func(w *made, a, b *account) {
			l := w.deadLetter(b, poisoned)
			l.tenant = a.tenant
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Foreign: 1}},
		"a dead letter of nobody": {func(w *made, a, _ *account) {
			l := w.deadLetter(a, poisoned)
			l.tenant = uuid.Nil
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Foreign: 1}},
		"a message under another tenant": {func(w *made, a, b *account) {
			w.store(madeRow{tenant: b.tenant, id: a.id(good), payload: a.payload(good, 0)})
		}, Verdict{Foreign: 1}},
		"a message under a tenant that nobody made": {func(w *made, a, _ *account) {
			w.store(madeRow{tenant: uuid.New(), id: a.id(good), payload: a.payload(good, 0)})
		}, Verdict{Foreign: 1}},
		"a message that was never offered": {func(w *made, a, _ *account) { w.store(w.row(a, 1000)) }, Verdict{Foreign: 1}},
		"a reader is shown another tenant's": {func(w *made, a, b *account) {
			w.show(a, w.row(b, good))
		}, Verdict{Foreign: 1}},
		"a reader is shown what nobody has published": {func(w *made, a, _ *account) {
			w.show(a, madeRow{tenant: a.tenant, id: uuid.New(), payload: []byte(`{}`)})
		}, Verdict{Foreign: 1}},
		"a reader is shown what is not offered yet": {func(w *made, a, _ *account) { w.show(a, w.row(a, 1000)) }, Verdict{Foreign: 1}},
		"a reader meets a message twice":            {func(w *made, a, _ *account) { w.show(a, w.row(a, good)) }, Verdict{Violations: 1}},
		"a reader misses a message":                 {func(w *made, a, _ *account) { w.hide(a, a.id(good)) }, Verdict{Violations: 1}},
		"the order backwards is another one": {func(w *made, a, _ *account) {
			for _, r := range w.shown[a] {
				seq, _ := a.seq(r.id)
				w.backwards[a] = append(w.backwards[a], seq) // ascending
			}
		}, Verdict{Violations: 1}},
		"a message is missing backwards": {func(w *made, a, _ *account) {
			for _, r := range slices.Backward(w.shown[a][1:]) {
				seq, _ := a.seq(r.id)
				w.backwards[a] = append(w.backwards[a], seq)
			}
		}, Verdict{Violations: 1}},
		"a later content won": {func(w *made, a, _ *account) {
			w.drop(a.id(good))
			w.store(madeRow{tenant: a.tenant, id: a.id(good), payload: a.payload(good, 1)})
		}, Verdict{Corrupted: 1}},
		"a reader is shown another content": {func(w *made, a, _ *account) {
			w.hide(a, a.id(good))
			w.show(a, madeRow{tenant: a.tenant, id: a.id(good), payload: a.payload(good, 1)})
		}, Verdict{Corrupted: 1}},
		"a row of a deleted tenant is left over": {func(w *made, a, b *account) {
			w.rows = []madeRow{w.row(a, good)}
			w.deadLetters = nil
			w.forget(b)
			a.setPhase(phaseDeleted)
		}, Verdict{Leftover: 1}},
		"a dead letter of a deleted tenant is left over": {func(w *made, a, b *account) {
			w.rows, w.deadLetters = nil, []madeDeadLetter{w.deadLetter(a, poisoned)}
			w.forget(b)
			a.setPhase(phaseDeleted)
		}, Verdict{Leftover: 1}},
		"a tenant is never deleted": {func(w *made, a, b *account) {
			w.rows, w.deadLetters = nil, nil
			w.forget(b)
			a.setPhase(phaseDeleting)
		}, Verdict{Leftover: 1}},
		"a suspended tenant's message is consumed": {func(w *made, a, _ *account) {
			a.hush()
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeConfirmed)
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		}, Verdict{Violations: 1}},
		"a good message is refused": {func(_ *made, a, _ *account) {
			a.resolve(a.offer(1, never)[0], outcomeRefused)
		}, Verdict{Refused: 1}},
		"a message was refused and is stored": {func(w *made, a, _ *account) {
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeRefused)
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		}, Verdict{Refused: 1, Misplaced: 1}},
		"a message was declined and is stored": {func(w *made, a, _ *account) {
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeDeclined)
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		}, Verdict{Misplaced: 1}},
		"declined after it may have been accepted": {func(_ *made, a, _ *account) {
			m := a.offer(1, never)[0]
			m.maybeAccepted = true
			a.resolve(m, outcomeDeclined)
		}, Verdict{Unknown: 1}},
		"a large message becomes a dead letter without a limit": {func(w *made, a, _ *account) {
			w.deadLetters = append(w.deadLetters, w.overLimit(a, w.large(a)))
		}, Verdict{Misplaced: 1}},
		"a small message becomes a dead letter for its size": {func(w *made, a, _ *account) {
			a.squeeze()
			seq := uint32(good)
			for a.isLarge(seq) {
				seq++
			}
			w.drop(a.id(seq))
			w.hide(a, a.id(seq))
			w.deadLetters = append(w.deadLetters, w.overLimit(a, seq))
		}, Verdict{Misplaced: 1}},
		"a large message has another content as a dead letter": {func(w *made, a, _ *account) {
			a.squeeze()
			l := w.overLimit(a, w.large(a))
			l.sum = make([]byte, len(l.sum))
			w.deadLetters = append(w.deadLetters, l)
		}, Verdict{Corrupted: 1}},
		"a message is gone that no witness has seen removed": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.drop(a.id(1))
		}, Verdict{Lost: 1, Violations: 1}},
		"a message was removed and never stored": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.removed = append(w.removed, w.row(a, 1000))
		}, Verdict{Foreign: 1}},
		"a message is removed before it is read, and nobody says so": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.hide(a, a.id(good))
		}, Verdict{Violations: 1}},
		"poison was removed": {func(w *made, a, _ *account) { w.remove(a, poisoned) }, Verdict{Misplaced: 1, Duplicated: 1, Violations: 1}},
		"a message was removed with another size": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.removed[0].size = a.size(good) + 1
		}, Verdict{Miscounted: 1}},
		"usage counts a removed message as stored": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.said[a] = w.usage(a, func(u *Usage) { u.Stored, u.Removed = u.Stored+1, 0 })
		}, Verdict{Miscounted: 1}},
		"a message is read again that was stored once": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.show(a, w.row(a, good))
		}, Verdict{Violations: 1}},
		"a message is read again where another was stored again": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.store(w.row(a, good))
			w.show(a, w.row(a, 1))
		}, Verdict{Violations: 1}},
		"a message is read more often than it was stored": {func(w *made, a, _ *account) {
			w.remove(a, good)
			w.store(w.row(a, good))
			w.show(a, w.row(a, good))
			w.show(a, w.row(a, good))
		}, Verdict{Violations: 1}},
		"a message is never confirmed": {func(_ *made, a, _ *account) {
			a.resolve(a.offer(1, never)[0], outcomeUnknown)
		}, Verdict{Unknown: 1}},
		"a message is stored with another size": {func(w *made, a, _ *account) {
			w.drop(a.id(good))
			r := w.row(a, good)
			r.size = a.size(good) + 1
			w.store(r)
		}, Verdict{Miscounted: 1}},
		"usage has a message less": {func(w *made, a, _ *account) {
			w.said[a] = w.usage(a, func(u *Usage) { u.Messages, u.Stored = u.Messages-1, u.Stored-1 })
		}, Verdict{Miscounted: 1}},
		"usage says that something was removed": {func(w *made, a, _ *account) {
			w.said[a] = w.usage(a, func(u *Usage) { u.Stored, u.Removed = u.Stored-1, 1 })
		}, Verdict{Miscounted: 1}},
		"usage has a byte more": {func(w *made, a, _ *account) {
			w.said[a] = w.usage(a, func(u *Usage) { u.Bytes, u.StoredBytes = u.Bytes+1, u.StoredBytes+1 })
		}, Verdict{Miscounted: 1}},
		"usage misses a dead letter": {func(w *made, a, _ *account) {
			w.said[a] = w.usage(a, func(u *Usage) { u.DeadLetters-- })
		}, Verdict{Miscounted: 1}},
		"refused after it may have been accepted": {func(_ *made, a, _ *account) {
			m := a.offer(1, never)[0]
			m.maybeAccepted = true
			a.resolve(m, outcomeRefused)
		}, Verdict{Unknown: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			w := perfect(2, 20)
			test.spoil(w, w.accounts[0], w.accounts[1])
			v := w.judge()
			require.Equal(t, test.want, broken(v), "%v", v.Details)
			require.False(t, v.Clean())
			require.NotEmpty(t, v.Details)
		})
	}
}

// usage is what a tenant has used, with a change.
func (w *made) usage(a *account, change func(*Usage)) Usage {
	var u Usage
	for _, r := range w.rows {
		if r.tenant == a.tenant {
			u.plus(Usage{Messages: 1, Stored: 1, Bytes: w.sizeOf(r), StoredBytes: w.sizeOf(r)})
		}
	}
	for _, r := range w.removed {
		if r.tenant == a.tenant {
			u.plus(Usage{Messages: 1, Removed: 1, Bytes: w.sizeOf(r), RemovedBytes: w.sizeOf(r)})
		}
	}
	for _, l := range w.deadLetters {
		if l.tenant == a.tenant {
			u.DeadLetters++
		}
	}
	change(&u)
	return u
}

// forget makes a tenant one that was properly deleted.
func (w *made) forget(a *account) {
	w.rows = slices.DeleteFunc(w.rows, func(r madeRow) bool { return r.tenant == a.tenant })
	w.deadLetters = slices.DeleteFunc(w.deadLetters, func(l madeDeadLetter) bool { return l.tenant == a.tenant })
	a.setPhase(phaseDeleted)
}

// What is expected must not be called a fault: a run that cries wolf is as worthless as one that is silent.
func TestWhatIsNoFault(t *testing.T) {
	for name, change := range map[string]func(w *made, a, b *account){
		"a tenant was deleted with its messages": func(w *made, a, _ *account) { w.forget(a) },
		"stored, and read, before it was confirmed": func(w *made, a, _ *account) {
			m := a.offer(1, never)[0]
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
			a.resolve(m, outcomeUnknown)
			a.resolve(m, outcomeConfirmed)
		},
		"published again": func(_ *made, a, _ *account) {
			a.resolve(item{seq: 0, repeat: true}, outcomeRefused)
			a.resolve(item{seq: 0, repeat: true, revision: 1}, outcomeConfirmed)
		},
		"another spelling": func(w *made, a, _ *account) {
			w.drop(a.id(0))
			w.store(madeRow{tenant: a.tenant, id: a.id(0), payload: append([]byte("  "), a.payload(0, 0)...)})
		},
		"suspended, and consumed when it was resumed": func(w *made, a, _ *account) {
			a.hush()
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeConfirmed)
			a.unhush()
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		},
		"declined": func(_ *made, a, _ *account) {
			a.resolve(a.offer(1, never)[0], outcomeDeclined)
		},
		"declined, and published before all the same": func(w *made, a, _ *account) {
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeUnknown)
			m.maybeAccepted = true
			a.resolve(m, outcomeDeclined)
			a.resolve(m, outcomeConfirmed)
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		},
		"larger than a limit allowed": func(w *made, a, _ *account) {
			a.squeeze()
			w.deadLetters = append(w.deadLetters, w.overLimit(a, w.large(a)))
		},
		"stored, and then larger than a limit allowed": func(w *made, a, _ *account) {
			a.squeeze()
			seq := w.large(a)
			w.store(w.row(a, seq))
			w.show(a, w.row(a, seq))
			w.deadLetters = append(w.deadLetters, w.overLimit(a, seq))
		},
		"removed": func(w *made, a, _ *account) {
			w.remove(a, 0)
			w.remove(a, 1)
		},
		"removed before it was read, and the reader is told": func(w *made, a, _ *account) {
			w.remove(a, 0)
			w.hide(a, a.id(0))
			a.passGap()
		},
		"removed, stored again, and met at its new place": func(w *made, a, _ *account) {
			w.remove(a, 0)
			w.store(w.row(a, 0))
			w.show(a, w.row(a, 0))
			w.backwards[a] = []uint32{0}
			for _, r := range slices.Backward(w.shown[a][1 : len(w.shown[a])-1]) {
				seq, _ := a.seq(r.id)
				w.backwards[a] = append(w.backwards[a], seq)
			}
		},
		"removed, stored again and removed again": func(w *made, a, _ *account) {
			w.remove(a, 0)
			w.show(a, w.row(a, 0))
			w.remove(a, 0)
		},
		"suspended, and consumed what came before": func(w *made, a, _ *account) {
			m := a.offer(1, never)[0]
			a.resolve(m, outcomeConfirmed)
			a.hush()
			w.store(w.row(a, m.seq))
			w.show(a, w.row(a, m.seq))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := perfect(2, 20)
			change(w, w.accounts[0], w.accounts[1])
			v := w.judge()
			require.True(t, v.Clean(), "%v", v.Details)
		})
	}
}

// What retention has removed, and what was stored again after that, are counted for themselves.
func TestRemovedIsCounted(t *testing.T) {
	w := perfect(2, 20)
	a := w.accounts[0]
	for range 3 { // the first of which is stored again twice
		w.remove(a, 0)
	}
	w.remove(a, 1)
	w.remove(a, 2)
	w.store(w.row(a, 2))
	w.show(a, w.row(a, 2))
	w.backwards[a] = []uint32{2}
	for _, r := range slices.Backward(w.shown[a][3 : len(w.shown[a])-1]) {
		seq, _ := a.seq(r.id)
		w.backwards[a] = append(w.backwards[a], seq)
	}
	v := w.judge()
	require.True(t, v.Clean(), "%v", v.Details)
	require.Equal(t, int64(2), v.Removed, "0 and 1")
	require.Equal(t, int64(3), v.StoredAgain, "0 twice, and 2")
	require.Equal(t, int64(5), v.Used.Removed)
	require.Equal(t, v.Used, v.Said)
}

// Retention removes a prefix, and everything before its position.
func TestBoundary(t *testing.T) {
	for _, wrong := range [][2]int64{{1, 0}, {0, 1}} {
		w := perfect(1, 20)
		j := newJudge(w.ledger)
		j.boundary(w.accounts[0].tenant, wrong[0], wrong[1])
		require.Equal(t, int64(1), j.verdict(&w.found).Violations)
	}
}

// However many promises are broken at a time, every one is counted, and nothing else.
func TestManyBrokenPromisesAreCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const messages = 60
		w := perfect(rapid.IntRange(1, 4).Draw(t, "tenants"), messages)
		var want Verdict
		for _, a := range w.accounts {
			// Each message suffers one fate at most, so that the sums are known.
			for seq := range uint32(messages) {
				if (seq+1)%poisonEvery == 0 {
					w.breakPoison(a, seq, rapid.SampledFrom([]string{"", "", "", "vanish", "twice"}).Draw(t, "poison"), &want)
					continue
				}
				fates := []string{"", "", "", "", "lose", "vanish", "double", "alias", "corrupt", "reread", "miss"}
				w.breakGood(a, seq, rapid.SampledFrom(fates).Draw(t, "good"), &want)
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "strangers") {
			w.store(madeRow{tenant: w.accounts[0].tenant, id: uuid.New(), payload: []byte(`{"who": "knows"}`)})
			want.Foreign++
		}
		w.rows = rapid.Permutation(w.rows).Draw(t, "order of rows")
		w.deadLetters = rapid.Permutation(w.deadLetters).Draw(t, "order of letters")
		v := w.judge()
		require.Equal(t, want, broken(v), "%v", v.Details)
		require.Equal(t, want.Clean(), v.Clean())
	})
}

func (w *made) breakPoison(a *account, seq uint32, fate string, want *Verdict) {
	switch fate {
	case "vanish":
		w.dropDeadLetter(a.id(seq))
		want.Lost++
	case "twice":
		w.deadLetters = append(w.deadLetters, w.deadLetter(a, seq))
		want.Duplicated++
	}
}

func (w *made) breakGood(a *account, seq uint32, fate string, want *Verdict) {
	switch id := a.id(seq); fate {
	case "lose":
		w.drop(id)
		w.hide(a, id)
		want.Lost++
	case "vanish":
		w.drop(id)
		want.Lost++
		want.Violations++
	case "double":
		w.store(w.row(a, seq))
		want.Duplicated++
	case "alias":
		w.store(madeRow{tenant: a.tenant, id: uuid.New(), payload: a.payload(seq, 0)})
		want.Duplicated++
		want.Foreign++
	case "corrupt":
		w.drop(id)
		w.store(madeRow{tenant: a.tenant, id: id, payload: a.payload(seq, 1)})
		want.Corrupted++
	case "reread":
		w.show(a, w.row(a, seq))
		want.Violations++
	case "miss":
		w.hide(a, id)
		want.Violations++
	}
}

// A thousand faults of one kind must not hide one of another.
func TestDetailsShowEachKind(t *testing.T) {
	w := perfect(1, 2000)
	a := w.accounts[0]
	w.rows = w.rows[:1]
	w.store(w.row(a, 100_000))
	v := w.judge()
	require.Greater(t, v.Lost, int64(1000))
	require.Equal(t, int64(1), v.Foreign)
	require.Len(t, v.Details, 2*shownOfEach+1, "lost, read and gone, and one foreign")
}
