package authorization_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// The passwords of the users of deployments/nats/users.conf.
const (
	tenantPassword, ingestPassword, queryPassword = "tenant-password", "ingest-password", "query-password"
	// strangePassword is of one more user, who may do nothing with the platform's buckets.
	strangePassword = "strange-password"
)

// channel is a NATS server with the users that deployments/nats/users.conf defines, and TLS.
type channel struct {
	*backing.NATSServer
	authority *certificate.Authority
}

func newChannel(t *testing.T) *channel {
	t.Helper()
	text, err := os.ReadFile("../../deployments/nats/users.conf")
	require.NoError(t, err)
	// A server takes these from its environment; this one runs in a process that has been started before.
	users := strings.NewReplacer("$NATS_TENANT_SERVICE_PASSWORD", tenantPassword, "$NATS_INGEST_SERVICE_PASSWORD", ingestPassword,
		"$NATS_QUERY_SERVICE_PASSWORD", queryPassword,
		"users = [", `users = [{user: strange, password: `+strangePassword+`, permissions {publish: {deny: ["$JS.>", "$KV.>"]}, subscribe: {deny: ["$KV.>"], allow: ["_INBOX.>"]}}}`).
		Replace(string(text))
	authority := certificate.NewAuthority(t)
	cert, key := certificate.Files(t, authority.Issue(t, "127.0.0.1"))
	return &channel{backing.StartNATSWith(t, users+fmt.Sprintf("\ntls { cert_file: %q, key_file: %q }\n", cert, key)), authority}
}

// url logs in.
func (c *channel) url(user, password string) string {
	_, host, _ := strings.Cut(c.URL, "://")
	return "tls://" + user + ":" + password + "@" + host
}

// connect is a client's connection.
func (c *channel) connect(t *testing.T, user, password string) jetstream.JetStream {
	t.Helper()
	connection, err := nats.Connect(c.url(user, password), nats.RootCAs(c.authority.File))
	require.NoError(t, err)
	t.Cleanup(connection.Close)
	js, err := jetstream.New(connection)
	require.NoError(t, err)
	return js
}

// Whoever may write the bucket of desired states can have every queue and partition removed; who may read the buckets knows all
// tenants. The services work with what they need, and nobody else gets to their buckets.
func TestControlChannelUsers(t *testing.T) {
	c := newChannel(t)
	opts := stack.Shared(t)
	opts.Env = map[string]string{"NATS_TLS_CA_FILE": c.authority.File, "NATS_RESYNC": "2s"}
	opts.ServiceEnv = map[string]map[string]string{
		stack.TenantService: {"NATS_URL": c.url("tenant-service", tenantPassword)},
		stack.IngestService: {"NATS_URL": c.url("ingest-service", ingestPassword)},
		stack.QueryService:  {"NATS_URL": c.url("query-service", queryPassword)},
	}
	s := stack.Start(t, opts)
	admin, err := s.AdminToken()
	require.NoError(t, err)
	api, err := client.New(client.URLs{Tenant: s.Tenant.URL, Ingest: s.Ingest.URL, Query: s.Query.URL}, client.StaticToken(admin))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	live := func() { // every change of a tenant goes through the channel and comes back as a report
		id := client.NewID()
		_, err := api.CreateTenant(ctx, client.NewTenant{ID: id, Name: "a tenant"}, client.Wait())
		require.NoError(t, err)
		_, err = api.SuspendTenant(ctx, id, client.Wait())
		require.NoError(t, err)
		err = api.DeleteTenant(ctx, id, client.Wait())
		require.NoError(t, err)
	}
	live()
	c.lend(t)
	c.attack(t)
	c.Stop()
	c.Wipe()
	c.Start()
	live() // the buckets were made again
}

// lend checks that instances of a service share limits per second, and with nobody else: an instance that is not answered takes a part of
// a limit, and one that is answered by a stranger takes whatever that says.
func (c *channel) lend(t *testing.T) {
	t.Helper()
	passwords := map[string]string{"tenant-service": tenantPassword, "ingest-service": ingestPassword, "query-service": queryPassword}
	connect := func(user string) *nats.Conn {
		connection, err := nats.Connect(c.url(user, passwords[user]), nats.RootCAs(c.authority.File), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		require.NoError(t, err)
		t.Cleanup(connection.Close)
		return connection
	}
	for subject, owner := range map[string]string{
		contract.RateSubject("x"): "ingest-service", contract.ReplayRateSubject("x"): "ingest-service", contract.ReadRateSubject("x"): "query-service",
	} {
		lender := connect(owner)
		_, err := lender.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("lent")) })
		require.NoError(t, err)
		require.NoError(t, lender.Flush())
		for user := range passwords {
			ask := func(ctx context.Context) error {
				_, err := connect(user).RequestWithContext(ctx, subject, []byte("ask"))
				return err
			}
			if user == owner {
				require.NoError(t, ask(t.Context()), "%s on %s", user, subject)
			} else {
				refused(t, ask)
			}
		}
	}
	received := make(chan *nats.Msg, 1)
	_, err := connect("query-service").ChanSubscribe(contract.ReadersSubject, received)
	require.NoError(t, err)
	select {
	case <-received: // the one that runs says every second that it is there
	case <-time.After(await):
		t.Fatal("query-service does not announce itself")
	}
}

// attack tries the buckets as those who must not.
func (c *channel) attack(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	_, err := nats.Connect(c.url("tenant-service", "wrong"), nats.RootCAs(c.authority.File))
	require.ErrorIs(t, err, nats.ErrAuthorization)
	_, err = nats.Connect(strings.Replace(c.URL, "nats://", "tls://", 1), nats.RootCAs(c.authority.File))
	require.ErrorIs(t, err, nats.ErrAuthorization, "without a user")

	owner, err := c.connect(t, "tenant-service", tenantPassword).KeyValue(ctx, contract.TenantsBucket)
	require.NoError(t, err)
	key := uuid.NewString()
	before, err := owner.Put(ctx, key, []byte(`{}`))
	require.NoError(t, err)

	ingest := c.connect(t, "ingest-service", ingestPassword)
	seen, err := ingest.KeyValue(ctx, contract.TenantsBucket)
	require.NoError(t, err)
	_, err = seen.Get(ctx, key)
	require.NoError(t, err, "ingest-service reads desired states")
	refused(t, func(ctx context.Context) error {
		_, err := seen.Put(ctx, key, []byte(`{"state":"deleting"}`))
		return err
	})
	refused(t, func(ctx context.Context) error { return seen.Purge(ctx, key) })
	refused(t, func(ctx context.Context) error { return ingest.DeleteKeyValue(ctx, contract.TenantsBucket) })

	query := c.connect(t, "query-service", queryPassword)
	seen, err = query.KeyValue(ctx, contract.TenantsBucket)
	require.NoError(t, err)
	_, err = seen.Get(ctx, key)
	require.NoError(t, err, "query-service reads desired states")
	refused(t, func(ctx context.Context) error { _, err := query.KeyValue(ctx, contract.StatusBucket); return err })
	for _, subject := range []string{"$KV." + contract.TenantsBucket + "." + key, "$KV." + contract.StatusBucket + ".x"} {
		refused(t, func(ctx context.Context) error { _, err := query.Publish(ctx, subject, []byte(`{}`)); return err })
	}
	refused(t, func(ctx context.Context) error { return query.DeleteKeyValue(ctx, contract.TenantsBucket) })
	refused(t, func(ctx context.Context) error {
		_, err := query.UpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: contract.TenantsBucket, MaxBytes: 1})
		return err
	})

	strange := c.connect(t, "strange", strangePassword)
	for _, bucket := range []string{contract.TenantsBucket, contract.StatusBucket} {
		refused(t, func(ctx context.Context) error { _, err := strange.KeyValue(ctx, bucket); return err })
		refused(t, func(ctx context.Context) error {
			_, err := strange.Publish(ctx, "$KV."+bucket+"."+key, []byte(`{}`))
			return err
		})
		refused(t, func(ctx context.Context) error { return strange.DeleteKeyValue(ctx, bucket) })
		refused(t, func(ctx context.Context) error {
			_, err := strange.CreateStream(ctx, jetstream.StreamConfig{Name: "copy", Sources: []*jetstream.StreamSource{{Name: "KV_" + bucket}}})
			return err
		})
	}
	entry, err := owner.Get(ctx, key)
	require.NoError(t, err)
	require.Equal(t, before, entry.Revision(), "nothing was written")
	require.NoError(t, owner.Purge(ctx, key))
}

// refused demands that an operation fails: NATS tells the connection that it has no permission, and the operation nothing.
func refused(t *testing.T, operation func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, operation(ctx))
}
