package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	// limiters is how many tenants are limited at a time.
	limiters = 2
	// liftTimeout is longer than a restart of all that changing a tenant needs, and the longest freeze.
	liftTimeout = 2 * time.Minute
	// largeEvery is which share of the messages is larger than the limit of payloads that tenants are given now and then, by largeBytes.
	largeEvery   = 32
	largeBytes   = 4 << 10
	payloadLimit = 1 << 10
	// longestWait is the longest that a producer waits because it was asked to: the limit may be lifted before.
	longestWait = 2 * time.Second
)

// isLarge reports whether a message is larger than a limit of its tenant may allow.
func (i *identity) isLarge(seq uint32) bool {
	return i.large && mix(i.key+uint64(seq)<<1)%largeEvery == 0
}

// setLimited notes that limits of the tenant may be in force from now on, or that none is any more.
func (a *account) setLimited(limited bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limited = limited
}

func (a *account) isLimited() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limited
}

// squeeze notes that large messages of the tenant may become dead letters.
func (a *account) squeeze() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.squeezed = true
}

func (a *account) isSqueezed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.squeezed
}

// isOverLimit reports whether a message may be a dead letter for its size although it is good. The caller holds a.mu.
func (a *account) isOverLimit(seq uint32) bool {
	return a.squeezed && a.isLarge(seq) && (!a.poison.has(seq) || a.poisonOf(seq) == poisonForeign)
}

// bury notes dead letters that are too large, and returns how many of them are good messages.
func (a *account) bury(ids []uuid.UUID) (n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range ids {
		if seq, ours := a.seq(id); ours && a.isOverLimit(seq) && !a.poison.has(seq) {
			a.tooLarge.add(seq)
			n++
		}
	}
	return n
}

// isHeld reports whether nobody can expect that a message of the tenant arrives soon: it is suspended or limited.
func (a *account) isHeld() bool { return a.isQuiet() || a.isLimited() }

// isHidden reports whether nobody can expect that a message of the tenant is read: it may be removed before.
func (a *account) isHidden() bool { return a.isHeld() || a.doesRetain() }

// limit changes limits of tenants while they are used, one tenant after the other, until ctx ends. A tenant is left without.
func (t *Traffic) limit(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.limitOne(ctx); err != nil && ctx.Err() == nil {
			t.fail(fmt.Errorf("change the limits of a tenant: %w", err))
			_ = retry.Sleep(ctx, longestPause)
		}
	}
}

// limitOne limits one tenant, changes the limits, and lifts them.
func (t *Traffic) limitOne(ctx context.Context) error {
	const least, most = 2 * time.Second, 5 * time.Second
	dice := t.dice()
	chosen, release, err := t.choose(ctx, dice, 1)
	if err != nil {
		return err
	}
	defer release()
	a := chosen[0]
	a.setLimited(true)
	failed := func() error {
		for range 2 {
			patch, workers := limits(dice)
			if patch[client.LimitMaxPayload] != nil {
				a.squeeze()
			}
			if err := t.applyLimits(ctx, a, patch, workers); err != nil {
				return err
			}
			_ = retry.Sleep(ctx, least+rand.N(most-least)) //nolint:gosec // timing is not reproducible anyway
		}
		return nil
	}()
	// Whatever went wrong, the tenant is not left with limits.
	lifting, cancel := context.WithTimeout(context.WithoutCancel(ctx), liftTimeout)
	defer cancel()
	if err := t.applyLimits(lifting, a, unlimited(), 0); err != nil {
		lifted := fmt.Errorf("the limits of tenant %s are not lifted: %w", a.tenant, err)
		t.fail(lifted)
		return errors.Join(failed, lifted)
	}
	a.setLimited(false)
	return failed
}

// applyLimits changes limits and returns when they are in force.
func (t *Traffic) applyLimits(ctx context.Context, a *account, patch client.LimitPatch, workers int) error {
	if err := t.site.Admin.Limit(ctx, a.tenant, patch); err != nil {
		return err
	}
	t.limitChanges.Add(1)
	return t.site.Admin.AwaitState(ctx, a.tenant, client.ConsumerRunning, workers)
}

// limits are some below what a tenant does in a run, and others that are not felt.
func limits(dice *rand.Rand) (patch client.LimitPatch, workers int) {
	value := func(least, choices int64) *int64 {
		n := least + dice.Int64N(choices)
		return &n
	}
	patch = unlimited()
	width := value(1, 8)
	patch[client.LimitWorkers], patch[client.LimitMaxAttempts] = width, value(3, 8)
	switch dice.IntN(4) {
	case 0:
		patch[client.LimitPublishRate] = value(1, 6)
	case 1:
		patch[client.LimitPublishBytes] = value(2<<10, 1<<10)
	case 2:
		patch[client.LimitMaxPayload] = value(payloadLimit, 1)
	default:
		patch[client.LimitPublishRate], patch[client.LimitMaxPayload] = value(4, 6), value(payloadLimit, 1)
	}
	return patch, int(*width)
}

// unlimited has every limit that a tenant is given, as the default again.
func unlimited() client.LimitPatch {
	return client.LimitPatch{
		client.LimitWorkers: nil, client.LimitMaxAttempts: nil, client.LimitPublishRate: nil, client.LimitPublishBytes: nil, client.LimitMaxPayload: nil,
	}
}

// Limits are what the limits of tenants have done to producers.
type Limits struct {
	// Changes is how often the limits of a tenant were changed, RateLimited how many messages were over a rate (429), TooLarge how many
	// payloads were larger than their tenant's may be (413).
	Changes, RateLimited, TooLarge int64
}

// Limits counts.
func (t *Traffic) Limits() Limits {
	return Limits{Changes: t.limitChanges.Load(), RateLimited: t.rateLimited.Load(), TooLarge: t.tooLarge.Load()}
}

// noteLimits counts what was declined. Of a tenant without limits that is a refusal; one that begins or ends has its limits for a
// request that it is handled beside.
func (t *Traffic) noteLimits(a *account, before bool, outcomes []outcome, errs []error) {
	limited := before || a.isLimited()
	for i, o := range outcomes {
		switch {
		case o != outcomeDeclined:
		case !limited:
			outcomes[i] = outcomeRefused
		case errors.Is(errs[i], client.ErrRateLimited):
			t.rateLimited.Add(1)
		default:
			t.tooLarge.Add(1)
		}
	}
}

// isDeclined reports whether a limit of the tenant refuses a message: it is certainly not accepted.
func isDeclined(refused *client.Problem) bool {
	return refused.Status == http.StatusTooManyRequests || refused.Status == http.StatusRequestEntityTooLarge && refused.Code == client.ErrPayloadTooLarge
}

// retryAfter is how long an error asks to wait, within what a producer is willing to.
func retryAfter(err error) time.Duration {
	if refused, ok := errors.AsType[*client.Problem](err); ok {
		return min(refused.RetryAfter, longestWait)
	}
	return 0
}
