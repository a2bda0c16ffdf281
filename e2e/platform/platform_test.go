package platform_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// The whole life of a tenant, as an operator and its application see it; nothing is left at the end.
func TestTenantLifecycle(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 2)
	token := w.token(t, tenant, "messages:read messages:write")

	ids := w.publishMany(t, token, 200)
	w.requireExactly(t, tenant, token, ids)
	ascending, descending := w.readAll(t, token, "asc"), w.readAll(t, token, "desc")
	require.Len(t, descending, len(ascending))
	for i := range ascending {
		require.Equal(t, ascending[i].ID, descending[len(descending)-1-i].ID, "desc is the exact reverse of asc")
	}

	must(t, http.StatusOK, http.MethodPut, w.TenantURL+"/tenants/"+tenant.String()+"/config/concurrency", w.admin, `{"workers":5}`, nil)
	require.Eventually(t, func() bool { view := w.tenant(t, tenant); return view.Workers == 5 && view.Status.Workers == 5 }, waitLimit, poll)

	must(t, http.StatusOK, http.MethodPost, w.TenantURL+"/tenants/"+tenant.String()+"/suspend", w.admin, "", nil)
	w.awaitState(t, tenant, "suspended")
	kept := uuid.New()
	require.NoError(t, w.publishOne(t.Context(), token, kept, `{"kept":true}`))
	require.Len(t, w.readAll(t, token, "asc"), len(ids), "accepted, and not consumed")
	must(t, http.StatusNotFound, http.MethodGet, w.QueryURL+"/messages/"+kept.String(), token, "", nil)
	must(t, http.StatusOK, http.MethodPost, w.TenantURL+"/tenants/"+tenant.String()+"/resume", w.admin, "", nil)
	ids[kept] = true
	w.requireExactly(t, tenant, token, ids)
	must(t, http.StatusOK, http.MethodGet, w.QueryURL+"/messages/"+kept.String(), token, "", nil)
	require.Contains(t, w.metrics(t, w.IngestOpsURL), tenant.String())

	must(t, http.StatusAccepted, http.MethodDelete, w.TenantURL+"/tenants/"+tenant.String(), w.admin, "", map[string]string{"Prefer": "wait=30"})
	require.Eventually(t, func() bool {
		a, err := call(t.Context(), http.MethodGet, w.TenantURL+"/tenants/"+tenant.String(), w.admin, nil, nil)
		return err == nil && a.status == http.StatusNotFound
	}, waitLimit, poll)
	require.False(t, w.queueExists(t, tenant))
	require.Zero(t, w.count(t, `SELECT count(*) FROM pg_class WHERE relname = $1`, "messages_"+strings.ReplaceAll(tenant.String(), "-", "")))
	for _, ops := range []string{w.TenantOpsURL, w.IngestOpsURL, w.QueryOpsURL} {
		require.NotContains(t, w.metrics(t, ops), tenant.String())
	}
	a := must(t, http.StatusConflict, http.MethodPost, w.TenantURL+"/tenants", w.admin, fmt.Sprintf(`{"id":%q,"name":"again"}`, tenant), nil)
	require.NotEmpty(t, a.code(), "a deleted id is retired for ever")
	a, err := call(t.Context(), http.MethodPost, w.IngestURL+"/messages", token, []byte(`{"payload":1}`), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, a.status, "%s", a.body)
}

// Messages come in over both ways, of which neither may lose or double one.
func TestPublishOverHTTPAndAMQP(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 3)
	token := w.token(t, tenant, "messages:read messages:write")
	ids := make(map[uuid.UUID]bool)
	for range 20 {
		id := uuid.New()
		ids[id] = true
		require.NoError(t, w.publishOne(t.Context(), token, id, `{"way":"http"}`))
		require.NoError(t, w.publishOne(t.Context(), token, id, `{"way":"again"}`), "the same id twice is stored once")
	}
	for id := range w.publishMany(t, token, 500) {
		ids[id] = true
	}
	for id := range w.publishAMQP(t, tenant, 500) {
		ids[id] = true
	}
	w.requireExactly(t, tenant, token, ids)
}

// Resizing while messages pour in must lose and double nothing.
func TestResizeUnderLoad(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 1)
	token := w.token(t, tenant, "messages:read messages:write")
	ids, stop := w.load(t, token)
	for _, workers := range []int{8, 1, 5, 2, 6} {
		before := w.stored(t, tenant)
		must(t, http.StatusOK, http.MethodPut, w.TenantURL+"/tenants/"+tenant.String()+"/config/concurrency", w.admin,
			fmt.Sprintf(`{"workers":%d}`, workers), nil)
		require.Eventually(t, func() bool { return w.tenant(t, tenant).Status.Workers == workers }, waitLimit, poll)
		require.Eventually(t, func() bool { return w.stored(t, tenant) > before }, waitLimit, poll)
	}
	stop()
	w.requireExactly(t, tenant, token, ids())
}

// A deploy must lose and double nothing: SIGTERM finishes what is in flight and ends with 0.
func TestStopUnderLoad(t *testing.T) {
	interruptUnderLoad(t, (*world).terminate)
}

// A process that is killed between commit and ack must lose and double nothing.
func TestKillUnderLoad(t *testing.T) {
	interruptUnderLoad(t, (*world).kill)
}

// interruptUnderLoad publishes while ingest-service is interrupted again and again, and counts the messages.
func interruptUnderLoad(t *testing.T, interrupt func(*world, *testing.T)) {
	t.Helper()
	w := newPrivateWorld(t)
	tenant := w.createTenant(t, 3)
	token := w.token(t, tenant, "messages:read messages:write")
	ids, stop := w.load(t, token)
	for range 3 {
		before := w.stored(t, tenant)
		require.Eventually(t, func() bool { return w.stored(t, tenant) > before }, waitLimit, poll)
		interrupt(w, t)
	}
	stop()
	w.requireExactly(t, tenant, token, ids())
}

// Every backing service goes away under load and comes back; the platform goes on by itself.
func TestBackingServicesRestart(t *testing.T) {
	w := newDedicatedWorld(t)
	tenant := w.createTenant(t, 3)
	token := w.token(t, tenant, "messages:read messages:write")
	ids, stop := w.load(t, token)
	for _, name := range backing.Names() {
		before := w.stored(t, tenant)
		require.Eventually(t, func() bool { return w.stored(t, tenant) > before }, waitLimit, poll)
		w.restartBacking(t, name)
		w.awaitReady(t)
		before = w.stored(t, tenant)
		require.Eventually(t, func() bool { return w.stored(t, tenant) > before }, waitLimit, poll, "messages flow again after %s was away", name)
	}
	// A change that is made afterwards reaches the running consumer.
	must(t, http.StatusOK, http.MethodPut, w.TenantURL+"/tenants/"+tenant.String()+"/config/concurrency", w.admin, `{"workers":4}`, nil)
	require.Eventually(t, func() bool { return w.tenant(t, tenant).Status.Workers == 4 }, waitLimit, poll)
	stop()
	w.requireExactly(t, tenant, token, ids())
	require.Zero(t, w.count(t, `SELECT count(*) FROM dead_letters`), "an outage makes no dead letters")
}

// Two tenants that use the same ids at the same time must never see each other's messages.
func TestTenantsNeverMeet(t *testing.T) {
	w := newWorld(t)
	one, other := w.createTenant(t, 2), w.createTenant(t, 2)
	tokens := map[uuid.UUID]string{
		one: w.token(t, one, "messages:read messages:write"), other: w.token(t, other, "messages:read messages:write"),
	}
	ids := make(map[uuid.UUID]bool)
	var publishing sync.WaitGroup
	for range 50 {
		id := uuid.New()
		ids[id] = true
		for tenant, token := range tokens {
			publishing.Go(func() {
				if err := w.publishOne(t.Context(), token, id, fmt.Sprintf(`{"owner":%q}`, tenant)); err != nil {
					t.Errorf("publish: %v", err)
				}
			})
		}
	}
	publishing.Wait()
	for tenant, token := range tokens {
		w.requireExactly(t, tenant, token, ids)
		for _, m := range w.readAll(t, token, "asc") {
			require.JSONEq(t, fmt.Sprintf(`{"owner":%q}`, tenant), string(m.Payload))
		}
	}
	p, err := w.read(t.Context(), tokens[one], "", "asc")
	require.NoError(t, err)
	a := must(t, http.StatusBadRequest, http.MethodGet, w.QueryURL+"/messages?cursor="+p.NextCursor, tokens[other], "", nil)
	require.NotEmpty(t, a.code(), "a cursor belongs to its tenant")
	must(t, http.StatusForbidden, http.MethodGet, w.QueryURL+"/messages?tenant_id="+other.String(), tokens[one], "", nil)
	must(t, http.StatusNotFound, http.MethodGet, w.TenantURL+"/tenants/"+other.String(), tokens[one], "", nil)
	must(t, http.StatusOK, http.MethodGet, w.TenantURL+"/tenants/"+one.String(), tokens[one], "", nil)
}

// A reader that follows the cursor while eight writers commit must meet every message exactly once.
func TestReaderFollowsWriters(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 8)
	token := w.token(t, tenant, "messages:read messages:write")

	const writers, each = 8, 40
	ids := make(map[uuid.UUID]bool)
	var mu sync.Mutex
	var publishing sync.WaitGroup
	done := make(chan struct{})
	for range writers {
		publishing.Go(func() {
			for range each {
				id := uuid.New()
				if err := w.publishOne(t.Context(), token, id, `{}`); err != nil {
					t.Errorf("publish: %v", err)
					return
				}
				mu.Lock()
				ids[id] = true
				mu.Unlock()
			}
		})
	}
	go func() {
		publishing.Wait()
		close(done)
	}()

	met := make(map[uuid.UUID]int)
	cursor := ""
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	for finished := false; !finished || len(met) < writers*each; {
		p, err := w.read(ctx, token, cursor, "asc")
		require.NoError(t, err)
		require.NotEmpty(t, p.NextCursor, "given on every page, the empty one included")
		for _, m := range p.Data {
			met[m.ID]++
			require.Equal(t, 1, met[m.ID], "message %s was met twice", m.ID)
		}
		cursor = p.NextCursor
		select {
		case <-done:
			finished = true
		default:
		}
	}
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, met, len(ids))
	for id := range ids {
		require.Equal(t, 1, met[id])
	}
}

// What cannot be stored is a dead letter with its reason: it can be looked at, fixed and replayed.
func TestDeadLetters(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 2)
	token := w.token(t, tenant, "messages:read messages:write deadletters:manage")
	broken := uuid.New()
	w.publishRaw(t, tenant, broken.String(), []byte(`{"broken":`))
	good := w.publishAMQP(t, tenant, 10)
	w.requireExactly(t, tenant, token, good)

	var list struct {
		Data []struct {
			ID        uuid.UUID `json:"id"`
			MessageID uuid.UUID `json:"message_id"`
			Reason    string    `json:"reason"`
		} `json:"data"`
	}
	require.Eventually(t, func() bool {
		must(t, http.StatusOK, http.MethodGet, w.IngestURL+"/dead-letters", token, "", nil).into(t, &list)
		return len(list.Data) == 1
	}, waitLimit, poll)
	require.Equal(t, broken, list.Data[0].MessageID)
	require.Equal(t, string(contract.ReasonNotJSON), list.Data[0].Reason)

	stranger := w.token(t, w.createTenant(t, 1), "deadletters:manage")
	must(t, http.StatusNotFound, http.MethodGet, w.IngestURL+"/dead-letters/"+list.Data[0].ID.String(), stranger, "", nil)

	a, err := call(t.Context(), http.MethodPost, w.IngestURL+"/dead-letters/"+list.Data[0].ID.String()+"/replay", token, []byte(`{"payload":{"fixed":true}}`), nil)
	require.NoError(t, err)
	require.Less(t, a.status, 300, "%s", a.body)
	good[broken] = true
	w.requireExactly(t, tenant, token, good)
	require.Eventually(t, func() bool {
		must(t, http.StatusOK, http.MethodGet, w.IngestURL+"/dead-letters", token, "", nil).into(t, &list)
		return len(list.Data) == 0
	}, waitLimit, poll)
}
