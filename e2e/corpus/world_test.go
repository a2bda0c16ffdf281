package corpus_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) {
	http.DefaultClient.Transport = openapi.Transport(http.DefaultTransport)
	code := openapi.Checked(m).Run()
	http.DefaultClient.CloseIdleConnections() // each has goroutines that are no leak
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

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
	admin    string
	operator *pgxpool.Pool
	broker   string // its URL
	link     *conn.Link
	amqp     *publish.Publisher
}

// newWorld is a platform of the test's own; ingest are further settings of ingest-service.
func newWorld(t *testing.T, ingest map[string]string) *world {
	t.Helper()
	opts := stack.Shared(t)
	opts.ServiceEnv = map[string]map[string]string{stack.IngestService: ingest}
	w := &world{Stack: stack.Start(t, opts), broker: opts.RabbitMQURL}
	var err error
	w.admin, err = w.AdminToken()
	require.NoError(t, err)
	w.operator, err = pgxpool.New(t.Context(), opts.DatabaseURL)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	w.link = conn.NewLink(conn.Config{URL: opts.RabbitMQURL}, "corpus", zap.NewNop(), nil)
	w.amqp = publish.New(w.link, 1, zap.NewNop())
	for _, component := range []func(context.Context) error{w.link.Run, w.amqp.Run} {
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- component(ctx) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	return w
}

// createTenant creates a tenant, waits until its consumer runs, and returns a token that may do everything with it.
func (w *world) createTenant(t *testing.T) (tenant uuid.UUID, token string) {
	t.Helper()
	return w.createTenantWith(t, `"workers":2`)
}

// createTenantWith does so with further fields of the request.
func (w *world) createTenantWith(t *testing.T, fields string) (tenant uuid.UUID, token string) {
	t.Helper()
	tenant = uuid.New()
	body := fmt.Appendf(nil, `{"id":%q,"name":"corpus",%s}`, tenant, fields)
	w.must(t, http.StatusCreated, w.call(t, http.MethodPost, w.Tenant.URL+"/tenants", w.admin, "application/json", body))
	w.awaitState(t, tenant, "running")
	token, err := w.TenantToken(tenant)
	require.NoError(t, err)
	return tenant, token
}

func (w *world) awaitState(t *testing.T, tenant uuid.UUID, state string) {
	t.Helper()
	require.Eventually(t, func() bool {
		var view struct {
			Status struct {
				State string `json:"state"`
			} `json:"status"`
		}
		a := w.call(t, http.MethodGet, w.Tenant.URL+"/tenants/"+tenant.String(), w.admin, "", nil)
		return a.status == http.StatusOK && json.Unmarshal(a.body, &view) == nil && view.Status.State == state
	}, waitLimit, poll)
}

// answer is an HTTP response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (w *world) call(t *testing.T, method, url, token, contentType string, body []byte) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	read, err := io.ReadAll(response.Body)
	require.NoError(t, errors.Join(err, response.Body.Close()))
	return answer{status: response.StatusCode, header: response.Header, body: read}
}

// must demands a status.
func (w *world) must(t *testing.T, status int, a answer) answer {
	t.Helper()
	require.Equal(t, status, a.status, "%.500s", a.body)
	return a
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, v), "%.500s", a.body)
}

// code is the code of a problem document.
func (a answer) code(t *testing.T) string {
	t.Helper()
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"), "%.500s", a.body)
	var p struct {
		Code string `json:"code"`
	}
	a.into(t, &p)
	return p.Code
}

// envelope is the body of POST /messages, and a line of a batch.
func envelope(id uuid.UUID, payload string) []byte {
	return fmt.Appendf(nil, `{"id":%q,"payload":%s}`, id, payload)
}

func (w *world) publish(t *testing.T, token string, body []byte) answer {
	t.Helper()
	return w.call(t, http.MethodPost, w.Ingest.URL+"/messages", token, "application/json", body)
}

type lineResult struct {
	Line   int       `json:"line"`
	Status int       `json:"status"`
	ID     uuid.UUID `json:"id"`
	Code   string    `json:"code"`
}

// publishBatch publishes lines and returns their results.
func (w *world) publishBatch(t *testing.T, token string, lines [][]byte) []lineResult {
	t.Helper()
	var result struct {
		Results []lineResult `json:"results"`
	}
	a := w.call(t, http.MethodPost, w.Ingest.URL+"/messages/batch", token, "application/x-ndjson", bytes.Join(lines, []byte("\n")))
	w.must(t, http.StatusAccepted, a).into(t, &result)
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
	for cursor, more := "", true; more; {
		url := w.Query.URL + "/messages?limit=1000"
		if cursor != "" {
			url += "&cursor=" + cursor
		}
		var page struct {
			Data []struct {
				ID      uuid.UUID       `json:"id"`
				Payload json.RawMessage `json:"payload"`
			} `json:"data"`
			NextCursor string `json:"next_cursor"`
			HasMore    bool   `json:"has_more"`
		}
		w.must(t, http.StatusOK, w.call(t, http.MethodGet, url, token, "", nil)).into(t, &page)
		for _, m := range page.Data {
			_, twice := all[m.ID]
			require.False(t, twice, "message %s is there twice", m.ID)
			all[m.ID] = string(m.Payload)
		}
		cursor, more = page.NextCursor, page.HasMore
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

// deadLetter is a dead letter.
type deadLetter struct {
	ID             uuid.UUID       `json:"id"`
	MessageID      *uuid.UUID      `json:"message_id"`
	Reason         contract.Reason `json:"reason"`
	Error          string          `json:"error"`
	Attempts       int             `json:"attempts"`
	Payload        json.RawMessage `json:"payload"`
	PayloadBase64  []byte          `json:"payload_base64"`
	PayloadSize    int             `json:"payload_size"`
	PayloadOmitted bool            `json:"payload_omitted"`
	ContentType    string          `json:"content_type"`
	Headers        map[string]any  `json:"headers"`
	Properties     json.RawMessage `json:"properties"`
	FirstFailedAt  time.Time       `json:"first_failed_at"`
	LastFailedAt   time.Time       `json:"last_failed_at"`
}

// deadLetters lists the dead letters of a tenant that pass a filter, such as "reason=not_json".
func (w *world) deadLetters(t *testing.T, token, filter string) []deadLetter {
	t.Helper()
	var all []deadLetter
	for cursor, more := "", true; more; {
		var page struct {
			Data       []deadLetter `json:"data"`
			NextCursor string       `json:"next_cursor"`
			HasMore    bool         `json:"has_more"`
		}
		w.must(t, http.StatusOK, w.call(t, http.MethodGet, w.Ingest.URL+"/dead-letters?limit=1000&"+filter+cursor, token, "", nil)).into(t, &page)
		all, cursor, more = append(all, page.Data...), "&cursor="+page.NextCursor, page.HasMore
	}
	return all
}

// awaitDeadLetters waits until a tenant has n dead letters.
func (w *world) awaitDeadLetters(t *testing.T, token string, n int) []deadLetter {
	t.Helper()
	var all []deadLetter
	require.Eventually(t, func() bool {
		all = w.deadLetters(t, token, "")
		return len(all) >= n
	}, waitLimit, 2*poll)
	require.Len(t, all, n)
	return all
}
