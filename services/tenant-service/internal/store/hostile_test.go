package store_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// openAfter makes a store on a fresh database on which an operator has executed statements, in which %s is its name.
func openAfter(t *testing.T, statements ...string) *store.Store {
	t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = backing.Postgres(t)
	operator, err := pgx.Connect(t.Context(), cfg.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) }()
	for _, statement := range statements {
		_, err := operator.Exec(t.Context(), strings.ReplaceAll(statement, "%s", pgx.Identifier{operator.Config().Database}.Sanitize()))
		require.NoError(t, err, statement)
	}
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleTenant)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	db := pgtest.Gorm(t, pool)
	return store.New(db, func(tenant.Tenant) {})
}

// Operators who do the same thing at once must not be told that the registry is unavailable, whatever isolation the database
// has by default: one of them goes first, and the others find it done.
func TestParallelChangesUnderOtherDefaults(t *testing.T) {
	t.Parallel()
	for name, isolation := range map[string]string{"serializable": "serializable", "repeatable read": "repeatable read"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := openAfter(t, `ALTER DATABASE %s SET default_transaction_isolation = '`+isolation+`'`)
			made := make([]tenant.Tenant, 8)
			for i := range made {
				made[i] = create(t, registry, "tenant")
			}
			var operators errgroup.Group
			for range 8 {
				operators.Go(func() error {
					for _, one := range made {
						if _, err := registry.Change(t.Context(), one.ID, someone(), audit.TenantDeleted, (*tenant.Tenant).Delete); err != nil {
							return err
						}
					}
					return nil
				})
				operators.Go(func() error {
					batch, err := registry.Unpublished(t.Context(), 100)
					if err != nil {
						return err
					}
					return registry.MarkPublished(t.Context(), batch)
				})
			}
			require.NoError(t, operators.Wait())
			for _, one := range made {
				found, err := registry.Find(t.Context(), one.ID)
				require.NoError(t, err)
				require.Equal(t, tenant.Deleting, found.State)
				require.EqualValues(t, 2, found.Generation, "one of them deleted it")
			}
		})
	}
}

// refuse makes every write of a tenant fail a number of times, as if another transaction had been preferred.
func refuse(code, times string) []string {
	return []string{
		`CREATE SEQUENCE refused; GRANT USAGE ON SEQUENCE refused TO mtm_tenant`,
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN
				IF nextval('public.refused') <= ` + times + ` THEN RAISE EXCEPTION 'another one goes first' USING ERRCODE = '` + code + `'; END IF;
				RETURN NEW;
			END $$`,
		`CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON tenants FOR EACH ROW EXECUTE FUNCTION refuse()`,
	}
}

// A write that PostgreSQL has rolled back in favor of another one is repeated, and only so often.
func TestRolledBackWritesAreRepeated(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"deadlock": "40P01", "serialization failure": "40001"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := openAfter(t, refuse(code, "3")...)
			made := create(t, registry, "refused at first")
			found, err := registry.Find(t.Context(), made.ID)
			require.NoError(t, err)
			require.Equal(t, made.Name, found.Name)

			registry = openAfter(t, refuse(code, "1000")...)
			drafted := draft(t, "always refused")
			require.ErrorIs(t, registry.Create(t.Context(), &drafted, someone()), tenant.ErrUnavailable)
		})
	}
	t.Run("change", func(t *testing.T) {
		t.Parallel()
		statements := append([]string{
			`INSERT INTO tenants (id, name, workers, state) VALUES ('6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11', 'a', 1, 'active')`,
		}, refuse("40P01", "3")...)
		registry := openAfter(t, statements...)
		changed, err := registry.Change(t.Context(), uuid.MustParse("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11"), someone(), audit.TenantResized, func(one *tenant.Tenant) error { return one.Resize(one.Workers + 1) })
		require.NoError(t, err)
		require.Equal(t, 2, changed.Workers, "changed once")
		require.EqualValues(t, 2, changed.Generation)
	})
}
