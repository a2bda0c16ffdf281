package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// What an instance compares with has every tenant once, tells deleted ones from unknown ones, and changes its version with every
// change; and it is all that this service sees of the registry.
func TestRegistryAsIngestServiceSeesIt(t *testing.T) {
	f := newFixture(t)
	const live = 2*store.RegistryPage + 7
	_, err := f.operator.Exec(t.Context(), `
		INSERT INTO tenants (id, name, workers, max_attempts, state, generation)
		SELECT gen_random_uuid(), 'secret name', 1 + n % 5, n % 3, CASE n % 3 WHEN 0 THEN 'active' WHEN 1 THEN 'suspended' ELSE 'deleting' END, n
		FROM generate_series(1, $1) AS n`, live)
	require.NoError(t, err)
	dead, unknown := uuid.New(), uuid.New()
	_, err = f.operator.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, state, generation) VALUES ($1, 'dead', 2, 'deleted', 9)`, dead)
	require.NoError(t, err)

	seen := make(map[string]contract.TenantSpec)
	var order []string
	for behind := uuid.Nil; ; {
		page, err := f.store.Registered(t.Context(), behind)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		require.LessOrEqual(t, len(page), store.RegistryPage)
		for _, r := range page {
			require.False(t, r.Retired)
			seen[r.Spec.TenantID] = r.Spec
			order = append(order, r.Spec.TenantID)
		}
		behind = uuid.MustParse(order[len(order)-1])
	}
	require.Len(t, seen, live)
	require.True(t, slices.IsSorted(order))
	require.NotContains(t, seen, dead.String())
	require.Equal(t, live, f.count(t, `SELECT count(*) FROM tenants WHERE state <> 'deleted'`))

	among, err := f.store.RegisteredAmong(t.Context(), []uuid.UUID{dead, unknown, uuid.MustParse(order[0])})
	require.NoError(t, err)
	require.ElementsMatch(t, []store.Registration{
		{Retired: true, Spec: contract.TenantSpec{TenantID: dead.String(), State: contract.DesiredDeleting, Workers: 2, Generation: 9}},
		{Spec: seen[order[0]]},
	}, among)

	version, err := f.store.RegistryVersion(t.Context())
	require.NoError(t, err)
	for _, change := range []string{
		`UPDATE tenants SET generation = generation + 1, workers = 4 WHERE id = '` + order[1] + `'`,
		`UPDATE tenants SET generation = generation + 1, state = 'deleted' WHERE id = '` + order[2] + `'`,
		`INSERT INTO tenants (id, name, workers, state) VALUES (gen_random_uuid(), 'new', 1, 'active')`,
	} {
		same, err := f.store.RegistryVersion(t.Context())
		require.NoError(t, err)
		require.Equal(t, version, same)
		_, err = f.operator.Exec(t.Context(), change)
		require.NoError(t, err)
		next, err := f.store.RegistryVersion(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, version, next, change)
		version = next
	}

	cfg := postgres.DefaultConfig()
	cfg.URL = f.operator.Config().ConnString()
	for role, statements := range map[string][]string{
		postgres.RoleIngest: {`SELECT FROM tenants`, `UPDATE tenants SET workers = 1`},
		postgres.RoleQuery:  {`SELECT registry_version()`, `SELECT registered_tenants(gen_random_uuid(), 1)`, `SELECT registered_among('{}')`, `SELECT FROM ingest_instances`},
	} {
		pool, err := postgres.Open(t.Context(), cfg, role)
		require.NoError(t, err)
		for _, statement := range statements {
			_, err := pool.Exec(t.Context(), statement)
			refused := new(pgconn.PgError)
			require.ErrorAs(t, err, &refused, "%s: %s", role, statement)
			require.Equal(t, "42501", refused.Code, "%s: %s", role, statement)
		}
		pool.Close()
	}
}

// An instance that is not heard must learn that others are, and must not take one that was heard long ago for that.
func TestOthersAlive(t *testing.T) {
	f := newFixture(t)
	alive := func(instance string, within time.Duration) bool {
		t.Helper()
		others, err := f.store.OthersAlive(t.Context(), instance, within)
		require.NoError(t, err)
		return others
	}
	require.False(t, alive("a", time.Hour))
	require.NoError(t, f.store.MarkAlive(t.Context(), "a"))
	require.False(t, alive("a", time.Hour), "it is no other")
	require.True(t, alive("b", time.Hour))
	_, err := f.operator.Exec(t.Context(), `UPDATE ingest_instances SET heard_at = now() - interval '20 seconds'`)
	require.NoError(t, err)
	require.False(t, alive("b", 15*time.Second))
	require.NoError(t, f.store.MarkAlive(t.Context(), "a"))
	require.True(t, alive("b", 15*time.Second))
	require.NoError(t, f.store.RemoveMark(t.Context(), "a"))
	require.False(t, alive("b", time.Hour))

	_, err = f.operator.Exec(t.Context(), `INSERT INTO ingest_instances VALUES ('long gone', now() - interval '2 days')`)
	require.NoError(t, err)
	require.NoError(t, f.store.MarkAlive(t.Context(), "a"))
	require.Equal(t, 1, f.count(t, `SELECT count(*) FROM ingest_instances`))
}
