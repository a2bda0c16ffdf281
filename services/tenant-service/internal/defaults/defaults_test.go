package defaults

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func policy() tenant.Policy {
	return tenant.Policy{DefaultWorkers: 3, MaxWorkers: 64, DefaultLimits: contract.Limits{PublishRate: 100}}
}

// world is a registry with more tenants than one step has: half of them follow the defaults.
type world struct {
	registry *store.Store
	operator *pgx.Conn
	tenants  int
	changes  atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	url := backing.Postgres(t)
	pool := pgtest.As(t, url, postgres.RoleTenant)
	db := pgtest.Gorm(t, pool)
	w := &world{tenants: 2*step + 7}
	var err error
	w.operator, err = pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.operator.Close(context.WithoutCancel(t.Context()))) })
	w.registry = store.New(db, func(tenant.Tenant) { w.changes.Add(1) })
	_, err = w.operator.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, state, overrides, limits)
		SELECT gen_random_uuid(), 'a', 3, 'active', CASE n % 2 WHEN 0 THEN '{}' ELSE '{"publish_rate": 7}' END::jsonb,
			CASE n % 2 WHEN 0 THEN '{"workers": 3}' ELSE '{"workers": 3, "publish_rate": 7}' END::jsonb
		FROM generate_series(1, $1::int) AS n`, w.tenants)
	require.NoError(t, err)
	return w
}

// following is how many tenants have the default in force, and the highest generation of any.
func (w *world) following(t *testing.T) (n int, generation int64) {
	t.Helper()
	require.NoError(t, w.operator.QueryRow(t.Context(),
		`SELECT count(*) FILTER (WHERE (limits->>'publish_rate')::bigint = 100), max(generation) FROM tenants`).Scan(&n, &generation))
	return n, generation
}

// failing is a registry that fails at some of the calls.
type failing struct {
	Registry
	mu   sync.Mutex
	left int                // calls until the next failure
	dies context.CancelFunc // at the first failure; nil: it recovers
}

func (f *failing) fails(every int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left--
	if f.left > 0 {
		return nil
	}
	f.left = every
	if f.dies != nil {
		f.dies()
	}
	return errors.New("injected")
}

func (f *failing) Batch(ctx context.Context, after uuid.UUID, limit int) ([]tenant.Tenant, error) {
	if err := f.fails(100); err != nil {
		return nil, err
	}
	return f.Registry.Batch(ctx, after, limit)
}

func (f *failing) Change(
	ctx context.Context, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error,
) (tenant.Tenant, error) {
	if err := f.fails(100); err != nil {
		return tenant.Tenant{}, err
	}
	return f.Registry.Change(ctx, id, by, action, change)
}

func all(tenant.Tenant) bool { return true }

// A process that dies half way leaves the rest to the next one, which changes nobody twice; a registry that fails now and then is outlived.
func TestDefaultsAreAppliedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dying, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.ErrorIs(t, untilDone(dying, &failing{Registry: w.registry, left: 200, dies: cancel}, policy(), all, zap.NewNop()), context.Canceled)
	done, _ := w.following(t)
	require.NotZero(t, done)
	require.Less(t, done, w.tenants/2)

	core, logs := observer.New(zap.InfoLevel)
	require.NoError(t, untilDone(t.Context(), &failing{Registry: w.registry, left: 100}, policy(), all, zap.New(core)))
	done, generation := w.following(t)
	require.Equal(t, w.tenants/2, done)
	require.EqualValues(t, 2, generation, "each once")
	require.EqualValues(t, w.tenants/2, w.changes.Load(), "the relay is told of each")
	require.Equal(t, 2, logs.Len(), "one line for the first fault, one for the end")

	require.NoError(t, untilDone(t.Context(), w.registry, policy(), all, zap.NewNop()))
	require.EqualValues(t, w.tenants/2, w.changes.Load(), "there is nothing left to do")
}

// Replicas start together.
func TestReplicasApplyTheDefaultsTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var replicas errgroup.Group
	for range 3 {
		replicas.Go(func() error { return untilDone(t.Context(), w.registry, policy(), all, zap.NewNop()) })
	}
	require.NoError(t, replicas.Wait())
	done, generation := w.following(t)
	require.Equal(t, w.tenants/2, done)
	require.EqualValues(t, 2, generation)
	require.EqualValues(t, w.tenants/2, w.changes.Load())
}

// After the first time only those are looked after that another version has created: replicas with different defaults would take turns
// in changing the others for ever.
func TestTenantsOfAnotherVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.operator.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, state) VALUES (gen_random_uuid(), 'old', 9, 'active')`)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, untilDone(t.Context(), w.registry, policy(), neverConfigured, zap.NewNop()))
		done, _ := w.following(t)
		require.Equal(t, 1, done)
		require.EqualValues(t, 1, w.changes.Load())
	}
}

// Defaults under which limits of a tenant contradict each other are applied, and the operator is told of the tenant.
func TestDefaultsThatContradictATenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.operator.Exec(t.Context(), `UPDATE tenants SET overrides = '{"retention_bytes": 50}', limits = '{"workers": 3, "retention_bytes": 50}'
		WHERE id = (SELECT id FROM tenants LIMIT 1)`)
	require.NoError(t, err)
	core, logs := observer.New(zap.WarnLevel)
	changed := policy()
	changed.DefaultLimits.StoredMaxBytes = 40
	require.NoError(t, untilDone(t.Context(), w.registry, changed, all, zap.New(core)))
	require.Equal(t, 1, logs.Len())
	require.Contains(t, logs.All()[0].ContextMap()["error"], "retention_bytes must not be above stored_max_bytes")
}
