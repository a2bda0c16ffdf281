package client_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// tenantOf is an answer with a tenant.
func tenantOf(status int, state client.TenantState, observed client.ConsumerState, generation, seen int) step {
	return answer(status, fmt.Sprintf(`{"id":%q,"name":"acme","workers":3,"state":%q,"generation":%d,"created_at":"2026-01-02T03:04:05.000006Z",
		"status":{"state":%q,"workers":3,"queue":{"ready":120,"unacked":null},"observed_generation":%d,"error":"E",
		"instances":[{"instance":"i-1","state":%q,"workers":3,"queue":{},"observed_generation":%d,"observed_at":"2026-01-02T03:04:05.000006Z"}]}}`,
		fixed(1), state, generation, observed, seen, observed, seen))
}

// A tenant whose creation got no answer must not be created a second time under another id, nor be reported as a failure.
func TestCreateTenantWhoseAnswerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, cut, refuse(409, "tenant_exists"), tenantOf(200, "active", "provisioning", 1, 0))
		made, err := c.CreateTenant(t.Context(), client.NewTenant{Name: " acme ", Workers: 3})
		require.NoError(t, err)
		require.Equal(t, fixed(1), made.ID)
		require.Equal(t, s.sent[0].body, s.sent[1].body, "under the same id")
		require.Contains(t, s.sent[0].body, `"name":" acme ","workers":3}`)
		require.Empty(t, s.sent[0].header.Get("Prefer"))
	})
}

// An operator who raises a limit is told that it is not in force yet, and why.
func TestQueueLimitsOfATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := play(t, nil, answer(200, fmt.Sprintf(`{"id":%q,"status":{"state":"running","queue":{},"instances":[],
			"queue_limits":{"reason":"argument","max_bytes":1073741824,"detail":"D"}}}`, fixed(1))), tenantOf(200, "active", "running", 1, 1))
		got, err := c.Tenant(t.Context(), fixed(1))
		require.NoError(t, err)
		require.Equal(t, &client.QueueLimits{Reason: client.QueueLimitsArgument, MaxBytes: 1 << 30, Detail: "D"}, got.Status.QueueLimits)
		got, err = c.Tenant(t.Context(), fixed(1))
		require.NoError(t, err)
		require.Nil(t, got.Status.QueueLimits)
	})
}

// A tenant that was there before is not ours, lost answer or not.
func TestCreateTenantThatExists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := play(t, nil, refuse(409, "tenant_exists"))
		_, err := c.CreateTenant(t.Context(), client.NewTenant{ID: fixed(1), Name: "acme"})
		require.ErrorIs(t, err, client.ErrTenantExists)
		c, _ = play(t, nil, cut, refuse(409, "tenant_exists"), tenantOf(200, "active", "running", 4, 4))
		_, err = c.CreateTenant(t.Context(), client.NewTenant{ID: fixed(1), Name: "globex"})
		require.ErrorIs(t, err, client.ErrTenantExists)
	})
}

// A caller that waits for a tenant can use it afterwards, however short the wait of the service itself is.
func TestWait(t *testing.T) {
	t.Run("create", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, s := play(t, nil, tenantOf(201, "active", "provisioning", 1, 0), refuse(503, "registry_unavailable"),
				tenantOf(200, "active", "running", 2, 1), tenantOf(200, "active", "running", 2, 2))
			made, err := c.CreateTenant(t.Context(), client.NewTenant{ID: fixed(1), Name: "acme"}, client.Wait())
			require.NoError(t, err)
			require.True(t, made.Reconciled())
			require.Equal(t, int64(120), *made.Status.Queue.Ready)
			require.Nil(t, made.Status.Queue.Unacked)
			require.Equal(t, client.ConsumerRunning, made.Status.Instances[0].State)
			require.Equal(t, "wait=30", s.sent[0].header.Get("Prefer"))
			require.Equal(t, "/tenants/"+fixed(1).String(), s.sent[3].path)
		})
	})
	t.Run("no longer than the context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
			defer cancel()
			c, s := play(t, nil, silent)
			_, err := c.SuspendTenant(ctx, fixed(1), client.Wait())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, "wait=9", s.sent[0].header.Get("Prefer"))
		})
	})
	t.Run("and is told what was seen last", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			c := handle(t, tenantOf(200, "suspended", "paused", 2, 1))
			last, err := c.SuspendTenant(ctx, fixed(1), client.Wait())
			require.ErrorContains(t, err, "it is to be suspended and is paused (3 workers, generation 1 of 2) E")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, client.ConsumerPaused, last.Status.State)
		})
	})
	t.Run("no longer because there is no room to store", func(t *testing.T) {
		c, _ := play(t, nil, tenantOf(200, "active", "storage_full", 2, 2))
		resumed, err := c.ResumeTenant(t.Context(), fixed(1), client.Wait())
		require.NoError(t, err)
		require.Equal(t, client.ConsumerStorageFull, resumed.Status.State)
	})
	t.Run("resize and resume", func(t *testing.T) {
		c, s := play(t, nil, tenantOf(200, "active", "running", 2, 2), tenantOf(200, "active", "running", 2, 2))
		_, err := c.ResizeTenant(t.Context(), fixed(1), 5, client.Wait())
		require.NoError(t, err)
		_, err = c.ResumeTenant(t.Context(), fixed(1), client.Wait())
		require.NoError(t, err)
		require.Equal(t, "PUT /tenants/"+fixed(1).String()+`/config/concurrency {"workers":5}`, s.sent[0].method+" "+s.sent[0].path+" "+s.sent[0].body)
		require.Equal(t, "POST /tenants/"+fixed(1).String()+"/resume ", s.sent[1].method+" "+s.sent[1].path+" "+s.sent[1].body)
		require.Empty(t, s.sent[1].header.Get("Content-Type"), "no body, no type")
	})
}

// Deleting is over when the tenant cannot be found, and what an earlier attempt has done is no error.
func TestDeleteTenant(t *testing.T) {
	gone := refuse(404, "tenant_not_found")
	for name, tt := range map[string]struct {
		steps []step
		opts  []client.TenantOption
		is    error
	}{
		"begun":                   {[]step{tenantOf(202, "deleting", "running", 2, 1)}, nil, nil},
		"waited for":              {[]step{tenantOf(202, "deleted", "deleted", 2, 2)}, []client.TenantOption{client.Wait()}, nil},
		"waited for longer":       {[]step{tenantOf(202, "deleting", "running", 2, 1), tenantOf(200, "deleting", "deleting", 2, 2), gone}, []client.TenantOption{client.Wait()}, nil},
		"of a lost answer":        {[]step{cut, gone}, []client.TenantOption{client.Wait()}, nil},
		"of none":                 {[]step{gone}, nil, client.ErrTenantNotFound},
		"of none after no answer": {[]step{refuse(429, "rate_limited"), gone}, nil, client.ErrTenantNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := play(t, nil, tt.steps...)
				err := c.DeleteTenant(t.Context(), fixed(1), tt.opts...)
				if tt.is == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, tt.is)
				}
			})
		})
	}
}

func TestTenants(t *testing.T) {
	c, _ := play(t, nil, answer(200, `{"data":[{"id":"`+fixed(1).String()+`","name":"acme"},{"id":"`+fixed(2).String()+`","name":"globex"}],"next_cursor":"c","has_more":false}`),
		refuse(404, "tenant_not_found"))
	var names []string
	for tenant, err := range c.Tenants(client.TenantQuery{}).All(t.Context()) {
		require.NoError(t, err)
		names = append(names, tenant.Name)
	}
	require.Equal(t, []string{"acme", "globex"}, names)
	_, err := c.Tenant(t.Context(), fixed(1))
	require.ErrorIs(t, err, client.ErrTenantNotFound)
}

func TestUsage(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	c, s := play(t, nil, answer(200, `{"step":"day","data":[{"from":"2026-01-02T00:00:00.000000Z","to":"2026-01-03T00:00:00.000000Z","messages":1,"bytes":20,"delivered":3,"dead_letters":4}],
		"stored":{"messages":5,"bytes":60},"counted_until":"2026-01-02T03:04:05.000006Z"}`), answer(200, `{"step":"hour","data":[],"stored":{"messages":0,"bytes":0}}`),
		refuse(404, "tenant_not_found"))
	u, err := c.Usage(t.Context(), fixed(1), client.UsageQuery{From: at, To: at.Add(time.Hour), Step: client.UsageDaily})
	require.NoError(t, err)
	require.Equal(t, "/tenants/"+fixed(1).String()+"/usage?from=2026-01-02T03%3A00%3A00Z&step=day&to=2026-01-02T04%3A00%3A00Z", s.sent[0].path)
	midnight := at.Truncate(24 * time.Hour)
	require.Equal(t, []client.UsageCount{{From: midnight, To: midnight.Add(24 * time.Hour), Messages: 1, Bytes: 20, Delivered: 3, DeadLetters: 4}}, u.Data)
	require.EqualValues(t, 5, u.Stored.Messages)
	require.EqualValues(t, 60, u.Stored.Bytes)
	require.Equal(t, 6000, u.CountedUntil.Nanosecond())

	u, err = c.Usage(t.Context(), fixed(1), client.UsageQuery{})
	require.NoError(t, err)
	require.Equal(t, "/tenants/"+fixed(1).String()+"/usage", s.sent[1].path)
	require.True(t, u.CountedUntil.IsZero())
	_, err = c.Usage(t.Context(), fixed(1), client.UsageQuery{})
	require.ErrorIs(t, err, client.ErrTenantNotFound)
}
