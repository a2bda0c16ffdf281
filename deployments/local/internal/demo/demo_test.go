package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A user's own file with a mistake has to be refused before anything is published, with the line that is wrong.
func TestLoad(t *testing.T) {
	write := func(body string) string {
		path := filepath.Join(t.TempDir(), "documents.ndjson")
		require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
		return path
	}
	c, err := load(write("{\"a\":1}\n\n  [2]  \n\"no newline at the end\""), 0)
	require.NoError(t, err)
	require.Equal(t, 3, c.total)
	require.JSONEq(t, `{"a":1}`, string(c.document(3)))
	require.Equal(t, "no newline at the end", c.value(5))

	_, err = load(write("{}\n{\"a\":}\n"), 0)
	require.ErrorContains(t, err, "line 2")
	_, err = load(write("{} {}\n"), 0)
	require.ErrorContains(t, err, "line 1")
	_, err = load(write("1\n2\n[1e500]\n"), 0)
	require.ErrorContains(t, err, "line 3")
	_, err = load(write("\n"), 0)
	require.ErrorContains(t, err, "no documents")
}

// The committed documents are the first thing that a newcomer sees go through.
func TestCommittedDocuments(t *testing.T) {
	c, err := load("../../events.ndjson", 0)
	require.NoError(t, err)
	require.Greater(t, c.total, 100)
}

func newTestSubject(t *testing.T, documents ...string) *subject {
	t.Helper()
	path := filepath.Join(t.TempDir(), "documents.ndjson")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(documents, "\n")), 0o600))
	c, err := load(path, 0)
	require.NoError(t, err)
	s := &subject{name: "acme", id: uuid.New(), corpus: c, index: map[uuid.UUID]int{}}
	for i := range documents {
		id := uuid.New()
		s.ids, s.index[id] = append(s.ids, id), i
	}
	return s
}

func (s *subject) page(t *testing.T, tenant uuid.UUID, id uuid.UUID, payload string) client.Page[client.Message] {
	t.Helper()
	body, err := json.Marshal(map[string]any{"data": []any{map[string]any{
		"id": id, "tenant_id": tenant, "payload": json.RawMessage(payload), "created_at": "2026-01-01T00:00:00Z",
	}}})
	require.NoError(t, err)
	var p client.Page[client.Message]
	require.NoError(t, json.Unmarshal(body, &p))
	return p
}

// The demo is only worth something if it notices each way of being wrong.
func TestCheckNotices(t *testing.T) {
	tests := map[string]func(s *subject) client.Page[client.Message]{
		"a changed payload":    func(s *subject) client.Page[client.Message] { return s.page(t, s.id, s.ids[0], `{"n":2}`) },
		"a message never sent": func(s *subject) client.Page[client.Message] { return s.page(t, s.id, uuid.New(), `{"n":1}`) },
		"another tenant's":     func(s *subject) client.Page[client.Message] { return s.page(t, uuid.New(), s.ids[0], `{"n":1}`) },
		"the same message twice": func(s *subject) client.Page[client.Message] {
			p := s.page(t, s.id, s.ids[0], `{"n":1}`)
			p.Items = append(p.Items, p.Items...)
			return p
		},
	}
	for name, wrong := range tests {
		t.Run(name, func(t *testing.T) {
			s := newTestSubject(t, `{"n":1}`)
			require.ErrorIs(t, s.check(wrong(s), map[uuid.UUID]bool{}), errDiffers)
		})
	}
	s := newTestSubject(t, `{"n":1.0}`)
	require.NoError(t, s.check(s.page(t, s.id, s.ids[0], `{"n": 1}`), map[uuid.UUID]bool{}))
}

// A batch in which one line was refused must not count as published.
func TestPublishNoticesRefusedLine(t *testing.T) {
	s := newTestSubject(t, `1`, `2`)
	answers := fmt.Sprintf(`{"results":[{"line":1,"id":%q,"status":202},{"line":2,"id":%q,"status":400,"code":"payload_too_deep"}]}`, s.ids[0], s.ids[1])
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_, err := w.Write([]byte(answers))
		assert.NoError(t, err)
	}))
	defer server.Close()
	var err error
	s.client, err = client.New(client.URLs{Ingest: server.URL}, client.StaticToken("t"))
	require.NoError(t, err)
	defer s.client.Close()
	require.ErrorIs(t, s.publishHTTP(t.Context(), 0, 2), client.ErrPayloadTooDeep)
	require.Zero(t, s.viaHTTP.Load())
}
