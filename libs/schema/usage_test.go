package schema_test

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// beforeUsage is the version before the columns of the envelope and of the size.
const beforeUsage = 8

// An installation that is running, and of which somebody reads for a long time, gets the new columns once that reader has ended.
// Meanwhile messages are stored, between the tries and behind them, and those that are there stay as they are.
func TestColumnsAreAddedBesideALongReader(t *testing.T) {
	_, address := empty(t)
	at(t, address, beforeUsage)
	operator, tenant := connect(t, address), uuid.New()
	exec(t, operator, `SELECT tenant_attach($1)`, tenant)
	const insert = `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, gen_random_uuid(), '{"a": 1}')`
	exec(t, operator, insert, tenant)
	reader, err := connect(t, address).Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `SELECT FROM messages`)
	require.NoError(t, err)

	core, lines := observer.New(zapcore.WarnLevel)
	migrated := make(chan error, 1)
	go func() { migrated <- schema.Migrate(t.Context(), address, zap.New(core)) }()
	waiting(t, operator, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = operator.Exec(ctx, insert, tenant) // waits behind the migration, until that gives up
	require.NoError(t, err)
	require.Eventually(t, func() bool { return lines.FilterMessageSnippet("did not get its locks").Len() >= 2 }, 30*time.Second, time.Millisecond)
	require.NoError(t, reader.Rollback(t.Context()), "it was open all the time")
	require.NoError(t, <-migrated)
	require.Equal(t, []int64{2}, column[int64](t, operator, `SELECT count(*) FROM messages WHERE num_nulls(type, key, attributes, bytes) = 4`))
}

// Where the reader outlasts all tries, the migration gives up with the cause, changes nothing, and is made by the next starter.
func TestColumnsAreNotAddedByHalf(t *testing.T) {
	_, address := empty(t)
	at(t, address, beforeUsage)
	operator := connect(t, address)
	reader, err := connect(t, address).Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `SELECT FROM messages`)
	require.NoError(t, err)
	var refused *pgconn.PgError
	require.ErrorAs(t, schema.Migrate(t.Context(), address, zap.NewNop()), &refused)
	require.Equal(t, "55P03", refused.Code)
	require.Equal(t, []bool{false}, column[bool](t, operator, `SELECT to_regclass('usage_positions') IS NOT NULL`))
	require.NoError(t, reader.Rollback(t.Context()))
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
}

// A server whose lock table is too small for its partitions refuses the migration before it has locked any of them, and says which
// setting has to be raised to what. No server of the tests is that small, so the check is told that it is on one.
func TestTooFewLocksAreRefusedBeforehand(t *testing.T) {
	_, address := empty(t)
	at(t, address, beforeUsage)
	operator := connect(t, address)
	migration, err := os.ReadFile("migrations/00009_usage.sql")
	require.NoError(t, err)
	from, to := bytes.Index(migration, []byte("DO $$")), bytes.Index(migration, []byte("END $$;"))
	require.Less(t, from, to)
	require.Less(t, to, bytes.Index(migration, []byte("ALTER TABLE messages")), "the check comes first")
	check := string(migration[from : to+len("END $$;")])
	for range 6 {
		exec(t, operator, `SELECT tenant_attach(gen_random_uuid())`)
	}
	exec(t, operator, check)

	exec(t, operator, `CREATE SCHEMA small`)
	exec(t, operator, `CREATE FUNCTION small.current_setting(name text) RETURNS text LANGUAGE sql AS
		$$ SELECT CASE name WHEN 'max_connections' THEN '8' WHEN 'max_prepared_transactions' THEN '2' WHEN 'max_locks_per_transaction' THEN '23' END $$`)
	exec(t, operator, `SET search_path = small, pg_catalog, public`)
	_, err = operator.Exec(t.Context(), check)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "55000", refused.Code)
	require.Equal(t, "max_locks_per_transaction is 23, and at least 24 is needed to add columns to 71 partitions", refused.Message)
	require.NotEmpty(t, refused.Hint)
}

// Who may do what to the usage of tenants: ingest-service counts through functions, and may do no more than let old hours go.
func TestRightsOnUsage(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	require.Equal(t, []string{
		"usage_hours, mtm_ingest: DELETE", "usage_hours, mtm_tenant: SELECT", "usage_positions, mtm_tenant: SELECT",
	}, column[string](t, connection, `
		SELECT c.relname || ', ' || granted.grantee::regrole || ': ' || string_agg(granted.privilege_type, ', ')
		FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.relname ~ '^usage_' AND c.relnamespace = 'public'::regnamespace AND granted.grantee <> c.relowner GROUP BY c.relname, granted.grantee ORDER BY 1`))
	mine, theirs := uuid.New(), uuid.New()
	exec(t, connection, `SELECT tenant_attach($1)`, mine)
	exec(t, connection, `INSERT INTO usage_hours (tenant_id, hour, messages) VALUES ($1, now(), 1), ($2, now(), 1)`, mine, theirs)
	exec(t, connection, `INSERT INTO usage_positions VALUES ($1, 1, '9', 1, now(), 1, 1), ($2, 1, '9', 1, now(), 1, 1)`, mine, theirs)

	exec(t, connection, `SET ROLE mtm_tenant`)
	exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, mine.String())
	for _, table := range []string{"usage_hours", "usage_positions"} {
		require.Equal(t, []uuid.UUID{mine}, column[uuid.UUID](t, connection, `SELECT tenant_id FROM `+table))
		for _, write := range []string{`DELETE FROM `, `TRUNCATE `} {
			_, err := connection.Exec(t.Context(), write+table)
			require.ErrorContains(t, err, "permission denied", write)
		}
	}
	exec(t, connection, `SET ROLE mtm_ingest`)
	for _, counting := range []string{
		`SELECT usage_removed($1, 1, 1)`, `INSERT INTO usage_hours (tenant_id, hour) VALUES ($1, now())`,
		`UPDATE usage_positions SET xid = '1' WHERE tenant_id = $1`,
	} {
		_, err := connection.Exec(t.Context(), counting, mine)
		require.ErrorContains(t, err, "permission denied", counting)
	}
	for _, counting := range []string{`SELECT usage_roll_up($1, 1)`, `SELECT usage_dead_letters($1, 1)`} {
		exec(t, connection, counting, mine)
		_, err := connection.Exec(t.Context(), counting, theirs)
		require.ErrorContains(t, err, "is not one of tenant "+theirs.String(), counting)
	}
	require.ElementsMatch(t, []string{mine.String() + " 1 0", theirs.String() + " 1 0"}, column[string](t, connection,
		`SELECT concat_ws(' ', tenant, counted, removed) FROM stored_bytes($1)`, []uuid.UUID{mine, theirs}))
	require.Equal(t, []uuid.UUID{mine}, column[uuid.UUID](t, connection, `SELECT tenant_id FROM usage_positions`), "the look across tenants ends")
	refused(t, connection, `SELECT messages FROM usage_positions`)
	exec(t, connection, `SELECT usage_expire(now() - interval '1 hour', 10)`)
	require.Equal(t, []uuid.UUID{mine, mine}, column[uuid.UUID](t, connection, `SELECT tenant_id FROM usage_hours`), "the look across tenants ends")
}

// The owner of the schema need not be a superuser, and is then held to row-level security as well.
func TestUsageUnderAnOwnerWhoIsNoSuperuser(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	owner := "owner_" + partition(uuid.New())
	exec(t, operator, `CREATE ROLE `+owner+` LOGIN PASSWORD 'x'`)
	t.Cleanup(func() {
		_, err := operator.Exec(context.WithoutCancel(t.Context()), `DROP ROLE `+owner)
		require.NoError(t, err)
	})
	_, address := empty(t)
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	exec(t, operator, `ALTER DATABASE `+pgx.Identifier{parsed.Path[1:]}.Sanitize()+` OWNER TO `+owner)
	all := connect(t, address)
	parsed.User = url.UserPassword(owner, "x")
	require.NoError(t, schema.Migrate(t.Context(), parsed.String(), zap.NewNop()))

	acting, tenant := connect(t, parsed.String()), uuid.New()
	exec(t, acting, `SELECT tenant_attach($1)`, tenant)
	exec(t, all, `INSERT INTO messages (tenant_id, id, payload, bytes, ord) VALUES ($1, gen_random_uuid(), '1', 10, 1), ($1, gen_random_uuid(), '[1, 2]', NULL, 2)`, tenant)
	exec(t, acting, `SELECT set_config('app.tenant_id', $1, false)`, tenant.String())
	// Only what no transaction of the whole server may still precede is counted, and other tests have some.
	require.Eventually(t, func() bool {
		return column[int64](t, acting, `SELECT counted FROM usage_roll_up($1, 10)`, tenant)[0] == 2
	}, time.Minute, 10*time.Millisecond)
	exec(t, acting, `SELECT usage_dead_letters($1, 3)`, tenant)
	exec(t, acting, `SELECT usage_removed($1, 1, 6)`, tenant)
	require.Equal(t, []string{"2 16 1 6"}, column[string](t, all,
		`SELECT concat_ws(' ', messages, bytes, removed_messages, removed_bytes) FROM usage_positions WHERE tenant_id = $1`, tenant))
	exec(t, all, `INSERT INTO messages (tenant_id, id, payload, bytes) VALUES ($1, gen_random_uuid(), '1', 100)`, tenant)
	exec(t, acting, `SELECT set_config('app.tenant_id', '', false)`)
	require.Equal(t, []bool{false}, column[bool](t, acting, `SELECT tenant_drop($1)`, tenant))
	require.Equal(t, []bool{true}, column[bool](t, acting, `SELECT tenant_drop($1)`, tenant))
	require.Equal(t, []string{"3 116 1 6 3"}, column[string](t, all,
		`SELECT concat_ws(' ', sum(messages), sum(bytes), sum(removed_messages), sum(removed_bytes), sum(dead_letters)) FROM usage_hours WHERE tenant_id = $1`, tenant))
	require.Equal(t, []int64{0}, column[int64](t, all, `SELECT count(*) FROM usage_positions`))
}
