package rate

import (
	"math/bits"
	"time"
)

const (
	// fraction is how many parts of a token a bucket counts in, so that at one token a second no nanosecond is lost.
	fraction = int64(time.Second)
	// maxRate is the highest limit that is told from none, in tokens a second. With it a level still fits into 63 bits.
	maxRate = 1 << 32
	// depthParts is the part of a second that a bucket is deep: a quarter.
	depthParts = 4
	// maxWait is the longest wait that is told.
	maxWait = 24 * time.Hour
)

// flow is what runs into a bucket: a part of perSecond tokens a second, of which there are so many.
type flow struct{ perSecond, parts int64 }

func newFlow(perSecond, parts int64) flow {
	return flow{perSecond: min(max(perSecond, 1), maxRate), parts: max(parts, 1)}
}

// depth is how much a bucket of f holds, in fractions: what comes in a quarter of a second, and at least one token.
func (f flow) depth() int64 {
	return max(f.perSecond*(fraction/depthParts)/f.parts, fraction)
}

// bucket is a token bucket. The zero value is empty.
type bucket struct {
	level int64     // in fractions; negative: in debt
	at    time.Time // when that was
}

// fill adds what has come in until now. Time that runs backwards adds nothing.
func (b *bucket) fill(now time.Time, f flow) {
	depth := f.depth()
	elapsed := now.Sub(b.at)
	if elapsed <= 0 {
		b.level = min(b.level, depth) // the limit may have been lowered
		return
	}
	b.at = now
	high, low := bits.Mul64(uint64(f.perSecond), uint64(elapsed))
	if high >= uint64(f.parts) {
		b.level = depth
		return
	}
	income, _ := bits.Div64(high, low, uint64(f.parts))
	if room := depth - b.level; room <= 0 || income >= uint64(room) {
		b.level = depth
		return
	}
	b.level += int64(income)
}

// tokens is how many whole tokens there are; 0 in debt.
func (b *bucket) tokens() int64 { return max(b.level, 0) / fraction }

// remove takes so many tokens out, or puts them in if that is negative.
func (b *bucket) remove(tokens int64) { b.level -= tokens * fraction }

// until is how long it takes until there is a token.
func (b *bucket) until(f flow) time.Duration {
	missing := fraction - b.level
	if missing <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(missing), uint64(f.parts))
	if high >= uint64(f.perSecond) {
		return maxWait
	}
	wait, rest := bits.Div64(high, low, uint64(f.perSecond))
	if rest > 0 {
		wait++
	}
	return time.Duration(min(wait, uint64(maxWait)))
}
