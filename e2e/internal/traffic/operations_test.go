package traffic

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// Limits, revocations and a retention break no promise, and each of them acts: a run in which they do nothing shows nothing.
func TestOperationsOnAPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it uses a platform of its own for half a minute")
	}
	p, err := platform.Start(t.Context(), nil, t.Logf)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), waitLimit)
		defer cancel()
		require.NoError(t, p.Close(ctx))
	})
	traffic, err := New(p, Options{Tenants: 6, Seed: 3, HTTPRate: 100, AMQPRate: 100, PoisonShare: 0.02, Limits: true, Revocation: true, Retention: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, traffic.Close()) })
	starting, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, traffic.Start(starting))
	use(t, traffic, func(ctx context.Context) {
		for ctx.Err() == nil {
			limits, revoked := traffic.Limits(), traffic.Revocations()
			refused := true
			for _, name := range Verifiers() {
				refused = refused && revoked.Accepted[name] > 0 && revoked.Refused[name] > 0
			}
			removed, err := traffic.removals(ctx, traffic.tenants[0], 0)
			require.NoError(t, err)
			if limits.RateLimited > 0 && limits.TooLarge > 0 && refused && len(removed) > 0 {
				return
			}
			_ = retry.Sleep(ctx, drainPoll)
		}
	})
	v := verdict(t, traffic)
	require.True(t, v.Clean(), "%+v", v)
	require.Empty(t, traffic.Failures())
	require.Positive(t, v.Removed)
	require.Positive(t, v.Declined)
}
