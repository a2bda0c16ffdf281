package client_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// fake is as much of the platform as the examples need, in memory: one tenant, whose messages are stored at once. It
// refuses the first refusals requests to publish, as a broker does that has an alarm.
type fake struct {
	refusals int

	mu       sync.Mutex
	messages []client.Message
}

// start serves a fake and makes a client of it.
func start(f *fake) (c *client.Client, stop func()) {
	routes := http.NewServeMux()
	routes.HandleFunc("POST /tenants", f.create)
	routes.HandleFunc("POST /messages", f.publish)
	routes.HandleFunc("POST /messages/batch", f.publishBatch)
	routes.HandleFunc("GET /messages", f.list)
	routes.HandleFunc("GET /messages/{id}", f.one)
	routes.HandleFunc("DELETE /dead-letters", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, map[string]int{"dropped": 3}) })
	server := httptest.NewServer(routes)
	c, err := client.New(client.URLs{Tenant: server.URL, Ingest: server.URL, Query: server.URL}, client.StaticToken("token"))
	if err != nil {
		panic(err)
	}
	return c, func() {
		c.Close()
		server.Close()
	}
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(err)
	}
}

func (f *fake) create(w http.ResponseWriter, r *http.Request) {
	var n client.NewTenant
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
		panic(err)
	}
	reply(w, http.StatusCreated, client.Tenant{
		ID: n.ID, Name: n.Name, Workers: 3, State: client.TenantActive, Generation: 1,
		Status: client.TenantStatus{State: client.ConsumerRunning, Workers: 3, ObservedGeneration: 1},
	})
}

// store keeps the message of a line, once per id, and returns the id.
func (f *fake) store(line []byte) client.ID {
	var m struct {
		ID      client.ID
		Payload json.RawMessage
	}
	if err := json.Unmarshal(line, &m); err != nil {
		panic(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, stored := range f.messages {
		if stored.ID == m.ID {
			return m.ID
		}
	}
	f.messages = append(f.messages, client.Message{ID: m.ID, Payload: m.Payload})
	return m.ID
}

// refuses tells whether the request is one of the first ones, and answers it then.
func (f *fake) refuses(w http.ResponseWriter) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusals--
	if f.refusals < 0 {
		return false
	}
	reply(w, http.StatusServiceUnavailable, map[string]any{"code": "broker_blocked", "detail": "the broker has an alarm and takes no messages"})
	return true
}

func (f *fake) publish(w http.ResponseWriter, r *http.Request) {
	if f.refuses(w) {
		return
	}
	var line json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&line); err != nil {
		panic(err)
	}
	reply(w, http.StatusAccepted, map[string]any{"id": f.store(line)})
}

func (f *fake) publishBatch(w http.ResponseWriter, r *http.Request) {
	if f.refuses(w) {
		return
	}
	var results []map[string]any
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		results = append(results, map[string]any{"line": len(results) + 1, "status": 202, "id": f.store(lines.Bytes())})
	}
	reply(w, http.StatusAccepted, map[string]any{"results": results})
}

func (f *fake) list(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, _ := strconv.Atoi(r.FormValue("cursor")) // 0 without one
	end := min(at+2, len(f.messages))
	reply(w, http.StatusOK, map[string]any{"data": f.messages[at:end], "next_cursor": fmt.Sprint(end), "has_more": end < len(f.messages)})
}

func (f *fake) one(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.messages {
		if m.ID.String() == r.PathValue("id") {
			reply(w, http.StatusOK, m)
			return
		}
	}
	reply(w, http.StatusNotFound, map[string]any{"code": "not_stored", "detail": "no message of this id is stored", "request_id": "7c1e"})
}
