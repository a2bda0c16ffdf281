package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// Retry says when a request is repeated. A zero field has its default.
type Retry struct {
	// MaxAttempts is the number of attempts, the first included; 1 never repeats. Default: no limit but time.
	MaxAttempts int
	// For is how long a request is repeated whose context has no deadline. Default: 1 minute.
	For time.Duration
	// MinDelay and MaxDelay bound the time between two attempts, which doubles and of which up to a half is left out at
	// random. Defaults: 100 milliseconds and 10 seconds.
	MinDelay, MaxDelay time.Duration
	// MaxRetryAfter is the longest wait that a service may ask for; beyond it the client tries earlier. Default: 30 seconds.
	MaxRetryAfter time.Duration
}

func (r Retry) withDefaults() Retry {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&r.For, time.Minute},
		{&r.MinDelay, 100 * time.Millisecond},
		{&r.MaxDelay, 10 * time.Second},
		{&r.MaxRetryAfter, 30 * time.Second},
	} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	return r
}

// delay is how long to wait after the attempt of that number, the first being 1, if the service asked for after.
func (r Retry) delay(attempt int, after time.Duration) time.Duration {
	backoff := r.MinDelay
	for i := 1; i < attempt && backoff < r.MaxDelay; i++ {
		backoff *= 2
	}
	backoff = min(backoff, r.MaxDelay)
	if after > 0 {
		return min(after, r.MaxRetryAfter) + jitter(r.MinDelay)
	}
	return backoff - jitter(backoff/2)
}

// jitter is a random part of d, so that clients that failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return rand.N(max(d, 1)) //nolint:gosec // nobody gains by guessing it
}

// transportError says that there was no answer, or half of one. What was asked for may have been done.
type transportError struct{ err error }

func (e *transportError) Error() string { return e.err.Error() }
func (e *transportError) Unwrap() error { return e.err }

// retryable reports whether another attempt may help.
func retryable(err error) bool {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.Retryable()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	_, ok := errors.AsType[*transportError](err)
	return ok
}

// repeats are the attempts of one request.
type repeats struct {
	policy Retry
	until  time.Time // zero: only the context ends it
	failed int       // attempts so far
	// maybeDone says that an attempt may have done its work without the client having learned of it.
	maybeDone bool
}

// repeats begins a request. With untilDone nothing but the context limits it.
func (c *Client) repeats(ctx context.Context, untilDone bool) *repeats {
	r := &repeats{policy: c.retry}
	if deadline, ok := ctx.Deadline(); ok {
		r.until = deadline
	} else if !untilDone {
		r.until = time.Now().Add(c.retry.For)
	}
	return r
}

// next waits until the attempt after one that failed with err is due, and returns nil then. Else the request has failed, and
// what it returns completes the error of the last attempt.
func (r *repeats) next(ctx context.Context, err error) (final func(error) error) {
	r.failed++
	if over := context.Cause(ctx); over != nil {
		return ended(over)
	}
	if !retryable(err) || r.failed == r.policy.MaxAttempts {
		return func(err error) error { return err }
	}
	var after time.Duration
	p, refused := errors.AsType[*Problem](err)
	if refused {
		after = p.RetryAfter
	}
	r.maybeDone = r.maybeDone || !refused || p.Status != http.StatusTooManyRequests
	wait := r.policy.delay(r.failed, after)
	if _, limited := ctx.Deadline(); !r.until.IsZero() && time.Now().Add(wait).After(r.until) {
		if limited {
			return ended(context.DeadlineExceeded)
		}
		return func(err error) error { return fmt.Errorf("given up after %d attempts: %w", r.failed, err) }
	}
	if over := sleep(ctx, wait); over != nil {
		return ended(over)
	}
	return nil
}

// ended adds the end of the context to an error that does not have it.
func ended(over error) func(error) error {
	return func(err error) error {
		if errors.Is(err, over) {
			return err
		}
		return fmt.Errorf("%w: %w", over, err)
	}
}

// sleep returns nil after d, or the cause of the end of ctx if that comes before.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
