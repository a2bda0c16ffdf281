package traffic

import (
	"crypto/sha256"
	"slices"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// judge holds what is in the database against the ledger. Feed it every row and every dead letter, in any order, then ask for
// the verdict.
type judge struct {
	ledger *ledger
	found  findings
	files  map[uuid.UUID]*file

	stored, deadLetters int64
	gone, storedAgain   int64 // removed and not stored, and stored after having been removed
	gaps                int64 // that followers were told of
	said                Usage // of all live tenants, by the API
	unequal             int64 // tenants of which the usage is not what is stored
}

// file is what was found of one tenant.
type file struct {
	*account
	byID        bitset           // stored under the id of the number
	byContent   bitset           // stored with the content of the number, under whatever id
	deadLetters bitset           // among the dead letters
	expired     bitset           // of these, because they expired
	rejected    bitset           // of these, for any other reason
	overLimit   bitset           // of these, good ones that were larger than a limit allowed; the limit may have changed after they were stored
	removals    map[uint32]int64 // how often each message was removed
	gone        bitset           // those of removals
	rows        Usage            // by the database: what is stored, and all its dead letters
}

func newJudge(l *ledger) *judge {
	j := &judge{ledger: l, files: make(map[uuid.UUID]*file)}
	for _, a := range l.all() {
		j.files[a.tenant] = &file{account: a, removals: make(map[uint32]int64)}
	}
	return j
}

// row takes in a row of messages; size is the number of bytes that it is stored with.
func (j *judge) row(tenant, id uuid.UUID, payload []byte, size int64) {
	f, known := j.files[tenant]
	if !known {
		j.found.add(faultForeign, "message %s is stored under tenant %s, which nobody has made", id, tenant)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == phaseDeleted {
		j.found.add(faultLeftover, "message %s of tenant %s, which is deleted, is still stored", id, tenant)
		return
	}
	j.stored++
	f.rows.Stored++
	f.rows.StoredBytes += size
	// By content as well, so that a message that was stored under a second id is found.
	number, claimed := f.claims(payload)
	twice := claimed && !f.byContent.add(number)
	seq, ours := f.seq(id)
	switch {
	case !ours, seq >= f.next:
		j.found.add(faultForeign, "message %s is stored under tenant %s, and nobody has published it: %s", id, tenant, shorten(payload))
	case !f.byID.add(seq):
		twice = true
	case f.poison.has(seq):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s is poison and is stored", id, seq, tenant)
	case !f.is(seq, payload):
		j.found.add(faultCorrupted, "message %s (%d) of tenant %s is stored as %s", id, seq, tenant, shorten(payload))
	case (f.refused.has(seq) || f.declined.has(seq)) && !f.confirmed.has(seq):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s was refused and is stored", id, seq, tenant)
	case size != f.size(seq):
		j.found.add(faultMiscounted, "message %s (%d) of tenant %s is stored with %d bytes, and %d were accepted", id, seq, tenant, size, f.size(seq))
	}
	if twice {
		j.found.add(faultDuplicated, "message %s of tenant %s is stored a second time: %s", id, tenant, shorten(payload))
	}
}

// removed takes in a message that was removed; size is the number of bytes that it was stored with.
func (j *judge) removed(tenant, id uuid.UUID, size int64) {
	f := j.files[tenant]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows.Removed++
	f.rows.RemovedBytes += size
	seq, ours := f.seq(id)
	switch {
	case !ours, seq >= f.next:
		j.found.add(faultForeign, "message %s was removed from tenant %s, and nobody has published it", id, tenant)
		return
	case f.poison.has(seq):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s is poison and was stored, and removed", id, seq, tenant)
	case (f.refused.has(seq) || f.declined.has(seq)) && !f.confirmed.has(seq):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s was refused and was stored, and removed", id, seq, tenant)
	case size != f.size(seq):
		j.found.add(faultMiscounted, "message %s (%d) of tenant %s was removed with %d bytes, and %d were accepted", id, seq, tenant, size, f.size(seq))
	}
	f.gone.add(seq)
	f.removals[seq]++
}

// boundary takes in how many messages of a tenant lie behind its retention position and were removed, and before it and are stored.
func (j *judge) boundary(tenant uuid.UUID, removedBehind, storedBefore int64) {
	if removedBehind > 0 || storedBefore > 0 {
		j.found.add(faultViolation, "tenant %s: %d messages behind its retention position were removed, and %d before it are stored",
			tenant, removedBehind, storedBefore)
	}
}

// deadLetter takes in a dead letter; sum is the SHA-256 of its body.
func (j *judge) deadLetter(tenant uuid.UUID, messageID *uuid.UUID, reason string, sum []byte) {
	f, known := j.files[tenant]
	if !known {
		j.found.add(faultForeign, "a dead letter (%s) of tenant %s, which nobody has made", reason, tenant)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.phase == phaseDeleted {
		j.found.add(faultLeftover, "a dead letter (%s) of tenant %s, which is deleted, is still there", reason, tenant)
		return
	}
	f.rows.DeadLetters++
	if messageID != nil && reason == string(contract.ReasonForeignKey) && j.ledger.isCopy(tenant, *messageID) {
		return
	}
	j.deadLetters++
	if messageID == nil {
		j.found.add(faultForeign, "a dead letter (%s) of tenant %s has no message id", reason, tenant)
		return
	}
	id := *messageID
	seq, ours := f.seq(id)
	if !ours || seq >= f.next {
		j.found.add(faultForeign, "a dead letter (%s) of tenant %s is of message %s, which nobody has published", reason, tenant, id)
		return
	}
	f.deadLetters.add(seq)
	// One that was sent twice may expire the one time and be rejected the other.
	expired := reason == reasonExpired && f.hostileOf(seq, true) == hostileExpiring
	of := &f.rejected
	if expired {
		of = &f.expired
	}
	switch want := f.poisonOf(seq); {
	case !of.add(seq):
		j.found.add(faultDuplicated, "message %s (%d) of tenant %s is a dead letter a second time (%s)", id, seq, tenant, reason)
	case reason == string(contract.ReasonTooLarge) && f.isOverLimit(seq):
		if !f.poison.has(seq) {
			f.overLimit.add(seq)
		}
		payload := f.payload(seq, 0)
		if len(sum) != sha256.Size || [sha256.Size]byte(sum) != sha256.Sum256(payload) && [sha256.Size]byte(sum) != sha256.Sum256(compacted(payload)) {
			j.found.add(faultCorrupted, "the dead letter of message %s (%d) of tenant %s has another content", id, seq, tenant)
		}
	case !f.poison.has(seq):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s is good and became a dead letter (%s)", id, seq, tenant, reason)
	case expired:
	case reason != string(want.reason()):
		j.found.add(faultMisplaced, "message %s (%d) of tenant %s became a dead letter for %s, not for %s", id, seq, tenant, reason, want.reason())
	default:
		if expected := f.poisonedSum(seq); len(sum) != sha256.Size || [sha256.Size]byte(sum) != expected {
			j.found.add(faultCorrupted, "the dead letter of message %s (%d) of tenant %s has another content", id, seq, tenant)
		}
	}
}

// backwards takes in the numbers of a tenant's messages as a reader met them in descending order. Together with what the
// follower met this shows that both orders are one.
func (j *judge) backwards(tenant uuid.UUID, descending []uint32) {
	f := j.files[tenant]
	f.mu.Lock()
	defer f.mu.Unlock()
	ascending := f.kept()
	slices.Reverse(ascending)
	if slices.Equal(ascending, descending) {
		return
	}
	at := 0
	for at < len(ascending) && at < len(descending) && ascending[at] == descending[at] {
		at++
	}
	j.found.add(faultViolation, "tenant %s: %d messages met following the cursor, %d backwards; the orders differ from place %d of %d on",
		tenant, len(ascending), len(descending), at, len(ascending))
}

// kept are the messages that are stored, in the order in which the follower has met them; one that was stored again is where it was met
// last. The caller holds f.mu.
func (f *file) kept() []uint32 {
	if !f.retains {
		return slices.Clone(f.order)
	}
	var kept []uint32
	var met bitset
	for _, seq := range slices.Backward(f.order) {
		if f.byID.has(seq) && met.add(seq) {
			kept = append(kept, seq)
		}
	}
	slices.Reverse(kept)
	return kept
}

// used is what a tenant has used by its rows.
func (j *judge) used(tenant uuid.UUID) Usage {
	u := j.files[tenant].rows
	u.Messages, u.Bytes = u.Stored+u.Removed, u.StoredBytes+u.RemovedBytes
	return u
}

// usage takes in what the API says that a tenant has used, after all rows and dead letters.
func (j *judge) usage(tenant uuid.UUID, said Usage) {
	j.said.plus(said)
	if used := j.used(tenant); said != used {
		j.unequal++
		j.found.add(faultMiscounted, "tenant %s has used %s, and is told %s", tenant, used, said)
	}
}

// verdict closes the files. readers is what they have found.
func (j *judge) verdict(readers *findings) Verdict {
	v := Verdict{Stored: j.stored, DeadLettered: j.deadLetters, Said: j.said, Unequal: j.unequal}
	for _, a := range j.ledger.all() {
		j.close(j.files[a.tenant])
		if a.isLive() {
			v.Used.plus(j.used(a.tenant))
			v.OverLimit += j.files[a.tenant].overLimit.count
		}
		c := a.counts()
		v.Offered += c.offered
		v.Confirmed += c.confirmed
		v.Poison += c.poisonConfirmed
		v.Declined += c.declined
	}
	v.Removed, v.StoredAgain, v.Gaps = j.gone, j.storedAgain, j.gaps
	readers.into(&v)
	j.found.into(&v)
	return v
}

// close finds what is missing.
func (j *judge) close(f *file) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.phase {
	case phaseDeleted:
		return // it has nothing to be found, and nothing to be missed
	case phaseDeleting:
		j.found.add(faultLeftover, "tenant %s was to be deleted, and is not", f.tenant)
		return
	case phaseLive:
	}
	j.missing(f)
	only := f.deadLetters.minus(&f.byID, &f.gone)
	both := f.deadLetters.minus(&only, &f.overLimit)
	both.each(func(seq uint32) {
		j.found.add(faultDuplicated, "message %s (%d) of tenant %s is stored and a dead letter", f.id(seq), seq, f.tenant)
	})
	unmet := f.byID.minus(&f.seen)
	unmet.each(func(seq uint32) {
		j.found.add(faultViolation, "message %s (%d) of tenant %s is stored, and the reader that followed the cursor never met it", f.id(seq), seq, f.tenant)
	})
	j.again(f)
	vanished := f.seen.minus(&f.byID, &f.gone)
	vanished.each(func(seq uint32) {
		j.found.add(faultViolation, "message %s (%d) of tenant %s was read and is not stored any more", f.id(seq), seq, f.tenant)
	})
}

// again finds what was read more often than it was stored, or removed before it was read without a word of it. The caller holds f.mu.
func (j *judge) again(f *file) {
	for seq, removals := range f.removals {
		stored := removals
		if f.byID.has(seq) {
			stored++
		} else {
			j.gone++
		}
		j.storedAgain += stored - 1
	}
	if missed := f.gone.minus(&f.seen); missed.count > 0 && f.gaps == 0 {
		j.found.add(faultViolation, "tenant %s: %d messages were removed before the follower of the cursor had read them, and it was never told of a gap",
			f.tenant, missed.count)
	}
	j.gaps += f.gaps
	for seq, more := range f.reads {
		stored := f.removals[seq]
		if f.byID.has(seq) {
			stored++
		}
		if more+1 > stored {
			j.found.add(faultViolation, "message %s (%d) of tenant %s was read %d times, and stored %d times", f.id(seq), seq, f.tenant, more+1, stored)
		}
	}
}

// missing finds what was confirmed, or should have been, and is nowhere. The caller holds f.mu.
func (j *judge) missing(f *file) {
	lost := f.confirmed.minus(&f.byID, &f.deadLetters, &f.gone)
	lost.each(func(seq uint32) {
		what := "message"
		if f.poison.has(seq) {
			what = "poisoned message"
		}
		j.found.add(faultLost, "%s %s (%d) of tenant %s was confirmed and is neither stored nor a dead letter", what, f.id(seq), seq, f.tenant)
	})
	refused := f.refused.minus(&f.confirmed)
	refused.each(func(seq uint32) {
		j.found.add(faultRefused, "message %s (%d) of tenant %s", f.id(seq), seq, f.tenant)
	})
	for seq := range f.next {
		if !f.confirmed.has(seq) && !f.refused.has(seq) && !f.declined.has(seq) {
			j.found.add(faultUnknown, "message %s (%d) of tenant %s was never confirmed", f.id(seq), seq, f.tenant)
		}
	}
}
