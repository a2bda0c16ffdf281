package openapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

	"github.com/srireskianita/multi-tenant-messaging/libs/backing/stack"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

func TestMain(m *testing.M) {
	code := m.Run()
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
	poll  = 50 * time.Millisecond
	// apispec is the module of the generators.
	apispec = "../../tools/apispec"
)

// Who generates a client has to get one that works: every operation, the dead letters whose payload is a list or no JSON, and
// errors with their status, code and request id.
func TestGeneratedClients(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two generators and what they generate; not with -short")
	}
	opts := stack.Shared(t)
	s := stack.Start(t, opts)
	documents := map[string][]byte{}
	for name, service := range map[string]string{"tenants": s.Tenant.URL, "ingest": s.Ingest.URL, "query": s.Query.URL} {
		documents[name] = get(t, service+"/swagger/doc.json", "")
	}
	module := newModule(t, documents)
	admin, err := s.AdminToken()
	require.NoError(t, err)
	for _, client := range []string{"oapi", "goswagger"} {
		t.Run(client, func(t *testing.T) {
			tenant, letters := uuid.New(), uuid.New()
			token, err := s.TenantToken(tenant)
			require.NoError(t, err)
			lettersToken, err := s.TenantToken(letters)
			require.NoError(t, err)
			createTenant(t, s.Tenant.URL, admin, letters)
			publishLetters(t, opts.RabbitMQURL, letters)
			env := []string{
				"TENANT_URL=" + s.Tenant.URL, "INGEST_URL=" + s.Ingest.URL, "QUERY_URL=" + s.Query.URL, "ADMIN_TOKEN=" + admin,
				"TENANT_ID=" + tenant.String(), "TENANT_TOKEN=" + token, "LETTERS_ID=" + letters.String(), "LETTERS_TOKEN=" + lettersToken,
			}
			run(t, module, nil, env, "test", "-count=1", "./"+client)
		})
	}
}

// newModule writes a module with clients of all three services, generated twice.
func newModule(t *testing.T, documents map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/clients")))
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(apispec, file))
		require.NoError(t, err)
		text = bytes.Replace(text, []byte("module github.com/srireskianita/multi-tenant-messaging/tools/apispec"), []byte("module clients"), 1)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), text, 0o600))
	}
	for name, document := range documents {
		old, converted := filepath.Join(dir, name+"-2.json"), filepath.Join(dir, "answers", name+".json")
		require.NoError(t, os.WriteFile(old, document, 0o600))
		run(t, dir, nil, nil, "tool", "swagger", "validate", "--skip-warnings", old)
		require.NoError(t, os.WriteFile(converted, run(t, apispec, document, nil, "run", "./convert"), 0o600))
		for _, sub := range []string{"oapi/" + name, "goswagger/" + name} {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
		}
		run(t, dir, nil, nil, "tool", "oapi-codegen", "-generate", "types,client", "-package", name, "-o", "oapi/"+name+"/client.gen.go", converted)
		run(t, dir, nil, nil, "tool", "swagger", "generate", "client", "--quiet", "--spec", old, "--target", "goswagger/"+name, "--name", name)
	}
	return dir
}

// run runs a command of go and returns its standard output. Its failure fails the test, with all that it has written.
func run(t *testing.T, dir string, stdin []byte, env []string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(stdin)
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	err := cmd.Run()
	require.NoError(t, err, "go %s\n%s\n%s", strings.Join(args, " "), out.String(), failure.String())
	return out.Bytes()
}

func get(t *testing.T, url, token string) []byte {
	t.Helper()
	status, body := call(t, http.MethodGet, url, token, "")
	require.Equal(t, http.StatusOK, status, "%s", body)
	return body
}

func call(t *testing.T, method, url, token, body string) (status int, answer []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	answer, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode, answer
}

func createTenant(t *testing.T, service, admin string, id uuid.UUID) {
	t.Helper()
	status, body := call(t, http.MethodPost, service+"/tenants", admin, fmt.Sprintf(`{"id":%q,"name":"dead letters"}`, id))
	require.Equal(t, http.StatusCreated, status, "%s", body)
	require.Eventually(t, func() bool {
		var view struct {
			Status struct {
				State string `json:"state"`
			} `json:"status"`
		}
		return json.Unmarshal(get(t, service+"/tenants/"+id.String(), admin), &view) == nil && view.Status.State == "running"
	}, await, poll)
}

// publishLetters publishes two messages that become dead letters: one whose payload is a list, but whose key is not that of the
// tenant, and one that is no JSON. The client waits for them.
func publishLetters(t *testing.T, broker string, tenant uuid.UUID) {
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
