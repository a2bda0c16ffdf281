package batch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// A tenant whose partition is locked repeats its batch for minutes; it must not keep the others from writing meanwhile.
func TestLockedTenantGivesItsSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		writer := batch.NewWriter(batch.Config{HoldTimeout: 5 * time.Minute, Slots: 1},
			f.store, f.gate, f.publisher, nil, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
		locked := f.batch(1, 0)
		f.store.fail = func(messages []store.Row, _ int) error {
			if messages[0].ID == locked.Messages[0].ID {
				return &pgconn.PgError{Code: "55P03"} // lock_not_available
			}
			return nil
		}
		locked.Slot = writer.TryReserve(new(batch.Flow), false)
		require.NotNil(t, locked.Slot)
		require.Nil(t, writer.TryReserve(new(batch.Flow), false), "there is one")
		waitCtx, cancelWait := context.WithCancel(t.Context())
		held := make(chan error, 1)
		go func() { held <- writer.Write(t.Context(), waitCtx, locked, &f.stats) }()

		other := f.batch(1, 0)
		other.Slot = writer.Reserve(t.Context(), new(batch.Flow), false)
		require.NotNil(t, other.Slot)
		require.NoError(t, writer.Write(t.Context(), t.Context(), other, &f.stats))
		require.Empty(t, held, "the locked one keeps trying")
		cancelWait()
		require.ErrorIs(t, <-held, context.Canceled)
		require.NotNil(t, writer.TryReserve(new(batch.Flow), false), "a slot is freed once, however often it was tried")
		require.Nil(t, writer.TryReserve(new(batch.Flow), false))
	})
}

// The writer that has waited longest writes next: a tenant that always has more to write starves nobody.
func TestSlotsAreGivenOutInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, nil)
		writer := batch.NewWriter(batch.Config{Slots: 1},
			f.store, f.gate, f.publisher, nil, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
		slot := writer.TryReserve(new(batch.Flow), false)
		order := make(chan int) // the owner of the slot keeps it until it is asked
		for i := range 3 {
			go func() {
				mine := writer.Reserve(t.Context(), new(batch.Flow), false)
				order <- i
				mine.Free()
			}()
			synctest.Wait() // the next one asks after this one
		}
		slot.Free()
		require.Nil(t, writer.TryReserve(new(batch.Flow), false), "nobody gets past those that wait")
		for i := range 3 {
			require.Equal(t, i, <-order)
		}
	})
}

// Nobody waits for a slot longer than it cares to.
func TestReserveEndsWithItsContext(t *testing.T) {
	f := newFixture(t, nil)
	writer := batch.NewWriter(batch.Config{Slots: 1},
		f.store, f.gate, f.publisher, nil, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
	slot := writer.TryReserve(new(batch.Flow), false)
	defer slot.Free()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Nil(t, writer.Reserve(ctx, new(batch.Flow), false))
}
