package authorization_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(openapi.Checked(m)) }

// await bounds what the platform does.
const await = 90 * time.Second

// world is a platform with two tenants: the victim, who has messages and dead letters, and the attacker.
type world struct {
	*issuer
	urls             map[string]string // by service
	transport        http.RoundTripper
	operator         *pgx.Conn
	admin            string
	victim, attacker uuid.UUID
	ids              map[resource]uuid.UUID // of the victim
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{issuer: newIssuer(t), victim: uuid.New(), attacker: uuid.New(), ids: map[resource]uuid.UUID{}}
	opts := stack.Shared(t)
	opts.Env = map[string]string{"AUTH_SECRET": "", "AUTH_PUBLIC_KEY": w.pem(), "LOG_LEVEL": "warn"} // a line a request says nothing here
	s := stack.Start(t, opts)
	w.urls = map[string]string{"tenant-service": s.Tenant.URL, "ingest-service": s.Ingest.URL, "query-service": s.Query.URL}
	base := &http.Transport{MaxIdleConnsPerHost: attackers, MaxConnsPerHost: attackers}
	t.Cleanup(base.CloseIdleConnections)
	w.transport = openapi.Transport(base)
	w.admin = w.token(uuid.Nil, auth.ScopeTenantsAdmin)
	var err error
	w.operator, err = pgx.Connect(t.Context(), opts.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.operator.Close(context.WithoutCancel(t.Context()))) })

	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	for name, id := range map[string]uuid.UUID{"victim": w.victim, "attacker": w.attacker} {
		// One worker stores messages in the order in which they came.
		_, err := w.client(t, w.admin).CreateTenant(ctx, client.NewTenant{ID: client.ID(id), Name: name, Workers: 1}, client.Wait())
		require.NoError(t, err)
	}
	for range 3 {
		w.ids[message] = w.publish(t)
	}
	w.publishDeadLetters(t, opts.RabbitMQURL)
	w.ids[deadLetter], err = uuid.Parse(w.rows(t, `SELECT min(id::text) FROM dead_letters WHERE tenant_id = $1`, w.victim)[0])
	require.NoError(t, err)
	return w
}

func (w *world) client(t *testing.T, token string) *client.Client {
	t.Helper()
	api, err := client.New(client.URLs{Tenant: w.urls["tenant-service"], Ingest: w.urls["ingest-service"], Query: w.urls["query-service"]},
		client.StaticToken(token), client.WithTransport(w.transport))
	require.NoError(t, err)
	return api
}

// publish publishes a message of the victim and returns its id once it is stored. With one worker, what came before it is then
// stored, too.
func (w *world) publish(t *testing.T) uuid.UUID {
	t.Helper()
	id := client.NewID()
	_, err := w.client(t, w.token(w.victim, auth.ScopeMessagesWrite)).Publish(t.Context(), client.Publishing{ID: id, Payload: "of the victim"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return len(w.rows(t, `SELECT id::text FROM messages WHERE tenant_id = $1 AND id = $2`, w.victim, uuid.UUID(id))) == 1
	}, await, 10*time.Millisecond)
	return uuid.UUID(id)
}

// publishDeadLetters publishes messages that are no JSON, and returns when they are recorded.
func (w *world) publishDeadLetters(t *testing.T, broker string) {
	t.Helper()
	const n = 2
	connection, err := amqp.Dial(broker)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close()) }()
	channel, err := connection.Channel()
	require.NoError(t, err)
	for range n {
		require.NoError(t, channel.PublishWithContext(t.Context(), contract.MessagesExchange, w.victim.String(), true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(`{"not json`)}))
	}
	require.Eventually(t, func() bool {
		return len(w.rows(t, `SELECT id::text FROM dead_letters WHERE tenant_id = $1`, w.victim)) == n
	}, await, 10*time.Millisecond)
}

// state is all that the attacks could have changed: the registry, and what the victim has.
func (w *world) state(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, query := range []string{
		`SELECT concat_ws(' ', 'tenant', id, name, state, workers, max_attempts, generation) FROM tenants ORDER BY id`,
		`SELECT concat_ws(' ', 'message', tenant_id, id, payload, created_at) FROM messages WHERE tenant_id <> '` + w.attacker.String() + `' ORDER BY epoch, xid, ord`,
		`SELECT concat_ws(' ', 'dead letter', tenant_id, id, version, attempts, payload) FROM dead_letters ORDER BY id`,
	} {
		all = append(all, w.rows(t, query)...)
	}
	return all
}

// rows are the rows of a query with one column.
func (w *world) rows(t *testing.T, query string, args ...any) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	rows, err := w.operator.Query(ctx, query, args...)
	require.NoError(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return values
}
