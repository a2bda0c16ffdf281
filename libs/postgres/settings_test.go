package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// hostile are defaults under which statements of the platform would fail, show something else, or show too much.
func hostile() map[string]string {
	return map[string]string{
		"default_transaction_isolation": "'serializable'", "default_transaction_deferrable": "on", "search_path": "'nowhere'",
		"row_security": "off", "client_encoding": "'LATIN1'", "standard_conforming_strings": "off", "DateStyle": "'SQL, DMY'",
		"IntervalStyle": "'sql_standard'", "TimeZone": "'Asia/Kathmandu'", "bytea_output": "'escape'", "extra_float_digits": "-15",
		"idle_session_timeout": "'1ms'", "statement_timeout": "'1ms'", "lock_timeout": "'1ms'",
		"idle_in_transaction_session_timeout": "'1ms'", "synchronous_commit": "off", "plan_cache_mode": "'force_generic_plan'",
	}
}

// alter sets defaults of the database that a connection is to; they count for the next connections.
func alter(t *testing.T, operator *pgx.Conn, settings map[string]string) {
	t.Helper()
	for name, value := range settings {
		_, err := operator.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{operator.Config().Database}.Sanitize()+` SET `+name+` = `+value)
		require.NoError(t, err, name)
	}
}

func operatorOf(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	operator, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) })
	return operator
}

// Whatever an operator has made the default of a database, the statements of the platform run as they were written: else
// parallel deletions are answered with 503, pages skip messages, or acknowledged ones are lost.
func TestHostileDefaultsDoNotReachThePlatform(t *testing.T) {
	url := backing.Postgres(t)
	alter(t, operatorOf(t, url), hostile())
	for _, role := range postgres.Roles() {
		pool, err := postgres.Open(t.Context(), config(url+"&default_transaction_isolation=serializable"), role)
		require.NoError(t, err)
		settings := postgres.Settings()
		settings["synchronous_commit"], settings["plan_cache_mode"] = "on", "force_custom_plan"
		settings["statement_timeout"], settings["lock_timeout"] = "15s", "2s"
		settings["idle_in_transaction_session_timeout"] = "30s"
		settings["transaction_isolation"] = "read committed"
		for name, want := range settings {
			var have string
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&have), name)
			require.Equal(t, want, have, "%s of %s", name, role)
		}
		pool.Close()
	}
}

// What an operator chooses with care stays: a stronger commit, and a database that takes no writes.
func TestChoicesOfAnOperatorStay(t *testing.T) {
	url := backing.Postgres(t)
	alter(t, operatorOf(t, url), map[string]string{"synchronous_commit": "'remote_apply'", "default_transaction_read_only": "on"})
	pool, err := postgres.Open(t.Context(), config(url), postgres.RoleTenant)
	require.NoError(t, err)
	defer pool.Close()
	var commit, readOnly string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit'), current_setting('transaction_read_only')`).Scan(&commit, &readOnly))
	require.Equal(t, "remote_apply", commit)
	require.Equal(t, "on", readOnly)
}

// A database that was read-only takes writes again as soon as its operator says so, also over connections that were made
// meanwhile: nobody has to restart a service or to cut its connections.
func TestConnectionsOfAReadOnlyTimeAreReplaced(t *testing.T) {
	url := backing.Postgres(t)
	operator := operatorOf(t, url)
	alter(t, operator, map[string]string{"default_transaction_read_only": "on"})
	pool, err := postgres.Open(t.Context(), config(url), postgres.RoleTenant)
	require.NoError(t, err)
	defer pool.Close()
	insert := func() error {
		_, err := pool.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, state) VALUES (gen_random_uuid(), 'a', 1, 'active')`)
		return err
	}
	require.ErrorContains(t, insert(), "read-only")

	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- postgres.Watch(ctx, pool, telemetry.NewHealth(telemetry.NewRegistry("test")).Check("postgres"))
	}()
	defer func() {
		cancel()
		require.NoError(t, <-watched)
	}()
	alter(t, operator, map[string]string{"default_transaction_read_only": "off"})
	require.Eventually(t, func() bool { return insert() == nil }, 30*time.Second, 20*time.Millisecond)
}
