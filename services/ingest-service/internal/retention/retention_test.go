package retention

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

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	stepMessages = 500
	stepTime     = 10 * time.Millisecond
)

// fake is a database and a registry of tenants. Each step takes stepTime of the fake clock.
type fake struct {
	mu sync.Mutex

	limits      map[uuid.UUID]contract.Limits
	waiting     map[uuid.UUID]int64 // messages that are to be removed
	deadLetters map[uuid.UUID]int64
	blocked     map[uuid.UUID]time.Duration // for how long the oldest message is overdue that is not counted yet
	busy        map[uuid.UUID]bool          // somebody else removes
	faults      map[uuid.UUID]error
	steps       []uuid.UUID
	others      map[uuid.UUID]bool // tenants of another instance
}

func newFake() *fake {
	return &fake{
		limits: make(map[uuid.UUID]contract.Limits), waiting: make(map[uuid.UUID]int64), deadLetters: make(map[uuid.UUID]int64),
		blocked: make(map[uuid.UUID]time.Duration), busy: make(map[uuid.UUID]bool), faults: make(map[uuid.UUID]error), others: make(map[uuid.UUID]bool),
	}
}

func (f *fake) Retain(ctx context.Context, tenant uuid.UUID, _ contract.Limits) (store.Retained, error) {
	<-time.After(stepTime)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, tenant)
	if err := errors.Join(ctx.Err(), f.faults[tenant]); err != nil {
		return store.Retained{}, err
	}
	if f.busy[tenant] {
		return store.Retained{More: true}, nil
	}
	n := min(f.waiting[tenant], stepMessages)
	f.waiting[tenant] -= n
	return store.Retained{Messages: n, Bytes: 10 * n, More: f.waiting[tenant] > 0, Overdue: f.blocked[tenant]}, nil
}

func (f *fake) RetainDeadLetters(ctx context.Context, tenant uuid.UUID, _ contract.Limits) (removed int64, more bool, err error) {
	<-time.After(stepTime)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(ctx.Err(), f.faults[tenant]); err != nil {
		return 0, false, err
	}
	n := min(f.deadLetters[tenant], stepMessages)
	f.deadLetters[tenant] -= n
	return n, f.deadLetters[tenant] > 0, nil
}

func (f *fake) EachLimits(visit func(uuid.UUID, contract.Limits)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for tenant, limits := range f.limits {
		visit(tenant, limits)
	}
}

func (f *fake) Limits(tenant uuid.UUID) contract.Limits {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.limits[tenant]
}

func (f *fake) owns(tenant uuid.UUID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.others[tenant]
}

// tenant is a new one.
func (f *fake) tenant(limits contract.Limits, waiting, deadLetters int64) uuid.UUID {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := uuid.New()
	f.limits[id], f.waiting[id], f.deadLetters[id] = limits, waiting, deadLetters
	return id
}

func (f *fake) left(tenant uuid.UUID) (messages, deadLetters int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting[tenant], f.deadLetters[tenant]
}

func (f *fake) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

// looks takes the steps of tenant since the last call.
func (f *fake) looks(tenant uuid.UUID) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, step := range f.steps {
		if step == tenant {
			n++
		}
	}
	f.steps = nil
	return n
}

func newKeeper(f *fake) *Keeper { return New(f, f, f.owns, prometheus.NewRegistry(), zap.NewNop()) }

// running runs the test beside a keeper that runs, on a fake clock.
func running(t *testing.T, f *fake, log *zap.Logger, test func(t *testing.T, k *Keeper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := New(f, f, f.owns, prometheus.NewRegistry(), log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		test(t, k)
		cancel()
		require.NoError(t, <-ended)
	})
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of the fake clock
	synctest.Wait()
}

const hours = 3600 // seconds

// A tenant with millions of messages to remove must not hold up the others, and is done all the same, pausing for as long as it works.
func TestTenantsTakeTurns(t *testing.T) {
	f := newFake()
	var small []uuid.UUID
	large := f.tenant(contract.Limits{RetentionSeconds: hours}, 200*stepMessages, 0)
	for range 40 {
		small = append(small, f.tenant(contract.Limits{RetentionBytes: 100}, 3, 0))
	}
	unlimited := f.tenant(contract.Limits{PublishRate: 5}, 7, 7)
	running(t, f, zap.NewNop(), func(t *testing.T, k *Keeper) {
		pass(3 * time.Second)
		for _, tenant := range small {
			messages, _ := f.left(tenant)
			require.Zero(t, messages)
		}
		messages, _ := f.left(large)
		require.NotZero(t, messages)
		require.GreaterOrEqual(t, messages, int64((200-3*50)*stepMessages), "half of the time")
		pass(3 * time.Second)
		messages, _ = f.left(large)
		require.Zero(t, messages)
		require.InDelta(t, 200*stepMessages+40*3, testutil.ToFloat64(k.messages), 0)
		require.InDelta(t, 10*(200*stepMessages+40*3), testutil.ToFloat64(k.bytes), 0)
		messages, deadLetters := f.left(unlimited)
		require.Equal(t, []int64{7, 7}, []int64{messages, deadLetters})
	})
}

// A look costs the database something, so a limit of a month is not looked at every second; and a limit of a minute is kept to the second.
func TestLooksFollowTheLimits(t *testing.T) {
	f := newFake()
	month := f.tenant(contract.Limits{RetentionSeconds: 30 * 24 * hours, RetentionBytes: 1 << 40}, 0, 0)
	hour := f.tenant(contract.Limits{RetentionSeconds: hours}, 0, 0)
	instant := f.tenant(contract.Limits{RetentionSeconds: 1}, 0, 0)
	letters := f.tenant(contract.Limits{DeadLetterRetentionSeconds: 2 * hours}, 0, 3)
	running(t, f, zap.NewNop(), func(t *testing.T, k *Keeper) {
		pass(time.Hour)
		counts := make(map[uuid.UUID]int)
		f.change(func() {
			for _, step := range f.steps {
				counts[step]++
			}
		})
		require.InDelta(t, 12, counts[month], 2)
		require.InDelta(t, 100, counts[hour], 15)
		require.InDelta(t, 2400, counts[instant], 1100)
		_, deadLetters := f.left(letters)
		require.Zero(t, deadLetters)
		require.InDelta(t, 3, testutil.ToFloat64(k.deadLetters), 0)

		// New messages of a tenant with a limit of bytes are looked at once they are counted, whoever's the tenant is.
		f.change(func() { f.others[month], f.others[hour] = true, true })
		pass(10 * time.Minute)
		f.looks(month)
		f.change(func() { f.waiting[month] = 3 })
		k.Counted(month)
		k.Counted(hour) // has none
		pass(2 * time.Second)
		f.change(func() { require.NotContains(t, f.steps, hour) })
		require.Equal(t, 1, f.looks(month))
		pass(time.Hour)
		require.Zero(t, f.looks(month))
	})
}

// A change of limits counts within two seconds, for a tenant that was just looked at and for one whose messages are being removed: what
// an operator wants to keep must not go meanwhile.
func TestChangedLimitsCountAtOnce(t *testing.T) {
	f := newFake()
	tenant := f.tenant(contract.Limits{}, 2*stepMessages, 3)
	running(t, f, zap.NewNop(), func(t *testing.T, _ *Keeper) {
		pass(time.Minute)
		messages, _ := f.left(tenant)
		require.EqualValues(t, 2*stepMessages, messages)
		for _, limits := range []contract.Limits{{RetentionSeconds: 720 * hours}, {RetentionSeconds: 719 * hours}, {RetentionBytes: 5}} {
			f.change(func() { f.limits[tenant], f.waiting[tenant] = limits, 2*stepMessages })
			pass(2 * time.Second)
			messages, deadLetters := f.left(tenant)
			require.Zero(t, messages, limits)
			require.EqualValues(t, 3, deadLetters)
		}
		f.change(func() { f.limits[tenant] = contract.Limits{DeadLetterRetentionSeconds: 720 * hours} })
		pass(2 * time.Second)
		_, deadLetters := f.left(tenant)
		require.Zero(t, deadLetters)

		f.change(func() { f.limits[tenant], f.waiting[tenant] = contract.Limits{RetentionSeconds: 1}, 1000*stepMessages })
		pass(2 * time.Second)
		f.change(func() { f.limits[tenant] = contract.Limits{} })
		pass(2 * stepTime)
		before, _ := f.left(tenant)
		require.NotZero(t, before)
		pass(time.Minute)
		messages, _ = f.left(tenant)
		require.Equal(t, before, messages)
	})
}

// What cannot be removed in time is shown, whether somebody else is at it, it is not counted yet, or it fails; and nothing else is.
func TestOverdueIsShown(t *testing.T) {
	f := newFake()
	tenant := f.tenant(contract.Limits{RetentionSeconds: hours}, 0, 0)
	running(t, f, zap.NewNop(), func(t *testing.T, k *Keeper) {
		overdue := func() float64 { return testutil.ToFloat64(k.overdue) }
		pass(10 * time.Minute)
		require.Zero(t, overdue())
		for name, state := range map[string]struct{ begin, end func() }{
			"busy":        {func() { f.busy[tenant] = true }, func() { f.busy[tenant] = false }},
			"failing":     {func() { f.faults[tenant] = errors.New("no") }, func() { f.faults[tenant] = nil }},
			"not counted": {func() { f.blocked[tenant] = 10 * time.Minute }, func() { f.blocked[tenant] = 0 }},
		} {
			f.change(state.begin)
			pass(10 * time.Minute)
			require.InDelta(t, 600, overdue(), 60, name)
			f.change(state.end)
			pass(time.Minute)
			require.Zero(t, overdue(), name)
		}
		f.change(func() { f.busy[tenant] = true })
		pass(10 * time.Minute)
		f.change(func() { delete(f.limits, tenant) }) // it was deleted
		pass(2 * time.Second)
		require.Zero(t, overdue())
	})
}

// The fault of one tenant is not that of others; one of the server ends the round.
func TestFaults(t *testing.T) {
	core, lines := observer.New(zapcore.InfoLevel)
	f := newFake()
	broken := f.tenant(contract.Limits{RetentionBytes: 1}, 5, 5)
	fine := f.tenant(contract.Limits{RetentionBytes: 1}, 5, 0)
	f.faults[broken] = &pgconn.PgError{Code: pgerrcode.LockNotAvailable}
	running(t, f, zap.New(core), func(t *testing.T, k *Keeper) {
		pass(5 * time.Second)
		messages, _ := f.left(fine)
		require.Zero(t, messages)
		require.GreaterOrEqual(t, testutil.ToFloat64(k.failed), 3.0)
		require.Equal(t, 1, lines.FilterMessageSnippet("could not be removed").Len(), "once")
		require.Contains(t, lines.All()[0].ContextMap()["error"], broken.String())
		f.change(func() { f.faults[broken] = nil })
		pass(2 * time.Second)
		require.Equal(t, 1, lines.FilterMessageSnippet("is removed again").Len())
		messages, _ = f.left(broken)
		require.Zero(t, messages)
	})

	for range 10 {
		f.tenant(contract.Limits{RetentionBytes: 1}, 5, 0)
	}
	for tenant := range f.limits {
		f.faults[tenant] = fmt.Errorf("remove: %w", &pgconn.PgError{Code: pgerrcode.AdminShutdown})
	}
	f.steps = nil
	_, err := newKeeper(f).round(t.Context())
	require.Error(t, err)
	require.Len(t, f.steps, 1, "the others would meet it as well")
}

// A process that ends waits for one step at the most.
func TestRunEndsBetweenSteps(t *testing.T) {
	f := newFake()
	tenant := f.tenant(contract.Limits{RetentionBytes: 1}, 1<<40, 0)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- newKeeper(f).Run(ctx) }()
		pass(time.Second + stepTime/2)
		begun := time.Now()
		cancel()
		require.NoError(t, <-ended)
		require.LessOrEqual(t, time.Since(begun), stepTime)
		require.NotZero(t, f.looks(tenant))
	})
}
