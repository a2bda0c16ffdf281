package relay_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// withheld fails so many times to read what a comparison needs.
type withheld struct {
	relay.Registry
	times *atomic.Int64
}

func (w withheld) Batch(ctx context.Context, after uuid.UUID, limit int) ([]tenant.Tenant, error) {
	if w.times.Add(-1) >= 0 {
		return nil, errDown
	}
	return w.Registry.Batch(ctx, after, limit)
}

// A comparison that could not be made is made up for at once, not with the next one: until then the instances would not
// know of tenants that the control channel has lost.
func TestComparisonThatFailedIsMadeUpFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("a")
	_, stop := w.start(often())
	w.bucketHas(a.Spec())
	w.allPublished()
	stop()
	require.NoError(t, w.bucket.Delete(t.Context(), a.ID.String()))

	var times atomic.Int64
	times.Store(3)
	w.start(options{
		Options:  relay.Options{Poll: 10 * time.Millisecond, Compare: time.Hour},
		registry: withheld{Registry: w.registry, times: &times},
	})
	w.bucketHas(a.Spec())
}

// A server of NATS that comes back may have lost its data. The relay looks as soon as it is connected.
func TestComparesAfterAReconnect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("a")
	connects := make(chan chan struct{}, 10)
	w.start(options{
		Options: relay.Options{Poll: time.Hour, Compare: time.Hour},
		connected: func() <-chan struct{} {
			next := make(chan struct{})
			connects <- next
			return next
		},
	})
	w.bucketHas(a.Spec()) // by the comparison at the start
	w.allPublished()
	for range 2 {
		require.NoError(t, w.bucket.Delete(t.Context(), a.ID.String()))
		close(<-connects)
		w.bucketHas(a.Spec())
	}
}

// blind does not list what it has, as one that reads while a tenant is being made.
type blind struct{ relay.Registry }

func (blind) Batch(context.Context, uuid.UUID, int) ([]tenant.Tenant, error) { return nil, nil }

// A tenant that was made during a comparison is in the control channel and not in what was read of the registry. It must not
// be taken for one that the registry does not know: its instances would not be told.
func TestTenantThatAppearsDuringAComparisonStays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.create("a")
	_, stop := w.start(often())
	w.bucketHas(a.Spec())
	w.allPublished()
	stop()
	before, err := w.bucket.Get(t.Context(), a.ID.String())
	require.NoError(t, err)
	comparing := relay.New(blind{w.registry}, w.connect(), func(uuid.UUID) int64 { return 0 }, relay.Options{}, prometheus.NewRegistry(), zap.NewNop())
	require.NoError(t, comparing.Pass(t.Context(), true))
	after, err := w.bucket.Get(t.Context(), a.ID.String())
	require.NoError(t, err)
	require.Equal(t, before, after)
}
