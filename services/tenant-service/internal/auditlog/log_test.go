package auditlog_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/auditlog"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit is the limit of every wait in these tests.
const waitLimit = time.Minute

// fixture is a log, its writers, and an operator who sees everything.
type fixture struct {
	log      *auditlog.Log
	writers  *pgxpool.Pool
	operator *pgxpool.Pool
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	url := backing.Postgres(t)
	pool := pgtest.As(t, url, postgres.RoleTenant)
	operator := pgtest.Operator(t, url)
	return fixture{log: auditlog.New(pool, zap.NewNop()), writers: pool, operator: operator}
}

// write adds an event about target in a transaction.
func write(ctx context.Context, tx pgx.Tx, id uuid.UUID, action audit.Action, target string) error {
	arguments, err := audit.Event{Origin: audit.Origin{Actor: "alice"}, Action: action, TenantID: id, Target: target}.Arguments()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, audit.Insert, arguments...)
	return err
}

// add writes an event and commits it.
func (f fixture) add(t *testing.T, id uuid.UUID, action audit.Action, target string) {
	t.Helper()
	require.NoError(t, pgx.BeginFunc(t.Context(), f.writers, func(tx pgx.Tx) error { return write(t.Context(), tx, id, action, target) }))
}

// place writes n events as an operator, one a minute from a time on: times are not for others to give.
func (f fixture) place(t *testing.T, id uuid.UUID, from time.Time, n int) {
	t.Helper()
	for i := range n {
		_, err := f.operator.Exec(t.Context(), `INSERT INTO audit_events (id, tenant_id, actor, action, target, at) VALUES (gen_random_uuid(), $1, 'alice', 'tenant.resized', $2, $3)`,
			id, fmt.Sprint(i), from.Add(time.Duration(i)*time.Minute))
		require.NoError(t, err)
	}
}

// awaitHorizon waits until everything that was committed is below the horizon, which the transactions of other tests hold back.
func (f fixture) awaitHorizon(t *testing.T) {
	t.Helper()
	var horizon string
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text`).Scan(&horizon))
	require.Eventually(t, func() bool {
		var below bool
		err := f.operator.QueryRow(t.Context(), `SELECT pg_snapshot_xmin(pg_current_snapshot()) > $1::text::xid8`, horizon).Scan(&below)
		return err == nil && below
	}, waitLimit, time.Millisecond)
}

// walk reads the list in pages of limit and returns the targets.
func (f fixture) walk(t *testing.T, filter auditlog.Filter, limit int) (targets []string) {
	t.Helper()
	var at auditlog.Position
	for more := true; more; {
		var page []auditlog.Recorded
		var err error
		page, more, err = f.log.Page(t.Context(), filter, at, limit)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page), limit)
		require.True(t, len(page) == limit || !more, "a page that is not full says that there is more")
		for _, e := range page {
			targets = append(targets, e.Target)
			at = e.Position
		}
	}
	return targets
}

// Deterministic: an event whose transaction began first and commits last must not appear behind a reader's back.
func TestNoEventAppearsBehindAReader(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	early, err := f.writers.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = early.Rollback(context.WithoutCancel(t.Context())) }) // or its pool would wait for it after a failure
	id := uuid.New()
	require.NoError(t, write(t.Context(), early, id, audit.TenantSuspended, "early"))
	require.NoError(t, write(t.Context(), early, id, audit.TenantSuspended, "early, second"))
	f.add(t, id, audit.TenantResumed, "late")
	for _, filter := range []auditlog.Filter{{}, {TenantID: id}, {Action: audit.TenantResumed}, {Since: time.Now().Add(-time.Hour)}} {
		require.Empty(t, f.walk(t, filter, 10), "the late one waits for the early one")
	}
	require.NoError(t, early.Commit(t.Context()))
	f.awaitHorizon(t)
	require.Equal(t, []string{"early", "early, second", "late"}, f.walk(t, auditlog.Filter{}, 1))
}

// Writers that commit in any order, or roll back, beside a reader who follows the list: every committed event comes exactly once.
func TestFollowingWriters(t *testing.T) {
	t.Parallel()
	const writers, each = 6, 25
	f := newFixture(t)
	pages := make(chan struct{}) // a writer that receives has waited for a page
	var mu sync.Mutex
	committed := map[string]bool{}
	work, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		work.Go(func() error {
			for i := range each {
				target := fmt.Sprintf("%d-%d", w, i)
				tx, err := f.operator.Begin(ctx)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // or the pool would wait for it after a failure
				if err := write(ctx, tx, uuid.New(), audit.TenantCreated, target); err != nil {
					return err
				}
				if (w+i)%3 == 0 { // slow: it commits after a page was read
					select {
					case <-pages:
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				if (w+i)%7 == 0 {
					if err := tx.Rollback(ctx); err != nil {
						return err
					}
					continue
				}
				if err := tx.Commit(ctx); err != nil {
					return err
				}
				mu.Lock()
				committed[target] = true
				mu.Unlock()
			}
			return nil
		})
	}
	finished := make(chan error, 1)
	go func() { finished <- work.Wait() }()

	seen, over := map[string]bool{}, false
	var at auditlog.Position
	for deadline := time.Now().Add(waitLimit); !over || len(seen) < len(committed); {
		require.True(t, time.Now().Before(deadline), "events that never come, beside %d", len(seen))
		page, _, err := f.log.Page(t.Context(), auditlog.Filter{}, at, 3)
		require.NoError(t, err)
		for _, e := range page {
			require.False(t, seen[e.Target], "%s comes twice", e.Target)
			seen[e.Target] = true
			at = e.Position
		}
		select {
		case pages <- struct{}{}:
		case err := <-finished:
			require.NoError(t, err)
			over = true
		default:
		}
	}
	require.Equal(t, committed, seen)
}

// After a restore into another cluster transaction ids start again lower, and new events still come last. Nobody else has to have
// noticed: the first event, or the first page, begins the epoch.
func TestANewEpochComesLast(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 5 {
		_, err := f.operator.Exec(t.Context(), `INSERT INTO audit_events (id, actor, action, target, xid)
			VALUES (gen_random_uuid(), '', 'tenant.created', $1, (pg_current_xact_id()::text::bigint + (1::bigint << 40))::text::xid8)`, fmt.Sprint(i))
		require.NoError(t, err)
	}
	require.Empty(t, f.walk(t, auditlog.Filter{}, 2), "the epoch they belong to is still the current one")
	_, err := f.operator.Exec(t.Context(), `UPDATE reading_epochs SET system_identifier = system_identifier + 1`)
	require.NoError(t, err)
	f.add(t, uuid.New(), audit.TenantCreated, "new")
	f.awaitHorizon(t)
	require.Equal(t, []string{"0", "1", "2", "3", "4", "new"}, f.walk(t, auditlog.Filter{}, 2))

	_, err = f.operator.Exec(t.Context(), `UPDATE reading_epochs SET system_identifier = system_identifier + 1`)
	require.NoError(t, err)
	require.Len(t, f.walk(t, auditlog.Filter{}, 100), 6)
	var epochs int
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT count(*) FROM reading_epochs`).Scan(&epochs))
	require.Equal(t, 3, epochs, "begun by a page")
}

// A filter leaves out what it does not name, and nothing else, on pages of any size.
func TestFilters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	one, other := uuid.New(), uuid.New()
	from := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	f.place(t, one, from, 10)
	// These have times in another order than their places, as far apart as the services' own can be.
	f.place(t, other, from.Add(10*time.Minute+25*time.Second), 1)
	f.place(t, one, from.Add(10*time.Minute), 1)
	f.add(t, other, audit.TenantDeleted, "deleted")
	f.add(t, uuid.Nil, audit.TenantDeleted, "nobody's")
	f.awaitHorizon(t)
	at := func(minutes float64) time.Time { return from.Add(time.Duration(minutes * float64(time.Minute))) }
	for name, c := range map[string]struct {
		filter auditlog.Filter
		want   int
	}{
		"none":                      {auditlog.Filter{}, 14},
		"tenant":                    {auditlog.Filter{TenantID: one}, 11},
		"unknown tenant":            {auditlog.Filter{TenantID: uuid.New()}, 0},
		"action":                    {auditlog.Filter{Action: audit.TenantDeleted}, 2},
		"unused action":             {auditlog.Filter{Action: audit.ConfigChanged}, 0},
		"tenant and action":         {auditlog.Filter{TenantID: other, Action: audit.TenantDeleted}, 1},
		"since":                     {auditlog.Filter{Since: at(7)}, 7},
		"until":                     {auditlog.Filter{Until: at(7)}, 7},
		"between":                   {auditlog.Filter{Since: at(2), Until: at(4)}, 2},
		"between, of a tenant":      {auditlog.Filter{TenantID: one, Since: at(9), Until: at(11)}, 2},
		"until in between":          {auditlog.Filter{Until: at(10.3)}, 11},
		"since in between":          {auditlog.Filter{Since: at(10.3)}, 3},
		"before all":                {auditlog.Filter{Until: from}, 0},
		"after all":                 {auditlog.Filter{Since: time.Now().Add(time.Hour)}, 0},
		"since the first of times":  {auditlog.Filter{Since: time.Time{}.Add(time.Microsecond)}, 14},
		"until the last of times":   {auditlog.Filter{Until: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}, 14},
		"everything that there is ": {auditlog.Filter{TenantID: one, Action: audit.TenantResized, Since: from, Until: at(5)}, 5},
	} {
		for _, limit := range []int{1, 3, 100} {
			require.Len(t, f.walk(t, c.filter, limit), c.want, "%s, pages of %d", name, limit)
		}
	}
}

// What an operator reads is what was written.
func TestEventsAreShownAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	event := audit.Event{
		Origin: audit.Origin{Actor: "alice", TokenID: "t-1", RequestID: "r-1"}, Action: audit.TenantResized, TenantID: uuid.New(), Target: "/tenants/x",
		Before: map[string]any{"workers": 3}, After: map[string]any{"workers": 5},
	}
	for _, e := range []audit.Event{event, {Origin: audit.System(), Action: audit.TenantRetired, Target: "/"}} {
		arguments, err := e.Arguments()
		require.NoError(t, err)
		_, err = f.writers.Exec(t.Context(), audit.Insert, arguments...)
		require.NoError(t, err)
	}
	f.awaitHorizon(t)
	page, more, err := f.log.Page(t.Context(), auditlog.Filter{}, auditlog.Position{}, 10)
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, page, 2)
	got := page[0]
	require.Equal(t, event.Origin, got.Origin)
	require.Equal(t, event.TenantID, *got.TenantID)
	require.Equal(t, []string{"tenant.resized", "/tenants/x", `{"workers": 3}`, `{"workers": 5}`}, []string{string(got.Action), got.Target, string(got.Before), string(got.After)})
	require.WithinDuration(t, time.Now(), got.At, time.Minute)
	require.Equal(t, time.UTC, got.At.Location())
	require.Equal(t, audit.System(), page[1].Origin)
	require.Nil(t, page[1].TenantID)
	require.Nil(t, page[1].Before)
	require.Nil(t, page[1].After)
}

// A page costs as much in a log of a hundred thousand events as in a new one, wherever it is and whatever it is filtered by.
func TestPagesAreFoundByAnIndex(t *testing.T) {
	t.Parallel()
	events := 100_000
	if testing.Short() {
		events = 20_000 // they fill hundreds of blocks
	}
	f := newFixture(t)
	_, err := f.operator.Exec(t.Context(), `INSERT INTO audit_events (id, tenant_id, actor, action, target, at, epoch, xid)
		SELECT gen_random_uuid(), md5((n % 100)::text)::uuid, 'alice', CASE WHEN n % 10000 = 0 THEN 'tenant.deleted' ELSE 'tenant.resized' END, '/',
			now() - make_interval(mins => $1::int + 1 - n), 1, (3 + n / 200)::text::xid8 FROM generate_series(1, $1::int) AS n`, events)
	require.NoError(t, err)
	_, err = f.operator.Exec(t.Context(), `VACUUM ANALYZE audit_events`)
	require.NoError(t, err)
	var one uuid.UUID
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT md5('7')::uuid`).Scan(&one))
	var middle auditlog.Position
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT epoch, xid, id FROM audit_events ORDER BY epoch, xid, id OFFSET $1 LIMIT 1`, events/2).
		Scan(&middle.Epoch, &middle.Xid, &middle.ID))
	for name, c := range map[string]struct {
		filter auditlog.Filter
		after  auditlog.Position
	}{
		"first":     {},
		"middle":    {after: middle},
		"of tenant": {filter: auditlog.Filter{TenantID: one}, after: middle},
		"rare":      {filter: auditlog.Filter{Action: audit.TenantDeleted}, after: middle},
		"unused":    {filter: auditlog.Filter{Action: audit.ConfigChanged}},
		"future":    {filter: auditlog.Filter{Since: time.Now().Add(time.Hour)}},
		"past":      {filter: auditlog.Filter{Until: time.Now().AddDate(-1, 0, 0)}},
	} {
		require.Less(t, f.blocks(t, c.filter, c.after, 20), 100, name)
	}
}

// blocks is how many blocks the statement of a page looks at.
func (f fixture) blocks(t *testing.T, filter auditlog.Filter, after auditlog.Position, limit int) int {
	t.Helper()
	sql, arguments, err := f.log.Statement(t.Context(), filter, after, limit)
	require.NoError(t, err)
	var plan []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	require.NoError(t, f.writers.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT json) `+sql, arguments...).Scan(&plan))
	return plan[0].Plan.Hit + plan[0].Plan.Read
}

// Events go when they are too old, all of them, however many instances are at it, and the others stay.
func TestEventsExpire(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const age = 48 * time.Hour
	f.add(t, uuid.New(), audit.TenantCreated, "young")
	_, err := f.operator.Exec(t.Context(), `INSERT INTO audit_events (id, actor, action, target, epoch, at)
		SELECT gen_random_uuid(), '', 'tenant.created', 'old', 1, now() - make_interval(hours => 48 + n) FROM generate_series(1, 1700) AS n`)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var instances errgroup.Group
	for range 3 {
		instances.Go(func() error { return f.log.Run(ctx, age, 10*time.Millisecond) })
	}
	require.Eventually(t, func() bool {
		var left int
		err := f.operator.QueryRow(t.Context(), `SELECT count(*) FROM audit_events WHERE target = 'old'`).Scan(&left)
		return err == nil && left == 0
	}, waitLimit, time.Millisecond)
	cancel()
	require.NoError(t, instances.Wait())
	f.awaitHorizon(t)
	require.Equal(t, []string{"young"}, f.walk(t, auditlog.Filter{}, 10))
	removed, err := f.log.Expire(t.Context(), age)
	require.NoError(t, err)
	require.Zero(t, removed)
	_, err = f.log.Expire(t.Context(), time.Hour)
	require.ErrorContains(t, err, "a day at least")
}

// A database that is away is said to be, and retention outlives it.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	pool := pgtest.As(t, "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", postgres.RoleTenant)
	log := auditlog.New(pool, zap.NewNop())
	_, _, err := log.Page(t.Context(), auditlog.Filter{}, auditlog.Position{}, 1)
	require.ErrorIs(t, err, tenant.ErrUnavailable)
	_, err = log.Expire(t.Context(), 48*time.Hour)
	require.ErrorIs(t, err, tenant.ErrUnavailable)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.NoError(t, log.Run(ctx, 48*time.Hour, time.Millisecond))
}
