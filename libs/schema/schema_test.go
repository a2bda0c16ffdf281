package schema_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) })
	return connection
}

// empty is a database without a schema beside the one that the test was given.
func empty(t *testing.T) (operator *pgx.Conn, address string) {
	t.Helper()
	given := backing.Postgres(t)
	operator = connect(t, given)
	parsed, err := url.Parse(given)
	require.NoError(t, err)
	name := parsed.Path[1:] + "_empty"
	_, err = operator.Exec(t.Context(), `CREATE DATABASE `+pgx.Identifier{name}.Sanitize())
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := operator.Exec(context.WithoutCancel(t.Context()), `DROP DATABASE `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`)
		require.NoError(t, err)
	})
	parsed.Path = "/" + name
	return operator, parsed.String()
}

// Three services that start at once on an empty database must all come up.
func TestConcurrentStarters(t *testing.T) {
	_, address := empty(t)
	var starters errgroup.Group
	for range 5 {
		starters.Go(func() error { return schema.Migrate(t.Context(), address, zap.NewNop()) })
	}
	require.NoError(t, starters.Wait())
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()), "a restart finds nothing to do")
}

// A service whose login may not migrate waits for the one that may, and does not start on an older schema.
func TestPrepareWaitsForTheOwner(t *testing.T) {
	operator, address := empty(t)
	_, err := operator.Exec(t.Context(), `CREATE ROLE schema_test_reader LOGIN PASSWORD 'x' IN ROLE mtm_query`)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := operator.Exec(context.WithoutCancel(t.Context()), `DROP ROLE schema_test_reader`)
		require.NoError(t, err)
	})
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	parsed.User = url.UserPassword("schema_test_reader", "x")
	cfg := postgres.DefaultConfig()
	cfg.URL = parsed.String()

	behind := make(chan struct{}, 1)
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		done <- schema.Prepare(ctx, cfg, postgres.RoleQuery, zap.NewNop(), func(err error) {
			if err != nil {
				select {
				case behind <- struct{}{}:
				default:
				}
			}
		})
	}()
	select {
	case <-behind:
	case err := <-done:
		t.Fatalf("prepared without a schema: %v", err)
	}
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
	require.NoError(t, <-done)
}

// Every table with a tenant_id that is no partition must be under row-level security, or one forgotten predicate shows one
// customer's data to another.
func TestEveryTenantTableIsProtected(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	rows, err := operator.Query(t.Context(), `
		SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
		WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
		  AND NOT (c.relrowsecurity AND c.relforcerowsecurity)`)
	require.NoError(t, err)
	unprotected, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Empty(t, unprotected)
}

// A thousand small tenants must not be a thousand tables to analyze whenever something comes in.
func TestAutovacuumLeavesSmallPartitionsAlone(t *testing.T) {
	connection := connect(t, backing.Postgres(t))
	_, err := connection.Exec(t.Context(), `SELECT tenant_attach('00000000-0000-4000-8000-000000000001')`)
	require.NoError(t, err)
	var options []string
	var statistics int
	require.NoError(t, connection.QueryRow(t.Context(), `SELECT reloptions, attstattarget FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
		WHERE relname = 'messages_00000000000040008000000000000001' AND attname = 'payload'`).Scan(&options, &statistics))
	require.Contains(t, options, "autovacuum_analyze_threshold=1000")
	require.Zero(t, statistics, "of payloads")
}

// After a restore into another cluster transaction ids are lower: what is written then must still sort behind.
func TestEpochRisesWithTheCluster(t *testing.T) {
	operator := connect(t, backing.Postgres(t))
	var before, same, after int
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT reading_epoch()`).Scan(&before))
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT advance_reading_epoch()`).Scan(&same))
	require.Equal(t, before, same)
	_, err := operator.Exec(t.Context(), `UPDATE reading_epochs SET system_identifier = system_identifier + 1`)
	require.NoError(t, err)
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT advance_reading_epoch()`).Scan(&after))
	require.Equal(t, before+1, after)
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT reading_epoch()`).Scan(&after))
	require.Equal(t, before+1, after)
}

// A database whose defaults would end every migration is migrated all the same.
func TestMigrateUnderHostileDefaults(t *testing.T) {
	operator, address := empty(t)
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	for _, setting := range []string{
		"statement_timeout = '1ms'", "lock_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'",
		"default_transaction_isolation = 'serializable'", "search_path = 'nowhere'", "row_security = off",
		"standard_conforming_strings = off", "client_encoding = 'LATIN1'", "DateStyle = 'SQL, DMY'",
	} {
		_, err := operator.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{parsed.Path[1:]}.Sanitize()+` SET `+setting)
		require.NoError(t, err)
	}
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
	cfg := postgres.DefaultConfig()
	cfg.URL = address
	require.NoError(t, schema.Prepare(t.Context(), cfg, postgres.RoleTenant, zap.NewNop(), func(error) {}))
}
