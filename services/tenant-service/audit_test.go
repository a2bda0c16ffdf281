package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
)

// events reads a page of the audit log.
func (r *running) events(query string) (page api.AuditPage) {
	r.t.Helper()
	got := r.require(http.StatusOK, request{method: http.MethodGet, path: "/audit-events" + query})
	require.NoError(r.t, json.Unmarshal(got.body, &page), string(got.body))
	return page
}

// eventually waits until a query has n events, which transactions of other tests may hold back.
func (r *running) eventuallyEvents(query string, n int) (page api.AuditPage) {
	r.t.Helper()
	require.EventuallyWithT(r.t, func(c *assert.CollectT) {
		page = r.events(query)
		require.Len(c, page.Data, n)
	}, waitLimit, tick)
	return page
}

// as is a token of an administrator with a subject and an id.
func as(t *testing.T, subject, id string) string {
	t.Helper()
	cfg := auth.DefaultConfig()
	signed, err := auth.Sign(secret, auth.Claims{
		Issuer: cfg.Issuer, Audience: cfg.Audience, Subject: subject, TokenID: id, Scopes: []auth.Scope{auth.ScopeTenantsAdmin},
	})
	require.NoError(t, err)
	return signed
}

// An operator who asks what happened to a tenant is told who did what with which request, from its creation to its end and after that.
func TestAuditLogOfATenant(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	ingest := startInstance(t, r.cfg.NATS.URL, "one")
	id := r.create("ACME")
	requests := []string{""}
	for _, q := range []request{
		{method: "PUT", path: path(id, "/config/concurrency"), body: `{"workers":5}`, token: as(t, "alice", "t-1")},
		{method: "POST", path: path(id, "/suspend"), token: as(t, "bob\x00", strings.Repeat("x", 300))},
		{method: "POST", path: path(id, "/suspend")}, // changes nothing
		{method: "POST", path: path(id, "/resume"), token: as(t, "system", "")},
		{method: "DELETE", path: path(id, ""), prefer: "wait=30"},
	} {
		got := r.do(q)
		require.Less(t, got.status, 300, string(got.body))
		requests = append(requests, got.header.Get("X-Request-Id"))
	}
	require.Equal(t, http.StatusNotFound, r.do(request{method: "GET", path: path(id, "")}).status)
	require.NotNil(t, ingest)

	events := r.eventuallyEvents("?tenant_id="+id.String(), 6).Data
	want := []api.AuditEvent{
		{Actor: "test", Action: "tenant.created", Before: nil, After: []byte(`{"name":"ACME","state":"active","workers":3,"generation":1}`)},
		{Actor: "alice", TokenID: "t-1", Action: "tenant.resized", RequestID: requests[1], Before: []byte(`{"workers":3,"generation":1}`), After: []byte(`{"workers":5,"override":{"workers":5},"generation":2}`)},
		{Actor: "bob\uFFFD", TokenID: strings.Repeat("x", 255), Action: "tenant.suspended", RequestID: requests[2], Before: []byte(`{"state":"active","generation":2}`), After: []byte(`{"state":"suspended","generation":3}`)},
		{Actor: "system", Action: "tenant.resumed", RequestID: requests[4], Before: []byte(`{"state":"suspended","generation":3}`), After: []byte(`{"state":"active","generation":4}`)},
		{Actor: "test", Action: "tenant.deleted", RequestID: requests[5], Before: []byte(`{"state":"active","generation":4}`), After: []byte(`{"state":"deleting","generation":5}`)},
		{Actor: "system", Action: "tenant.retired", RequestID: "", Before: []byte(`{"state":"deleting","generation":5}`), After: []byte(`{"state":"deleted","generation":6}`)},
	}
	for i, e := range events {
		require.Equal(t, id, *e.TenantID)
		require.Equal(t, path(id, ""), e.Target)
		require.NotEmpty(t, e.ID)
		require.NotZero(t, e.At)
		require.Equal(t, []string{want[i].Actor, want[i].TokenID, want[i].Action}, []string{e.Actor, e.TokenID, e.Action})
		if i > 0 {
			require.Equal(t, want[i].RequestID, e.RequestID, "of a request always, of the platform itself never")
		}
		for _, pair := range [][2]json.RawMessage{{want[i].Before, e.Before}, {want[i].After, e.After}} {
			if pair[0] == nil {
				require.Equal(t, "null", string(pair[1]))
			} else {
				require.JSONEq(t, string(pair[0]), string(pair[1]))
			}
		}
	}
	require.NotEmpty(t, events[0].RequestID)
}

// Following next_cursor meets every event once, and, later on, those that are new.
func TestAuditLogIsPaged(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	empty := r.events("")
	require.NotNil(t, empty.Data)
	require.Empty(t, empty.Data)
	require.Equal(t, empty.NextCursor, r.events("?cursor="+empty.NextCursor).NextCursor, "the start of the list has a cursor")

	var want, seen []string
	for i := range 7 {
		want = append(want, "/tenants/"+r.create(fmt.Sprintf("t%d", i)).String())
	}
	r.eventuallyEvents("", 7)
	cursor := empty.NextCursor
	for more := true; more; {
		page := r.events("?limit=3&cursor=" + cursor)
		for _, e := range page.Data {
			seen = append(seen, e.Target)
		}
		cursor, more = page.NextCursor, page.HasMore
	}
	require.Equal(t, want, seen)
	require.Equal(t, cursor, r.events("?cursor="+cursor).NextCursor, "that of an empty page")
	later := r.create("later")
	require.Equal(t, "/tenants/"+later.String(), r.eventuallyEvents("?cursor="+cursor, 1).Data[0].Target)

	at := url.QueryEscape(r.events("").Data[3].At.UTC().Format("2006-01-02T15:04:05.000000Z"))
	require.Len(t, r.events("?since="+at).Data, 5)
	require.Len(t, r.events("?until="+at).Data, 3)
	require.Len(t, r.events("?action=tenant.created").Data, 8)
	require.Empty(t, r.events("?action=tenant.deleted").Data)
	require.Empty(t, r.events("?tenant_id="+uuid.NewString()).Data, "of one that nobody knows")
	require.Len(t, r.events("?tenant_id=&action=&since=&until=&cursor=&limit=").Data, 8, "an empty parameter is none")
}

// Who did what to all tenants is for those who answer for all tenants.
func TestAccessToTheAuditLog(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	own := r.create("own")
	for who, c := range map[string]struct {
		token  string
		status int
		code   string
	}{
		"admin":       {admin(t), 200, ""},
		"bound admin": {token(t, own, auth.ScopeTenantsAdmin), 403, "tenant_bound_token"},
		"bound":       {token(t, own, auth.ScopeMessagesRead), 403, "insufficient_scope"},
		"bound none":  {token(t, own), 403, "insufficient_scope"},
		"none":        {token(t, uuid.Nil), 403, "insufficient_scope"},
		"anonymous":   {"-", 401, "missing_token"},
	} {
		for _, query := range []string{"", "?tenant_id=" + own.String(), "?tenant_id=" + uuid.NewString()} {
			got := r.do(request{method: http.MethodGet, path: "/audit-events" + query, token: c.token})
			require.Equal(t, c.status, got.status, "%s %s: %s", who, query, got.body)
			require.Equal(t, c.code, got.problem.Code, "%s %s", who, query)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		require.Equal(t, http.StatusMethodNotAllowed, r.do(request{method: method, path: "/audit-events"}).status, method)
	}
}

// Every wrong query gets its 400, and is told which parameter is wrong.
func TestBadQueriesOfTheAuditLog(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	page := r.eventuallyEvents("", 1)
	cursor := page.NextCursor
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	require.NoError(t, err)
	raw[len(raw)-1] ^= 1
	broken := base64.RawURLEncoding.EncodeToString(raw)
	for _, c := range []struct{ query, code, field string }{
		{"tenant_id=x", "invalid_uuid", "tenant_id"},
		{"tenant_id=00000000-0000-0000-0000-000000000000", "invalid_uuid", "tenant_id"},
		{"tenant_id=%7B" + id.String() + "%7D", "invalid_uuid", "tenant_id"},
		{"tenant_id=" + id.String() + "%00", "invalid_uuid", "tenant_id"},
		{"tenant_id=" + id.String() + "&tenant_id=" + id.String(), "repeated_parameter", "tenant_id"},
		{"action=tenant", "invalid_action", "action"},
		{"action=TENANT.CREATED", "invalid_action", "action"},
		{"action=%00", "invalid_action", "action"},
		{"action=tenant.created%27%20OR%201=1", "invalid_action", "action"},
		{"action=" + strings.Repeat("a", 4000), "invalid_action", "action"},
		{"since=yesterday", "invalid_time", "since"},
		{"since=2026-01-31", "invalid_time", "since"},
		{"since=1769860800", "invalid_time", "since"},
		{"until=2026-02-30T00:00:00Z", "invalid_time", "until"},
		{"until=10000-01-01T00:00:00Z", "invalid_time", "until"},
		{"since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z", "invalid_time", "until"},
		{"since=2026-02-01T00:00:00Z&until=2026-02-01T01:00:00%2B01:00", "invalid_time", "until"},
		{"limit=0", "invalid_limit", "limit"},
		{"limit=-1", "invalid_limit", "limit"},
		{"limit=1001", "invalid_limit", "limit"},
		{"limit=99999999999999999999", "invalid_limit", "limit"},
		{"limit=1e1", "invalid_limit", "limit"},
		{"cursor=hello", "bad_cursor", "cursor"},
		{"cursor=" + broken, "bad_cursor", "cursor"},
		{"cursor=" + cursor + "=", "bad_cursor", "cursor"},
		{"cursor=" + cursor + "&tenant_id=" + id.String(), "bad_cursor", "cursor"},
		{"cursor=" + cursor + "&action=tenant.created", "bad_cursor", "cursor"},
		{"cursor=" + cursor + "&since=2026-01-01T00:00:00Z", "bad_cursor", "cursor"},
		{"cursor=" + cursor + "&until=2099-01-01T00:00:00Z", "bad_cursor", "cursor"},
		{"order=desc", "unknown_parameter", "order"},
		{"actor=test", "unknown_parameter", "actor"},
		{"tenant-id=" + id.String(), "unknown_parameter", "tenant-id"},
	} {
		got := r.do(request{method: http.MethodGet, path: "/audit-events?" + c.query})
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", c.query, got.body)
		require.Equal(t, c.code, got.problem.Code, c.query)
		require.NotEmpty(t, got.problem.Errors, c.query)
		require.Equal(t, c.field, got.problem.Errors[0].Field, c.query)
	}
	for query, n := range map[string]int{
		"since=0000-01-01T00:00:00Z": 1, "since=0001-01-01T00:00:00Z": 1, "until=0001-01-01T00:00:00Z": 0, "until=9999-12-31T23:59:59Z": 1,
		"since=9999-12-31T23:59:59Z": 0, "limit=1000&tenant_id=" + strings.ToUpper(id.String()): 1, "cursor=" + cursor: 0,
	} {
		require.Len(t, r.events("?"+query).Data, n, query)
	}
	got := r.do(request{method: http.MethodGet, path: "/audit-events", body: `{"tenant_id":"x"}`})
	require.Equal(t, "unexpected_body", got.problem.Code)
}

// The log says which actions there are, and the document of the API does.
func TestActionsAreDocumented(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	document := string(r.require(http.StatusOK, request{method: http.MethodGet, path: "/swagger/doc.json", token: "-"}).body)
	for _, action := range audit.Actions() {
		require.GreaterOrEqual(t, strings.Count(document, `"`+string(action)+`"`), 2, "%s: of an event, and of the parameter", action)
	}
}
