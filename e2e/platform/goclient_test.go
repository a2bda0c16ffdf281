package platform_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// goClient is the public client as programs use it, with repeats: with the operator's token, and with that of one tenant.
func (w *world) goClient(t *testing.T) (admin *client.Client, of func(client.ID) *client.Client) {
	t.Helper()
	admin = w.api.With(client.WithRetry(client.Retry{}))
	return admin, func(tenant client.ID) *client.Client {
		token := w.token(t, uuid.UUID(tenant), "messages:read messages:write deadletters:manage")
		return admin.With(client.WithToken(client.StaticToken(token)))
	}
}

// A program that uses nothing but the public Go client can do all that the README promises, from the first message to the
// end of the tenant.
func TestGoClient(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	admin, of := w.goClient(t)

	tenant, err := admin.CreateTenant(ctx, client.NewTenant{Name: "acme", Workers: 2}, client.Wait())
	require.NoError(t, err)
	require.True(t, tenant.Reconciled())
	c := of(tenant.ID)
	var want []client.ID

	t.Run("publish and read", func(t *testing.T) {
		want = append(want, goPublish(ctx, t, w, c, tenant.ID)...)
		goRead(ctx, t, c, want)
		named := client.NameID(tenant.ID, "order-17")
		require.Equal(t, client.ID(contract.MessageID(tenant.ID, "order-17")), named)
		m, err := c.Message(ctx, named)
		require.NoError(t, err)
		require.JSONEq(t, `{"order":17,"total":9007199254740993.10}`, string(m.Payload))
		require.Contains(t, string(m.Payload), "9007199254740993.10", "to the digit")
		m, err = admin.With(client.WithTenant(tenant.ID)).Message(ctx, named)
		require.NoError(t, err, "an administrator names the tenant")
		require.Equal(t, tenant.ID, m.TenantID)
	})
	t.Run("change the tenant", func(t *testing.T) {
		resized, err := admin.ResizeTenant(ctx, tenant.ID, 5, client.Wait())
		require.NoError(t, err)
		require.Equal(t, 5, resized.Workers)
		config, err := c.TenantConfig(ctx, tenant.ID)
		require.NoError(t, err)
		require.Equal(t, map[client.Limit]int64{client.LimitWorkers: 5}, config.Override)
		patch := client.LimitPatch{client.LimitReplayRate: new(int64(1000)), client.LimitWorkers: nil}
		limited, err := admin.PatchTenantConfig(ctx, tenant.ID, patch, client.IfGeneration(config.Generation), client.Wait())
		require.NoError(t, err)
		require.Equal(t, map[client.Limit]int64{client.LimitReplayRate: 1000}, limited.Override)
		require.Greater(t, limited.Generation, config.Generation)
		_, err = admin.PatchTenantConfig(ctx, tenant.ID, client.LimitPatch{client.LimitWeight: new(int64(2))}, client.IfGeneration(config.Generation))
		require.ErrorIs(t, err, client.ErrGenerationMismatch)
		_, err = admin.SuspendTenant(ctx, tenant.ID, client.Wait())
		require.NoError(t, err)
		kept, err := c.Publish(ctx, client.Publishing{Payload: "kept"})
		require.NoError(t, err, "a suspended tenant's messages wait")
		_, err = c.Message(ctx, kept)
		require.ErrorIs(t, err, client.ErrNotStored)
		_, err = admin.ResumeTenant(ctx, tenant.ID, client.Wait())
		require.NoError(t, err)
		want = append(want, kept)
		goRead(ctx, t, c, want)
		var listed []client.ID
		for seen, err := range admin.Tenants(client.TenantQuery{Limit: 2}).All(ctx) {
			require.NoError(t, err)
			listed = append(listed, seen.ID)
		}
		require.Contains(t, listed, tenant.ID)
		found, err := admin.Tenants(client.TenantQuery{Search: tenant.ID.String(), State: client.TenantActive}).Next(ctx)
		require.NoError(t, err)
		require.Len(t, found.Items, 1)
	})
	t.Run("dead letters", func(t *testing.T) { goDeadLetters(ctx, t, w, c, tenant.ID) })
	t.Run("erase a message", func(t *testing.T) {
		id := want[len(want)-1]
		require.NoError(t, admin.With(client.WithTenant(tenant.ID)).EraseMessage(ctx, id))
		_, err := c.Message(ctx, id)
		require.ErrorIs(t, err, client.ErrNotStored)
		require.ErrorIs(t, c.EraseMessage(ctx, id), client.ErrInsufficientScope)
		require.Eventually(t, func() bool { // one was replayed, and one is gone
			usage, err := c.Usage(ctx, tenant.ID, client.UsageQuery{})
			return err == nil && usage.Stored.Messages == int64(len(want))
		}, waitLimit, poll)
	})
	t.Run("what is refused", func(t *testing.T) {
		_, err := c.Publish(ctx, client.Publishing{Payload: json.RawMessage(strings.Repeat("[", 300) + strings.Repeat("]", 300))})
		require.ErrorIs(t, err, client.ErrPayloadTooDeep)
		_, err = admin.Publish(ctx, client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrTenantRequired)
		_, err = c.With(client.WithTenant(client.NewID())).Publish(ctx, client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrTenantMismatch)
		_, err = c.With(client.WithToken(client.StaticToken("no.real.token"))).Publish(ctx, client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrInvalidToken)
		_, err = c.CreateTenant(ctx, client.NewTenant{Name: "globex"})
		require.ErrorIs(t, err, client.ErrInsufficientScope)
		_, err = c.Messages(client.MessageQuery{Cursor: "made up"}).Next(ctx)
		require.ErrorIs(t, err, client.ErrBadCursor)
	})
	t.Run("audit", func(t *testing.T) {
		pager := admin.AuditEvents(client.AuditQuery{TenantID: tenant.ID, Since: tenant.CreatedAt.Add(-time.Minute), Limit: 2})
		var actions []string
		for len(actions) < 9 {
			page, err := pager.Next(ctx) // comes again for what is new
			require.NoError(t, err)
			for _, e := range page.Items {
				require.Equal(t, tenant.ID, e.TenantID)
				require.NotEmpty(t, e.RequestID)
				actions = append(actions, e.Action)
			}
		}
		require.Equal(t, []string{
			"tenant.created", "tenant.resized", "config.changed", "tenant.suspended", "tenant.resumed", "deadletter.replayed", "deadletter.dropped",
			"deadletters.dropped", "message.erased",
		}, actions)
		_, err := c.AuditEvents(client.AuditQuery{}).Next(ctx)
		require.ErrorIs(t, err, client.ErrInsufficientScope)
	})
	t.Run("delete the tenant", func(t *testing.T) {
		require.NoError(t, admin.DeleteTenant(ctx, tenant.ID, client.Wait()))
		_, err := admin.Tenant(ctx, tenant.ID)
		require.ErrorIs(t, err, client.ErrTenantNotFound)
		_, err = c.Publish(ctx, client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrTenantNotFound)
		_, err = admin.CreateTenant(ctx, client.NewTenant{ID: tenant.ID, Name: "again"})
		require.ErrorIs(t, err, client.ErrTenantRetired)
	})
}

// goPublish publishes in every way and returns the ids.
func goPublish(ctx context.Context, t *testing.T, w *world, c *client.Client, tenant client.ID) []client.ID {
	t.Helper()
	order := client.Publishing{ID: client.NameID(tenant, "order-17"), Payload: json.RawMessage(`{"order":17,"total":9007199254740993.10}`)}
	id, err := c.Publish(ctx, order)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // of two workers either may be the first to store
		_, err := c.Message(ctx, id)
		return err == nil
	}, waitLimit, poll)
	w.publishRaw(t, uuid.UUID(tenant), "order-17", []byte(`{"order":"the same id over AMQP, stored once"}`)) //nolint:contextcheck // has the test's
	want := []client.ID{id}

	batch := make([]client.Publishing, 1500) // two requests
	for i := range batch {
		batch[i].Payload = map[string]int{"n": i}
	}
	batch[7] = order // once more
	results, err := c.PublishBatch(ctx, batch)
	require.NoError(t, err)
	for i, r := range results {
		if i != 7 {
			want = append(want, r.ID)
		}
	}

	var mu sync.Mutex
	p := c.NewPublisher(client.PublisherConfig{BatchMessages: 50, OnResult: func(r client.Result) { //nolint:contextcheck // lives until Close
		mu.Lock()
		defer mu.Unlock()
		want = append(want, r.ID)
	}})
	var producing sync.WaitGroup
	for range 4 {
		producing.Go(func() {
			for n := range 100 {
				if _, err := p.Publish(ctx, client.Publishing{Payload: n}); err != nil {
					t.Errorf("publish: %v", err)
				}
			}
		})
	}
	producing.Wait()
	require.NoError(t, p.Close(ctx))
	return want
}

// goRead follows a tenant until all messages have come, each once, and reads them backwards.
func goRead(ctx context.Context, t *testing.T, c *client.Client, want []client.ID) {
	t.Helper()
	var got []client.ID
	r := c.Messages(client.MessageQuery{Limit: 300})
	for m, err := range r.Follow(ctx) {
		require.NoError(t, err)
		if got = append(got, m.ID); len(got) == len(want) {
			break
		}
	}
	require.ElementsMatch(t, want, got)
	rest, err := r.Next(ctx)
	require.NoError(t, err)
	require.Empty(t, rest.Items)
	for m, err := range c.Messages(client.MessageQuery{Descending: true}).All(ctx) {
		require.NoError(t, err)
		require.Equal(t, got[len(got)-1], m.ID, "the exact reverse")
		got = got[:len(got)-1]
	}
	require.Empty(t, got)
}

// goDeadLetters makes dead letters and does with them what an operator does.
func goDeadLetters(ctx context.Context, t *testing.T, w *world, c *client.Client, tenant client.ID) {
	t.Helper()
	for _, name := range []string{"bad-1", "bad-2", "bad-3"} {
		w.publishRaw(t, uuid.UUID(tenant), name, []byte("{"+name)) //nolint:contextcheck // has the test's
	}
	notJSON := client.DeadLetterFilter{Reason: "not_json"}
	require.Eventually(t, func() bool {
		count, err := c.CountDeadLetters(ctx, notJSON)
		return err == nil && count == 3
	}, waitLimit, poll)
	var deadLetters []client.DeadLetter
	for d, err := range c.DeadLetters(client.DeadLetterQuery{Limit: 2}).All(ctx) {
		require.NoError(t, err)
		deadLetters = append(deadLetters, d)
	}
	require.Len(t, deadLetters, 3)
	first, err := c.DeadLetter(ctx, deadLetters[0].ID)
	require.NoError(t, err)
	require.Equal(t, "{"+first.OriginalMessageID, string(first.PayloadBytes))
	require.Nil(t, first.Payload)

	_, err = c.ReplayDeadLetter(ctx, first.ID)
	require.ErrorIs(t, err, client.ErrPayloadNotJSON)
	replayed, err := c.ReplayDeadLetterAs(ctx, first.ID, map[string]bool{"fixed": true})
	require.NoError(t, err)
	require.Equal(t, client.Replay{MessageID: client.NameID(tenant, first.OriginalMessageID), Result: client.Replayed}, replayed)
	require.Eventually(t, func() bool {
		m, err := c.Message(ctx, replayed.MessageID)
		return err == nil && string(m.Payload) == `{"fixed": true}`
	}, waitLimit, poll)
	_, err = c.DeadLetter(ctx, first.ID)
	require.ErrorIs(t, err, client.ErrDeadLetterNotFound)

	sum, err := c.ReplayDeadLetters(ctx, notJSON)
	require.NoError(t, err)
	require.Equal(t, client.Replays{Refused: 2}, sum)
	require.NoError(t, c.DropDeadLetter(ctx, deadLetters[1].ID))
	require.ErrorIs(t, c.DropDeadLetter(ctx, deadLetters[1].ID), client.ErrDeadLetterNotFound)
	count, err := c.CountDeadLetters(ctx, client.DeadLetterFilter{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, count)
	dropped, err := c.DropDeadLetters(ctx, client.DeadLetterFilter{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, dropped)
}

// Producers that use the public client lose nothing and store nothing twice while the service is killed under them.
func TestGoClientOutlivesAKill(t *testing.T) {
	w := newPrivateWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*waitLimit)
	defer cancel()
	_, of := w.goClient(t)
	tenant := client.ID(w.createTenant(t, 3))
	c := of(tenant)

	ids := make(map[uuid.UUID]bool)
	p := c.NewPublisher(client.PublisherConfig{BatchMessages: 20})
	for round := range 3 {
		for n := range 500 {
			m, err := p.Publish(ctx, client.Publishing{Payload: n})
			require.NoError(t, err)
			ids[uuid.UUID(m.ID())] = true
		}
		if round < 2 {
			w.kill(t)
		}
	}
	require.NoError(t, p.Close(ctx), "every message was accepted, at last")
	w.requireExactly(t, uuid.UUID(tenant), w.token(t, uuid.UUID(tenant), "messages:read"), ids)
}
