package schema_test

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
)

// at migrates the database at address up to a version.
func at(t *testing.T, address string, version int64) {
	t.Helper()
	config, err := pgx.ParseConfig(address)
	require.NoError(t, err)
	provider, err := goose.NewProvider(goose.DialectPostgres, stdlib.OpenDB(*config), os.DirFS("migrations"))
	require.NoError(t, err)
	defer func() { require.NoError(t, provider.Close()) }()
	_, err = provider.UpTo(t.Context(), version)
	require.NoError(t, err)
}

// An installation that is running gets the properties of dead letters without standing still behind the migration, keeps the dead
// letters that it has, and an instance of the version before continues with its own statements.
func TestPropertiesOfDeadLettersAreAddedToARunningInstallation(t *testing.T) {
	_, address := empty(t)
	at(t, address, 4)
	busy, operator := connect(t, address), connect(t, address)
	const insert = `INSERT INTO dead_letters (tenant_id, id, payload, headers, reason) VALUES ($1, $2, '{', '{"trace": "abc"}', 'not_json')`
	tenant, before, after := uuid.New(), uuid.New(), uuid.New()
	_, err := operator.Exec(t.Context(), insert, tenant, before)
	require.NoError(t, err)

	// Somebody reads for a long time.
	open, err := busy.Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), `SELECT FROM dead_letters`)
	require.NoError(t, err)
	migrated := make(chan error, 1)
	go func() { migrated <- schema.Migrate(t.Context(), address, zap.NewNop()) }()
	select {
	case err := <-migrated:
		var refused *pgconn.PgError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, "55P03", refused.Code, "it gives up, so that nobody waits behind it, and is repeated")
	case <-time.After(time.Minute):
		t.Fatal("the migration waits, and everybody else behind it")
	}
	require.NoError(t, open.Rollback(t.Context()))
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))

	_, err = operator.Exec(t.Context(), insert, tenant, after)
	require.NoError(t, err)
	for _, id := range []uuid.UUID{before, after} {
		var properties []byte
		var headers string
		require.NoError(t, operator.QueryRow(t.Context(), `SELECT properties, headers FROM dead_letters WHERE id = $1`, id).Scan(&properties, &headers))
		require.Nil(t, properties)
		require.JSONEq(t, `{"trace": "abc"}`, headers)
	}
}

// An installation that is running gets tokens without standing still behind the migration, and an instance of the version before
// goes on with its own statements.
func TestTokensAreAddedToARunningInstallation(t *testing.T) {
	_, address := empty(t)
	at(t, address, 8)
	busy, operator := connect(t, address), connect(t, address)
	tenant := uuid.New()
	exec(t, operator, `INSERT INTO tenants (id, name, workers, state) VALUES ($1, 'a', 1, 'active')`, tenant)
	open, err := busy.Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), `UPDATE tenants SET workers = 2 WHERE id = $1`, tenant)
	require.NoError(t, err)
	err = schema.Migrate(t.Context(), address, zap.NewNop())
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "55P03", refused.Code, "it gives up, so that nobody waits behind it, and is repeated")
	require.NoError(t, open.Commit(t.Context()))
	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
	exec(t, operator, `SET ROLE mtm_tenant`)
	exec(t, operator, `UPDATE tenants SET state = 'deleting', generation = generation + 1, updated_at = now() WHERE id = $1`, tenant)
}

// An installation that is running gets the limits of tenants: tenants stay as they are, and the prepared statements of an instance of
// ingest-service of the version before go on, as do the changes of the registry of that version.
func TestLimitsAreAddedToARunningInstallation(t *testing.T) {
	_, address := empty(t)
	at(t, address, 7)
	operator, older := connect(t, address), connect(t, address)
	id := uuid.New()
	_, err := operator.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, max_attempts, state) VALUES ($1, 'a', 4, 8, 'active')`, id)
	require.NoError(t, err)
	read := func() (workers []int32) {
		t.Helper()
		for _, sql := range []string{
			`SELECT tenant, desired, concurrency, attempts, version FROM registered_tenants($1, 500)`,
			`SELECT tenant, desired, concurrency, attempts, version FROM registered_among(ARRAY[$1::uuid])`,
		} {
			behind := uuid.Nil
			if len(workers) > 0 {
				behind = id
			}
			var found uuid.UUID
			var state string
			var n, attempts int32
			var generation int64
			require.NoError(t, older.QueryRow(t.Context(), sql, behind).Scan(&found, &state, &n, &attempts, &generation))
			workers = append(workers, n)
		}
		return workers
	}
	const resize = `UPDATE tenants SET workers = $2, generation = generation + 1 WHERE id = $1`
	change := func(workers int) {
		t.Helper()
		_, err := older.Exec(t.Context(), resize, id, workers)
		require.NoError(t, err)
	}
	require.Equal(t, []int32{4, 4}, read())
	change(5)

	require.NoError(t, schema.Migrate(t.Context(), address, zap.NewNop()))
	require.Equal(t, []int32{5, 5}, read())
	change(6)
	require.Equal(t, []int32{6, 6}, read())
	var overrides *string
	var limits string
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT overrides, limits FROM tenants WHERE id = $1`, id).Scan(&overrides, &limits))
	require.Nil(t, overrides)
	require.Equal(t, "{}", limits)
}
