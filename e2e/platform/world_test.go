package platform_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// shared is the platform of all tests that leave it as it was.
var shared stack.Package //nolint:gochecknoglobals // it belongs to the package, and takes seconds to start

func TestMain(m *testing.M) { goleak.VerifyTestMain(stack.Ended(openapi.Checked(m), &shared)) }

// stackEnv names the file with the addresses of a stack that runs already.
const stackEnv = "MTM_E2E_STACK"

// addresses are where a platform is reached, by the names that stack.env has for them.
type addresses struct {
	TenantURL, IngestURL, QueryURL          string
	TenantOpsURL, IngestOpsURL, QueryOpsURL string
	DatabaseURL, RabbitMQURL                string
	issuer, audience, secret                string
}

// world is a platform under test.
type world struct {
	addresses
	admin     string
	transport http.RoundTripper // checks what is answered
	api       *client.Client    // of the administrator

	own      *stack.Stack      // nil for a stack that runs already
	backing  *backing.Services // nil unless its servers may be killed
	operator *pgxpool.Pool
	link     *conn.Link
	amqp     *publish.Publisher
}

// newWorld is the platform that the tests share, or the one that stackEnv names.
func newWorld(t *testing.T) *world {
	t.Helper()
	if file := os.Getenv(stackEnv); file != "" {
		return (&world{addresses: running(t, file)}).connect(t)
	}
	return worldOn(t, shared.Stack(t))
}

// newStoppingWorld is newWorld for a test that ends services in order, and starts them again.
func newStoppingWorld(t *testing.T) *world {
	t.Helper()
	requireOwn(t)
	return newWorld(t)
}

// newPrivateWorld is a platform whose services the test may kill.
func newPrivateWorld(t *testing.T) *world {
	t.Helper()
	requireOwn(t)
	return ownWorld(t, stack.Shared(t))
}

// newDedicatedWorld is a platform whose backing services the test may kill, too.
func newDedicatedWorld(t *testing.T) *world {
	t.Helper()
	requireOwn(t)
	services := backing.Dedicated(t)
	w := ownWorld(t, stack.On(services))
	w.backing = services
	return w
}

func requireOwn(t *testing.T) {
	t.Helper()
	if os.Getenv(stackEnv) != "" {
		t.Skip("this test kills services; the stack that " + stackEnv + " names is not its own")
	}
}

func ownWorld(t *testing.T, opts stack.Options) *world {
	t.Helper()
	return worldOn(t, stack.Start(t, opts))
}

func worldOn(t *testing.T, s *stack.Stack) *world {
	t.Helper()
	w := &world{own: s, addresses: addresses{
		TenantURL: s.Tenant.URL, IngestURL: s.Ingest.URL, QueryURL: s.Query.URL,
		TenantOpsURL: s.Tenant.OpsURL, IngestOpsURL: s.Ingest.OpsURL, QueryOpsURL: s.Query.OpsURL,
		DatabaseURL: s.Options.DatabaseURL, RabbitMQURL: s.Options.RabbitMQURL,
		issuer: stack.Issuer, audience: stack.Audience, secret: s.Secret,
	}}
	return w.connect(t)
}

// running reads the addresses of a stack that runs already.
func running(t *testing.T, file string) addresses {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	env := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		env[name] = strings.Trim(value, `"'`)
	}
	defaults := auth.DefaultConfig()
	return addresses{
		TenantURL: env["TENANT_URL"], IngestURL: env["INGEST_URL"], QueryURL: env["QUERY_URL"],
		TenantOpsURL: env["TENANT_OPS_URL"], IngestOpsURL: env["INGEST_OPS_URL"], QueryOpsURL: env["QUERY_OPS_URL"],
		DatabaseURL: env["DATABASE_URL"], RabbitMQURL: env["RABBITMQ_URL"],
		issuer: defaults.Issuer, audience: defaults.Audience, secret: os.Getenv("AUTH_SECRET"),
	}
}

// connect makes the tokens and the connections that a test needs beside HTTP.
func (w *world) connect(t *testing.T) *world {
	t.Helper()
	w.admin = w.token(t, uuid.Nil, string(auth.ScopeTenantsAdmin))
	w.transport = openapi.Transport(http.DefaultTransport)
	w.api = w.newAPI(t)
	w.operator = pgtest.Operator(t, w.DatabaseURL)
	w.link = conn.NewLink(conn.Config{URL: w.RabbitMQURL}, "e2e", zap.NewNop(), nil)
	w.amqp = publish.New(w.link, 1, zap.NewNop())
	component.Run(t, w.link.Run)
	component.Run(t, w.amqp.Run)
	return w
}

// token makes a token with the given scopes, bound to tenant unless that is the nil UUID.
func (w *world) token(t *testing.T, tenant uuid.UUID, scopes string) string {
	t.Helper()
	claims := auth.Claims{Issuer: w.issuer, Audience: w.audience, Subject: "e2e", TenantID: tenant, ExpiresAt: time.Now().Add(time.Hour)}
	for scope := range strings.FieldsSeq(scopes) {
		claims.Scopes = append(claims.Scopes, auth.Scope(scope))
	}
	token, err := auth.Sign(w.secret, claims)
	require.NoError(t, err)
	return token
}

// publishMany publishes n messages over HTTP as one batch, and returns their ids.
func (w *world) publishMany(t *testing.T, token string, n int) map[uuid.UUID]bool {
	t.Helper()
	ids := make(map[uuid.UUID]bool, n)
	messages := make([]client.Publishing, n)
	for i := range messages {
		id := client.NewID()
		ids[uuid.UUID(id)] = true
		messages[i] = client.Publishing{ID: id, Payload: map[string]int{"n": i}}
	}
	_, err := w.as(token).PublishBatch(t.Context(), messages)
	require.NoError(t, err)
	return ids
}

// publishAMQP publishes n messages to the broker directly.
func (w *world) publishAMQP(t *testing.T, tenant uuid.UUID, n int) map[uuid.UUID]bool {
	t.Helper()
	ids := make(map[uuid.UUID]bool, n)
	messages := make([]publish.Message, 0, n)
	for i := range n {
		id := uuid.New()
		ids[id] = true
		messages = append(messages, amqpMessage(tenant, id.String(), fmt.Appendf(nil, `{"n":%d}`, i)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, errors.Join(w.amqp.PublishBatch(ctx, messages)...))
	return ids
}

// publishRaw publishes one body as it is.
func (w *world) publishRaw(t *testing.T, tenant uuid.UUID, id string, body []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, w.amqp.Publish(ctx, amqpMessage(tenant, id, body)))
}

func amqpMessage(tenant uuid.UUID, id string, body []byte) publish.Message {
	return publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
		MessageId: id, DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: body,
	}}
}

// load publishes over HTTP from several clients until stop is called; ids are those of which the acceptance was told.
func (w *world) load(t *testing.T, token string) (ids func() map[uuid.UUID]bool, stop func()) {
	t.Helper()
	const clients = 6
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	accepted := make(map[uuid.UUID]bool)
	var publishing sync.WaitGroup
	for range clients {
		publishing.Go(func() {
			for ctx.Err() == nil {
				id := uuid.New()
				// Once begun, a message is published to its end, so that it is known whether it was accepted.
				whole, end := context.WithTimeout(context.WithoutCancel(ctx), waitLimit)
				err := w.publishOne(whole, token, id, `{"load":true}`)
				end()
				if err != nil {
					t.Errorf("load: %v", err)
					return
				}
				mu.Lock()
				accepted[id] = true
				mu.Unlock()
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		publishing.Wait()
	})
	t.Cleanup(stop)
	return func() map[uuid.UUID]bool {
		mu.Lock()
		defer mu.Unlock()
		return accepted
	}, stop
}

func (w *world) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, w.operator.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// stored counts a tenant's messages; -1 while the database is away.
func (w *world) stored(t *testing.T, tenant uuid.UUID) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	n := -1
	if err := w.operator.QueryRow(ctx, `SELECT count(*) FROM messages WHERE tenant_id = $1`, tenant).Scan(&n); err != nil {
		return -1
	}
	return n
}

func (w *world) queueExists(t *testing.T, tenant uuid.UUID) bool {
	t.Helper()
	err := amqptest.Try(t, w.link, func(ch *amqp.Channel) error {
		_, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
		return err
	})
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.NotFound {
		return false
	}
	require.NoError(t, err)
	return true
}

func (w *world) metrics(t *testing.T, ops string) string {
	t.Helper()
	return string(w.raw(t, http.StatusOK, raw.Request{URL: ops + "/metrics"}).Body)
}

// terminate stops ingest-service as a deploy does, demands that it ends with 0, and starts it again.
func (w *world) terminate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	status, err := w.own.Ingest.Term(ctx)
	require.NoError(t, err)
	require.Zero(t, status)
	require.NoError(t, w.own.Ingest.Start(ctx))
}

// kill ends ingest-service by SIGKILL and starts it again.
func (w *world) kill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, w.own.Ingest.Kill(ctx))
	require.NoError(t, w.own.Ingest.Start(ctx))
}

// restartBacking kills a backing service, waits until the platform has noticed, and starts it again.
func (w *world) restartBacking(t *testing.T, name backing.Name) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	server := w.backing.Process(name)
	require.NoError(t, server.Kill(ctx))
	require.Eventually(t, func() bool {
		return !w.ready(t.Context(), w.own.Ingest.OpsURL)
	}, waitLimit, poll, "ingest-service is ready without %s", name)
	require.True(t, w.own.Ingest.Running(), "it stays up")
	require.NoError(t, server.Start(ctx))
}

func (w *world) awaitReady(t *testing.T) {
	t.Helper()
	for _, service := range []*stack.Service{w.own.Tenant, w.own.Ingest, w.own.Query} {
		require.Eventually(t, func() bool { return w.ready(t.Context(), service.OpsURL) }, waitLimit, poll, "%s is not ready again", service.Name)
	}
}
