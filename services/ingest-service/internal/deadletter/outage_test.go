package deadletter

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// recording is a store that fails as a test wants it to.
type recording func(entries []Entry) error

func (r recording) Record(_ context.Context, entries []Entry) (discarded int, err error) {
	return 0, r(entries)
}

// brokerTimeout is how long RabbitMQ lets a delivery be unacknowledged before it closes the channel (consumer_timeout).
const brokerTimeout = 30 * time.Minute

// Dead letters that are held for longer than the broker allows would cost the channel, again and again. They go back before,
// and until then the database is asked now and then, not all the time.
func TestRecorderGivesBackInALongOutage(t *testing.T) {
	for name, fault := range map[string]error{
		"no connection": errors.New("connection refused"), "read-only": &pgconn.PgError{Code: "25006"}, "disk full": &pgconn.PgError{Code: "53100"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				r := &Recorder{store: recording(func([]Entry) error { tries++; return fault }), metrics: NewMetrics(prometheus.NewPedanticRegistry()), log: zap.NewNop()}
				began := time.Now()
				err := r.record(t.Context(), zap.NewNop(), []Entry{newTestEntry(tenantA, 1)}, nil, never)
				require.ErrorIs(t, err, errHeld)
				require.ErrorIs(t, err, fault)
				held := time.Since(began) // of the bubble's clock
				require.GreaterOrEqual(t, held, holdTimeout)
				require.Less(t, held, brokerTimeout/2)
				require.Less(t, tries, 200, "about one in ten seconds, more often at first")
				require.Zero(t, testutil.ToFloat64(r.metrics.recorded))
			})
		})
	}
}

// A connection that is lost has taken the dead letters back to their queue: holding on to them would record them twice.
func TestRecorderLetsGoWhenTheConnectionIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan struct{})
		r := &Recorder{store: recording(func([]Entry) error { close(lost); return errors.New("connection refused") }), metrics: NewMetrics(prometheus.NewPedanticRegistry()), log: zap.NewNop()}
		require.ErrorIs(t, r.record(t.Context(), zap.NewNop(), []Entry{newTestEntry(tenantA, 1)}, lost, never), conn.ErrUnavailable)
	})
}

// A database that refuses one dead letter of a batch for its content is asked a bounded number of times, and every other dead letter
// is recorded whole.
func TestRecorderBisectsInBoundedStatements(t *testing.T) {
	entries := make([]Entry, 64)
	for n := range entries {
		entries[n] = newTestEntry(tenantA, n)
	}
	bad, statements := entries[41].ID, 0
	recorded := make(map[string]bool)
	r := &Recorder{store: recording(func(entries []Entry) error {
		statements++
		for _, l := range entries {
			if l.ID == bad && l.ContentType != "" {
				return &pgconn.PgError{Code: "22P05"}
			}
		}
		for _, l := range entries {
			recorded[l.ID.String()] = true
		}
		return nil
	}), metrics: NewMetrics(prometheus.NewPedanticRegistry()), log: zap.NewNop()}
	require.NoError(t, r.record(t.Context(), zap.NewNop(), entries, nil, never))
	require.Len(t, recorded, len(entries))
	require.LessOrEqual(t, statements, 2*6+2, "2·log2(64)+1, and once more for the dead letter without what was refused")
}
