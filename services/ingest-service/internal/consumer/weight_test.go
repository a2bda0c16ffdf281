package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
)

// shareTolerance is how far the ratio of what two tenants have stored may be from that of their weights. Single batches of 20 are counted,
// and the machine is busy with other tests.
const shareTolerance = 0.3

// slowly has the database take 100 ms for each batch, so that it is what everybody waits for.
func (r *rig) slowly(tenants ...uuid.UUID) {
	r.t.Helper()
	_, err := r.operator.Exec(r.t.Context(), `
		CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$`)
	require.NoError(r.t, err)
	for _, tenant := range tenants {
		partition := pgx.Identifier{"messages_" + strings.ReplaceAll(tenant.String(), "-", "")}.Sanitize()
		_, err := r.operator.Exec(r.t.Context(), `CREATE TRIGGER slowly BEFORE INSERT ON `+partition+` EXECUTE FUNCTION slowly()`)
		require.NoError(r.t, err)
	}
}

// beside is another tenant on the servers of r, which writes through the same writer.
func (r *rig) beside() *rig {
	r.t.Helper()
	other := &rig{
		t: r.t, tenant: uuid.New(), database: r.database, operator: r.operator, link: r.link, publisher: r.publisher, gate: r.gate,
		writer: r.writer, budget: r.budget, broker: r.broker, cfg: r.cfg,
	}
	_, err := r.operator.Exec(r.t.Context(), `SELECT tenant_attach($1)`, other.tenant)
	require.NoError(r.t, err)
	r.onChannel(func(ch *amqp.Channel) error {
		return provision.DeclareTenant(ch, other.tenant.String(), provision.QueueOptions{})
	})
	return other
}

// slots gives the rig a writer with so many slots.
func (r *rig) slots(n int) {
	r.t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = r.database
	pool, err := postgres.Open(r.t.Context(), cfg, postgres.RoleIngest)
	require.NoError(r.t, err)
	r.t.Cleanup(pool.Close)
	r.writer = batch.NewWriter(batch.Config{
		RetryDelays: []time.Duration{time.Second}, HoldTimeout: time.Minute, PublishTimeout: 5 * time.Second, Slots: n,
	}, store.New(pool, 5*time.Second), r.gate, r.publisher, deadLetter, batch.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
}

// Two tenants that both have a backlog store in proportion to their weights while the database is what they wait for: with the default
// workers, and also when one of them has 64. A change of the weight counts at once. (By slots that go to whoever asks first they store the
// same, and with 64 workers beside 3 several times as much.)
func TestWeightsShareTheDatabase(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		weights, workers [2]int
	}{
		"1 to 3":              {[2]int{1, 3}, [2]int{3, 3}},
		"64 workers beside 3": {[2]int{2, 2}, [2]int{64, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.cfg.BatchMessages, r.cfg.Prefetch = 20, 400
			r.slots(12)
			other := r.beside()
			r.slowly(r.tenant, other.tenant)
			const backlog = 2000
			r.publishLarge(backlog)
			other.publishLarge(backlog)
			rigs := [2]*rig{r, other}
			var consumers [2]*consumer.Consumer
			for i := range rigs {
				c := rigs[i].consumer()
				c.Configure(test.workers[i], 3)
				c.Limit(contract.Limits{Weight: int64(test.weights[i])})
				r.run(c.Run)
				consumers[i] = c
			}
			requireShares(t, rigs, test.weights)

			swapped := [2]int{test.weights[1], test.weights[0]}
			for i, c := range consumers {
				c.Limit(contract.Limits{Weight: int64(swapped[i])})
			}
			requireShares(t, rigs, swapped)
			for _, one := range rigs {
				require.Less(t, one.state.Stats.Stored.Load(), int64(backlog), "both still have a backlog, or nothing is shown")
			}
		})
	}
}

// publishLarge publishes n messages of 4 KB: a batch of 20 is too large to share its transaction with another one.
func (r *rig) publishLarge(n int) {
	r.t.Helper()
	body := `"` + strings.Repeat("x", 4<<10) + `"`
	messages := make([]publish.Message, n)
	for i := range messages {
		messages[i] = r.message(uuid.NewString(), body)
	}
	r.publish(messages...)
}

// requireShares holds what each of the two stores of the next 800 messages, after some that were in flight, to the weights.
func requireShares(t *testing.T, rigs [2]*rig, weights [2]int) {
	t.Helper()
	const inFlight, counted = 400, 800
	stored := func() (counts [2]int64) {
		for i, r := range rigs {
			counts[i] = r.state.Stats.Stored.Load()
		}
		return counts
	}
	require.Eventually(t, func() bool { s := stored(); return s[0] > 0 && s[1] > 0 }, waitLimit, time.Millisecond)
	since := func(before [2]int64, n int64) (now [2]int64) {
		require.Eventually(t, func() bool {
			now = stored()
			return now[0]+now[1]-before[0]-before[1] >= n
		}, waitLimit, time.Millisecond)
		return now
	}
	before := since(stored(), inFlight)
	after := since(before, counted)
	first, second := float64(after[0]-before[0]), float64(after[1]-before[1])
	require.InEpsilon(t, float64(weights[1])/float64(weights[0]), second/first, shareTolerance, "%.0f and %.0f messages", first, second)
}
