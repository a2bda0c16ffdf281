package corpus_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// maintenance runs statements about the world's database from outside of it, and ends all connections to it.
func (w *world) maintenance(t *testing.T, statements ...string) {
	t.Helper()
	u, err := url.Parse(w.operator.Config().ConnString())
	require.NoError(t, err)
	u.Path = "/postgres"
	connection, err := pgx.Connect(t.Context(), u.String())
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	database := w.operator.Config().ConnConfig.Database
	for _, statement := range statements {
		_, err := connection.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{database}.Sanitize()+` `+statement)
		require.NoError(t, err)
	}
	_, err = connection.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, database)
	require.NoError(t, err)
}

// A database that takes no writes, or nobody in, for longer than deliveries are held: the messages go back to their queue,
// none costs an attempt, none becomes a dead letter, and when it is over all are stored without intervention.
func TestOutagesOfTheDatabaseCostNothing(t *testing.T) {
	for name, c := range map[string]struct{ down, up string }{
		"read-only":      {"SET default_transaction_read_only = on", "RESET default_transaction_read_only"},
		"no connections": {"ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, map[string]string{"INGEST_HOLD_TIMEOUT": "2s", "INGEST_MAX_ATTEMPTS": "1"})
			tenant, token := w.createTenant(t)
			w.publishAMQP(t, amqpMessage(tenant, uuid.New(), `"before"`))
			w.awaitAll(t, token, 1)

			w.maintenance(t, c.down)
			const n = 50
			messages := make([]publish.Message, n)
			for i := range messages {
				messages[i] = amqpMessage(tenant, uuid.New(), `"during"`)
			}
			w.publishAMQP(t, messages...)
			require.Eventually(t, func() bool { return w.depth(t, tenant) == 0 }, waitLimit, poll, "they are taken")
			require.Eventually(t, func() bool { return w.depth(t, tenant) == n }, waitLimit, poll, "they go back")
			require.Eventually(t, func() bool {
				return w.ready(t, w.Ingest) == http.StatusServiceUnavailable
			}, waitLimit, poll, "readiness says so")
			w.send(t, token, uuid.New(), `"accepted meanwhile"`)

			w.maintenance(t, c.up)
			api := w.as(token)
			for sign, well := range map[string]func() bool{
				"ingest-service": func() bool { return w.ready(t, w.Ingest) == http.StatusOK },
				"query-service":  func() bool { return w.ready(t, w.Query) == http.StatusOK },
				"reading": func() bool {
					_, err := api.Messages(client.MessageQuery{}).Next(t.Context())
					return err == nil
				},
				"listing dead letters": func() bool {
					_, err := api.DeadLetters(client.DeadLetterQuery{}).Next(t.Context())
					return err == nil
				},
			} {
				require.Eventually(t, well, waitLimit, poll, "%s works again", sign)
			}
			w.awaitAll(t, token, n+2)
			require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{}))
		})
	}
}

// ready is what the readiness check of a service answers.
func (w *world) ready(t *testing.T, service *stack.Service) (status int) {
	t.Helper()
	got, err := raw.Do(t.Context(), w.transport, raw.Request{URL: service.OpsURL + "/readyz"})
	require.NoError(t, err)
	return got.Status
}

// depth is how many messages wait in a tenant's queue, without those that a consumer holds.
func (w *world) depth(t *testing.T, tenant uuid.UUID) (n int) {
	t.Helper()
	amqptest.Do(t, w.link, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}
