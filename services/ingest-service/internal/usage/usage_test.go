package usage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a database whose horizon, locks and faults the test chooses.
type fake struct {
	mu sync.Mutex // for TestRun, where the test and the roller are two goroutines

	written map[uuid.UUID]struct{}
	all     []uuid.UUID
	waiting map[uuid.UUID]int64 // messages of a tenant that can be counted
	horizon uint64
	ahead   uint64
	busy    map[uuid.UUID]bool
	faults  map[uuid.UUID]error
	expired []time.Time
	looks   map[uuid.UUID]int
}

func (f *fake) Written() map[uuid.UUID]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	written := f.written
	f.written = nil
	return written
}

func (f *fake) RollUp(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks[tenant]++
	if err := errors.Join(ctx.Err(), f.faults[tenant]); err != nil {
		return store.RolledUp{}, err
	}
	if f.busy[tenant] {
		return store.RolledUp{More: true}, nil
	}
	counted := min(f.waiting[tenant], store.RollUpPage)
	f.waiting[tenant] -= counted
	return store.RolledUp{Counted: counted, More: counted == store.RollUpPage, Horizon: f.horizon, Ahead: f.ahead}, nil
}

func (f *fake) AttachedLongerThan(context.Context, time.Duration) ([]uuid.UUID, error) {
	return f.all, nil
}

func (f *fake) ExpireUsage(_ context.Context, before time.Time) (int64, error) {
	f.expired = append(f.expired, before)
	return 0, nil
}

func newFake(all ...uuid.UUID) *fake {
	return &fake{
		all: all, horizon: 100, ahead: 100, waiting: make(map[uuid.UUID]int64), busy: make(map[uuid.UUID]bool),
		faults: make(map[uuid.UUID]error), looks: make(map[uuid.UUID]int),
	}
}

func (f *fake) write(tenant uuid.UUID, messages int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.written = map[uuid.UUID]struct{}{tenant: {}}
	f.waiting[tenant] += messages
}

func (f *fake) left(tenant uuid.UUID) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting[tenant]
}

func newRoller(f *fake) *Roller { return New(f, 48*time.Hour, prometheus.NewRegistry(), zap.NewNop()) }

// A message that is stored while somebody's transaction is open cannot be counted yet. Its tenant is looked at until it is, although
// nothing is written any more, and then no longer.
func TestAWrittenTenantIsLookedAtUntilTheHorizonHasPassed(t *testing.T) {
	tenant := uuid.New()
	f := newFake()
	r := newRoller(f)
	f.horizon = 90
	f.write(tenant, 0)
	for round := 1; round <= 3; round++ {
		require.NoError(t, r.round(t.Context(), time.Now()))
		require.Equal(t, round, f.looks[tenant])
		f.ahead += 10 // others go on
	}
	f.horizon = 100
	f.waiting[tenant] = 1
	for range 3 {
		require.NoError(t, r.round(t.Context(), time.Now()))
	}
	require.Equal(t, 4, f.looks[tenant])
	require.InDelta(t, 1, testutil.ToFloat64(r.counted), 0)

	f.busy[tenant] = true // another instance counts: it may have begun before
	f.write(tenant, 5)
	require.NoError(t, r.round(t.Context(), time.Now()))
	f.busy[tenant] = false
	f.horizon = f.ahead
	require.NoError(t, r.round(t.Context(), time.Now()))
	require.Zero(t, f.waiting[tenant])
	require.Empty(t, r.behind)
}

// A tenant with millions of messages from before must not hold up the others.
func TestABacklogIsCountedInParts(t *testing.T) {
	large, small := uuid.New(), uuid.New()
	f := newFake(large, small)
	r := newRoller(f)
	f.waiting[large], f.waiting[small] = 50*store.RollUpPage, 1
	for round := range 5 {
		before := f.looks[large]
		require.NoError(t, r.round(t.Context(), time.Now()))
		require.LessOrEqual(t, f.looks[large]-before, maxSteps, "in round %d", round)
		require.Zero(t, f.waiting[small])
	}
	require.Zero(t, f.waiting[large])
	require.Empty(t, r.behind)
}

// What an instance that has died left uncounted is found by the others, a part of all tenants in each round, and what is too old goes.
func TestAllTenantsAreLookedAtNowAndThen(t *testing.T) {
	var all []uuid.UUID
	for range 2*sweepPart + 1 {
		all = append(all, uuid.New())
	}
	f := newFake(all...)
	r := newRoller(f)
	begin := time.Now()
	for _, looks := range []int{sweepPart, 2 * sweepPart, len(all), len(all)} {
		require.NoError(t, r.round(t.Context(), begin))
		require.Len(t, f.looks, looks)
	}
	require.Equal(t, []time.Time{begin.Add(-48 * time.Hour)}, f.expired)
	require.NoError(t, r.round(t.Context(), begin.Add(sweepInterval*11/10+time.Second)))
	require.Equal(t, 2, f.looks[all[0]])
	require.Len(t, f.expired, 2)
}

// The fault of one tenant is not that of others; one of the server ends the round.
func TestFaults(t *testing.T) {
	broken, fine := uuid.New(), uuid.New()
	f := newFake(broken, fine)
	core, lines := observer.New(zapcore.InfoLevel)
	r := New(f, time.Hour, prometheus.NewRegistry(), zap.New(core))
	f.faults[broken] = &pgconn.PgError{Code: pgerrcode.LockNotAvailable}
	f.written = map[uuid.UUID]struct{}{broken: {}, fine: {}}
	f.waiting[fine] = 1
	for range 3 {
		err := r.round(t.Context(), time.Now())
		require.ErrorContains(t, err, broken.String())
		r.report(t.Context(), err)
	}
	require.Zero(t, f.waiting[fine])
	require.Equal(t, 1, lines.FilterMessageSnippet("could not be counted").Len(), "once")
	require.InDelta(t, 3, testutil.ToFloat64(r.failed), 0)
	f.faults[broken] = nil
	r.report(t.Context(), r.round(t.Context(), time.Now()))
	require.Equal(t, 1, lines.FilterMessageSnippet("is counted again").Len())

	for _, tenant := range f.all {
		f.faults[tenant] = fmt.Errorf("write: %w", &pgconn.PgError{Code: pgerrcode.AdminShutdown})
	}
	f.written = map[uuid.UUID]struct{}{broken: {}, fine: {}}
	before := f.looks[broken] + f.looks[fine]
	require.Error(t, r.round(t.Context(), time.Now()))
	require.Equal(t, before+1, f.looks[broken]+f.looks[fine], "the others would meet it as well")
	require.Len(t, r.behind, 2)
}

// What was stored within a second is counted within the next one, and what was stored last when the process ends in order.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tenant := uuid.New()
		f := newFake()
		r := newRoller(f)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		f.write(tenant, 3)
		time.Sleep(interval) //nolint:forbidigo // of the fake clock
		synctest.Wait()
		require.Zero(t, f.left(tenant))

		f.write(tenant, 2)
		cancel()
		require.NoError(t, <-ended)
		require.Zero(t, f.waiting[tenant])
	})
}
