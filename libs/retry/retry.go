// Package retry is how loops that try until they succeed pause between two tries: for how long, and under a context.
//
// It has no loop of its own. Those of this platform end with their context rather than with an error, and most of them
// wake for something else than the time, too.
package retry

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Backoff returns pauses that grow by half each time, from first to longest, without end. Each is half as long to one and
// a half times as long as that, at random, so that what failed together does not come back together; the very longest is
// therefore 1.5 × longest. It is not safe for concurrent use.
func Backoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = first, longest
	return pauses
}

// Sleep returns nil after d, or the error of ctx if that has ended by then. It does not wait if d is not positive.
func Sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	return ctx.Err()
}

// Jitter returns d, which must not be negative, up to a tenth shorter or longer at random, so that instances that started
// together drift apart.
func Jitter(d time.Duration) time.Duration {
	return d*9/10 + rand.N(d/5+1) //nolint:gosec // spreads load, decides nothing
}
