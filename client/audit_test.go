package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// Whoever asks who has changed what gets all of it, page by page, under the filter that was asked for.
func TestAuditEvents(t *testing.T) {
	event := func(n int, tenant, before string) string {
		return fmt.Sprintf(`{"id":%q,"tenant_id":%s,"at":"2026-01-31T12:00:0%d.123456Z","actor":"alice","token_id":"t-%d","action":"tenant.resized",
			"target":"/tenants/x","before":%s,"after":{"workers":5},"request_id":"r-%d"}`, fixed(n), tenant, n, n, before, n)
	}
	c, s := play(t, nil,
		answer(200, `{"data":[`+event(1, `"`+fixed(7).String()+`"`, `{"workers":3}`)+`],"next_cursor":"c1","has_more":true}`),
		refuse(503, "registry_unavailable", "Retry-After", "0"),
		answer(200, `{"data":[`+event(2, `null`, `null`)+`],"next_cursor":"c2","has_more":false}`),
		refuse(400, "bad_cursor"))
	since := time.Date(2026, 1, 31, 13, 0, 0, 0, time.FixedZone("", 3600))
	pager := c.AuditEvents(client.AuditQuery{TenantID: fixed(7), Action: "tenant.resized", Since: since, Until: since.Add(time.Hour), Limit: 1})
	var got []client.AuditEvent
	for e, err := range pager.All(t.Context()) {
		require.NoError(t, err)
		got = append(got, e)
	}
	require.Len(t, got, 2)
	first := got[0]
	require.Equal(t, []client.ID{fixed(1), fixed(7)}, []client.ID{first.ID, first.TenantID})
	require.Equal(t, time.Date(2026, 1, 31, 12, 0, 1, 123456000, time.UTC), first.At)
	require.Equal(t, []string{"alice", "t-1", "tenant.resized", "/tenants/x", "r-1"}, []string{first.Actor, first.TokenID, first.Action, first.Target, first.RequestID})
	require.JSONEq(t, `{"workers":3}`, string(first.Before))
	require.JSONEq(t, `{"workers":5}`, string(first.After))
	require.True(t, got[1].TenantID.IsZero())
	require.Nil(t, got[1].Before)

	filter := "tenant_id=" + fixed(7).String() + "&until=2026-01-31T13%3A00%3A00Z"
	require.Equal(t, "/audit-events?action=tenant.resized&limit=1&since=2026-01-31T12%3A00%3A00Z&"+filter, s.sent[0].path)
	require.Equal(t, "/audit-events?action=tenant.resized&cursor=c1&limit=1&since=2026-01-31T12%3A00%3A00Z&"+filter, s.sent[2].path)
	require.Equal(t, "c2", pager.Cursor())

	_, err := c.AuditEvents(client.AuditQuery{Cursor: "x"}).Next(t.Context())
	require.ErrorIs(t, err, client.ErrBadCursor)
	require.Equal(t, "/audit-events?cursor=x", s.sent[3].path)
}
