package openapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) {
	code := openapi.Checked(m).Run()
	http.DefaultClient.CloseIdleConnections() // each has goroutines that are no leak
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const (
	// limit bounds every wait; building the generators takes the most, where that was not done before.
	limit = 10 * time.Minute
	// await bounds what the platform does.
	await = 90 * time.Second
	// apispec is the module of the generators.
	apispec = "../../tools/apispec"
)

// A generated client has to work: every operation, the dead letters whose payload is a list or no JSON, and
// errors with their status, code and request id.
func TestGeneratedClients(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it builds two generators and what they generate")
	}
	broker := backing.RabbitMQ(t)
	opts := stack.Options{
		DatabaseURL: backing.Postgres(t), RabbitMQURL: broker.URL, NATSURL: backing.NATS(t),
		ServiceEnv: map[string]map[string]string{stack.TenantService: {"RABBITMQ_MANAGEMENT_URL": broker.ManagementURL, "AUTH_SIGNING_KEY_FILE": signingKey(t)}},
	}
	s := stack.Start(t, opts)
	services := map[string]string{"tenants": s.Tenant.URL, "ingest": s.Ingest.URL, "query": s.Query.URL}
	module := newModule(t, services)
	admin, err := s.AdminToken()
	require.NoError(t, err)
	for _, generator := range []string{"oapi", "goswagger"} {
		t.Run(generator, func(t *testing.T) {
			tenant, deadLetters := uuid.New(), uuid.New()
			token, err := s.TenantToken(tenant)
			require.NoError(t, err)
			deadLettersToken, err := s.TenantToken(deadLetters)
			require.NoError(t, err)
			createTenant(t, s.Tenant.URL, admin, deadLetters)
			publishDeadLetters(t, opts.RabbitMQURL, deadLetters)
			proxy := newProxy(t)
			env := []string{
				"TENANT_URL=" + proxy.before(services["tenants"]), "INGEST_URL=" + proxy.before(services["ingest"]),
				"QUERY_URL=" + proxy.before(services["query"]), "ADMIN_TOKEN=" + admin,
				"TENANT_ID=" + tenant.String(), "TENANT_TOKEN=" + token, "LETTERS_ID=" + deadLetters.String(), "LETTERS_TOKEN=" + deadLettersToken,
			}
			run(t, module, env, "test", "-count=1", "./"+generator)
			proxy.requireAll()
		})
	}
}

// signingKey is the path of a new key that issued tokens are signed with.
func signingKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "signing.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return path
}

// newModule writes a module with the clients: that of oapi-codegen from api/openapi.yaml, those of go-swagger from the documents
// that the services serve.
func newModule(t *testing.T, services map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/clients")))
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(apispec, file))
		require.NoError(t, err)
		text = bytes.Replace(text, []byte("module github.com/srireskianita/multi-tenant-messaging/tools/apispec"), []byte("module clients"), 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), text, 0o600))
	}
	document, err := filepath.Abs("../../api/openapi.yaml")
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "oapi", "api"), 0o700))
	run(t, dir, nil, "tool", "oapi-codegen", "-generate", "types,client", "-package", "api", "-o", "oapi/api/client.gen.go", document)
	for name, service := range services {
		document := filepath.Join(dir, name+".json")
		require.NoError(t, os.WriteFile(document, raw.Must(t, http.DefaultTransport, http.StatusOK, raw.Request{URL: service + "/swagger/doc.json"}).Body, 0o600))
		target := filepath.Join("goswagger", name)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, target), 0o700))
		run(t, dir, nil, "tool", "swagger", "validate", "--skip-warnings", document)
		run(t, dir, nil, "tool", "swagger", "generate", "client", "--quiet", "--spec", document, "--target", target, "--name", name)
	}
	return dir
}

// run runs a command of go. Its failure fails the test, with all that it has written.
func run(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go %s\n%s", strings.Join(args, " "), out)
}

// createTenant creates a tenant and returns once it is consumed.
func createTenant(t *testing.T, service, admin string, id uuid.UUID) {
	t.Helper()
	api, err := client.New(client.URLs{Tenant: service}, client.StaticToken(admin), client.WithTransport(openapi.Transport(http.DefaultTransport)))
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), await)
	defer cancel()
	_, err = api.CreateTenant(ctx, client.NewTenant{ID: client.ID(id), Name: "dead letters"}, client.Wait())
	require.NoError(t, err)
}

// publishDeadLetters publishes two messages that become dead letters: one whose payload is a list, but whose key is not that of the
// tenant, and one that is no JSON. The client waits for them.
func publishDeadLetters(t *testing.T, broker string, tenant uuid.UUID) {
	t.Helper()
	connection, err := amqp.Dial(broker)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close()) }()
	channel, err := connection.Channel()
	require.NoError(t, err)
	require.NoError(t, channel.Confirm(false))
	for _, m := range []struct {
		key string
		amqp.Publishing
	}{
		{uuid.NewString(), amqp.Publishing{MessageId: uuid.NewString(), Headers: amqp.Table{"CC": []any{tenant.String()}}, Body: []byte(`[1,2]`)}},
		{tenant.String(), amqp.Publishing{Body: []byte(`{"not json`), Headers: amqp.Table{"origin": "a producer"}}},
	} {
		m.DeliveryMode = amqp.Persistent
		confirm, err := channel.PublishWithDeferredConfirmWithContext(t.Context(), contract.MessagesExchange, m.key, true, false, m.Publishing)
		require.NoError(t, err)
		acked, err := confirm.WaitContext(t.Context())
		require.NoError(t, err)
		require.True(t, acked)
	}
}
