package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// used is what is counted of a tenant: the sums of all hours.
type used struct{ Messages, Bytes, Removed, RemovedBytes, DeadLetters int64 }

func (f fixture) used(t *testing.T, tenant uuid.UUID) (u used) {
	t.Helper()
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT coalesce(sum(messages), 0), coalesce(sum(bytes), 0), coalesce(sum(removed_messages), 0),
		coalesce(sum(removed_bytes), 0), coalesce(sum(dead_letters), 0) FROM usage_hours WHERE tenant_id = $1`, tenant).
		Scan(&u.Messages, &u.Bytes, &u.Removed, &u.RemovedBytes, &u.DeadLetters))
	return u
}

// requireExact demands that exactly what is stored was counted, in every hour and in the sum over all time.
func (f fixture) requireExact(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	rows, err := f.operator.Query(t.Context(), `
		SELECT coalesce(s.hour, u.hour)::text || ': ' || concat_ws(' ', s.messages, s.bytes) || ' stored, ' || concat_ws(' ', u.messages, u.bytes) || ' counted'
		FROM (SELECT date_trunc('hour', created_at, 'UTC') AS hour, count(*) AS messages, sum(coalesce(bytes, octet_length(payload::text))) AS bytes
		      FROM messages WHERE tenant_id = $1 GROUP BY 1) AS s
		FULL JOIN (SELECT hour, messages, bytes FROM usage_hours WHERE tenant_id = $1) AS u USING (hour)
		WHERE (s.messages, s.bytes) IS DISTINCT FROM (u.messages, u.bytes)`, tenant)
	require.NoError(t, err)
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Empty(t, wrong)
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM usage_positions p WHERE tenant_id = $1
		AND (messages, bytes) = (SELECT sum(messages), sum(bytes) FROM usage_hours WHERE tenant_id = $1)
		AND counted_until = (SELECT max(created_at) FROM messages WHERE tenant_id = $1)`, tenant), "the sums over all time")
}

// rollUp counts until nothing is left, and the horizon has passed what was committed before.
func rollUp(t *testing.T, s *store.Store, tenant uuid.UUID) (counted int64) {
	t.Helper()
	var ahead uint64
	require.Eventually(t, func() bool {
		step, err := s.RollUp(t.Context(), tenant)
		require.NoError(t, err)
		counted += step.Counted
		if ahead == 0 {
			ahead = step.Ahead
		}
		return ahead > 0 && !step.More && step.Horizon >= ahead
	}, 30*time.Second, time.Millisecond)
	return counted
}

// A customer pays for what was accepted: every message with its size as it came, once, by both ways of writing and however often it comes.
func TestUsageCountsWhatWasAccepted(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := []store.Row{
		{ID: uuid.New(), Payload: []byte("{ \"spaces\" :\t1 }")}, {ID: uuid.New(), Payload: []byte(`{"a":1,"a":2}`)}, {ID: uuid.New(), Payload: []byte(`"ü\u00fc"`)},
	}
	single := []store.Row{{ID: uuid.New(), Payload: []byte(` [ 1 ]`), Again: true}}
	for _, messages := range [][]store.Row{batch, single, batch, single} {
		_, err := f.store.Insert(t.Context(), tenant, messages)
		require.NoError(t, err)
	}
	require.Contains(t, f.store.Written(), tenant)
	require.Empty(t, f.store.Written())
	require.EqualValues(t, 4, rollUp(t, f.store, tenant))
	size := len(single[0].Payload)
	for _, m := range batch {
		size += len(m.Payload)
	}
	require.Equal(t, used{Messages: 4, Bytes: int64(size)}, f.used(t, tenant))
	f.requireExact(t, tenant)
	require.Zero(t, rollUp(t, f.store, tenant), "what is counted is counted once")
}

// What an earlier version has stored has no size; it counts with that of its text. It takes several pages, and hours are those of UTC.
func TestUsageOfWhatAnEarlierVersionHasStored(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	const rows = 2*store.RollUpPage + 3
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, created_at, xid, ord)
		SELECT $1, gen_random_uuid(), jsonb_build_object('n', i), '2026-01-01T00:30:00+05:30'::timestamptz + make_interval(secs => i), '100', i
		FROM generate_series(1, $2::int) AS i`, tenant, rows)
	require.NoError(t, err)
	_, err = f.store.Insert(t.Context(), tenant, messages(5)) // and one that knows sizes, meanwhile
	require.NoError(t, err)
	step, err := f.store.RollUp(t.Context(), tenant)
	require.NoError(t, err)
	require.EqualValues(t, store.RollUpPage, step.Counted)
	require.True(t, step.More)
	require.EqualValues(t, rows+5-store.RollUpPage, rollUp(t, f.store, tenant))
	f.requireExact(t, tenant)
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM usage_hours WHERE tenant_id = $1 AND hour = '2025-12-31T19:00:00Z'`, tenant))
}

var errRollback = errors.New("this transaction is to be rolled back")

// Eight writers, some slow, some rolled back, committing in any order, and three instances that count meanwhile: in the end every committed
// message is counted once. A count up to the newest message, without the horizon, loses those that commit late.
func TestUsageIsExactBesideWriters(t *testing.T) {
	const writers, transactions, instances = 8, 40, 3
	f := newFixture(t)
	tenant := f.attached(t)
	work, ctx := errgroup.WithContext(t.Context())
	steps := make(chan struct{}) // a slow writer waits for the counting to get on
	for range writers {
		work.Go(func() error {
			for range transactions {
				err := f.writeSlowly(ctx, tenant, 1+rand.IntN(4), steps)
				if err != nil && !errors.Is(err, errRollback) {
					return err
				}
			}
			return nil
		})
	}
	done := make(chan struct{})
	var counting sync.WaitGroup
	for range instances {
		counting.Go(func() {
			for {
				_, err := f.store.RollUp(t.Context(), tenant)
				if err != nil && !sqlstate.Is(err, pgerrcode.SerializationFailure) {
					t.Errorf("roll up: %v", err)
				}
				select {
				case steps <- struct{}{}:
				case <-done:
					return
				default:
				}
			}
		})
	}
	require.NoError(t, work.Wait())
	close(done)
	counting.Wait()
	rollUp(t, f.store, tenant)
	f.requireExact(t, tenant)
}

// writeSlowly is one transaction of so many messages, of which one in five is rolled back and one in five is slow.
func (f fixture) writeSlowly(ctx context.Context, tenant uuid.UUID, messages int, steps <-chan struct{}) error {
	return pgx.BeginFunc(ctx, f.operator, func(tx pgx.Tx) error {
		slow := rand.IntN(5) == 0
		for ord := range messages {
			_, err := tx.Exec(ctx, `INSERT INTO messages (tenant_id, id, payload, bytes, ord) VALUES ($1, gen_random_uuid(), '1', $2, $3)`, tenant, rand.IntN(1000), ord)
			if err != nil {
				return err
			}
			for range 3 {
				if !slow {
					break
				}
				select {
				case <-steps:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		if rand.IntN(5) == 0 {
			return errRollback
		}
		return nil
	})
}

// The server, or the instance, may go at any moment of a step, of which the last is the commit: all of it counts, or nothing.
func TestUsageIsExactWhenStepsAreKilled(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	kills := 0
	for i := range 60 {
		_, err := f.store.Insert(t.Context(), tenant, messages(1+i%20))
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(3000))*time.Microsecond)
		if _, err := f.store.RollUp(ctx, tenant); err != nil {
			kills++
		}
		cancel()
	}
	require.NotZero(t, kills)
	rollUp(t, f.store, tenant)
	f.requireExact(t, tenant)
}

// After a restore into another cluster xids are lower; what comes then is counted as well, and nothing of before again.
func TestUsageAfterANewEpoch(t *testing.T) {
	f := newFixture(t)
	tenant, idle := f.attached(t), f.attached(t)
	for _, id := range []uuid.UUID{tenant, idle} {
		// As they were in the other cluster: higher than any xid of this one.
		_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, bytes, xid, ord)
			SELECT $1, gen_random_uuid(), '1', 7, '5000000000', i FROM generate_series(1, 10) AS i`, id)
		require.NoError(t, err)
		step, err := f.store.RollUp(t.Context(), id)
		require.NoError(t, err)
		require.Zero(t, step.Counted, "their epoch is still the current one")
	}
	for range 2 {
		_, err := f.operator.Exec(t.Context(), `UPDATE reading_epochs SET system_identifier = system_identifier + 1`)
		require.NoError(t, err)
		_, err = f.operator.Exec(t.Context(), `SELECT advance_reading_epoch()`)
		require.NoError(t, err)
	}
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, bytes, ord) SELECT $1, gen_random_uuid(), '1', 9, i FROM generate_series(1, 5) AS i`, tenant)
	require.NoError(t, err)
	require.EqualValues(t, 15, rollUp(t, f.store, tenant))
	require.EqualValues(t, 10, rollUp(t, f.store, idle))
	f.requireExact(t, tenant)
	f.requireExact(t, idle)
	require.Zero(t, rollUp(t, f.store, tenant))
}

// A tenant is deleted while it is counted, and while a foreign transaction keeps its last messages behind the horizon: what it has
// stored is counted to the last message all the same, and stays when everything else of it is gone.
func TestUsageOfADeletedTenant(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(30))
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	foreign, err := f.operator.Begin(t.Context())
	require.NoError(t, err)
	_, err = foreign.Exec(t.Context(), `SELECT pg_current_xact_id()`)
	require.NoError(t, err)
	_, err = f.store.Insert(t.Context(), tenant, messages(12))
	require.NoError(t, err)
	_, err = f.store.RollUp(t.Context(), tenant)
	require.NoError(t, err)
	var bytes int64
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT sum(bytes) FROM messages WHERE tenant_id = $1`, tenant).Scan(&bytes))
	require.Less(t, f.used(t, tenant).Messages, int64(42))

	done := make(chan struct{})
	var counting sync.WaitGroup
	for range 2 {
		counting.Go(func() {
			for {
				// The partition may go in the middle, or be waited for too long.
				if _, err := f.store.RollUp(t.Context(), tenant); err != nil && !sqlstate.Is(err, pgerrcode.UndefinedTable, pgerrcode.LockNotAvailable) {
					t.Errorf("roll up: %v", err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	require.Eventually(t, func() bool {
		err := f.store.Drop(t.Context(), tenant)
		if sqlstate.Is(err, pgerrcode.LockNotAvailable, pgerrcode.UndefinedTable) {
			return false
		}
		require.NoError(t, err)
		return true
	}, 30*time.Second, time.Millisecond)
	close(done)
	counting.Wait()
	require.NoError(t, f.store.Drop(t.Context(), tenant))
	require.NoError(t, foreign.Rollback(t.Context()))
	require.Zero(t, rollUp(t, f.store, tenant))
	require.Equal(t, used{Messages: 42, Bytes: bytes}, f.used(t, tenant))
	require.Zero(t, f.count(t, `SELECT count(*) FROM usage_positions WHERE tenant_id = $1`, tenant))
}

// A partition that was detached before the migration has no sizes; the deletion goes on after it.
func TestUsageOfATenantDetachedByAnEarlierVersion(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, []store.Row{{ID: uuid.New(), Payload: []byte(`[1,2]`)}})
	require.NoError(t, err)
	partition := "messages_" + strings.ReplaceAll(tenant.String(), "-", "")
	for _, sql := range []string{`SELECT tenant_drop('` + tenant.String() + `')`, `ALTER TABLE ` + partition + ` DROP COLUMN bytes`} {
		_, err := f.operator.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, f.store.Drop(t.Context(), tenant))
	require.Equal(t, used{Messages: 1, Bytes: 6}, f.used(t, tenant)) // as jsonb writes it: [1, 2]
}

// Counting costs what there is to count, not what there is: no step reads what was counted before, what waits behind the horizon, or
// any other tenant.
func TestUsagePlans(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	for range 30 {
		f.attached(t)
	}
	exec := func(sql string, args ...any) {
		_, err := f.operator.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
	}
	insert := `INSERT INTO messages (tenant_id, id, payload, bytes, xid, ord) SELECT $1, gen_random_uuid(), '1', 1, ($2::bigint + i / 1000)::text::xid8, i % 1000 FROM generate_series(0, $3::int - 1) AS i`
	exec(insert, tenant, 100, 50_000) // counted before
	exec(`INSERT INTO usage_positions VALUES ($1, reading_epoch(), '149', 999, now(), 50000, 50000)`, tenant)
	exec(insert, tenant, 1<<40, 50_000) // behind the horizon
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(`ANALYZE messages`)
		}
		connection, err := f.operator.Acquire(t.Context())
		require.NoError(t, err)
		defer connection.Release()
		step := func(want int64) (buffers, locks int) {
			tx, err := connection.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			_, err = tx.Exec(t.Context(), postgres.SetTenant, tenant.String())
			require.NoError(t, err)
			var plan []struct {
				Plan struct {
					Hit  int `json:"Shared Hit Blocks"`
					Read int `json:"Shared Read Blocks"`
				} `json:"Plan"`
			}
			require.NoError(t, tx.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM usage_roll_up($1, 100)`, tenant).Scan(&plan))
			require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
				AND locktype = 'relation' AND relation::regclass::text ~ '^messages'`).Scan(&locks))
			var counted int64
			require.NoError(t, tx.QueryRow(t.Context(), `SELECT messages - 50000 FROM usage_positions`).Scan(&counted))
			require.Equal(t, want, counted)
			return plan[0].Plan.Hit + plan[0].Plan.Read, locks
		}
		step(0) // whatever a connection does for the first time reads hundreds of pages of catalogs, here and below
		idle, locks := step(0)
		require.Less(t, idle, 60, "buffers where there is nothing to count")
		require.LessOrEqual(t, locks, 3, "the partition and its indexes")
		exec(insert, tenant, 200, 100)
		step(100)
		page, _ := step(100) // of a transaction that was rolled back
		t.Logf("analyzed %t: %d buffers where there is nothing, %d for 100 messages", analyzed, idle, page)
		require.Less(t, page, 200, "buffers of 100 messages")
		exec(`DELETE FROM messages WHERE tenant_id = $1 AND xid = '200'`, tenant)
	}
}

// The scan itself is bounded on both sides by its index condition: what would happen without is not left to the statistics of the day.
func TestUsageScanIsAnIndexCondition(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(500))
	require.NoError(t, err)
	config := f.operator.Config().ConnConfig.Copy()
	var plans []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { plans = append(plans, n.Message) }
	connection, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	for _, sql := range []string{
		`LOAD 'auto_explain'`, `SET auto_explain.log_min_duration = 0`, `SET auto_explain.log_nested_statements = on`, `SET auto_explain.log_level = notice`,
		fmt.Sprintf(`SET app.tenant_id = '%s'`, tenant), fmt.Sprintf(`SELECT usage_roll_up('%s', 100)`, tenant),
	} {
		_, err := connection.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	all := strings.Join(plans, "\n")
	require.Regexp(t, `Index Cond: \(\(tenant_id = '[^']*'::uuid\) AND \(epoch = 1\) AND \(ROW\(xid, ord\) > ROW\('0'::xid8, 0\)\) AND \(xid < pg_snapshot_xmin\(pg_current_snapshot\(\)\)\)\)`, all)
	require.NotContains(t, all, "Seq Scan on messages")
}

// What was removed is no longer stored, and stays counted as having come in; what has expired is gone, hour by hour.
func TestUsageRemovedAndExpired(t *testing.T) {
	f := newFixture(t)
	tenant, other := f.attached(t), f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(10))
	require.NoError(t, err)
	remove := func(id uuid.UUID) error {
		return pgx.BeginFunc(t.Context(), f.operator, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), postgres.SetTenant, id.String()); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `SELECT usage_removed($1, 3, 24)`, id)
			return err
		})
	}
	require.ErrorContains(t, remove(tenant), "no message of tenant", "they are counted first")
	rollUp(t, f.store, tenant)
	require.NoError(t, remove(tenant))
	require.NoError(t, remove(tenant))
	require.Equal(t, used{Messages: 10, Bytes: 70, Removed: 6, RemovedBytes: 48}, f.used(t, tenant))
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM usage_positions WHERE tenant_id = $1 AND messages - removed_messages = 4 AND bytes - removed_bytes = 22`, tenant))

	_, err = f.operator.Exec(t.Context(), `INSERT INTO usage_hours (tenant_id, hour, messages)
		SELECT $1, now() - make_interval(hours => i), 1 FROM generate_series(1, 1200) AS i`, other)
	require.NoError(t, err)
	expired, err := f.store.ExpireUsage(t.Context(), time.Now().Add(-100*time.Hour-time.Minute))
	require.NoError(t, err)
	require.EqualValues(t, 1100, expired)
	require.Equal(t, used{Messages: 100}, f.used(t, other))
	require.EqualValues(t, 10, f.used(t, tenant).Messages)
}
