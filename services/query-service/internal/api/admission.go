package api

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

const (
	// slotWait is how long a read waits for one of its tenant to end.
	slotWait = time.Second
	// retryReads is when a client is asked to come back after that.
	retryReads = time.Second
)

// Rates hold the limits of tenants in bytes a second; [readrate.Limiter] does.
type Rates interface {
	// Begin lets a read of a tenant pass, which end charges with the bytes that were sent, or says after which time to try again.
	Begin(ctx context.Context, tenant uuid.UUID) (end func(bytes int), wait time.Duration)
}

// admission decides which reads may use the database: those of tenants that are within their limits of bytes, and no more than a number
// of each tenant at a time, so that none takes all connections.
type admission struct {
	maxReads int
	rates    Rates // nil: nobody has a limit of bytes
	metrics  *Metrics

	mu    sync.Mutex
	slots map[uuid.UUID]*slots // guarded by mu: of tenants that read
}

// slots are those of one tenant.
type slots struct {
	taken chan struct{} // has an element for each read that is under way
	users int           // guarded by the mutex of admission: reads that are under way, or wait
}

func newAdmission(maxReads int, rates Rates, metrics *Metrics) *admission {
	return &admission{maxReads: maxReads, rates: rates, metrics: metrics, slots: make(map[uuid.UUID]*slots)}
}

// begin waits until a read may begin. end is to be called with the bytes that were sent, 0 for an error. The error is a problem.
func (a *admission) begin(ctx context.Context, tenant uuid.UUID) (end func(bytes int), err error) {
	charge := func(int) {}
	if a.rates != nil {
		var wait time.Duration
		if charge, wait = a.rates.Begin(ctx, tenant); wait > 0 {
			a.metrics.refuse(tenant, resultRateLimited)
			return nil, problem.New(http.StatusTooManyRequests, "rate_limited", "the tenant reads more than its limit of bytes a second").
				WithRetryAfter(wait)
		}
	}
	release, ok := a.acquire(ctx, tenant)
	if !ok {
		charge(0)
		a.metrics.refuse(tenant, resultTooManyReads)
		return nil, problem.New(http.StatusTooManyRequests, "too_many_reads", "too many reads of the tenant are under way").
			WithRetryAfter(retryReads)
	}
	return func(bytes int) {
		charge(bytes)
		release()
	}, nil
}

// acquire waits for a slot of the tenant, for a second at most. How many wait is bounded by the connections that the server takes.
func (a *admission) acquire(ctx context.Context, tenant uuid.UUID) (release func(), ok bool) {
	a.mu.Lock()
	own := a.slots[tenant]
	if own == nil {
		own = &slots{taken: make(chan struct{}, a.maxReads)}
		a.slots[tenant] = own
	}
	own.users++
	a.mu.Unlock()
	leave := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(a.slots, tenant)
		}
	}
	select {
	case own.taken <- struct{}{}:
		return func() { <-own.taken; leave() }, true
	default:
	}
	timer := time.NewTimer(slotWait)
	defer timer.Stop()
	select {
	case own.taken <- struct{}{}:
		return func() { <-own.taken; leave() }, true
	case <-timer.C:
	case <-ctx.Done():
	}
	leave()
	return nil, false
}

// bytesSent is how many bytes of a body a request is answered with.
func bytesSent(c *fiber.Ctx, body []byte) int {
	if c.Method() == fiber.MethodHead {
		return 0
	}
	return len(body)
}
