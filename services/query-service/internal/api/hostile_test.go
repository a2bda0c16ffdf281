package api

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// A reader that forgets an id is told so, and does not get a page.
func TestAnEmptyIDNeverMeansAll(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`, `2`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, path := range []string{
		"/messages/", "/messages//", "//messages", "/Messages", "/MESSAGES", "/messages/../messages", "/./messages", "/messages/" + ids[0] + "/", "/messages//" + ids[0],
		"/messages/?limit=1", "/messages;limit=1", "/messages%2F", "/messages%20", "/Messages/" + ids[0],
	} {
		s.get(t, reader, path).requireProblem(t, http.StatusNotFound, "route_not_found", "")
	}
	for _, path := range []string{"/messages/%20", "/messages/%2F", "/messages/.", "/messages/..", "/messages/%2E%2E", "/messages/*", "/messages/null", "/messages/%00"} {
		s.get(t, reader, path).requireProblem(t, http.StatusBadRequest, "invalid_uuid", "id")
	}
	admin := token(t, uuid.Nil, auth.ScopeTenantsAdmin)
	for _, path := range []string{"/messages?tenant_id=", "/messages?tenant_id", "/messages/" + ids[0] + "?tenant_id="} {
		s.get(t, admin, path).requireProblem(t, http.StatusBadRequest, "tenant_id_required", "tenant_id")
	}
}

// Forms and many client libraries send an empty parameter for "none".
func TestEmptyParametersAreAbsent(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`, `2`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, query := range []string{"?cursor=", "?limit=", "?order=", "?created_after=", "?created_before=", "?tenant_id=", "?cursor&limit&order&created_after&created_before&tenant_id"} {
		require.Equal(t, ids, idsOf(s.page(t, reader, query)), query)
	}
	first := s.page(t, reader, "?limit=1&cursor=")
	require.Equal(t, ids[1:], idsOf(s.page(t, reader, "?order=&cursor="+first.NextCursor)))
	s.get(t, reader, "/messages?cursor=&cursor="+first.NextCursor).requireProblem(t, http.StatusBadRequest, "repeated_parameter", "cursor")
	s.get(t, reader, "/messages?offset=").requireProblem(t, http.StatusBadRequest, "unknown_parameter", "offset")
	require.Equal(t, http.StatusOK, s.get(t, reader, "/messages/"+ids[0]+"?tenant_id=").status)
}

// An id is the same id in every spelling that RFC 3986 takes for equal.
func TestSpellingsOfAnID(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, same := range []string{strings.ToUpper(ids[0]), strings.ReplaceAll(ids[0], "-", "%2D"), strings.ReplaceAll(ids[0], "-", "%2d")} {
		require.Equal(t, http.StatusOK, s.get(t, reader, "/messages/"+same).status, same)
	}
	for _, other := range []string{"%7B" + ids[0] + "%7D", "urn:uuid:" + ids[0], "urn%3Auuid%3A" + ids[0], strings.ReplaceAll(ids[0], "-", "%252D"), ids[0] + "%20"} {
		s.get(t, reader, "/messages/"+other).requireProblem(t, http.StatusBadRequest, "invalid_uuid", "id")
	}
}

// Times are RFC 3339 to the letter, where package time is not.
func TestTimesToTheLetter(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, text := range []string{"2026-01-31T0:00:00Z", "2026-01-31T00:00:00,5Z", "2026-01-31T00:00:00+24:00", "2026-01-31T00:00:60Z", "2026-01-31 00:00:00Z", "2026-02-30T00:00:00Z"} {
		for _, name := range []string{"created_after", "created_before"} {
			s.get(t, reader, "/messages?"+name+"="+url.QueryEscape(text)).requireProblem(t, http.StatusBadRequest, "invalid_time", name)
		}
	}
	for _, text := range []string{"2026-01-31t00:00:00z", "2016-12-31T23:59:60Z", "2026-01-31T00:00:00.1234567891234Z", "2026-01-31T00:00:00-23:59"} {
		require.Equal(t, ids, idsOf(s.page(t, reader, "?created_after="+url.QueryEscape(text))), text)
	}
}

// A client that sorts messages by the text of created_at gets them in the order of the times.
func TestCreatedAtSortsAsText(t *testing.T) {
	s := start(t)
	tenant, _ := s.tenant(t)
	for i, fraction := range []string{"", ".1", ".12", ".123456", ".9"} {
		_, err := s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload, created_at, epoch, xid, ord)
			VALUES ($1, $2, '1', $3::text::timestamptz, 0, '1000', $4)`, tenant, uuid.New(), "2026-01-31T08:00:00"+fraction+"+01:00", i)
		require.NoError(t, err)
	}
	body := s.get(t, token(t, tenant, auth.ScopeMessagesRead), "/messages").body
	var texts []string
	for part := range strings.SplitSeq(body, `"created_at":"`) {
		text, _, _ := strings.Cut(part, `"`)
		texts = append(texts, text)
	}
	texts = texts[1:]
	require.Equal(t, []string{
		"2026-01-31T07:00:00.000000Z", "2026-01-31T07:00:00.100000Z", "2026-01-31T07:00:00.120000Z", "2026-01-31T07:00:00.123456Z", "2026-01-31T07:00:00.900000Z",
	}, texts)
	require.True(t, slices.IsSorted(texts))
}

func TestRoutesWithoutABody(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, path := range []string{"/messages", "/messages/" + ids[0]} {
		for body, status := range map[string]int{"{}": 200, " ": 200, `{"limit":1}`: 400, "null": 400, "[]": 400, "\ufeff{}": 400} {
			raw.Must(t, s.transport, status, raw.Request{URL: s.url + path, Token: reader, Body: []byte(body)})
		}
	}
}

// Whatever framing a proxy lets pass, no page is read by a request that is hidden in another.
func TestNoRequestIsHiddenInAnother(t *testing.T) {
	s := start(t)
	tenant, _ := s.tenant(t, `1`)
	header := "Authorization: Bearer " + token(t, tenant, auth.ScopeMessagesRead) + "\r\n"
	raw.Framing(t, raw.Target{
		Addr: strings.TrimPrefix(s.url, "http://"), Method: http.MethodGet, Path: "/messages", Header: header, Body: "{}",
		Hidden: "GET /messages HTTP/1.1\r\nHost: x\r\n" + header + "\r\n",
	})
}
