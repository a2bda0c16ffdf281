package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) {
	// fasthttp's clock never stops.
	goleak.VerifyTestMain(openapi.Checked(m), goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const secret = "a secret of thirty-two bytes, at least"

// service is the API on a fresh database.
type service struct {
	url       string
	operator  *pgx.Conn
	transport http.RoundTripper // checks what is answered
}

func start(t *testing.T) *service {
	t.Helper()
	return startOn(t, backing.Postgres(t), func(url string) string { return url }, 10*time.Second)
}

// startOn serves from the database at url, which the service reaches through the URL that way makes of it.
func startOn(t *testing.T, url string, way func(url string) string, timeout time.Duration) *service {
	t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = way(url)
	pool, err := postgres.Open(t.Context(), cfg, postgres.RoleQuery)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	db, closer, err := postgres.Gorm(pool, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, closer.Close()) })

	keys := auth.DefaultConfig()
	keys.Secret = secret
	verifier, err := auth.New(t.Context(), keys, zap.NewNop())
	require.NoError(t, err)
	web := rest.DefaultConfig()
	web.Addr, web.RequestTimeout = "127.0.0.1:0", timeout
	server := rest.New(web, "query-service", prometheus.NewRegistry(), zap.NewNop())
	Mount(server, verifier, store.New(db))
	addr, err := server.Listen()
	require.NoError(t, err)

	operator, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	connections := &http.Transport{}
	s := &service{url: "http://" + addr.String(), operator: operator, transport: openapi.Transport(connections)}
	stop := component.Run(t, server.Run)
	t.Cleanup(func() {
		connections.CloseIdleConnections()
		stop()
		require.NoError(t, operator.Close(context.Background()))
	})
	return s
}

// tenant makes a tenant whose readable messages have those payloads, a second apart, and returns their ids, too.
func (s *service) tenant(t *testing.T, payloads ...string) (tenant uuid.UUID, ids []string) {
	t.Helper()
	tenant = uuid.New()
	_, err := s.operator.Exec(t.Context(), `SELECT tenant_attach($1)`, tenant)
	require.NoError(t, err)
	for i, payload := range payloads {
		id := uuid.New()
		ids = append(ids, id.String())
		_, err := s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, created_at, epoch, xid, ord)
			VALUES ($1, $2, $3, $4, 0, '1000', $5)`, tenant, id, payload, createdAt(i), i)
		require.NoError(t, err)
	}
	return tenant, ids
}

func createdAt(i int) time.Time { return time.Date(2026, 2, 3, 4, 5, 6+i, 123_400_000, time.UTC) }

func token(t *testing.T, tenant uuid.UUID, scopes ...auth.Scope) string {
	t.Helper()
	text, err := auth.Sign(secret, auth.Claims{
		Issuer: auth.DefaultConfig().Issuer, Audience: auth.DefaultConfig().Audience, Subject: "test", Scopes: scopes, TenantID: tenant,
	})
	require.NoError(t, err)
	return text
}

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *service) get(t *testing.T, token, path string) answer {
	t.Helper()
	got, err := raw.Do(t.Context(), s.transport, raw.Request{URL: s.url + path, Token: token})
	require.NoError(t, err)
	return answer{got.Status, got.Header, string(got.Body)}
}

// requireProblem checks that a is a problem document with that code, and that it names field unless that is "".
func (a answer) requireProblem(t *testing.T, status int, code, field string) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	var p struct {
		Code   string `json:"code"`
		Errors []struct {
			Field string `json:"field"`
		} `json:"errors"`
	}
	require.NoError(t, json.Unmarshal([]byte(a.body), &p))
	require.Equal(t, code, p.Code, a.body)
	if field != "" {
		require.Len(t, p.Errors, 1, a.body)
		require.Equal(t, field, p.Errors[0].Field)
	}
}

// idsOf are those of a page, in its order.
func idsOf(p pageDocument) []string {
	ids := []string{}
	for _, m := range p.Data {
		ids = append(ids, m.ID.String())
	}
	return ids
}

// page reads one, and holds it to the documented form.
func (s *service) page(t *testing.T, token, query string) pageDocument {
	t.Helper()
	a := s.get(t, token, "/messages"+query)
	require.Equal(t, http.StatusOK, a.status, a.body)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	var p pageDocument
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&p))
	require.NotEmpty(t, p.NextCursor, "every page has a cursor")
	return p
}

// The very bytes of both answers: clients are written against them.
func TestShape(t *testing.T) {
	s := start(t)
	payload := `{"a": "<b> & </b> é", "n": 12345678901234567890.50, "list": [true, null]}`
	tenant, ids := s.tenant(t, payload)
	reader := token(t, tenant, auth.ScopeMessagesRead)

	message := fmt.Sprintf(`{"id":"%s","tenant_id":"%s","payload":{"a": "<b> & </b> é", "n": 12345678901234567890.50, "list": [true, null]},"created_at":"2026-02-03T04:05:06.123400Z"}`,
		ids[0], tenant)
	one := s.get(t, reader, "/messages/"+ids[0])
	require.Equal(t, http.StatusOK, one.status)
	require.Equal(t, "application/json", one.header.Get("Content-Type"))
	require.JSONEq(t, message, one.body)
	require.Len(t, one.body, len(message), "nothing was escaped or reformatted, though keys are in the order of jsonb")

	list := s.get(t, reader, "/messages")
	require.Equal(t, http.StatusOK, list.status)
	cursor := encodeCursor(tenant, store.Ascending, &store.Position{Epoch: 0, Xid: 1000, Ord: 0})
	require.Equal(t, `{"data":[`+one.body+`],"next_cursor":"`+cursor+`","has_more":false}`, list.body)

	empty, _ := s.tenant(t)
	list = s.get(t, token(t, empty, auth.ScopeMessagesRead), "/messages?order=desc")
	require.Equal(t, `{"data":[],"next_cursor":"`+encodeCursor(empty, store.Descending, nil)+`","has_more":false}`, list.body)
}

// What was removed before it was read is said in one more field, which no other page has, and once.
func TestGap(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`, `2`, `3`, `4`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	first := s.page(t, reader, "?limit=1")
	backwards := s.page(t, reader, "?limit=3&order=desc")
	other, _ := s.tenant(t)
	empty := s.page(t, token(t, other, auth.ScopeMessagesRead), "")
	remove := func(tenant uuid.UUID, ord int) {
		_, err := s.operator.Exec(t.Context(), `DELETE FROM messages WHERE tenant_id = $1 AND ord <= $2`, tenant, ord)
		require.NoError(t, err)
		_, err = s.operator.Exec(t.Context(), `INSERT INTO retention_positions VALUES ($1, 0, '1000', $2)
			ON CONFLICT (tenant_id) DO UPDATE SET ord = excluded.ord`, tenant, ord)
		require.NoError(t, err)
	}
	remove(tenant, 2)
	message := s.get(t, reader, "/messages/"+ids[3]).body
	end := encodeCursor(tenant, store.Ascending, &store.Position{Epoch: 0, Xid: 1000, Ord: 3})
	require.Equal(t, `{"data":[`+message+`],"next_cursor":"`+end+`","has_more":false,"gap":true}`, s.get(t, reader, "/messages?cursor="+first.NextCursor).body)
	require.Equal(t, `{"data":[],"next_cursor":"`+end+`","has_more":false}`, s.get(t, reader, "/messages?cursor="+end).body, "it is told once")
	require.False(t, s.page(t, reader, "").Gap, "who begins has missed nothing")
	require.Equal(t, `{"data":[],"next_cursor":"`+backwards.NextCursor+`","has_more":false,"gap":true}`,
		s.get(t, reader, "/messages?order=desc&cursor="+backwards.NextCursor).body, "in descending order it is the end")

	remove(tenant, 3)
	page := s.page(t, reader, "?cursor="+first.NextCursor)
	require.True(t, page.Gap)
	require.Equal(t, end, page.NextCursor, "behind what was removed, so that it is not told again")
	remove(other, 7)
	require.True(t, s.page(t, token(t, other, auth.ScopeMessagesRead), "?cursor="+empty.NextCursor).Gap, "since the list was empty")
}

func TestPaging(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`, `2`, `3`, `4`, `5`)
	reader := token(t, tenant, auth.ScopeMessagesRead)

	first := s.page(t, reader, "?limit=2")
	require.Equal(t, ids[:2], idsOf(first))
	require.True(t, first.HasMore)
	second := s.page(t, reader, "?limit=2&cursor="+first.NextCursor)
	require.Equal(t, ids[2:4], idsOf(second))
	last := s.page(t, reader, "?limit=2&order=asc&cursor="+second.NextCursor)
	require.Equal(t, ids[4:], idsOf(last))
	require.False(t, last.HasMore)
	end := s.page(t, reader, "?cursor="+last.NextCursor)
	require.Empty(t, end.Data)
	require.Equal(t, last.NextCursor, end.NextCursor, "an empty page gives back the cursor that was sent")

	_, err := s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, epoch, xid) VALUES ($1, $2, '6', 0, '1001')`, tenant, uuid.New())
	require.NoError(t, err)
	news := s.page(t, reader, "?cursor="+end.NextCursor)
	require.Len(t, news.Data, 1, "a reader that comes back later finds what is new")
	require.InDelta(t, 6, news.Data[0].Payload, 0)

	newest := s.page(t, reader, "?limit=4&order=desc")
	require.Equal(t, []string{news.Data[0].ID.String(), ids[4], ids[3], ids[2]}, idsOf(newest))
	oldest := s.page(t, reader, "?limit=4&order=desc&cursor="+newest.NextCursor)
	require.Equal(t, []string{ids[1], ids[0]}, idsOf(oldest))
	require.False(t, oldest.HasMore)
	require.Empty(t, s.page(t, reader, "?order=desc&cursor="+oldest.NextCursor).Data)
}

// The cursor of an empty tenant leads to its first message once there is one.
func TestCursorOfAnEmptyTenant(t *testing.T) {
	s := start(t)
	tenant, _ := s.tenant(t)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	empty := s.page(t, reader, "")
	_, err := s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, epoch, xid) VALUES ($1, $2, '1', 0, '1001')`, tenant, uuid.New())
	require.NoError(t, err)
	require.Len(t, s.page(t, reader, "?cursor="+empty.NextCursor).Data, 1)
	require.Equal(t, empty.NextCursor, s.page(t, reader, "?created_after=2999-01-01T00:00:00Z").NextCursor)
}

func TestTimeBounds(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `0`, `1`, `2`, `3`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	at := func(i int, offset time.Duration) string {
		return url.QueryEscape(createdAt(i).Add(offset).In(time.FixedZone("", 2*3600)).Format(time.RFC3339Nano))
	}
	for _, c := range []struct {
		name, query string
		want        []string
	}{
		{"after includes the time itself", "created_after=" + at(1, 0), ids[1:]},
		{"after, a nanosecond later", "created_after=" + at(1, 1), ids[2:]},
		{"before excludes the time itself", "created_before=" + at(2, 0), ids[:2]},
		{"before, a nanosecond later", "created_before=" + at(2, 1), ids[:3]},
		{"both", "created_after=" + at(1, 0) + "&created_before=" + at(3, 0), ids[1:3]},
		{"windows that touch share nothing", "created_after=" + at(3, 0) + "&created_before=" + at(9, 0), ids[3:]},
		{"an empty window", "created_after=" + at(2, 0) + "&created_before=" + at(2, 0), []string{}},
		{"a window that ends before it begins", "created_after=" + at(3, 0) + "&created_before=" + at(1, 0), []string{}},
		{"before the first of all days", "created_before=0001-01-01T00:00:00Z", []string{}},
		{"all of time", "created_after=0000-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999999Z", ids},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.want, idsOf(s.page(t, reader, "?"+c.query)))
		})
	}
	first := s.page(t, reader, "?limit=1&order=desc&created_before="+at(3, 0))
	require.Equal(t, ids[2:3], idsOf(first))
	require.True(t, first.HasMore)
	require.Equal(t, ids[1:2], idsOf(s.page(t, reader, "?limit=1&order=desc&created_after="+at(1, 0)+"&cursor="+first.NextCursor)), "bounds are not part of a cursor")
}

func TestBadRequests(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	other, _ := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	mine := encodeCursor(tenant, store.Ascending, &store.Position{Xid: 1000})
	foreign := encodeCursor(other, store.Ascending, &store.Position{Xid: 1000})
	for _, c := range []struct{ path, code, field string }{
		{"/messages?limit=0", "invalid_limit", "limit"},
		{"/messages?limit=1001", "invalid_limit", "limit"},
		{"/messages?limit=-1", "invalid_limit", "limit"},
		{"/messages?limit=ten", "invalid_limit", "limit"},
		{"/messages?limit=99999999999999999999", "invalid_limit", "limit"},
		{"/messages?order=up", "invalid_order", "order"},
		{"/messages?order=ASC", "invalid_order", "order"},
		{"/messages?created_after=yesterday", "invalid_time", "created_after"},
		{"/messages?created_after=2026-01-01", "invalid_time", "created_after"},
		{"/messages?created_before=2026-01-01T00:00:00+01:00", "invalid_time", "created_before"},
		{"/messages?created_before=2026-02-30T00:00:00Z", "invalid_time", "created_before"},
		{"/messages?created_before=1767225600", "invalid_time", "created_before"},
		{"/messages?cursor=x", "bad_cursor", "cursor"},
		{"/messages?cursor=" + mine[1:], "bad_cursor", "cursor"},
		{"/messages?cursor=" + mine + "=", "bad_cursor", "cursor"},
		{"/messages?cursor=" + foreign, "bad_cursor", "cursor"},
		{"/messages?order=desc&cursor=" + mine, "bad_cursor", "cursor"},
		{"/messages?cursor=" + mine + "&cursor=" + mine, "repeated_parameter", "cursor"},
		{"/messages?limit=1&limit=1", "repeated_parameter", "limit"},
		{"/messages?offset=5", "unknown_parameter", "offset"},
		{"/messages?Limit=5", "unknown_parameter", "Limit"},
		{"/messages?cursor=" + strings.Repeat("A", 8000), "bad_cursor", "cursor"},
		{"/messages/1", "invalid_uuid", "id"},
		{"/messages/%00", "invalid_uuid", "id"},
		{"/messages/" + strings.ReplaceAll(ids[0], "-", ""), "invalid_uuid", "id"},
		{"/messages/" + ids[0] + "?limit=1", "unknown_parameter", "limit"},
	} {
		t.Run(c.path[:min(len(c.path), 80)], func(t *testing.T) {
			s.get(t, reader, c.path).requireProblem(t, http.StatusBadRequest, c.code, c.field)
		})
	}
}

func TestNotStored(t *testing.T) {
	s := start(t)
	tenant, _ := s.tenant(t, `1`)
	_, theirs := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	s.get(t, reader, "/messages/"+uuid.NewString()).requireProblem(t, http.StatusNotFound, "not_stored", "")
	s.get(t, reader, "/messages/"+theirs[0]).requireProblem(t, http.StatusNotFound, "not_stored", "")
	s.get(t, reader, "/messages/"+theirs[0]+"/more").requireProblem(t, http.StatusNotFound, "route_not_found", "")
}

// Which tokens the service lets read, and the messages of which tenant.
func TestAccess(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	other, _ := s.tenant(t, `1`, `2`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	admin := token(t, uuid.Nil, auth.ScopeTenantsAdmin)
	for _, path := range []string{"/messages", "/messages/" + ids[0]} {
		s.get(t, "", path).requireProblem(t, http.StatusUnauthorized, "missing_token", "")
		s.get(t, reader+"x", path).requireProblem(t, http.StatusUnauthorized, "invalid_token", "")
		s.get(t, token(t, tenant), path).requireProblem(t, http.StatusForbidden, "insufficient_scope", "")
		s.get(t, token(t, tenant, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage), path).requireProblem(t, http.StatusForbidden, "insufficient_scope", "")
		s.get(t, reader, path+"?tenant_id="+other.String()).requireProblem(t, http.StatusForbidden, "tenant_mismatch", "")
		s.get(t, token(t, tenant, auth.ScopeTenantsAdmin), path+"?tenant_id="+other.String()).requireProblem(t, http.StatusForbidden, "tenant_mismatch", "")
		s.get(t, admin, path).requireProblem(t, http.StatusBadRequest, "tenant_id_required", "tenant_id")
		s.get(t, admin, path+"?tenant_id=x").requireProblem(t, http.StatusBadRequest, "invalid_uuid", "tenant_id")
		require.Equal(t, http.StatusOK, s.get(t, reader, path+"?tenant_id="+tenant.String()).status)
		require.Equal(t, http.StatusOK, s.get(t, admin, path+"?tenant_id="+tenant.String()).status)
	}
	require.Len(t, s.page(t, admin, "?tenant_id="+other.String()).Data, 2)
	require.Empty(t, s.page(t, admin, "?tenant_id="+uuid.NewString()).Data, "a tenant that is not there has no messages")
	require.Equal(t, ids, idsOf(s.page(t, reader, "")))
}

func TestSwagger(t *testing.T) {
	s := start(t)
	document := s.get(t, "", "/swagger/doc.json")
	require.Equal(t, http.StatusOK, document.status)
	var parsed struct {
		Paths map[string]any `json:"paths"`
	}
	require.NoError(t, json.Unmarshal([]byte(document.body), &parsed))
	require.Contains(t, parsed.Paths, "/messages")
	require.Contains(t, parsed.Paths, "/messages/{id}")
	require.Equal(t, http.StatusOK, s.get(t, "", "/swagger/index.html").status)
}
