package traffic

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(openapi.Checked(m)) }

const waitLimit = 90 * time.Second

// start is traffic on a platform of its own.
func start(t *testing.T, opts Options) *Traffic {
	t.Helper()
	on := stack.Options{DatabaseURL: backing.Postgres(t), NATSURL: backing.NATS(t)}
	broker := backing.RabbitMQ(t)
	on.RabbitMQURL = broker.URL
	s := stack.Start(t, on)
	transport := openapi.Transport(&http.Transport{})
	admin, err := platform.NewAdmin(s, client.WithTransport(transport), client.WithRetry(client.Retry{MaxAttempts: 1})) // nothing is disturbed
	require.NoError(t, err)
	traffic, err := newTraffic(Site{
		TenantURL: s.Tenant.URL, IngestURL: s.Ingest.URL, QueryURL: s.Query.URL,
		DatabaseURL: on.DatabaseURL, RabbitMQURL: broker.URL, RabbitMQManagementURL: broker.ManagementURL,
		Token: s.TenantToken, Admin: admin, Transport: transport,
	}, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, traffic.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, traffic.Start(ctx))
	return traffic
}

// use runs traffic while fn acts on it, and drains it.
func use(t *testing.T, traffic *Traffic, fn func(ctx context.Context)) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), waitLimit)
	var running sync.WaitGroup
	running.Go(func() {
		if err := traffic.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	fn(ctx)
	stop()
	running.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*waitLimit)
	defer cancel()
	require.NoError(t, traffic.Drain(ctx, t.Logf))
}

func verdict(t *testing.T, traffic *Traffic) Verdict {
	t.Helper()
	v, err := traffic.Verdict(t.Context())
	require.NoError(t, err)
	return v
}

// A platform that nothing has happened to keeps its promises, and the ledger says so. Then promises are broken in the
// database itself, one by one: each has to be found where a real run would look for it.
func TestTrafficOnAPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it uses a platform for half a minute")
	}
	traffic := start(t, Options{Tenants: 3, Seed: 1, HTTPRate: 150, AMQPRate: 150, PoisonShare: 0.05})
	use(t, traffic, func(ctx context.Context) {
		require.NoError(t, traffic.RoundTrip(ctx))
		require.NoError(t, traffic.ResizeStorm(ctx))
		require.NoError(t, traffic.Reconfigure(ctx))
		created, err := traffic.CreateUseDelete(ctx)
		require.NoError(t, err)
		require.Positive(t, created)
		require.NoError(t, traffic.SuspendResume(ctx))
		require.NoError(t, traffic.DeletedTenantInRetry(ctx))
		require.NoError(t, traffic.RoundTrip(ctx))
		for traffic.Progress().Met < 2000 && ctx.Err() == nil {
			_ = retry.Sleep(ctx, followPause)
		}
	})
	v := verdict(t, traffic)
	require.True(t, v.Clean(), "%+v", v)
	require.Greater(t, v.Confirmed, int64(2000))
	require.Positive(t, v.Poison)
	require.Equal(t, v.Poison, v.DeadLettered+poisonOfDeleted(traffic))
	require.Empty(t, traffic.Remarks())
	spoil(t, traffic, v)
}

func poisonOfDeleted(t *Traffic) (n int64) {
	for _, a := range t.ledger.in(phaseDeleted) {
		n += a.counts().poisonConfirmed
	}
	return n
}

// spoil breaks promises behind the back of the platform.
func spoil(t *testing.T, traffic *Traffic, clean Verdict) {
	t.Helper()
	exec := func(sql string, args ...any) {
		t.Helper()
		tag, err := traffic.operator.Exec(t.Context(), sql, args...)
		require.NoError(t, err)
		require.True(t, tag.RowsAffected() == 1 || tag.Select(), "%s: %s", sql, tag)
	}
	a, b := traffic.tenants[0], traffic.tenants[1]
	seqs := a.order[:5]
	const at = `WHERE tenant_id = $1 AND id = $2`

	exec(`DELETE FROM messages `+at, a.tenant, a.id(seqs[0])) // lost, and missed by those who have read it
	exec(`INSERT INTO messages (tenant_id, id, payload, ord) VALUES ($1, $2, $3, 1)`, a.tenant, uuid.New(), string(a.payload(seqs[1], 0)))
	exec(`UPDATE messages SET payload = '{"n": 1}' `+at, a.tenant, a.id(seqs[2]))
	exec(`INSERT INTO messages (tenant_id, id, payload, ord) VALUES ($1, $2, $3, 2)`, b.tenant, a.id(seqs[3]), string(a.payload(seqs[3], 0)))
	exec(`DELETE FROM dead_letters WHERE (tenant_id, id) = (SELECT tenant_id, id FROM dead_letters LIMIT 1)`)
	gone := traffic.ledger.in(phaseDeleted)[0]
	exec(`CREATE TABLE ` + partitionName(gone.tenant) + ` AS SELECT * FROM messages LIMIT 0`)
	v := verdict(t, traffic)
	require.Equal(t, clean.Stored+1, v.Stored)
	require.Equal(t, int64(2), v.Lost, "%v", v.Details)
	require.Equal(t, int64(1), v.Duplicated, "%v", v.Details)
	require.Equal(t, int64(4), v.Foreign, "two rows, each in the tables and by a reader: %v", v.Details)
	require.Equal(t, int64(2), v.Corrupted, "in the table and by a reader: %v", v.Details)
	require.Equal(t, int64(1), v.Leftover, "%v", v.Details)
	require.Positive(t, v.Violations, "%v", v.Details)
	require.Positive(t, v.Miscounted, "%v", v.Details)
	require.Positive(t, v.Unequal, "%v", v.Details)
}

// Comparing contents is a comparison of bytes as long as PostgreSQL spells them as they were sent.
func TestPostgresKeepsTheSpelling(t *testing.T) {
	pool := pgtest.Operator(t, backing.Postgres(t))
	mine := newIdentity(1, uuid.New(), 500)
	for seq := range uint32(20) {
		var back string
		require.NoError(t, pool.QueryRow(t.Context(), `SELECT $1::text::jsonb::text`, string(mine.payload(seq, 0))).Scan(&back))
		require.Equal(t, string(mine.payload(seq, 0)), back)
	}
}

// A tenant that does not come back from its suspension is not left to the next fault.
func TestResumeWhateverHappens(t *testing.T) {
	traffic := start(t, Options{Tenants: 1, Seed: 2, HTTPRate: 10, AMQPRate: 10})
	use(t, traffic, func(ctx context.Context) {
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		require.Error(t, traffic.SuspendResume(short), "it takes longer than that")
		a := traffic.tenants[0]
		require.NoError(t, traffic.site.Admin.AwaitState(ctx, a.tenant, client.ConsumerRunning, 0))
		require.False(t, a.isQuiet())
		require.NoError(t, traffic.RoundTrip(ctx))
	})
	v := verdict(t, traffic)
	require.True(t, v.Clean(), "%+v", v)
}
