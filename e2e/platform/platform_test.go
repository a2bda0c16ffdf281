package platform_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// The whole life of a tenant, as an operator and its application see it; nothing is left at the end.
func TestTenantLifecycle(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 2)
	token := w.token(t, tenant, "messages:read messages:write")

	api := w.as(token)

	ids := w.publishMany(t, token, 200)
	w.requireExactly(t, tenant, token, ids)
	ascending, err := w.readAll(t.Context(), token, false)
	require.NoError(t, err)
	descending, err := w.readAll(t.Context(), token, true)
	require.NoError(t, err)
	require.Len(t, descending, len(ascending))
	for i := range ascending {
		require.Equal(t, ascending[i].ID, descending[len(descending)-1-i].ID, "desc is the exact reverse of asc")
	}

	w.resize(t, tenant, 5)
	w.suspend(t, tenant)
	kept := uuid.New()
	require.NoError(t, w.publishOne(t.Context(), token, kept, `{"kept":true}`))
	consumed, err := w.readAll(t.Context(), token, false)
	require.NoError(t, err)
	require.Len(t, consumed, len(ids), "accepted, and not consumed")
	_, err = api.Message(t.Context(), client.ID(kept))
	require.ErrorIs(t, err, client.ErrNotStored)
	w.resume(t, tenant)
	ids[kept] = true
	w.requireExactly(t, tenant, token, ids)
	_, err = api.Message(t.Context(), client.ID(kept))
	require.NoError(t, err)
	require.Contains(t, w.metrics(t, w.IngestOpsURL), tenant.String())

	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, w.api.DeleteTenant(ctx, client.ID(tenant), client.Wait()))
	_, err = w.api.Tenant(ctx, client.ID(tenant))
	require.ErrorIs(t, err, client.ErrTenantNotFound)
	require.False(t, w.queueExists(t, tenant))
	require.Zero(t, w.count(t, `SELECT count(*) FROM pg_class WHERE relname = $1`, "messages_"+strings.ReplaceAll(tenant.String(), "-", "")))
	for _, ops := range []string{w.TenantOpsURL, w.IngestOpsURL, w.QueryOpsURL} {
		require.NotContains(t, w.metrics(t, ops), tenant.String())
	}
	_, err = w.api.CreateTenant(ctx, client.NewTenant{ID: client.ID(tenant), Name: "again"})
	require.ErrorIs(t, err, client.ErrTenantRetired, "for ever")
	_, err = api.Publish(ctx, client.Publishing{Payload: 1})
	require.ErrorIs(t, err, client.ErrTenantNotFound)
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
		w.resize(t, tenant, workers)
		require.Eventually(t, func() bool { return w.stored(t, tenant) > before }, waitLimit, poll)
	}
	stop()
	w.requireExactly(t, tenant, token, ids())
}

// A deploy must lose and double nothing: SIGTERM finishes what is in flight and ends with 0.
func TestStopUnderLoad(t *testing.T) {
	interruptUnderLoad(t, newStoppingWorld(t), (*world).terminate)
}

// A process that is killed between commit and ack must lose and double nothing.
func TestKillUnderLoad(t *testing.T) {
	interruptUnderLoad(t, newPrivateWorld(t), (*world).kill)
}

// interruptUnderLoad publishes while ingest-service is interrupted again and again, and counts the messages.
func interruptUnderLoad(t *testing.T, w *world, interrupt func(*world, *testing.T)) {
	t.Helper()
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

// Every backing service goes away under load and comes back; the platform resumes without intervention.
func TestBackingServicesRestart(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts servers of its own, and each once more")
	}
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
	w.resize(t, tenant, 4)
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
		all, err := w.readAll(t.Context(), token, false)
		require.NoError(t, err)
		for _, m := range all {
			require.JSONEq(t, fmt.Sprintf(`{"owner":%q}`, tenant), string(m.Payload))
		}
	}
	owner := w.as(tokens[one])
	p, err := owner.Messages(client.MessageQuery{}).Next(t.Context())
	require.NoError(t, err)
	_, err = w.as(tokens[other]).Messages(client.MessageQuery{Cursor: p.NextCursor}).Next(t.Context())
	require.ErrorIs(t, err, client.ErrBadCursor, "a cursor belongs to its tenant")
	_, err = owner.With(client.WithTenant(client.ID(other))).Messages(client.MessageQuery{}).Next(t.Context())
	require.ErrorIs(t, err, client.ErrTenantMismatch)
	_, err = owner.Tenant(t.Context(), client.ID(other))
	require.ErrorIs(t, err, client.ErrTenantNotFound)
	_, err = owner.Tenant(t.Context(), client.ID(one))
	require.NoError(t, err)
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

	met := make(map[client.ID]int)
	reader := w.as(token).Messages(client.MessageQuery{Limit: 500})
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	for finished := false; !finished || len(met) < writers*each; {
		p, err := reader.Next(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, p.NextCursor, "given on every page, the empty one included")
		for _, m := range p.Items {
			met[m.ID]++
			require.Equal(t, 1, met[m.ID], "message %s was met twice", m.ID)
		}
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
		require.Equal(t, 1, met[client.ID(id)])
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

	api := w.as(token)
	var deadLetters []client.DeadLetter
	await := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			page, err := api.DeadLetters(client.DeadLetterQuery{}).Next(t.Context())
			deadLetters = page.Items
			return err == nil && len(deadLetters) == n
		}, waitLimit, poll)
	}
	await(1)
	require.Equal(t, broken, uuid.UUID(deadLetters[0].MessageID))
	require.Equal(t, string(contract.ReasonNotJSON), deadLetters[0].Reason)

	stranger := w.as(w.token(t, w.createTenant(t, 1), "deadletters:manage"))
	_, err := stranger.DeadLetter(t.Context(), deadLetters[0].ID)
	require.ErrorIs(t, err, client.ErrDeadLetterNotFound)

	_, err = api.ReplayDeadLetterAs(t.Context(), deadLetters[0].ID, map[string]bool{"fixed": true})
	require.NoError(t, err)
	good[broken] = true
	w.requireExactly(t, tenant, token, good)
	await(0)
}
