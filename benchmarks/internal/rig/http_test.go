package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// platform answers as the services do, without doing anything.
func platform(payload []byte) http.Handler {
	const messages, lines = 100, 1000
	var page, results bytes.Buffer
	for i := range messages {
		fmt.Fprintf(&page, `%s{"id":%q,"tenant_id":%q,"payload":%s,"created_at":"2026-01-02T03:04:05.000006Z"}`, separator(i), uuid.New(), uuid.New(), payload)
	}
	answer := `{"data":[` + page.String() + `],"next_cursor":"c","has_more":true}`
	routes := http.NewServeMux()
	routes.HandleFunc("GET /messages", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) })
	routes.HandleFunc("POST /messages", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, `{"id":"%s"}`, idOf(body))
	})
	routes.HandleFunc("POST /messages/batch", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		results.Reset()
		n := 0
		for line := range bytes.Lines(body) {
			fmt.Fprintf(&results, `%s{"line":%d,"status":202,"id":"%s"}`, separator(n), n+1, idOf(line))
			n++
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = fmt.Fprintf(w, `{"accepted":%d,"failed":0,"results":[%s]}`, n, results.Bytes())
	})
	return routes
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// idOf is the id in an envelope, which begins with it.
func idOf(envelope []byte) []byte { return envelope[len(`{"id":"`):][:36] }

// What one request costs, the server included, which is the same for both: lean, as it is measured, and with the public client.
func BenchmarkRequest(b *testing.B) {
	const lines = 1000
	payload := Payload(1 << 10)
	server := httptest.NewServer(platform(payload))
	defer server.Close()
	r := &Rig{lean: lean()}
	defer r.lean.CloseIdleConnections()
	public, err := client.New(client.URLs{Ingest: server.URL, Query: server.URL}, client.StaticToken("token"), client.WithRetry(client.Retry{MaxAttempts: 1}))
	if err != nil {
		b.Fatal(err)
	}
	defer public.Close()
	envelope := func() []byte { return fmt.Appendf(nil, `{"id":"%s","payload":%s}`, uuid.New(), payload) }
	post := func(path, contentType string, body []byte, into any) error {
		q := Request{Method: http.MethodPost, URL: server.URL + path, Token: "token", ContentType: contentType, Body: body, Status: http.StatusAccepted}
		return r.Send(b.Context(), q, func(body []byte) error {
			if into == nil {
				return nil
			}
			return json.Unmarshal(body, into)
		})
	}
	var batch []byte // made before, as in the benchmark of batches: a producer has its messages
	messages := make([]client.Publishing, lines)
	for i := range messages {
		batch = append(append(batch, envelope()...), '\n')
		messages[i].Payload = json.RawMessage(payload)
	}
	for _, c := range []struct {
		name         string
		lean, public func() error
	}{
		{
			"message",
			func() error { return post("/messages", "application/json", envelope(), nil) },
			func() error {
				_, err := public.Publish(b.Context(), client.Publishing{Payload: json.RawMessage(payload)})
				return err
			},
		},
		{
			"batch",
			func() error {
				var answer struct {
					Accepted int `json:"accepted"`
				}
				return post("/messages/batch", "application/x-ndjson", batch, &answer)
			},
			func() error {
				_, err := public.PublishBatch(b.Context(), messages)
				return err
			},
		},
		{
			"page",
			func() error {
				return r.Send(b.Context(), Request{URL: server.URL + "/messages?limit=100", Token: "token"}, func([]byte) error { return nil })
			},
			func() error {
				_, err := public.Messages(client.MessageQuery{Limit: 100}).Next(b.Context())
				return err
			},
		},
	} {
		for name, request := range map[string]func() error{"lean": c.lean, "client": c.public} {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := request(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
