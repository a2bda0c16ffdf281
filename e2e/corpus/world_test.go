package corpus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// shared is the platform of all tests that leave it as it was.
var shared stack.Package //nolint:gochecknoglobals // it belongs to the package, and takes seconds to start

func TestMain(m *testing.M) { goleak.VerifyTestMain(stack.Ended(openapi.Checked(m), &shared)) }

const (
	// waitLimit is the limit of every wait; nothing here takes nearly as long on a machine with two busy cores.
	waitLimit = 90 * time.Second
	poll      = 50 * time.Millisecond
)

// Ways in.
const (
	overHTTP  = "http"
	overBatch = "batch"
	overAMQP  = "amqp"
)

// world is a platform under test.
type world struct {
	*stack.Stack
	transport http.RoundTripper // checks what is answered
	api       *client.Client    // of the administrator; it repeats nothing
	operator  *pgxpool.Pool
	broker    string // its URL
	link      *conn.Link
	amqp      *publish.Publisher
}

// newWorld is a platform of the test's own; ingest are further settings of ingest-service.
func newWorld(t *testing.T, ingest map[string]string) *world {
	t.Helper()
	opts := stack.Shared(t)
	opts.ServiceEnv = map[string]map[string]string{stack.IngestService: ingest}
	return worldOn(t, stack.Start(t, opts))
}

// sharedWorld is the platform that tests share.
func sharedWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, shared.Stack(t))
}

func worldOn(t *testing.T, s *stack.Stack) *world {
	t.Helper()
	opts := s.Options
	w := &world{Stack: s, broker: opts.RabbitMQURL, transport: openapi.Transport(http.DefaultTransport)}
	admin, err := w.AdminToken()
	require.NoError(t, err)
	w.api, err = client.New(client.URLs{Tenant: w.Tenant.URL, Ingest: w.Ingest.URL, Query: w.Query.URL}, client.StaticToken(admin),
		client.WithTransport(w.transport), client.WithRetry(client.Retry{MaxAttempts: 1}))
	require.NoError(t, err)
	w.operator = pgtest.Operator(t, opts.DatabaseURL)
	w.link = conn.NewLink(conn.Config{URL: opts.RabbitMQURL}, "corpus", zap.NewNop(), nil)
	w.amqp = publish.New(w.link, 1, zap.NewNop())
	component.Run(t, w.link.Run)
	component.Run(t, w.amqp.Run)
	return w
}

// createTenant creates a tenant, waits until its consumer runs, and returns a token that may do everything with it.
func (w *world) createTenant(t *testing.T) (tenant uuid.UUID, token string) {
	t.Helper()
	return w.createTenantWith(t, client.NewTenant{Workers: 2})
}

// createTenantWith does so with further properties.
func (w *world) createTenantWith(t *testing.T, n client.NewTenant) (tenant uuid.UUID, token string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	n.Name = "corpus"
	created, err := w.api.CreateTenant(ctx, n, client.Wait())
	require.NoError(t, err)
	token, err = w.TenantToken(uuid.UUID(created.ID))
	require.NoError(t, err)
	return uuid.UUID(created.ID), token
}

// as is the client with a token.
func (w *world) as(token string) *client.Client {
	return w.api.With(client.WithToken(client.StaticToken(token)))
}

// send publishes a message, which is accepted.
func (w *world) send(t *testing.T, token string, id uuid.UUID, payload string) {
	t.Helper()
	_, err := w.as(token).Publish(t.Context(), client.Publishing{ID: client.ID(id), Payload: json.RawMessage(payload)})
	require.NoError(t, err)
}

// envelope is the body of POST /messages, and a line of a batch.
func envelope(id uuid.UUID, payload string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"payload":%s}`, id, payload)
}

// publish publishes a body as it is: the client refuses what is malformed, and leaves out white space.
func (w *world) publish(t *testing.T, status int, token string, body []byte) raw.Response {
	t.Helper()
	return raw.Must(t, w.transport, status, raw.Request{
		Method: http.MethodPost, URL: w.Ingest.URL + "/messages", Token: token, ContentType: "application/json", Body: body,
	})
}

type lineResult struct {
	Line   int       `json:"line"`
	Status int       `json:"status"`
	ID     uuid.UUID `json:"id"`
	Code   string    `json:"code"`
}

// publishBatch publishes lines as they are and returns their results.
func (w *world) publishBatch(t *testing.T, token string, lines [][]byte) []lineResult {
	t.Helper()
	var result struct {
		Results []lineResult `json:"results"`
	}
	raw.Must(t, w.transport, http.StatusAccepted, raw.Request{
		Method: http.MethodPost, URL: w.Ingest.URL + "/messages/batch", Token: token, ContentType: "application/x-ndjson",
		Body: bytes.Join(lines, []byte("\n")),
	}).Into(t, &result)
	require.Len(t, result.Results, len(lines))
	return result.Results
}

func amqpMessage(tenant, id uuid.UUID, body string) publish.Message {
	return publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
		MessageId: id.String(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: []byte(body),
	}}
}

// publishAMQP publishes to the broker directly.
func (w *world) publishAMQP(t *testing.T, messages ...publish.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, errors.Join(w.amqp.PublishBatch(ctx, messages)...))
}

// readAll pages through everything of a tenant, by id.
func (w *world) readAll(t *testing.T, token string) map[uuid.UUID]string {
	t.Helper()
	all := make(map[uuid.UUID]string)
	for m, err := range w.as(token).Messages(client.MessageQuery{Limit: 1000}).All(t.Context()) {
		require.NoError(t, err)
		_, twice := all[uuid.UUID(m.ID)]
		require.False(t, twice, "message %s is there twice", m.ID)
		all[uuid.UUID(m.ID)] = string(m.Payload)
	}
	return all
}

// awaitAll waits until a tenant has n messages that can be read.
func (w *world) awaitAll(t *testing.T, token string, n int) map[uuid.UUID]string {
	t.Helper()
	var all map[uuid.UUID]string
	require.Eventually(t, func() bool {
		all = w.readAll(t, token)
		return len(all) >= n
	}, waitLimit, 10*poll, "%d messages are missing", n-len(all))
	require.Len(t, all, n)
	return all
}

// deadLetters lists the dead letters of a tenant that pass a filter.
func (w *world) deadLetters(t *testing.T, token string, filter client.DeadLetterFilter) (all []client.DeadLetter) {
	t.Helper()
	for d, err := range w.as(token).DeadLetters(client.DeadLetterQuery{Filter: filter, Limit: 1000}).All(t.Context()) {
		require.NoError(t, err)
		all = append(all, d)
	}
	return all
}

// awaitDeadLetters waits until a tenant has n dead letters.
func (w *world) awaitDeadLetters(t *testing.T, token string, n int) []client.DeadLetter {
	t.Helper()
	var all []client.DeadLetter
	require.Eventually(t, func() bool {
		all = w.deadLetters(t, token, client.DeadLetterFilter{})
		return len(all) >= n
	}, waitLimit, 2*poll)
	require.Len(t, all, n)
	return all
}
