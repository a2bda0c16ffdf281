// Package credentials_test tries to break out of an AMQP credential: it holds what a producer can and cannot do with one, over AMQP
// 0-9-1 and 1.0, on the broker at hand. Each test says what a tenant would lose if it failed.
package credentials_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// shared is the platform of the tests that need no broker of their own.
var shared = stack.Package{Settings: func(set *backing.Set, opts *stack.Options) { //nolint:gochecknoglobals // it belongs to the package, and takes seconds to start
	opts.ServiceEnv = managing(set.Broker)
}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(stack.Ended(openapi.Checked(m), &shared)) }

const (
	waitLimit = 90 * time.Second // on a busy machine
	poll      = 50 * time.Millisecond
	// The limits of a credential.
	maxConnections, maxChannels = 4, 12
)

// world is a platform whose broker is managed.
type world struct {
	*stack.Stack
	t        *testing.T
	api      *client.Client
	operator *amqp.Connection
	database *pgxpool.Pool
	version  []int // of the broker: major and minor
}

// managing are the settings of a platform that manages a broker.
func managing(broker backing.Broker) map[string]map[string]string {
	return map[string]map[string]string{stack.TenantService: {
		"RABBITMQ_MANAGEMENT_URL": broker.ManagementURL, "RABBITMQ_CREDENTIAL_CONNECTIONS": strconv.Itoa(maxConnections),
		"RABBITMQ_CREDENTIAL_CHANNELS": strconv.Itoa(maxChannels),
	}}
}

// newWorld is a platform of the test's own, on a broker of its own.
func newWorld(t *testing.T, broker backing.Broker) *world {
	t.Helper()
	return worldOn(t, stack.Start(t, stack.Options{
		DatabaseURL: backing.Postgres(t), RabbitMQURL: broker.URL, NATSURL: backing.NATS(t), ServiceEnv: managing(broker),
	}))
}

// worldOn is what tests need of a platform.
func worldOn(t *testing.T, s *stack.Stack) *world {
	t.Helper()
	w := &world{t: t, Stack: s}
	admin, err := w.AdminToken()
	require.NoError(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	w.api, err = client.New(client.URLs{Tenant: w.Tenant.URL, Ingest: w.Ingest.URL, Query: w.Query.URL}, client.StaticToken(admin),
		client.WithTransport(openapi.Transport(transport)))
	require.NoError(t, err)
	w.database = pgtest.Operator(t, s.Options.DatabaseURL)
	w.operator = w.dial(s.Options.RabbitMQURL)
	version, _ := w.operator.Properties["version"].(string)
	t.Logf("RabbitMQ %s", version)
	for _, part := range strings.SplitN(version, ".", 3)[:2] {
		number, err := strconv.Atoi(part)
		require.NoError(t, err)
		w.version = append(w.version, number)
	}
	return w
}

// before4 reports whether the broker is older than 4.minor.
func (w *world) before4(minor int) bool {
	return w.version[0] < 4 || w.version[0] == 4 && w.version[1] < minor
}

// dial connects until the end of the test.
func (w *world) dial(address string) *amqp.Connection {
	w.t.Helper()
	connection, err := amqp.Dial(address)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = connection.Close() }) // the test may have ended it
	return connection
}

func (w *world) ctx() context.Context {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	w.t.Cleanup(cancel)
	return ctx
}

// tenant creates a tenant, waits until it is consumed, and issues a credential.
func (w *world) tenant() (uuid.UUID, client.IssuedCredential) {
	w.t.Helper()
	made, err := w.api.CreateTenant(w.ctx(), client.NewTenant{Name: "acme"}, client.Wait())
	require.NoError(w.t, err)
	issued, err := w.api.IssueCredential(w.ctx(), made.ID, "producer")
	require.NoError(w.t, err)
	return uuid.UUID(made.ID), issued
}

// requireStored waits until a tenant has so many messages, and requires that none is a dead letter.
func (w *world) requireStored(tenant uuid.UUID, want int) {
	w.t.Helper()
	count := func(table string) (n int) {
		require.NoError(w.t, w.database.QueryRow(w.t.Context(), fmt.Sprintf(`SELECT count(*) FROM %s WHERE tenant_id = $1`, table), tenant).Scan(&n))
		return n
	}
	require.Eventually(w.t, func() bool { return count("messages") >= want }, waitLimit, poll, "%d messages are stored under %s", want, tenant)
	require.Equal(w.t, want, count("messages"))
	require.Zero(w.t, count("dead_letters"))
}
