package deadletter

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// minPace and maxPace bound the pauses of a replay of many dead letters that waits for the limit of its tenant, which may be changed
// meanwhile.
const (
	minPace = 20 * time.Millisecond
	maxPace = time.Second
)

// burstParts is the part of a second that the bucket of a limit is deep: no more than that passes at once (package rate).
const burstParts = 4

// Rates hold the limits per second of tenants; [rate.Limiter] does.
type Rates interface {
	// Take lets the first of costs pass, and tells how many, and when there are tokens for others.
	Take(ctx context.Context, tenant uuid.UUID, limits rate.Amounts, costs []rate.Amounts) (passed int, q rate.Quota)
	// GiveBack returns what was taken for dead letters that were not replayed.
	GiveBack(tenant uuid.UUID, tokens rate.Amounts)
}

// RateError says that a tenant replays more dead letters than its limit.
type RateError struct {
	// Wait is how long it takes until the next one may be replayed, as far as this instance knows.
	Wait time.Duration
}

// Error is for logs.
func (e *RateError) Error() string {
	return fmt.Sprintf("over the tenant's limit of replays: the next one in %s", e.Wait)
}

// Limit has replays hold the limit of their tenant in dead letters a second, 0 for none. It is called before the first replay.
func (r *Replayer) Limit(rates Rates, limit func(tenant uuid.UUID) int64) {
	r.rates, r.limit = rates, limit
}

// limitOf is the limit of a tenant as it is now; 0 without one.
func (r *Replayer) limitOf(tenant uuid.UUID) int64 {
	if r.rates == nil {
		return 0
	}
	return r.limit(tenant)
}

// pass lets the first of n dead letters be replayed, as many as the limit of the tenant allows, and returns how many those are, and after
// which time others may be.
func (r *Replayer) pass(ctx context.Context, tenant uuid.UUID, n int) (passed int, wait time.Duration) {
	limit := r.limitOf(tenant)
	if limit == 0 {
		return n, 0
	}
	costs := slices.Repeat([]rate.Amounts{{rate.Messages: 1}}, n)
	passed, q := r.rates.Take(ctx, tenant, rate.Amounts{rate.Messages: limit}, costs)
	return passed, q.Wait
}

// await is pass that waits for the first one; 0 if ctx ends before.
func (r *Replayer) await(ctx context.Context, tenant uuid.UUID, n int) int {
	for {
		passed, wait := r.pass(ctx, tenant, n)
		if passed > 0 {
			return passed
		}
		if retry.Sleep(ctx, min(max(wait, minPace), maxPace)) != nil {
			return 0
		}
	}
}

// giveBack returns what n dead letters took that were not replayed.
func (r *Replayer) giveBack(tenant uuid.UUID, n int) {
	if n > 0 && r.limitOf(tenant) > 0 {
		r.rates.GiveBack(tenant, rate.Amounts{rate.Messages: int64(n)})
	}
}

// atATime is how many dead letters of a tenant may pass at once: to read more than those from the database would be for nothing.
func (r *Replayer) atATime(tenant uuid.UUID) int {
	limit := r.limitOf(tenant)
	if limit == 0 {
		return math.MaxInt
	}
	return int(max(limit/burstParts, 1))
}
