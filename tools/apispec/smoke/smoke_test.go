//go:build smoke

package smoke

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// media is an answer or a request as the document shows it.
type media struct {
	Example any `yaml:"example"`
}

type operation struct {
	OperationID string `yaml:"operationId"`
	Responses   map[string]struct {
		Ref     string           `yaml:"$ref"`
		Content map[string]media `yaml:"content"`
	} `yaml:"responses"`
}

// examples are those of the answers of an operation, by status.
func examples(t *testing.T, id string) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../../../api/openapi.yaml")
	require.NoError(t, err)
	var document struct {
		Paths map[string]map[string]operation `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &document))
	found := map[string]any{}
	for _, methods := range document.Paths {
		for _, o := range methods {
			for status, response := range o.Responses {
				for _, m := range response.Content {
					if o.OperationID == id && m.Example != nil {
						found[status] = m.Example
					}
				}
			}
		}
	}
	require.NotEmpty(t, found, id)
	return found
}

// request is what a service has been sent.
type request struct {
	method, path, token, contentType string
	body                             []byte
}

// answering is a client of a service that answers everything with an example.
func answering(t *testing.T, status int, mediaType string, example any) (*ClientWithResponses, *request) {
	t.Helper()
	var sent request
	body, err := json.Marshal(example)
	require.NoError(t, err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = request{method: r.Method, path: r.URL.RequestURI(), token: r.Header.Get("Authorization"), contentType: r.Header.Get("Content-Type")}
		sent.body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Location", "/tenants/1")
		w.Header().Set("X-Request-ID", "request-1")
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	client, err := NewClientWithResponses(server.URL, WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer token")
		return nil
	}))
	require.NoError(t, err)
	return client, &sent
}

func TestCreateTenant(t *testing.T) {
	client, sent := answering(t, 201, "application/json", examples(t, "createTenant")["201"])
	workers, prefer := 3, "wait=10"
	created, err := client.CreateTenantWithResponse(t.Context(), &CreateTenantParams{Prefer: &prefer}, CreateTenant{Name: "ACME, production", Workers: &workers})
	require.NoError(t, err)
	require.Equal(t, "Bearer token", sent.token)
	require.Equal(t, "POST /tenants", sent.method+" "+sent.path)
	require.JSONEq(t, `{"name":"ACME, production","workers":3}`, string(sent.body))
	require.Equal(t, TenantStateActive, created.JSON201.State)
	require.Equal(t, 120, *created.JSON201.Status.Queue.Ready)
	require.Equal(t, "/tenants/1", created.Headers201.Location)
}

func TestPublish(t *testing.T) {
	client, sent := answering(t, 202, "application/json", examples(t, "publishMessage")["202"])
	accepted, err := client.PublishMessageWithResponse(t.Context(), nil, NewMessage{Payload: nil})
	require.NoError(t, err)
	require.JSONEq(t, `{"payload":null}`, string(sent.body), "null is a payload")
	require.NotEqual(t, uuid.Nil, accepted.JSON202.Id)
}

func TestReadPages(t *testing.T) {
	client, sent := answering(t, 200, "application/json", examples(t, "listMessages")["200"])
	limit := 2
	page, err := client.ListMessagesWithResponse(t.Context(), &ListMessagesParams{Limit: &limit})
	require.NoError(t, err)
	require.Equal(t, "GET /messages?limit=2", sent.method+" "+sent.path)
	require.Equal(t, map[string]any{"type": "order.created", "total": 19.99}, page.JSON200.Data[0].Payload)
	require.False(t, page.JSON200.HasMore)
	require.NotEmpty(t, page.JSON200.NextCursor)
}

func TestDeadLetters(t *testing.T) {
	client, _ := answering(t, 200, "application/json", examples(t, "listDeadLetters")["200"])
	page, err := client.ListDeadLettersWithResponse(t.Context(), nil)
	require.NoError(t, err)
	letter := page.JSON200.Data[0]
	require.Equal(t, DeadLetterReasonNotJson, letter.Reason)
	require.Nil(t, letter.Payload)
	require.Equal(t, []byte(`{"not json`), *letter.PayloadBase64)
}

func TestProblems(t *testing.T) {
	client, _ := answering(t, 404, "application/problem+json", examples(t, "getMessage")["404"])
	missing, err := client.GetMessageWithResponse(t.Context(), uuid.New(), nil)
	require.NoError(t, err)
	require.Equal(t, "not_stored", missing.ApplicationproblemJSON404.Code)
	require.NotEmpty(t, missing.ApplicationproblemJSON404.RequestId)
	require.Equal(t, "request-1", missing.Headers404.XRequestID)
}
