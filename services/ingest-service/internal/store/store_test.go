package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	store    *store.Store
	operator *pgxpool.Pool // sees everything
}

func newFixture(tb testing.TB) fixture {
	tb.Helper()
	url := backing.Postgres(tb)
	pool := pgtest.As(tb, url, postgres.RoleIngest)
	operator := pgtest.Operator(tb, url)
	return fixture{store: store.New(pool, 10*time.Second), operator: operator}
}

func (f fixture) attached(tb testing.TB) uuid.UUID {
	tb.Helper()
	tenant := uuid.New()
	require.NoError(tb, f.store.Attach(tb.Context(), tenant))
	return tenant
}

func (f fixture) count(t *testing.T, sql string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, f.operator.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func messages(n int) []store.Row {
	list := make([]store.Row, n)
	for i := range list {
		list[i] = store.Row{ID: uuid.New(), Payload: fmt.Appendf(nil, `{"n":%d}`, i)}
	}
	return list
}

// Redelivery is normal: what comes twice must be stored once, and the first content wins.
func TestInsertIsIdempotent(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := messages(500)

	stored, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	require.Equal(t, 500, stored)

	again := append(messages(1), batch...)
	again[1].Payload = []byte(`{"other":true}`)
	again = append(again, again[0]) // twice in one batch
	stored, err = f.store.Insert(t.Context(), tenant, again)
	require.NoError(t, err)
	require.Equal(t, 1, stored)
	require.Equal(t, 501, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Equal(t, 0, f.count(t, `SELECT (payload->>'n')::int FROM messages WHERE tenant_id = $1 AND id = $2`, tenant, batch[0].ID))
}

// What is known to come again is inserted without trying to copy it first; new messages among it are stored all the same.
func TestInsertOfWhatComesAgain(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := messages(100)
	stored, err := f.store.Insert(t.Context(), tenant, batch[:50])
	require.NoError(t, err)
	require.Equal(t, 50, stored)
	for i := range batch {
		batch[i].Again = i < 50
	}
	stored, err = f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	require.Equal(t, 50, stored)
	require.Equal(t, 100, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant))
	require.Equal(t, 100, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1 AND epoch = reading_epoch()`, tenant),
		"both ways write into the same epoch")
}

// A reader must meet the messages of a batch in the order in which they came through the queue.
func TestOrderInsideABatch(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	batch := messages(50)
	_, err := f.store.Insert(t.Context(), tenant, batch)
	require.NoError(t, err)
	rows, err := f.operator.Query(t.Context(), `SELECT id FROM messages WHERE tenant_id = $1 ORDER BY epoch, xid, ord`, tenant)
	require.NoError(t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(t, err)
	for i, m := range batch {
		require.Equal(t, m.ID, ids[i])
	}
}

// The same id under two tenants is two messages, each in its own partition.
func TestTenantsShareNothing(t *testing.T) {
	f := newFixture(t)
	one, other := f.attached(t), f.attached(t)
	batch := messages(3)
	for _, tenant := range []uuid.UUID{one, other} {
		stored, err := f.store.Insert(t.Context(), tenant, batch)
		require.NoError(t, err)
		require.Equal(t, 3, stored)
		partition := "messages_" + strings.ReplaceAll(tenant.String(), "-", "")
		require.Equal(t, 3, f.count(t, `SELECT count(*) FROM `+pgx.Identifier{partition}.Sanitize()))
	}
}

// Everything that the check lets pass must be storable; everything else must be a fault of the content, so that it
// becomes a dead letter and does not stop the tenant.
func TestPayloadsAgainstTheDatabase(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	for _, payload := range []string{
		`{}`, `[]`, `null`, `true`, `-0`, `"x"`, `1.5e-3`, `1e399`, `1e-399`, strings.Repeat("9", 400),
		`"\ud83d\ude00"`, `{"a":1,"a":2}`, `"\u00e9\n\\u0000"`,
		strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"":{"":""}}`,
	} {
		require.NoError(t, contract.CheckPayload([]byte(payload), contract.DefaultMaxPayload), payload)
		_, err := f.store.Insert(t.Context(), tenant, []store.Row{{ID: uuid.New(), Payload: []byte(payload)}})
		require.NoError(t, err, payload)
	}
	for _, payload := range []string{``, `{`, `{} {}`, `"\u0000"`, `"\ud83d"`, "\"\xff\"", `nul`, `[1,]`, `01`} {
		require.Error(t, contract.CheckPayload([]byte(payload), contract.DefaultMaxPayload), payload)
		_, err := f.store.Insert(t.Context(), tenant, []store.Row{{ID: uuid.New(), Payload: []byte(payload)}})
		require.Equal(t, sqlstate.Content, sqlstate.Classify(err), "%q: %v", payload, err)
	}
}

// An insert without a partition must be the infrastructure's fault, or the messages of a tenant that is just being
// provisioned would become dead letters.
func TestMissingPartitionIsInfrastructure(t *testing.T) {
	f := newFixture(t)
	_, err := f.store.Insert(t.Context(), uuid.New(), messages(1))
	require.Equal(t, sqlstate.Infrastructure, sqlstate.Classify(err), "%v", err)
}

// A tenant whose partition has been there for a while need not be provisioned again; the young, and the dropped, are left out.
func TestAttachedLongerThan(t *testing.T) {
	f := newFixture(t)
	old, older, dropped, young := f.attached(t), f.attached(t), f.attached(t), f.attached(t)
	require.NoError(t, f.store.Drop(t.Context(), dropped))
	for tenant, age := range map[uuid.UUID]time.Duration{old: time.Hour, older: 2 * time.Hour, dropped: time.Hour} {
		_, err := f.operator.Exec(t.Context(), `UPDATE tenant_partitions SET attached_at = now() - $2::interval WHERE id = $1`, tenant, age)
		require.NoError(t, err)
	}
	listed, err := f.store.AttachedLongerThan(t.Context(), 30*time.Minute)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{old, older}, listed)
	listed, err = f.store.AttachedLongerThan(t.Context(), 0)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{young, old, older}, listed)
}

// A deleted id must never meet a new tenant.
func TestDropRetires(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	_, err := f.store.Insert(t.Context(), tenant, messages(3))
	require.NoError(t, err)
	_, err = f.operator.Exec(t.Context(), `INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, $2, '', 'not_json')`, tenant, uuid.New())
	require.NoError(t, err)

	holds := func() bool {
		attached, err := f.store.Attached(t.Context(), tenant)
		require.NoError(t, err)
		return attached
	}
	require.True(t, holds())
	require.NoError(t, f.store.Drop(t.Context(), tenant))
	require.False(t, holds())
	require.NoError(t, f.store.Drop(t.Context(), tenant), "repeating it after a crash is harmless")
	require.Zero(t, f.count(t, `SELECT count(*) FROM pg_class WHERE relname = 'messages_' || replace($1::uuid::text, '-', '')`, tenant))
	require.Zero(t, f.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, tenant))
	require.ErrorIs(t, f.store.Attach(t.Context(), tenant), store.ErrRetired)
	require.NoError(t, f.store.Drop(t.Context(), uuid.New()), "one that never was is retired as well")
}

// Provisioning and deleting must not stop the traffic of others, whatever of them happens at once.
func TestDDLUnderTraffic(t *testing.T) {
	f := newFixture(t)
	busy := f.attached(t)
	ctx, stop := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	var inserted int
	traffic.Go(func() {
		for ctx.Err() == nil {
			// The insert that is under way at the end is finished, and counted.
			stored, err := f.store.Insert(context.WithoutCancel(ctx), busy, messages(10))
			if err != nil {
				t.Errorf("insert during DDL: %v", err)
				return
			}
			inserted += stored
		}
	})
	var ddl sync.WaitGroup
	for range 4 {
		ddl.Go(func() {
			for range 10 {
				tenant := uuid.New()
				if err := f.store.Attach(t.Context(), tenant); err != nil {
					t.Errorf("attach: %v", err)
				}
				if err := f.store.Attach(t.Context(), tenant); err != nil {
					t.Errorf("attach again: %v", err)
				}
				if err := f.store.Drop(t.Context(), tenant); err != nil {
					t.Errorf("drop: %v", err)
				}
			}
		})
	}
	ddl.Wait()
	stop()
	traffic.Wait()
	require.Equal(t, inserted, f.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, busy))
	const leaves = 1
	require.Equal(t, leaves, f.count(t, `SELECT count(*) FROM pg_partition_tree('messages') WHERE isleaf AND level = 2`))
}

// The role of ingest-service can write messages and read none.
func TestRoleReadsNoPayload(t *testing.T) {
	url := backing.Postgres(t)
	cfg := postgres.DefaultConfig()
	cfg.URL = url
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleIngest)
	require.NoError(t, err)
	defer pool.Close()
	tenant := uuid.New()
	s := store.New(pool, 10*time.Second)
	require.NoError(t, s.Attach(t.Context(), tenant))
	_, err = s.Insert(t.Context(), tenant, messages(1))
	require.NoError(t, err)
	partition := pgx.Identifier{"messages_" + strings.ReplaceAll(tenant.String(), "-", "")}.Sanitize()
	for _, sql := range []string{
		`SELECT payload FROM messages`, `SELECT * FROM ` + partition, `DELETE FROM messages`, `UPDATE messages SET payload = '{}'`,
		`DROP TABLE messages`, `SELECT * FROM tenants`, `TRUNCATE ` + partition,
	} {
		_, err := pool.Exec(t.Context(), sql)
		require.ErrorContains(t, err, "SQLSTATE 42501", sql)
	}
	require.NoError(t, postgres.InTenant(t.Context(), pool, uuid.New(), func(tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(t.Context(), `SELECT count(id) FROM messages`).Scan(&n); err != nil {
			return err
		}
		require.Zero(t, n, "another tenant's messages are not there")
		return nil
	}))
}

// A frozen server that never answers must not hold a writer for ever.
func TestInsertHasATimeout(t *testing.T) {
	f := newFixture(t)
	tenant := f.attached(t)
	tx, err := f.operator.Begin(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback(context.WithoutCancel(t.Context()))) }()
	_, err = tx.Exec(t.Context(), `LOCK TABLE messages IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = f.store.Insert(ctx, tenant, messages(1))
	require.Equal(t, sqlstate.Infrastructure, sqlstate.Classify(err))
}

// A standby, or a database that an operator has made read-only, answers and takes nothing: to count it as up would have
// writers try again and again, and readiness say that all is well.
func TestPingAsksForADatabaseThatTakesWrites(t *testing.T) {
	url := backing.Postgres(t)
	operator := pgtest.Operator(t, url)
	ping := func() error {
		cfg := postgres.DefaultConfig()
		cfg.URL = url
		pool, err := postgres.Open(t.Context(), cfg, postgres.RoleIngest)
		require.NoError(t, err)
		defer pool.Close()
		return store.New(pool, 10*time.Second).Ping(t.Context())
	}
	require.NoError(t, ping())
	var database string
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT current_database()`).Scan(&database))
	_, err := operator.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{database}.Sanitize()+` SET default_transaction_read_only = on`)
	require.NoError(t, err)
	require.ErrorContains(t, ping(), "read-only")
}
