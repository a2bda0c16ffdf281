package revocation_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth/revocation"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute
	tick      = 10 * time.Millisecond
)

// world is a database with tokens.
type world struct {
	t        *testing.T
	address  string
	operator *pgx.Conn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, address: backing.Postgres(t)}
	w.operator = w.connect()
	return w
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	connection, err := pgx.Connect(w.t.Context(), w.address)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, connection.Close(context.WithoutCancel(w.t.Context()))) })
	return connection
}

// token adds a token that expires after lifetime.
func (w *world) token(lifetime time.Duration) uuid.UUID {
	w.t.Helper()
	id := uuid.New()
	_, err := w.operator.Exec(w.t.Context(), `INSERT INTO tokens (id, tenant_id, name, scope, created_by, created_at, expires_at)
		VALUES ($1, gen_random_uuid(), 'a', 'messages:read', '', now(), now() + $2)`, id, lifetime)
	require.NoError(w.t, err)
	return id
}

const revoke = `UPDATE tokens SET revoked_at = now(), revoked_xid = pg_current_xact_id() WHERE id = $1`

func (w *world) revoke(id uuid.UUID) {
	w.t.Helper()
	_, err := w.operator.Exec(w.t.Context(), revoke, id)
	require.NoError(w.t, err)
}

// watch keeps revocations up to date until the end of the test, as a service does that acts as role.
func (w *world) watch(role string) (*auth.Revocations, *telemetry.Health, *pgxpool.Pool) {
	w.t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL, cfg.MaxConns = w.address, 2
	pool, err := postgres.Open(w.t.Context(), cfg, role)
	require.NoError(w.t, err)
	w.t.Cleanup(pool.Close)
	revocations, health := &auth.Revocations{}, telemetry.NewHealth(prometheus.NewRegistry())
	check := health.Check("revocations")
	component.Run(w.t, func(ctx context.Context) error { return revocation.Watch(ctx, pool, revocations, check, zap.NewNop()) })
	return revocations, health, pool
}

func (w *world) learned(r *auth.Revocations, id uuid.UUID) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return r.Revoked(id) }, waitLimit, tick)
}

// Every service learns what was revoked before it started and what is revoked since, and knows no other token.
func TestRevocationsReachEveryService(t *testing.T) {
	w := newWorld(t)
	before, since, never := w.token(time.Hour), w.token(time.Hour), w.token(time.Hour)
	w.revoke(before)
	for _, role := range postgres.Roles() {
		r, health, _ := w.watch(role)
		require.Eventually(t, func() bool { return health.Err() == nil }, waitLimit, tick)
		require.True(t, r.Known())
		require.True(t, r.Revoked(before), role)
		defer func() {
			w.learned(r, since)
			require.False(t, r.Revoked(never), role)
		}()
	}
	w.revoke(since)
}

// A transaction that revokes a token may commit after others that began later, which were read meanwhile.
func TestRevocationThatCommitsLate(t *testing.T) {
	w := newWorld(t)
	r, _, _ := w.watch(postgres.RoleQuery)
	slow := w.token(time.Hour)
	open, err := w.connect().Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), revoke, slow)
	require.NoError(t, err)
	for range 3 { // queries see each of them, and so are over before the next one
		fast := w.token(time.Hour)
		w.revoke(fast)
		w.learned(r, fast)
	}
	require.False(t, r.Revoked(slow), "it may be rolled back yet")
	require.NoError(t, open.Commit(t.Context()))
	w.learned(r, slow)
}

// A service whose requests occupy the whole pool, and whose connection is cut, must learn of revocations all the same.
func TestRevocationsDoNotWaitForThePool(t *testing.T) {
	w := newWorld(t)
	r, health, pool := w.watch(postgres.RoleIngest)
	for range pool.Config().MaxConns {
		busy, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer busy.Release()
	}
	first, second := w.token(time.Hour), w.token(time.Hour)
	w.revoke(first)
	w.learned(r, first)
	_, err := w.operator.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE '%revoked_tokens%' AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	w.revoke(second)
	w.learned(r, second)
	require.True(t, r.Revoked(first))
	require.NoError(t, health.Err())
}

// A service that cannot reach the database knows nothing of revocations, and is not ready.
func TestRevocationsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	w.address = "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"
	r, health, _ := w.watch(postgres.RoleTenant)
	require.Eventually(t, func() bool {
		err := health.Err()
		return err != nil && err.Error() != "revocations: starting"
	}, waitLimit, tick, "it has been tried")
	require.ErrorContains(t, health.Err(), "revocations")
	require.False(t, r.Known())
}

// Of a token that has expired long ago nothing needs to be known. One that has just expired may still be accepted by a clock that is
// behind.
func TestExpiredTokensAreLeftOut(t *testing.T) {
	w := newWorld(t)
	long, just := w.token(-time.Hour), w.token(-time.Second)
	w.revoke(long)
	w.revoke(just)
	r, _, _ := w.watch(postgres.RoleQuery)
	w.learned(r, just)
	require.False(t, r.Revoked(long))
}

// The functions look across tenants for an owner who is not a superuser, too; the registry itself sees one tenant at a time.
func TestOwnerThatIsNoSuperuser(t *testing.T) {
	w := newWorld(t)
	id := w.token(time.Hour)
	w.revoke(id)
	owner := "owner_" + uuid.NewString()[:8]
	for _, sql := range []string{
		`CREATE ROLE ` + owner + ` NOLOGIN NOSUPERUSER NOBYPASSRLS`, `GRANT CREATE, USAGE ON SCHEMA public TO ` + owner,
		`ALTER TABLE tokens OWNER TO ` + owner, `ALTER FUNCTION revoked_tokens(bigint) OWNER TO ` + owner,
	} {
		_, err := w.operator.Exec(t.Context(), sql)
		require.NoError(t, err, sql)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, sql := range []string{`REASSIGN OWNED BY ` + owner + ` TO CURRENT_USER`, `DROP OWNED BY ` + owner, `DROP ROLE ` + owner} {
			_, err := w.operator.Exec(ctx, sql)
			require.NoError(t, err, sql)
		}
	})
	r, _, pool := w.watch(postgres.RoleTenant)
	w.learned(r, id)
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM tokens`).Scan(&n))
	require.Zero(t, n, "without a tenant")
}
