package platform_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

const (
	// waitLimit is the limit of every wait; nothing here takes nearly as long on a machine with two busy cores.
	waitLimit = 90 * time.Second
	poll      = 50 * time.Millisecond
	// retryPause is between two attempts to publish while a service or the broker is away.
	retryPause = 100 * time.Millisecond
)

// newAPI makes the client of the administrator. It repeats nothing: a request that fails fails the test.
func (w *world) newAPI(t *testing.T) *client.Client {
	t.Helper()
	api, err := client.New(client.URLs{Tenant: w.TenantURL, Ingest: w.IngestURL, Query: w.QueryURL}, client.StaticToken(w.admin),
		client.WithTransport(w.transport), client.WithRetry(client.Retry{MaxAttempts: 1}))
	require.NoError(t, err)
	return api
}

// as is the client with a token.
func (w *world) as(token string) *client.Client {
	return w.api.With(client.WithToken(client.StaticToken(token)))
}

// raw sends a request that the client does not make.
func (w *world) raw(t *testing.T, status int, r raw.Request) raw.Response {
	t.Helper()
	return raw.Must(t, w.transport, status, r)
}

// createTenant creates a tenant and waits until its consumer runs.
func (w *world) createTenant(t *testing.T, workers int) uuid.UUID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	tenant, err := w.api.CreateTenant(ctx, client.NewTenant{Name: "e2e", Workers: workers}, client.Wait())
	require.NoError(t, err)
	return uuid.UUID(tenant.ID)
}

// resize changes the number of workers and waits until there are as many.
func (w *world) resize(t *testing.T, id uuid.UUID, workers int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	tenant, err := w.api.ResizeTenant(ctx, client.ID(id), workers, client.Wait())
	require.NoError(t, err)
	require.Equal(t, workers, tenant.Workers)
	require.Eventually(t, func() bool {
		tenant, err := w.api.Tenant(ctx, client.ID(id))
		return err == nil && tenant.Status.Workers == workers
	}, waitLimit, poll)
}

// suspend suspends a tenant and waits until it is not consumed.
func (w *world) suspend(t *testing.T, id uuid.UUID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, err := w.api.SuspendTenant(ctx, client.ID(id), client.Wait())
	require.NoError(t, err)
}

// resume ends a suspension.
func (w *world) resume(t *testing.T, id uuid.UUID) {
	t.Helper()
	_, err := w.api.ResumeTenant(t.Context(), client.ID(id))
	require.NoError(t, err)
}

// publishOne publishes one message over HTTP and repeats it, under the same id, until it is accepted or ctx ends.
func (w *world) publishOne(ctx context.Context, token string, id uuid.UUID, payload string) error {
	repeating := w.as(token).With(client.WithRetry(client.Retry{
		For: waitLimit, MinDelay: retryPause, MaxDelay: retryPause, MaxRetryAfter: retryPause,
	}))
	_, err := repeating.Publish(ctx, client.Publishing{ID: client.ID(id), Payload: json.RawMessage(payload)})
	return err
}

// readAll pages through everything of a tenant.
func (w *world) readAll(ctx context.Context, token string, descending bool) (all []client.Message, err error) {
	for m, err := range w.as(token).Messages(client.MessageQuery{Limit: 500, Descending: descending}).All(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// requireExactly waits until the tenant has as many messages as ids, and demands that it has exactly these, once each.
func (w *world) requireExactly(t *testing.T, tenant uuid.UUID, token string, ids map[uuid.UUID]bool) {
	t.Helper()
	var all []client.Message
	require.Eventually(t, func() bool {
		var err error
		all, err = w.readAll(t.Context(), token, false)
		return err == nil && len(all) >= len(ids)
	}, waitLimit, 10*poll, "accepted %d, stored %d", len(ids), len(all))
	seen := make(map[client.ID]bool, len(all))
	for _, m := range all {
		require.Equal(t, client.ID(tenant), m.TenantID)
		require.False(t, seen[m.ID], "message %s is there twice", m.ID)
		require.True(t, ids[uuid.UUID(m.ID)], "message %s was never published", m.ID)
		seen[m.ID] = true
	}
	require.Len(t, seen, len(ids))
}

// ready reports whether the readiness check at an operations listener passes.
func (w *world) ready(ctx context.Context, ops string) bool {
	got, err := raw.Do(ctx, w.transport, raw.Request{URL: ops + "/readyz"})
	return err == nil && got.Status == http.StatusOK && json.Valid(got.Body)
}
