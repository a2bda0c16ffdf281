package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pause that is cut short would ask a server that is away again and again, one that outlives its context holds up a stop.
func TestSleepEndsWithTheTimeOrTheContext(t *testing.T) {
	for name, test := range map[string]struct {
		sleep, ends time.Duration // the context ends after that; 0: never
		want        error
		takes       time.Duration
	}{
		"over":                         {time.Minute, time.Hour, nil, time.Minute},
		"context without an end":       {time.Minute, 0, nil, time.Minute},
		"context ends first":           {time.Hour, time.Minute, context.DeadlineExceeded, time.Minute},
		"nothing to wait for":          {0, time.Minute, nil, 0},
		"what was due has passed":      {-time.Minute, time.Minute, nil, 0},
		"ended before":                 {time.Hour, -time.Minute, context.DeadlineExceeded, 0},
		"ended before, no time either": {0, -time.Minute, context.DeadlineExceeded, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.ends != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.ends)
					defer cancel()
				}
				began := time.Now()
				require.ErrorIs(t, retry.Sleep(ctx, test.sleep), test.want)
				require.Equal(t, test.takes, time.Since(began))
			})
		})
	}
}

// Callers tell the end of their context by its error, whatever cause it has.
func TestSleepReturnsTheErrorOfTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("a sibling has failed"))
	require.Equal(t, context.Canceled, retry.Sleep(ctx, time.Hour))
}

func TestBackoffGrowsToTheLongest(t *testing.T) {
	for range 100 {
		pauses := retry.Backoff(100*time.Millisecond, time.Second)
		for step := 100 * time.Millisecond; step < time.Second; step = step * 3 / 2 {
			pause := pauses.NextBackOff()
			require.GreaterOrEqual(t, pause, step/2)
			require.LessOrEqual(t, pause, step*3/2)
		}
		for range 100 { // it does not end
			pause := pauses.NextBackOff()
			require.GreaterOrEqual(t, pause, time.Second/2)
			require.LessOrEqual(t, pause, time.Second*3/2)
		}
		pauses.Reset()
		require.LessOrEqual(t, pauses.NextBackOff(), 150*time.Millisecond)
	}
}

func TestJitterStaysWithinATenth(t *testing.T) {
	seen := make(map[time.Duration]struct{})
	for range 1000 {
		d := retry.Jitter(time.Minute)
		require.GreaterOrEqual(t, d, 54*time.Second)
		require.LessOrEqual(t, d, 66*time.Second)
		seen[d] = struct{}{}
	}
	require.Greater(t, len(seen), 1, "instances drift apart")
	require.Zero(t, retry.Jitter(0))
	require.LessOrEqual(t, retry.Jitter(1), time.Duration(1))
}
