package schema_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func column[T any](t *testing.T, connection *pgx.Conn, sql string, args ...any) []T {
	t.Helper()
	rows, err := connection.Query(t.Context(), sql, args...)
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return values
}

func exec(t *testing.T, connection *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := connection.Exec(t.Context(), sql, args...)
	require.NoError(t, err)
}

func partition(tenant uuid.UUID) string {
	return "messages_" + strings.ReplaceAll(tenant.String(), "-", "")
}

// A function that acts as the owner of the schema must not be led to tables of its caller's choice (PostgreSQL documentation,
// CREATE FUNCTION, "Writing SECURITY DEFINER Functions Safely"), nor be called by just any login: one of another
// application on the server could delete tenants. This holds of every function of every migration to come.
func TestFunctionsThatActAsTheOwner(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	const definers = ` FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef`
	require.NotEmpty(t, column[string](t, connection, `SELECT p.oid::regprocedure::text`+definers))
	require.Empty(t, column[string](t, connection, `SELECT p.oid::regprocedure::text || ' has no search path that ends in pg_temp'`+definers+`
		AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS setting WHERE setting ~ '^search_path=.*pg_temp$')`))
	require.Empty(t, column[string](t, connection, `SELECT p.oid::regprocedure::text || ' may be called by everybody'`+definers+`
		AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS granted
			WHERE granted.grantee = 0 AND granted.privilege_type = 'EXECUTE')`))
}

// Row-level security does not reach into a partition that is named directly. So nobody may read one, and none but
// ingest-service may write into one, where the bound of the partition refuses the rows of others.
func TestRightsOnPartitions(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	exec(t, connection, `SELECT tenant_attach(gen_random_uuid())`)
	granted := column[string](t, connection, `
		SELECT DISTINCT granted.grantee::regrole || ': ' || granted.privilege_type || CASE WHEN c.relkind = 'p' THEN ' on a hash partition' ELSE '' END
		FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.relispartition AND c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND granted.grantee <> c.relowner`)
	require.Equal(t, []string{"mtm_ingest: INSERT"}, granted)
	require.Empty(t, column[string](t, connection, `
		SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relispartition AND a.attacl IS NOT NULL AND c.relnamespace = 'public'::regnamespace`), "rights on columns")
}

// What the services may do to the tables that keep tenants apart: more would be a way around.
func TestRightsOnTables(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	granted := column[string](t, connection, `
		SELECT c.relname || ', ' || granted.grantee::regrole || ': ' || string_agg(granted.privilege_type, ', ' ORDER BY granted.privilege_type)
		FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.relname IN ('messages', 'tenant_partitions', 'reading_epochs') AND granted.grantee <> c.relowner
		GROUP BY c.relname, granted.grantee ORDER BY 1`)
	require.Equal(t, []string{
		"messages, mtm_ingest: INSERT",
		"messages, mtm_query: SELECT",
		"reading_epochs, mtm_ingest: SELECT",
		"reading_epochs, mtm_query: SELECT",
		"tenant_partitions, mtm_ingest: SELECT",
	}, granted)
	require.Equal(t, []string{"id", "tenant_id"}, column[string](t, connection, `
		SELECT attname::text FROM pg_attribute WHERE attrelid = 'messages'::regclass AND attacl IS NOT NULL ORDER BY 1`), "columns that can be read")
	require.Empty(t, column[string](t, connection, `
		SELECT granted.grantee::regrole || ': ' || granted.privilege_type FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.relname = 'tenants' AND granted.grantee <> c.relowner AND granted.privilege_type IN ('DELETE', 'TRUNCATE')`),
		"the row of a deleted tenant keeps its id retired")
}

// Who has issued what for whom is the registry's alone to see, one tenant at a time. The other services learn what was revoked, and
// nothing else.
func TestRightsOnTokens(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	require.Equal(t, []string{"mtm_tenant: DELETE, INSERT, SELECT, UPDATE"}, column[string](t, connection, `
		SELECT granted.grantee::regrole || ': ' || string_agg(granted.privilege_type, ', ' ORDER BY granted.privilege_type)
		FROM pg_class c, aclexplode(c.relacl) AS granted WHERE c.oid = 'tokens'::regclass AND granted.grantee <> c.relowner GROUP BY granted.grantee`))
	mine, theirs := uuid.New(), uuid.New()
	for _, tenant := range []uuid.UUID{mine, theirs} {
		exec(t, connection, `INSERT INTO tokens (id, tenant_id, name, scope, created_by, created_at, expires_at, revoked_at, revoked_xid)
			VALUES ($1, $1, 'a', 'messages:read', '', now(), now() + interval '1 hour', now(), pg_current_xact_id())`, tenant)
	}
	for _, role := range postgres.Roles() {
		exec(t, connection, `SET ROLE `+role)
		require.ElementsMatch(t, []string{mine.String(), theirs.String()}, column[string](t, connection, `SELECT token::text FROM revoked_tokens(0)`), role)
		exec(t, connection, `RESET ROLE`)
	}
	exec(t, connection, `SET ROLE mtm_tenant`)
	exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, mine.String())
	require.Equal(t, []string{mine.String()}, column[string](t, connection, `SELECT id::text FROM tokens`))
	tag, err := connection.Exec(t.Context(), `UPDATE tokens SET name = 'b' WHERE id = $1`, theirs)
	require.NoError(t, err)
	require.Zero(t, tag.RowsAffected())
}

// A service that has mixed up two tenants must be refused by the database, when it writes as well as when it reads.
func TestWritingForAnotherTenantIsRefused(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	mine, theirs := uuid.New(), uuid.New()
	exec(t, connection, `SELECT tenant_attach($1), tenant_attach($2)`, mine, theirs)
	exec(t, connection, `INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, gen_random_uuid(), '', 'not_json'), ($2, gen_random_uuid(), '', 'not_json')`, mine, theirs)

	exec(t, connection, `SET ROLE mtm_ingest`)
	exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, mine.String())
	for _, write := range []string{
		`INSERT INTO messages (tenant_id, id, payload) VALUES ($1, gen_random_uuid(), '1')`,
		`INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, gen_random_uuid(), '', 'not_json')`,
	} {
		exec(t, connection, write, mine)
		_, err := connection.Exec(t.Context(), write, theirs)
		require.ErrorContains(t, err, "violates row-level security policy", write)
	}
	_, err := connection.Exec(t.Context(), `UPDATE dead_letters SET tenant_id = $1, id = gen_random_uuid()`, theirs)
	require.ErrorContains(t, err, "violates row-level security policy")
	tag, err := connection.Exec(t.Context(), `DELETE FROM dead_letters WHERE tenant_id = $1`, theirs)
	require.NoError(t, err)
	require.Zero(t, tag.RowsAffected())

	exec(t, connection, `RESET ROLE`)
	_, err = connection.Exec(t.Context(), fmt.Sprintf(`INSERT INTO %s (tenant_id, id, payload) VALUES ($1, gen_random_uuid(), '1')`, partition(mine)), theirs)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused, "the bound of a partition holds even for its owner")
	require.Equal(t, "23514", refused.Code)
}

// The gauges count the dead letters of all tenants. Whatever runs in the same transaction after that must see its own again.
func TestTheLookAcrossTenantsEnds(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	exec(t, connection, `INSERT INTO dead_letters (tenant_id, id, payload, reason) SELECT gen_random_uuid(), gen_random_uuid(), '', 'not_json' FROM generate_series(1, 3)`)
	exec(t, connection, `SET ROLE mtm_ingest`)
	tx, err := connection.Begin(t.Context())
	require.NoError(t, err)
	var n int
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM dead_letter_stats()`).Scan(&n))
	require.Equal(t, 3, n)
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM dead_letters`).Scan(&n))
	require.Zero(t, n)
	require.NoError(t, tx.Rollback(t.Context()))
}

// waiting waits until so many sessions of the database wait for a lock.
func waiting(t *testing.T, operator *pgx.Conn, sessions int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var n int
		err := operator.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		return err == nil && n >= sessions
	}, 30*time.Second, time.Millisecond)
}

// Several instances learn of a new tenant at the same time. Each must find its partition made, by whichever was first.
func TestSeveralInstancesAttachATenant(t *testing.T) {
	address := backing.Postgres(t)
	operator, tenant := connect(t, address), uuid.New()
	first, err := connect(t, address).Begin(t.Context())
	require.NoError(t, err)
	_, err = first.Exec(t.Context(), `SELECT tenant_attach($1)`, tenant)
	require.NoError(t, err)

	const others = 7
	var attaching errgroup.Group
	for range others {
		other := connect(t, address)
		attaching.Go(func() error {
			_, err := other.Exec(t.Context(), `SELECT tenant_attach($1)`, tenant)
			return err
		})
	}
	waiting(t, operator, others)
	require.NoError(t, first.Commit(t.Context()))
	require.NoError(t, attaching.Wait())
	require.Equal(t, []int64{1}, column[int64](t, operator, `SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass($1)`, partition(tenant)))
}

// A backup reads for an hour. To delete a tenant meanwhile must fail rather than make every other tenant wait behind it.
func TestDroppingBesideAReaderHoldsUpNobody(t *testing.T) {
	address := backing.Postgres(t)
	operator, neighbour, deleted := connect(t, address), uuid.New(), uuid.New()
	exec(t, operator, `SELECT tenant_attach($1), tenant_attach($2)`, neighbour, deleted)
	reader, err := connect(t, address).Begin(t.Context())
	require.NoError(t, err)
	_, err = reader.Exec(t.Context(), `SELECT FROM messages`) // holds a lock on every table of the messages
	require.NoError(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dropper := connect(t, address)
	dropped := make(chan error, 1)
	go func() {
		_, err := dropper.Exec(ctx, `SELECT tenant_drop($1)`, deleted)
		dropped <- err
	}()
	// The neighbour of all tables, so that it does wait behind the other if that does not give up.
	_, err = operator.Exec(ctx, `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, gen_random_uuid(), '1')`, neighbour)
	require.NoError(t, err)
	var refused *pgconn.PgError
	require.ErrorAs(t, <-dropped, &refused)
	require.Equal(t, "55P03", refused.Code, "lock_not_available")
	_, err = operator.Exec(ctx, `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, gen_random_uuid(), '1')`, neighbour)
	require.NoError(t, err)
	require.NoError(t, reader.Rollback(t.Context()), "it was open all the time")
}
