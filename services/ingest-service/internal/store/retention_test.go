package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// aged stores and counts messages of so many bytes each, in one transaction, of these ages.
func (f fixture) aged(t *testing.T, tenant uuid.UUID, bytes int, ages ...time.Duration) {
	t.Helper()
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, bytes, created_at, ord)
		SELECT $1, gen_random_uuid(), '1', $2, now() - age, place FROM unnest($3::interval[]) WITH ORDINALITY AS given (age, place)`, tenant, bytes, ages)
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
}

// kept are the ages of the stored messages in the reading order, in whole minutes.
func (f fixture) kept(t *testing.T, tenant uuid.UUID) []int {
	t.Helper()
	rows, err := f.operator.Query(t.Context(), `SELECT round(extract(epoch FROM now() - created_at) / 60)::int FROM messages WHERE tenant_id = $1 ORDER BY epoch, xid, ord`, tenant)
	require.NoError(t, err)
	ages, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return ages
}

// requireRemovedExactly demands that what came in less what was removed is what is stored, over all time and over all hours, and that nothing is
// stored up to the boundary.
func (f fixture) requireRemovedExactly(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	var messages, bytes int64
	require.NoError(t, f.operator.QueryRow(t.Context(),
		`SELECT count(*), coalesce(sum(coalesce(bytes, octet_length(payload::text))), 0) FROM messages WHERE tenant_id = $1`, tenant).Scan(&messages, &bytes))
	u := f.used(t, tenant)
	require.Equal(t, messages, u.Messages-u.Removed, "messages by the hour")
	require.Equal(t, bytes, u.Bytes-u.RemovedBytes, "bytes by the hour")
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM usage_positions WHERE tenant_id = $1
		AND messages - removed_messages = $2 AND bytes - removed_bytes = $3`, tenant, messages, bytes), "over all time")
	require.Zero(t, f.count(t, `SELECT count(*) FROM messages m JOIN retention_positions p USING (tenant_id)
		WHERE tenant_id = $1 AND (m.epoch, m.xid, m.ord) <= (p.epoch, p.xid, p.ord)`, tenant), "up to the boundary")
}

// retain removes until nothing is left, and returns what the steps have removed.
func retain(t *testing.T, s *store.Store, tenant uuid.UUID, limits contract.Limits) (steps []int64) {
	t.Helper()
	for {
		step, err := s.Retain(t.Context(), tenant, limits)
		require.NoError(t, err)
		if step.Messages > 0 {
			steps = append(steps, step.Messages)
		}
		if !step.More {
			return steps
		}
	}
}

const minute = time.Minute

// What is older goes and what is younger stays, to the row: nobody may lose what the limit says is kept. A limit that is raised or taken
// away counts from the next step on.
func TestRetentionByAge(t *testing.T) {
	f := newFixture(t)
	tenant, other := f.attached(t), f.attached(t)
	for _, id := range []uuid.UUID{tenant, other} {
		f.aged(t, id, 10, 9*minute, 8*minute, 7*minute)
		f.aged(t, id, 10, 5*minute, 4*minute)
		f.aged(t, id, 10, 2*minute, minute, 0)
	}
	step, err := f.store.Retain(t.Context(), tenant, contract.Limits{RetentionSeconds: 450})
	require.NoError(t, err)
	require.InDelta(t, 90, step.Overdue.Seconds(), 30)
	require.Equal(t, store.Retained{Messages: 2, Bytes: 20, Overdue: step.Overdue}, step)
	require.Equal(t, []int{7, 5, 4, 2, 1, 0}, f.kept(t, tenant))
	require.Empty(t, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 450}))
	require.Empty(t, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 3_162_240_000}))
	require.Empty(t, retain(t, f.store, tenant, contract.Limits{DeadLetterRetentionSeconds: 1}))
	require.Equal(t, []int64{4}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 90}))
	require.Equal(t, []int{1, 0}, f.kept(t, tenant))
	f.requireRemovedExactly(t, tenant)
	require.Len(t, f.kept(t, other), 8)

	require.Equal(t, []int64{2}, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 1}), "down to nothing")
	f.aged(t, tenant, 10, 3*minute, 0)
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 60}))
	f.requireRemovedExactly(t, tenant)
	require.Empty(t, retain(t, f.store, uuid.New(), contract.Limits{RetentionSeconds: 1}), "a tenant without a partition")
	require.Empty(t, retain(t, f.store, f.attached(t), contract.Limits{RetentionSeconds: 1, RetentionBytes: 1}), "a tenant without a message")
}

// created_at steps back now and then along the reading order, and readers rely on a prefix: so what is too old waits behind what is not.
func TestRetentionRemovesAPrefix(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	f.aged(t, tenant, 10, 9*minute, 5*minute, 8*minute, 2*minute, 7*minute)
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 390}))
	require.Equal(t, []int{5, 8, 2, 7}, f.kept(t, tenant))
	require.Equal(t, []int64{2}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 270}))
	require.Equal(t, []int{2, 7}, f.kept(t, tenant))
	f.requireRemovedExactly(t, tenant)
}

// The oldest go until no more than the limit is stored, and not one more than that takes.
func TestRetentionByBytes(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	f.aged(t, tenant, 100, 9*minute, 8*minute)
	f.aged(t, tenant, 7, 7*minute, 6*minute, 5*minute)
	require.Empty(t, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 221}))
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 220}))
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 21}))
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 14}))
	require.Equal(t, []int{6, 5}, f.kept(t, tenant))
	f.requireRemovedExactly(t, tenant)

	// Both limits: whichever takes more.
	f.aged(t, tenant, 10, 4*minute, 3*minute, 0)
	require.Equal(t, []int64{3}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 210, RetentionBytes: 40}))
	require.Equal(t, []int{3, 0}, f.kept(t, tenant))
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 3600, RetentionBytes: 10}))
	require.Equal(t, []int64{1}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 3600, RetentionBytes: 1}), "one that is larger than the limit")
	f.requireRemovedExactly(t, tenant)
}

// A step holds back every reader for as long as it takes, so it is bounded in messages and in bytes.
func TestStepsOfRetentionAreBounded(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := messages(1201)
	for _, size := range []int{300 << 10, 300 << 10, 300 << 10, 300 << 10, 300 << 10, 3 << 20, 10} {
		batch = append(batch, store.Row{ID: uuid.New(), Payload: fmt.Appendf(nil, `"%s"`, strings.Repeat("x", size))})
	}
	_, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	_, err = f.operator.Exec(t.Context(), `UPDATE messages SET created_at = now() - interval '1 hour' WHERE tenant_id = $1`, tenant)
	require.NoError(t, err)
	require.Equal(t, []int64{500, 500, 201 + 4, 2, 1}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 60}))
	f.requireRemovedExactly(t, tenant)
}

// What an earlier version has stored has no size, and is counted with that of its text: it is removed with the same.
func TestRetentionOfWhatAnEarlierVersionHasStored(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, bytes, created_at, ord)
		SELECT $1, gen_random_uuid(), jsonb_build_object('n', i), CASE WHEN i % 2 = 0 THEN 3 END, now() - make_interval(mins => 600 - i), i FROM generate_series(1, 600) AS i`, tenant)
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	require.Equal(t, []int64{500, 69}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 30*60 + 30}))
	f.requireRemovedExactly(t, tenant)
}

// An id is remembered as long as its message is kept: what is published again after that, or redelivered late, is stored again.
func TestRemovedIdsAreStoredAgain(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := messages(4)
	for _, again := range []bool{false, true} {
		for i := range batch {
			batch[i].Again = again
		}
		stored, err := f.store.Insert(t.Context(), tenant, batch)
		require.NoError(t, err)
		require.Equal(t, 4, stored)
		rollUp(t, f.store, tenant)
		require.Equal(t, []int64{3}, retain(t, f.store, tenant, contract.Limits{RetentionBytes: 7}))
		stored, err = f.store.Insert(t.Context(), tenant, batch[3:])
		require.NoError(t, err)
		require.Zero(t, stored, "it is kept")
		retain(t, f.store, tenant, contract.Limits{RetentionBytes: 1})
	}
	f.requireRemovedExactly(t, tenant)
}

// Writers that commit late and in any order, some that are rolled back, two instances that count and two that remove: every committed
// message was counted before it was removed, and what is left agrees to the row.
func TestRetentionBesideWriters(t *testing.T) {
	const writers, transactions, instances = 6, 40, 2
	f := newFixture(t)
	tenant := f.attached(t)
	var committed atomic.Int64
	work, ctx := errgroup.WithContext(t.Context())
	steps := make(chan struct{}) // a slow writer waits for the counting to get on
	for range writers {
		work.Go(func() error {
			for range transactions {
				n := 1 + rand.IntN(4)
				err := f.writeSlowly(ctx, tenant, n, steps)
				if err == nil {
					committed.Add(int64(n))
				} else if !errors.Is(err, errRollback) {
					return err
				}
			}
			return nil
		})
	}
	done := make(chan struct{})
	var background sync.WaitGroup
	repeat := func(step func() error) {
		background.Go(func() {
			for {
				if err := step(); err != nil && !sqlstate.Is(err, pgerrcode.SerializationFailure) {
					t.Errorf("beside writers: %v", err)
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
	var removed atomic.Int64
	for range instances {
		repeat(func() error { _, err := f.store.RollUp(t.Context(), tenant); return err })
		repeat(func() error {
			step, err := f.store.Retain(t.Context(), tenant, contract.Limits{RetentionBytes: 5000})
			removed.Add(step.Messages)
			return err
		})
	}
	require.NoError(t, work.Wait())
	close(done)
	background.Wait()
	rollUp(t, f.store, tenant)
	removed.Add(sum(retain(t, f.store, tenant, contract.Limits{RetentionBytes: 5000})))
	f.requireRemovedExactly(t, tenant)
	u := f.used(t, tenant)
	require.Equal(t, committed.Load(), u.Messages, "a message that is removed before it is counted was never counted")
	require.Equal(t, removed.Load(), u.Removed)
	require.NotZero(t, u.Removed)
	require.LessOrEqual(t, u.Bytes-u.RemovedBytes, int64(5000))
}

func sum(values []int64) (total int64) {
	for _, value := range values {
		total += value
	}
	return total
}

// The server, or the instance, may go at any moment of a step, of which the last is the commit: all of it was done, or nothing, and the
// next one goes on.
func TestRetentionIsExactWhenStepsAreKilled(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(900))
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	kills := 0
	for keep := int64(6000); keep > 0; keep -= 200 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(4000))*time.Microsecond)
		if _, err := f.store.Retain(ctx, tenant, contract.Limits{RetentionBytes: keep}); err != nil {
			kills++
		}
		cancel()
	}
	require.NotZero(t, kills)
	require.Eventually(t, func() bool { // a session that was left may have its lock for a moment
		step, err := f.store.Retain(t.Context(), tenant, contract.Limits{RetentionBytes: 100})
		require.NoError(t, err)
		return !step.More
	}, 30*time.Second, time.Millisecond)
	f.requireRemovedExactly(t, tenant)
}

// The same at each of its places, and not by chance: a step that has done everything but its commit is ended by the server.
func TestRetentionEndsWithItsTransaction(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	f.aged(t, tenant, 10, 5*minute, 4*minute, 0)
	for _, table := range []string{"", "retention_positions", "usage_positions", "usage_hours"} {
		tx, err := f.operator.Begin(t.Context())
		require.NoError(t, err)
		if table != "" { // the step gets as far as this table
			_, err = tx.Exec(t.Context(), `LOCK TABLE `+table+` IN EXCLUSIVE MODE`)
			require.NoError(t, err)
			_, err = f.store.Retain(t.Context(), tenant, contract.Limits{RetentionSeconds: 60})
			require.True(t, sqlstate.Is(err, pgerrcode.LockNotAvailable), "%s: %v", table, err)
			require.NoError(t, tx.Rollback(t.Context()))
		} else {
			for _, sql := range []string{`SELECT set_config('app.tenant_id', '%s', true)`, `SELECT removed FROM retain('%s', 60, 0)`} {
				_, err = tx.Exec(t.Context(), fmt.Sprintf(sql, tenant))
				require.NoError(t, err)
			}
			_, err = f.operator.Exec(t.Context(), `SELECT pg_terminate_backend($1)`, tx.Conn().PgConn().PID())
			require.NoError(t, err)
			require.Error(t, tx.Commit(t.Context())) // which ends tx
		}
		require.Len(t, f.kept(t, tenant), 3)
		f.requireRemovedExactly(t, tenant)
	}
	require.Equal(t, []int64{2}, retain(t, f.store, tenant, contract.Limits{RetentionSeconds: 60}))
	f.requireRemovedExactly(t, tenant)
}

// A tenant is deleted while its messages are removed: its usage stays and is right, and nothing else does.
func TestRetentionOfADeletedTenant(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(3000))
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	bytes := int64(f.count(t, `SELECT sum(bytes) FROM messages WHERE tenant_id = $1`, tenant))
	done := make(chan struct{})
	var removing sync.WaitGroup
	var removed atomic.Int64
	removing.Go(func() {
		for keep := bytes; ; keep = max(keep-100, 1) {
			step, err := f.store.Retain(t.Context(), tenant, contract.Limits{RetentionBytes: keep})
			// The partition may go in the middle, or be waited for too long.
			if err != nil && !sqlstate.Is(err, pgerrcode.UndefinedTable, pgerrcode.LockNotAvailable, pgerrcode.ObjectNotInPrerequisiteState) {
				t.Errorf("retain: %v", err)
			}
			removed.Add(step.Messages)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	require.Eventually(t, func() bool {
		return removed.Load() > 0 && f.store.Drop(t.Context(), tenant) == nil
	}, 30*time.Second, time.Millisecond)
	close(done)
	removing.Wait()
	u := f.used(t, tenant)
	require.EqualValues(t, 3000, u.Messages)
	require.Equal(t, bytes, u.Bytes)
	require.Equal(t, removed.Load(), u.Removed)
	require.Zero(t, f.count(t, `SELECT count(*) FROM retention_positions WHERE tenant_id = $1`, tenant))
}

// Dead letters have a clock of their own, which begins with the last failure: one that keeps failing is news.
func TestRetentionOfDeadLetters(t *testing.T) {
	f := newFixture(t)
	tenant, other := f.attached(t), f.attached(t)
	for _, id := range []uuid.UUID{tenant, other} {
		_, err := f.operator.Exec(t.Context(), `INSERT INTO dead_letters (tenant_id, id, payload, reason, first_failed_at, last_failed_at)
			SELECT $1, gen_random_uuid(), convert_to(repeat('x', 10), 'UTF8'), 'not_json', now() - interval '9 hours', now() - make_interval(mins => i) FROM generate_series(0, 1100) AS i`, id)
		require.NoError(t, err)
	}
	step := func(seconds, wantRemoved int64, wantMore bool) {
		t.Helper()
		removed, more, err := f.store.RetainDeadLetters(t.Context(), tenant, contract.Limits{DeadLetterRetentionSeconds: seconds})
		require.NoError(t, err)
		require.Equal(t, wantRemoved, removed)
		require.Equal(t, wantMore, more)
	}
	step(0, 0, false)
	step(3_162_240_000, 0, false)
	step(60*60-30, 500, true)
	step(60*60-30, 500, true)
	step(60*60-30, 41, false)
	step(60*60-30, 0, false)
	require.Equal(t, 60, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1 AND last_failed_at > now() - interval '1 hour'`, tenant))
	require.Equal(t, 1101, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, other))

	_, err := f.operator.Exec(t.Context(), `INSERT INTO dead_letters (tenant_id, id, payload, reason, first_failed_at, last_failed_at)
		SELECT $1, gen_random_uuid(), convert_to(repeat('x', 700000), 'UTF8'), 'too_large', now() - interval '2 days', now() - interval '1 day' FROM generate_series(1, 3)`, tenant)
	require.NoError(t, err)
	step(2*60*60, 2, true) // large ones are a step of their own
	step(2*60*60, 1, false)
}

// A transaction that has an id holds back all readers: a look that finds nothing, of ten thousand tenants and again and again, has none.
func TestLooksThatFindNothingWriteNothing(t *testing.T) {
	f := newFixture(t)
	full, empty, uncounted := f.attached(t), f.attached(t), f.attached(t)
	f.aged(t, full, 10, 5*minute, 0)
	retain(t, f.store, full, contract.Limits{RetentionSeconds: 60})
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, created_at) VALUES ($1, gen_random_uuid(), '1', now() - interval '1 day')`, uncounted)
	require.NoError(t, err)
	_, err = f.operator.Exec(t.Context(), `INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, gen_random_uuid(), '', 'not_json')`, full)
	require.NoError(t, err)
	for _, tenant := range []uuid.UUID{full, empty, uncounted, uuid.New()} {
		for _, look := range []string{
			`SELECT FROM retain($1, 0, 0)`, `SELECT FROM retain($1, 60, 0)`, `SELECT FROM retain($1, 60, 100)`, `SELECT FROM retain($1, 0, 100)`,
			`SELECT FROM retain_dead_letters($1, 60)`, `SELECT FROM erase_message($1, gen_random_uuid())`,
		} {
			err := pgx.BeginFunc(t.Context(), f.operator, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), postgres.SetTenant, tenant.String()); err != nil {
					return err
				}
				if _, err := tx.Exec(t.Context(), look, tenant); err != nil {
					return err
				}
				var xid *string
				if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id_if_assigned()::text`).Scan(&xid); err != nil {
					return err
				}
				require.Nil(t, xid, look)
				return nil
			})
			require.NoError(t, err)
		}
	}
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, uncounted), "what is not counted is not removed")
}

// A step costs what it removes, not what there is: an index scan from the boundary to what is counted, and the places that it has found.
// A transaction that has written millions is not read to its end.
func TestRetentionPlans(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, bytes, created_at, xid, ord)
		SELECT $1, gen_random_uuid(), '1', 1, now() - interval '1 hour', '100', i FROM generate_series(1, 20000) AS i`, tenant)
	require.NoError(t, err)
	rollUp(t, f.store, tenant)
	config := f.operator.Config().ConnConfig.Copy()
	var plans []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { plans = append(plans, n.Message) }
	connection, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	exec := func(sql string) {
		t.Helper()
		_, err := connection.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	step := fmt.Sprintf(`SELECT * FROM retain('%s', 60, 0)`, tenant)
	exec(fmt.Sprintf(`SET app.tenant_id = '%s'`, tenant))
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(`ANALYZE messages`)
		}
		exec(step) // whatever a connection does for the first time reads hundreds of pages of catalogs
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			} `json:"Plan"`
		}
		require.NoError(t, connection.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+step).Scan(&plan))
		t.Logf("analyzed %t: %d buffers of a step", analyzed, plan[0].Plan.Hit+plan[0].Plan.Read)
		require.Less(t, plan[0].Plan.Hit+plan[0].Plan.Read, 2000, "buffers of 500 messages")
		plans = nil
		for _, sql := range []string{
			`LOAD 'auto_explain'`, `SET auto_explain.log_min_duration = 0`, `SET auto_explain.log_nested_statements = on`, `SET auto_explain.log_level = notice`,
			step, `SET auto_explain.log_min_duration = -1`,
		} {
			exec(sql)
		}
		all := strings.Join(plans, "\n")
		require.Regexp(t, `Index Cond: \(\(tenant_id = '[^']*'::uuid\) AND \(epoch = 1\) AND \(ROW\(xid, ord\) > ROW\('100'::xid8, \d+\)\) AND \(xid <= '100'::xid8\)\)`, all)
		require.Contains(t, all, "Tid Scan on messages_")
		require.NotContains(t, all, "Seq Scan on messages")
	}
	require.Equal(t, 20_000-6*500, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	f.requireRemovedExactly(t, tenant)
}
