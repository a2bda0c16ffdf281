package platform_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

const (
	// waitLimit is the limit of every wait; nothing here takes nearly as long on a machine with two busy cores.
	waitLimit = 90 * time.Second
	poll      = 50 * time.Millisecond
)

// answer is an HTTP response, read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) into(t *testing.T, v any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, v), "%s", a.body)
}

// code is the code of a problem document.
func (a answer) code() string {
	var p struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(a.body, &p) != nil {
		return ""
	}
	return p.Code
}

// call makes one request. An error is one of the transport.
func call(ctx context.Context, method, target, token string, body []byte, header map[string]string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	if len(body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	read, err := io.ReadAll(response.Body)
	if closing := response.Body.Close(); err == nil {
		err = closing
	}
	return answer{status: response.StatusCode, header: response.Header, body: read}, err
}

// must makes a request that has to be answered with status.
func must(t *testing.T, status int, method, target, token string, body string, header map[string]string) answer {
	t.Helper()
	a, err := call(t.Context(), method, target, token, []byte(body), header)
	require.NoError(t, err)
	require.Equal(t, status, a.status, "%s %s: %s", method, target, a.body)
	return a
}

// tenantView is the part of a tenant that the tests look at.
type tenantView struct {
	ID         uuid.UUID `json:"id"`
	Name       string    `json:"name"`
	Workers    int       `json:"workers"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Status     struct {
		State   string `json:"state"`
		Workers int    `json:"workers"`
	} `json:"status"`
}

// createTenant creates a tenant and waits until its consumer runs.
func (w *world) createTenant(t *testing.T, workers int) uuid.UUID {
	t.Helper()
	id := uuid.New()
	a := must(t, http.StatusCreated, http.MethodPost, w.TenantURL+"/tenants", w.admin,
		fmt.Sprintf(`{"id":%q,"name":"tenant %s","workers":%d}`, id, id, workers), map[string]string{"Prefer": "wait=30"})
	require.Equal(t, "/tenants/"+id.String(), a.header.Get("Location"))
	w.awaitState(t, id, "running")
	return id
}

func (w *world) tenant(t *testing.T, id uuid.UUID) tenantView {
	t.Helper()
	var view tenantView
	must(t, http.StatusOK, http.MethodGet, w.TenantURL+"/tenants/"+id.String(), w.admin, "", nil).into(t, &view)
	return view
}

func (w *world) awaitState(t *testing.T, id uuid.UUID, state string) {
	t.Helper()
	require.Eventually(t, func() bool {
		a, err := call(t.Context(), http.MethodGet, w.TenantURL+"/tenants/"+id.String(), w.admin, nil, nil)
		var view tenantView
		return err == nil && a.status == http.StatusOK && json.Unmarshal(a.body, &view) == nil && view.Status.State == state
	}, waitLimit, poll)
}

// publishOne publishes one message over HTTP and repeats it, under the same id, until it is accepted or ctx ends.
func (w *world) publishOne(ctx context.Context, token string, id uuid.UUID, payload string) error {
	body := fmt.Appendf(nil, `{"id":%q,"payload":%s}`, id, payload)
	for {
		a, err := call(ctx, http.MethodPost, w.IngestURL+"/messages", token, body, nil)
		switch {
		case err == nil && a.status == http.StatusAccepted:
			return nil
		case err == nil && a.status != http.StatusServiceUnavailable:
			return fmt.Errorf("publish: %d %s", a.status, a.body)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		pause(ctx, 100*time.Millisecond) // the service or the broker is away
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

type message struct {
	ID       uuid.UUID       `json:"id"`
	TenantID uuid.UUID       `json:"tenant_id"`
	Payload  json.RawMessage `json:"payload"`
}

type page struct {
	Data       []message `json:"data"`
	NextCursor string    `json:"next_cursor"`
	HasMore    bool      `json:"has_more"`
}

// read reads one page.
func (w *world) read(ctx context.Context, token, cursor, order string) (page, error) {
	query := url.Values{"limit": {"500"}, "order": {order}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	a, err := call(ctx, http.MethodGet, w.QueryURL+"/messages?"+query.Encode(), token, nil, nil)
	if err != nil {
		return page{}, err
	}
	if a.status != http.StatusOK {
		return page{}, fmt.Errorf("read: %d %s", a.status, a.body)
	}
	var p page
	return p, json.Unmarshal(a.body, &p)
}

// readAll pages through everything of a tenant.
func (w *world) readAll(t *testing.T, token, order string) []message {
	t.Helper()
	var all []message
	for cursor, more := "", true; more; {
		p, err := w.read(t.Context(), token, cursor, order)
		require.NoError(t, err)
		all, cursor, more = append(all, p.Data...), p.NextCursor, p.HasMore
	}
	return all
}

// requireExactly waits until the tenant has as many messages as ids, and demands that it has exactly these, once each.
func (w *world) requireExactly(t *testing.T, tenant uuid.UUID, token string, ids map[uuid.UUID]bool) {
	t.Helper()
	var all []message
	require.Eventually(t, func() bool {
		all = nil
		for cursor, more := "", true; more; {
			p, err := w.read(t.Context(), token, cursor, "asc")
			if err != nil {
				return false
			}
			all, cursor, more = append(all, p.Data...), p.NextCursor, p.HasMore
		}
		return len(all) >= len(ids)
	}, waitLimit, 10*poll, "accepted %d, stored %d", len(ids), len(all))
	seen := make(map[uuid.UUID]bool, len(all))
	for _, m := range all {
		require.Equal(t, tenant, m.TenantID)
		require.False(t, seen[m.ID], "message %s is there twice", m.ID)
		require.True(t, ids[m.ID], "message %s was never published", m.ID)
		seen[m.ID] = true
	}
	require.Len(t, seen, len(ids))
}
