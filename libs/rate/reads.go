package rate

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Reads holds limits of bytes for reads, of which nobody knows before their end what they cost. A read passes while there are tokens, and
// takes as many as the last ones of its tenant on this instance have cost, so that many at a time do not pass on the same tokens; when it
// is over the rest is charged, or given back. One that is larger than what the bucket holds is given all the same, and what follows waits
// until it is paid for. It is safe for concurrent use.
type Reads struct {
	limiter *Limiter

	mu   sync.Mutex
	last map[uuid.UUID]int64 // guarded by mu: what a read of a tenant with a limit is likely to cost, in bytes
}

// NewReads returns reads that pay with tokens of limiter, which is for nothing else.
func NewReads(limiter *Limiter) *Reads {
	return &Reads{limiter: limiter, last: make(map[uuid.UUID]int64)}
}

// Begin lets a read of a tenant with a limit in bytes a second pass, or returns a wait, a second at least, after which to try again. end
// is called once, with the bytes that were sent; with 0 the read has cost nothing. Begin waits for an answer of the owner at most, or
// the end of ctx.
func (r *Reads) Begin(ctx context.Context, tenant uuid.UUID, limit int64) (end func(bytes int), wait time.Duration) {
	limits := Amounts{Bytes: limit}
	r.mu.Lock()
	expected := max(r.last[tenant], 1)
	r.mu.Unlock()
	passed, q := r.limiter.Take(ctx, tenant, limits, []Amounts{{Bytes: expected}})
	if passed == 0 {
		return nil, max(q.Wait, time.Second)
	}
	return func(bytes int) {
		sent := int64(bytes)
		switch {
		case sent > expected:
			r.limiter.Charge(tenant, limits, Amounts{Bytes: sent - expected})
		case sent < expected:
			r.limiter.GiveBack(tenant, Amounts{Bytes: expected - sent})
		}
		if sent > 0 { // a small one says little of the next, which another reader may read elsewhere
			r.mu.Lock()
			r.last[tenant] = max(sent, r.last[tenant]/2)
			r.mu.Unlock()
		}
	}, 0
}

// Forget lets go of what is known of a tenant that is deleted, or has no limit any more.
func (r *Reads) Forget(tenant uuid.UUID) {
	r.limiter.Forget(tenant)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, tenant)
}
