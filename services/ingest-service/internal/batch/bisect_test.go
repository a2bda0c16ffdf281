package batch_test

import (
	"fmt"
	"math/bits"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// Whichever messages of a batch are bad, for whichever reason: all others are stored, each bad one is handed on once and
// for its own reason, and the statements that this takes are bounded: 2·log2(n)+1 for one bad message, 2n-1 if all are.
func TestBisectProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		f := newFixture(t, nil)
		n := rapid.IntRange(1, 700).Draw(r, "messages")
		b := f.batch(n, 0)
		transient := make(map[uuid.UUID]bool) // of the bad ones
		for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, n-1), rapid.ID[int]).Draw(r, "bad") {
			transient[b.Messages[i].ID] = rapid.Bool().Draw(r, "transient")
		}
		f.store.fail = func(messages []store.Row, _ int) error {
			for _, m := range messages {
				if passes, bad := transient[m.ID]; bad {
					code := map[bool]string{true: "P0001", false: "22P05"}[passes]
					return fmt.Errorf("insert: %w", &pgconn.PgError{Code: code})
				}
			}
			return nil
		}
		require.NoError(r, f.writer.Write(t.Context(), t.Context(), b, &f.stats))

		require.Len(r, f.store.stored, n-len(transient))
		require.Len(r, f.publisher.published, len(transient))
		handedOn := make(map[uuid.UUID]bool)
		for _, m := range f.publisher.published {
			id := uuid.MustParse(m.Publishing.MessageId)
			require.False(r, handedOn[id], "handed on twice")
			handedOn[id] = true
			passes, bad := transient[id]
			require.True(r, bad)
			require.False(r, f.store.stored[id], "stored and handed on")
			require.Equal(r, passes, m.Exchange != contract.DeadLettersExchange)
		}
		halvings := bits.Len(uint(n - 1)) // log2, rounded up
		require.LessOrEqual(r, f.store.statements, min(2*n-1, 1+2*halvings*len(transient)))
		require.EqualValues(r, n-len(transient), f.stats.Stored.Load())
	})
}

// Messages that failed together must not come back together: about one in four waits a tier longer, and no wait is
// shorter than its attempt's.
func TestRetriesAreSpread(t *testing.T) {
	f := newFixture(t, nil)
	const n = 2000
	b := f.batch(n, 0)
	all := make(map[uuid.UUID]bool, n)
	for _, m := range b.Messages {
		all[m.ID] = true
	}
	f.store.fail = refuses(all, "P0001")
	began := time.Now()
	require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
	exchanges := make(map[string]int)
	for _, m := range f.publisher.published {
		exchanges[m.Exchange]++
		require.EqualValues(t, 1, m.Publishing.Headers[contract.HeaderAttempt], "in our own header")
		first, ok := m.Publishing.Headers[contract.HeaderFirstFailedAt].(int64)
		require.True(t, ok)
		require.WithinRange(t, time.UnixMilli(first), began.Add(-time.Second), time.Now())
	}
	require.Equal(t, n, exchanges["retry.1s"]+exchanges["retry.5s"])
	require.InDelta(t, n/4, exchanges["retry.5s"], n/8) // a standard deviation is 19
}

// The time of the first failure must survive every tier, or the age of a dead letter would be that of its last attempt.
func TestTheFirstFailureIsKept(t *testing.T) {
	f := newFixture(t, nil)
	b := f.batch(1, 0)
	first := time.Now().Add(-time.Hour).UnixMilli()
	headers := amqp.Table{contract.HeaderAttempt: int32(1), contract.HeaderFirstFailedAt: first}
	b.Deliveries[0].Properties = amqptest.Encode(amqp.Publishing{Headers: headers})
	f.store.fail = refuses(map[uuid.UUID]bool{b.Messages[0].ID: true}, "P0001")
	require.NoError(t, f.writer.Write(t.Context(), t.Context(), b, &f.stats))
	require.Len(t, f.publisher.published, 1)
	require.Equal(t, first, f.publisher.published[0].Publishing.Headers[contract.HeaderFirstFailedAt])
}
