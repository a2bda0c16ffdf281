package traffic

import (
	"fmt"
	"sync"
	"unicode/utf8"
)

// Verdict is what became of everything that was offered.
type Verdict struct {
	// Offered is how many messages were made, Confirmed how many of them the platform took responsibility for. Poison
	// are those of the confirmed ones that cannot be stored. Stored and DeadLettered are rows in the database.
	Offered, Confirmed, Poison, Stored, DeadLettered int64
	// Removed are those that a retention has removed, which is no loss; StoredAgain is how often one was stored after it had been removed.
	Removed, StoredAgain int64
	// Gaps is how often a reader that follows a cursor was told that messages were removed which it had not read.
	Gaps int64
	// Declined were over a limit or came with a revoked token, and are not stored. OverLimit are the good ones among the dead letters,
	// which were larger than a limit of their tenant allowed when they were to be stored.
	Declined, OverLimit int64

	// Lost: confirmed, and neither stored nor a dead letter. Those of a deleted tenant were deleted by request.
	Lost int64
	// Duplicated: stored more than once, under one id or under two, or stored and a dead letter as well, or one poisoned
	// message that is several dead letters.
	Duplicated int64
	// Foreign: stored, recorded or read under a tenant for which it was not published, or published by nobody.
	Foreign int64
	// Violations: read twice, stored and never met by a reader that followed the cursor, consumed while its tenant was
	// suspended, another order backwards than forwards, or a cursor that was not honoured.
	Violations int64
	// Corrupted: its content is not that of the first publishing.
	Corrupted int64
	// Misplaced: poison that was stored, a good message among the dead letters, or a dead letter with a wrong reason.
	Misplaced int64
	// Leftover: something of a deleted tenant that is still there.
	Leftover int64
	// Refused: a good message of a tenant that runs, and the platform said that it was impossible.
	Refused int64
	// Unknown: offered again and again, and never confirmed.
	Unknown int64
	// Miscounted: stored with another size than was accepted, and tenants whose usage is not what is stored.
	Miscounted int64

	// Used is what live tenants have used by the rows, each of which was held against the ledger; Said is what the API says of them,
	// and Unequal are the tenants of which the two differ.
	Used, Said Usage
	Unequal    int64

	// Details are the first of each kind.
	Details []string
}

// Clean reports whether every promise was kept.
func (v *Verdict) Clean() bool {
	return v.Lost == 0 && v.Duplicated == 0 && v.Foreign == 0 && v.Violations == 0 && v.Corrupted == 0 &&
		v.Misplaced == 0 && v.Leftover == 0 && v.Refused == 0 && v.Unknown == 0 && v.Miscounted == 0
}

// fault is a kind of broken promise.
type fault int

const (
	faultNone fault = iota
	faultLost
	faultDuplicated
	faultForeign
	faultViolation
	faultCorrupted
	faultMisplaced
	faultLeftover
	faultRefused
	faultUnknown
	faultMiscounted
	faultKinds
)

func (f fault) String() string {
	return [...]string{
		"none", "lost", "duplicated", "foreign", "violation", "corrupted", "misplaced", "left over", "refused", "unknown", "miscounted",
	}[f]
}

// shownOfEach is how many details of each kind are kept.
const shownOfEach = 20

// findings count faults while the run continues. They are safe for concurrent use; their zero value has none.
type findings struct {
	mu      sync.Mutex
	count   [faultKinds]int64
	details []string
}

func (f *findings) add(kind fault, format string, args ...any) {
	if kind == faultNone {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count[kind]++; f.count[kind] <= shownOfEach {
		f.details = append(f.details, kind.String()+": "+fmt.Sprintf(format, args...))
	}
}

// into adds what was found to a verdict.
func (f *findings) into(v *Verdict) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for kind, counter := range map[fault]*int64{
		faultLost: &v.Lost, faultDuplicated: &v.Duplicated, faultForeign: &v.Foreign, faultViolation: &v.Violations,
		faultCorrupted: &v.Corrupted, faultMisplaced: &v.Misplaced, faultLeftover: &v.Leftover, faultRefused: &v.Refused,
		faultUnknown: &v.Unknown, faultMiscounted: &v.Miscounted,
	} {
		*counter += f.count[kind]
	}
	v.Details = append(v.Details, f.details...)
}

// shorten makes a payload fit into a detail.
func shorten(payload []byte) string {
	const limit = 160
	if len(payload) <= limit {
		return string(payload)
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(payload[cut]) {
		cut--
	}
	return string(payload[:cut]) + "…"
}

// total is how many faults were found.
func (f *findings) total() (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, count := range f.count {
		n += count
	}
	return n
}
