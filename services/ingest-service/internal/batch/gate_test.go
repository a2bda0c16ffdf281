package batch_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// outage is a database that is away for a while, in a bubble of synctest.
type outage struct {
	until time.Time
	err   error
	// probes counts the questions whether it is back, statements the tries to write while it was not.
	probes, statements, asking, together atomic.Int64
}

func newOutage(lasts time.Duration, err error) *outage {
	return &outage{until: time.Now().Add(lasts), err: err}
}

func (o *outage) fault() error {
	if time.Now().Before(o.until) {
		return o.err
	}
	return nil
}

// probe takes a little, as a connection that is refused does.
func (o *outage) probe(context.Context) error {
	o.probes.Add(1)
	o.together.Store(max(o.together.Load(), o.asking.Add(1)))
	defer o.asking.Add(-1)
	<-time.After(10 * time.Millisecond) // of the clock of the bubble
	return o.fault()
}

func (o *outage) insert([]store.Row, int) error {
	err := o.fault()
	if err != nil {
		o.statements.Add(1)
	}
	return err
}

// through has so many writers write one batch each, and returns their errors.
func (f *fixture) through(t *testing.T, writers int) []error {
	t.Helper()
	gate, stopGate := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.gate.Run(gate, func(error) {}) }()
	results := make(chan error, writers)
	for range writers {
		go func() { results <- f.writer.Write(t.Context(), t.Context(), f.batch(10, 2), &f.stats) }()
	}
	errs := make([]error, writers)
	for i := range errs {
		errs[i] = <-results
	}
	stopGate()
	require.NoError(t, <-done)
	return errs
}

// A database that is just coming back must not meet the tries of ten thousand tenants: while it is away one probe asks for
// it, now and then, one that waits; when the probe is answered all continue, and nothing has cost an attempt.
func TestOneProbeForAllWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const writers, lasts = 200, 4 * time.Minute
		away := newOutage(lasts, errors.New("connection refused"))
		f := newFixture(t, away.probe)
		f.store.fail = away.insert
		for _, err := range f.through(t, writers) {
			require.NoError(t, err)
		}
		require.Len(t, f.store.stored, writers*10)
		require.LessOrEqual(t, away.statements.Load(), int64(writers), "each writer has tried once, before it knew")
		require.EqualValues(t, 1, away.together.Load())
		require.LessOrEqual(t, away.probes.Load(), int64(lasts/time.Second)+10, "at most about one probe a second")
		require.Greater(t, away.probes.Load(), int64(lasts/(4*time.Second)), "and one every few seconds, or it is noticed too late")
		require.Empty(t, f.publisher.published)
	})
}

// A server that answers and takes no writes, as a standby after a failover or one with a full disk, is known by its
// refusals alone. Each writer asks less and less often.
func TestWritersDoNotSpinOnADatabaseThatRefusesWrites(t *testing.T) {
	for name, code := range map[string]string{"read-only": "25006", "disk full": "53100", "out of memory": "53200", "no right": "42501", "lock": "55P03"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const writers, lasts = 20, 4 * time.Minute
				refusing := newOutage(lasts, &pgconn.PgError{Code: code})
				f := newFixture(t, func(context.Context) error { return nil })
				f.store.fail = refusing.insert
				for _, err := range f.through(t, writers) {
					require.NoError(t, err)
				}
				require.Len(t, f.store.stored, writers*10)
				require.LessOrEqual(t, refusing.statements.Load(), int64(writers*(lasts/(2*time.Second))), "one in two seconds for each")
				require.Empty(t, f.publisher.published)
			})
		})
	}
}

// The gate tells readiness of every change, and those that wait are told why.
func TestGateReportsWhatItKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		back := make(chan struct{})
		var reports []error
		gate := batch.NewGate(func(context.Context) error {
			select {
			case <-back:
				return nil
			default:
				return away
			}
		}, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- gate.Run(ctx, func(err error) { reports = append(reports, err) }) }()
		require.NoError(t, gate.Wait(t.Context()))
		synctest.Wait()

		gate.Close(away)
		gate.Close(errors.New("another reason, later"))
		require.ErrorIs(t, gate.Err(), away)
		withDeadline, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := gate.Wait(withDeadline)
		require.ErrorIs(t, err, away)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		close(back)
		require.NoError(t, gate.Wait(t.Context()))
		synctest.Wait()
		require.NoError(t, gate.Err())
		stop()
		require.NoError(t, <-done)
		require.Len(t, reports, 3)
		require.NoError(t, reports[0])
		require.ErrorIs(t, reports[1], away)
		require.NoError(t, reports[2])
	})
}

// A database that answers each probe and refuses what is written is asked less and less often: ten thousand tenants that each
// close the gate as soon as it opens must not have it asked at the speed of the network.
func TestGatePausesBeforeItTrustsAnAnswerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []time.Time
		gate := batch.NewGate(func(context.Context) error {
			probes = append(probes, time.Now())
			return nil
		}, zap.NewNop())
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- gate.Run(ctx, func(error) {}) }()
		const outages = 12
		for range outages {
			synctest.Wait()
			gate.Close(errors.New("refused"))
			require.NoError(t, gate.Wait(t.Context()))
		}
		synctest.Wait()
		require.Len(t, probes, outages)
		for i := range outages - 1 {
			require.True(t, probes[i+1].After(probes[i]), "probe %d follows without a pause", i+1)
		}
		require.Greater(t, probes[outages-1].Sub(probes[outages-2]), time.Second, "the pauses have grown, by the clock of the bubble")
		stop()
		require.NoError(t, <-done)
	})
}
