package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(url string) postgres.Config {
	cfg := postgres.DefaultConfig()
	cfg.URL = url
	return cfg
}

// Whatever the login may do, the service must not be able to.
func TestOpenDropsToTheRole(t *testing.T) {
	url := backing.Postgres(t) // an operator's login
	for _, role := range postgres.Roles() {
		pool, err := postgres.Open(t.Context(), config(url), role)
		require.NoError(t, err)
		var user, plans, statements, idle string
		var super bool
		require.NoError(t, pool.QueryRow(t.Context(), `
			SELECT current_user, rolsuper OR rolbypassrls, current_setting('plan_cache_mode'), current_setting('statement_timeout'),
			       current_setting('idle_in_transaction_session_timeout')
			FROM pg_roles WHERE rolname = current_user`).Scan(&user, &super, &plans, &statements, &idle))
		pool.Close()
		require.Equal(t, role, user)
		require.False(t, super)
		require.Equal(t, "force_custom_plan", plans)
		require.Equal(t, "15s", statements)
		require.Equal(t, "30s", idle)
	}
}

func TestOpenRefusesPower(t *testing.T) {
	url := backing.Postgres(t)
	operator, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) }()
	name := "mighty_" + uuid.NewString()
	_, err = operator.Exec(t.Context(), `CREATE ROLE `+pgx.Identifier{name}.Sanitize()+` BYPASSRLS`)
	require.NoError(t, err)
	defer func() {
		_, err := operator.Exec(context.WithoutCancel(t.Context()), `DROP ROLE `+pgx.Identifier{name}.Sanitize())
		require.NoError(t, err)
	}()
	pool, err := postgres.Open(t.Context(), config(url), name)
	require.NoError(t, err)
	defer pool.Close()
	require.ErrorContains(t, pool.Ping(t.Context()), "bypass row-level security")
}

// A service starts while the database is away.
func TestOpenDoesNotWait(t *testing.T) {
	pool, err := postgres.Open(t.Context(), config("postgres://nobody@127.0.0.1:1/nothing"), postgres.RoleQuery)
	require.NoError(t, err)
	defer pool.Close()
	require.Error(t, pool.Ping(t.Context()))
	_, err = postgres.Open(t.Context(), config("postgres://%zz"), postgres.RoleQuery)
	require.Error(t, err)
}

// A tenant that leaked to the next user of a pooled connection would show its rows to another tenant.
func TestTenantEndsWithTheTransaction(t *testing.T) {
	cfg := config(backing.Postgres(t))
	cfg.MaxConns = 2
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleQuery)
	require.NoError(t, err)
	defer pool.Close()
	db, closer, err := postgres.Gorm(pool, zap.NewNop())
	require.NoError(t, err)
	defer func() { require.NoError(t, closer.Close()) }()
	tenant := uuid.New()
	const current = `SELECT coalesce(app_tenant()::text, 'none')`
	var got string
	for range 4 {
		require.NoError(t, postgres.InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), current).Scan(&got)
		}))
		require.Equal(t, tenant.String(), got)
		require.NoError(t, postgres.WithTenant(t.Context(), db, tenant, func(tx *gorm.DB) error { return tx.Raw(current).Scan(&got).Error }))
		require.Equal(t, tenant.String(), got)
		require.NoError(t, pool.QueryRow(t.Context(), current).Scan(&got))
		require.Equal(t, "none", got)
	}
}

// A standby keeps its connections when it is promoted: an epoch that was kept from before would have what they write then
// sort among what readers have passed. On a primary it is not worth a question for each write.
func TestReadingEpochOfAStandbyIsNotKept(t *testing.T) {
	connection, err := pgx.Connect(t.Context(), backing.Postgres(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	execute := func(sql string) {
		t.Helper()
		_, err := connection.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	changeCluster := func() { execute(`UPDATE reading_epochs SET system_identifier = system_identifier + 1`) }
	epoch := func() int32 {
		t.Helper()
		epoch, err := postgres.ReadingEpoch(t.Context(), connection)
		require.NoError(t, err)
		return epoch
	}
	// It goes before the function of PostgreSQL, but for advance_reading_epoch, which has a search path of its own.
	execute(`CREATE SCHEMA standby`)
	execute(`CREATE FUNCTION standby.pg_is_in_recovery() RETURNS boolean LANGUAGE sql RETURN current_setting('standby.recovers')::boolean`)
	execute(`SET search_path = standby, pg_catalog, public`)
	execute(`SET standby.recovers = true`)
	first := epoch()
	changeCluster()
	require.Equal(t, first+1, epoch())
	execute(`SET standby.recovers = false`)
	changeCluster()
	require.Equal(t, first+2, epoch())
	changeCluster()
	require.Equal(t, first+2, epoch(), "a change of a primary comes with another connection")
}

// A statement on a database that hangs ends with its context.
func TestContextEndsAStatement(t *testing.T) {
	pool, err := postgres.Open(t.Context(), config(backing.Postgres(t)), postgres.RoleQuery)
	require.NoError(t, err)
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = pool.Exec(ctx, `SELECT pg_sleep(60)`)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, sqlstate.Infrastructure, sqlstate.Classify(err))
}
