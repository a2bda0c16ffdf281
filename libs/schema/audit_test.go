package schema_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// event is the statement and the arguments of an audit event of a tenant.
func event(t *testing.T, tenant uuid.UUID) (string, []any) {
	t.Helper()
	arguments, err := audit.Event{Origin: audit.System(), Action: audit.TenantCreated, TenantID: tenant, Target: "/"}.Arguments()
	require.NoError(t, err)
	return audit.Insert, arguments
}

// refused requires that a statement fails for want of a right.
func refused(t *testing.T, connection *pgx.Conn, statement string, args ...any) {
	t.Helper()
	_, err := connection.Exec(t.Context(), statement, args...)
	var denied *pgconn.PgError
	require.ErrorAs(t, err, &denied, statement)
	require.Equal(t, "42501", denied.Code, "insufficient_privilege: %s: %s", statement, denied.Message)
}

// Whoever takes over a service can add to the audit log, and cannot cover traces in it: not by changing or removing an event, nor by
// dating one back or forth, or by giving it another place in the order.
func TestAuditEventsAreAppendOnly(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	tenant := uuid.New()
	write, arguments := event(t, tenant)
	exec(t, connection, write, arguments...)
	require.Contains(t, postgres.Roles(), postgres.RoleQuery, "no role is left out below")
	for _, role := range postgres.Roles() {
		exec(t, connection, `SET ROLE `+pgx.Identifier{role}.Sanitize())
		for _, statement := range []string{
			`UPDATE audit_events SET actor = 'nobody'`,
			`UPDATE audit_events SET at = now() - interval '2 days'`,
			`DELETE FROM audit_events`,
			`TRUNCATE audit_events`,
			`DROP TABLE audit_events`,
			`ALTER TABLE audit_events DISABLE ROW LEVEL SECURITY`,
			`SELECT FROM audit_events FOR UPDATE`,
			`INSERT INTO audit_events (id, actor, action, target, at) VALUES (gen_random_uuid(), '', '', '', now() - interval '2 days')`,
			`INSERT INTO audit_events (id, actor, action, target, epoch) VALUES (gen_random_uuid(), '', '', '', 0)`,
			`INSERT INTO audit_events (id, actor, action, target, xid) VALUES (gen_random_uuid(), '', '', '', '3')`,
		} {
			refused(t, connection, statement)
		}
		if role != postgres.RoleTenant {
			refused(t, connection, `SELECT FROM audit_events`)
			refused(t, connection, `SELECT expire_audit_events('2 days')`)
		}
		exec(t, connection, `RESET ROLE`)
	}
	require.Equal(t, []string{"mtm_tenant: SELECT"}, column[string](t, connection, `
		SELECT granted.grantee::regrole || ': ' || granted.privilege_type FROM pg_class c, aclexplode(c.relacl) AS granted
		WHERE c.relname = 'audit_events' AND granted.grantee <> c.relowner`), "on the table; the right to insert is one on columns")
	require.Equal(t, []string{"INSERT"}, column[string](t, connection, `
		SELECT DISTINCT granted.privilege_type FROM pg_attribute a, aclexplode(a.attacl) AS granted
		WHERE a.attrelid = 'audit_events'::regclass`))
	require.Equal(t, []int64{1}, column[int64](t, connection, `SELECT count(*) FROM audit_events WHERE actor = 'system'`))
}

// tenant-service notes changes of any tenant; ingest-service those of the tenant that it acts for, and query-service none.
func TestWhoseAuditEventsAreWritten(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	mine, theirs := uuid.New(), uuid.New()
	exec(t, connection, `SELECT set_config('app.tenant_id', $1, false)`, mine.String())
	for role, may := range map[string]map[uuid.UUID]bool{
		postgres.RoleTenant: {mine: true, theirs: true, uuid.Nil: true},
		postgres.RoleIngest: {mine: true, theirs: false, uuid.Nil: false},
		postgres.RoleQuery:  {mine: false, theirs: false, uuid.Nil: false},
	} {
		exec(t, connection, `SET ROLE `+pgx.Identifier{role}.Sanitize())
		for tenant, may := range may {
			write, arguments := event(t, tenant)
			if may {
				exec(t, connection, write, arguments...)
			} else {
				refused(t, connection, write, arguments...)
			}
		}
		exec(t, connection, `RESET ROLE`)
	}
	require.Equal(t, []int64{4}, column[int64](t, connection, `SELECT count(*) FROM audit_events`))
}

// Retention is the one way in which events go: never those of the last day, and so few at a time that no reader waits for it.
func TestExpiryOfAuditEventsIsBounded(t *testing.T) {
	address := backing.Postgres(t)
	connection, other := connect(t, address), connect(t, address)
	exec(t, connection, `INSERT INTO audit_events (id, actor, action, target, at)
		SELECT gen_random_uuid(), '', '', '', now() - make_interval(hours => n, mins => -30) FROM generate_series(1, 1223) AS n`)
	// As an owner who is no superuser, whom row-level security holds.
	exec(t, connection, `CREATE ROLE schema_test_owner; GRANT CREATE ON SCHEMA public TO schema_test_owner; ALTER TABLE audit_events OWNER TO schema_test_owner; ALTER FUNCTION expire_audit_events OWNER TO schema_test_owner`)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		cleaning, err := pgx.Connect(ctx, address)
		require.NoError(t, err)
		_, err = cleaning.Exec(ctx, `DROP OWNED BY schema_test_owner CASCADE; DROP ROLE schema_test_owner`)
		require.NoError(t, err)
		require.NoError(t, cleaning.Close(ctx))
	})
	exec(t, connection, `SET ROLE mtm_tenant`)
	for _, age := range []any{nil, "0", "-1 day", "23:59:59", "-100 years"} {
		_, err := connection.Exec(t.Context(), `SELECT expire_audit_events($1::text::interval)`, age)
		require.ErrorContains(t, err, "a day at least", "%v", age)
	}
	expire := func(c *pgx.Conn, age string) *int {
		return column[*int](t, c, `SELECT expire_audit_events($1::text::interval)`, age)[0]
	}
	require.Equal(t, new(500), expire(connection, "1 day"))
	require.Equal(t, []int64{723}, column[int64](t, connection, `SELECT count(*) FROM audit_events`))
	require.Equal(t, []int64{0}, column[int64](t, connection, `SELECT count(*) FROM audit_events WHERE at < now() - interval '723 hours'`), "the oldest went first")

	tx, err := connection.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `SELECT expire_audit_events('1 day')`)
	require.NoError(t, err)
	exec(t, other, `SET ROLE mtm_tenant`)
	require.Nil(t, expire(other, "1 day"), "one instance at a time")
	require.NoError(t, tx.Rollback(t.Context()), "it is killed in the middle of a step")

	require.Equal(t, new(500), expire(other, "1 day"))
	require.Equal(t, new(199), expire(connection, "1 day"))
	require.Equal(t, new(0), expire(connection, "1 day"))
	require.Equal(t, []int64{24}, column[int64](t, connection, `SELECT count(*) FROM audit_events`), "of the last day")
}
