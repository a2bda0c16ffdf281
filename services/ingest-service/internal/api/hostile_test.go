package api

import (
	"bytes"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// A client that forgets an id, or a filter, must not lose all its dead letters, and must not have them published again.
func TestAnEmptyIDNeverMeansAll(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	for n := range 3 {
		s.deadLetter(t, active, n, "1", contract.ReasonRejected)
	}
	for _, path := range []string{
		"/dead-letters/", "/dead-letters//", "/dead-letters/%20", "/dead-letters/%2F", "/dead-letters/%2f", "/dead-letters/.", "/dead-letters/..",
		"/dead-letters/../dead-letters", "/./dead-letters", "//dead-letters", "/Dead-Letters", "/DEAD-LETTERS", "/dead-letters/%2E", "/dead-letters/%00",
		"/dead-letters/*", "/dead-letters/null", "/dead-letters/undefined", "/dead-letters/00000000-0000-0000-0000-000000000000", "/dead-letters;id=", "/dead-letters/?all=true",
		"/dead-letters//?all=true", "/dead-letters/%20?all=true", "/Dead-Letters?all=true",
		"/dead-letters", "/dead-letters?", "/dead-letters?reason=", "/dead-letters?reason", "/dead-letters?failed_after=", "/dead-letters?failed_before=",
		"/dead-letters?reason=&failed_after=&failed_before=", "/dead-letters?all=", "/dead-letters?all", "/dead-letters?tenant_id=", "/dead-letters?all=&reason=",
		"/dead-letters?all=false", "/dead-letters?all=1", "/dead-letters?all=True", "/dead-letters?all=TRUE", "/dead-letters?all=yes", "/dead-letters?all=%20true", "/dead-letters?all=true%00",
		"/dead-letters?all=true&all=true", "/dead-letters?all=&all=true", "/dead-letters?all=true&all=", "/dead-letters?All=true", "/dead-letters?all[]=true",
		"/dead-letters?all=true&reason=rejected", "/dead-letters?all=true&failed_before=2999-01-01T00:00:00Z", "/dead-letters?all=true&failed_after=2000-01-01T00:00:00Z",
		"/dead-letters?all=true&reason=%20", "/dead-letters?reason=%20", "/dead-letters?reason=*", "/dead-letters?reason=%00", "/dead-letters?id=", "/dead-letters?ids=", "/dead-letters?q=",
		"/dead-letters?failed_before=0000-01-01T00:00:00Z", "/dead-letters?failed_before=0001-01-01T00:00:00Z", "/dead-letters?failed_before=%20",
	} {
		for _, c := range []struct{ method, path string }{
			{http.MethodDelete, path},
			{http.MethodPost, strings.Replace(path, "/dead-letters", "/dead-letters/replay", 1)},
			{http.MethodPost, strings.Replace(path, "/dead-letters/", "/dead-letters//replay/", 1)},
			{http.MethodPost, strings.TrimRight(path, "/") + "/replay"},
		} {
			got := s.manage(t, active, c.method, c.path, "")
			if got.status == http.StatusOK { // a time before all of them
				require.Contains(t, c.path, "failed_before=000")
				require.NotContains(t, got.body, `:3`)
				continue
			}
			require.GreaterOrEqual(t, got.status, 400, c.path)
			require.Less(t, got.status, 500, c.path)
		}
	}
	var page DeadLetterPage
	s.manage(t, active, http.MethodGet, "/dead-letters", "").into(t, http.StatusOK, &page)
	require.Len(t, page.Data, 3)
	require.Empty(t, o.published)

	for _, c := range []struct{ method, path string }{{http.MethodDelete, "/dead-letters"}, {http.MethodPost, "/dead-letters/replay"}} {
		p := s.manage(t, active, c.method, c.path+"?reason=", "").problem(t, http.StatusBadRequest, "selection_required")
		require.Contains(t, p.Detail, "all=true")
		require.Contains(t, p.Detail, "reason")
		p = s.manage(t, active, c.method, c.path+"?all=false", "").problem(t, http.StatusBadRequest, "invalid_all")
		require.Contains(t, field(t, p, "all"), "must be true")
		s.manage(t, active, c.method, c.path+"?all=true&reason=rejected", "").problem(t, http.StatusBadRequest, "selection_conflict")
		s.manage(t, active, c.method, c.path+"?all=true&all=true", "").problem(t, http.StatusBadRequest, "repeated_parameter")
		s.manage(t, active, c.method, c.path+"/", "").problem(t, http.StatusNotFound, "route_not_found")
		// An administrator who names no tenant does not mean all of them.
		for _, query := range []string{"?all=true", "?all=true&tenant_id="} {
			s.call(t, call{c.method, c.path + query, "", "", token(t, uuid.Nil, auth.ScopeTenantsAdmin)}).
				problem(t, http.StatusBadRequest, "tenant_id_required")
		}
	}
	// Empty parameters beside the one that counts are absent.
	var replayed DeadLettersReplayed
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?dry_run=true&all=true&reason=&cursor=", "").into(t, http.StatusOK, &replayed)
	require.EqualValues(t, 3, *replayed.Count)
	var dropped Dropped
	s.manage(t, active, http.MethodDelete, "/dead-letters?reason=rejected&failed_after=&all=&tenant_id="+active.String(), "").into(t, http.StatusOK, &dropped)
	require.EqualValues(t, 3, dropped.Dropped)
}

// Forms and many client libraries send an empty parameter for "none".
func TestEmptyParametersOfLists(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	l := s.deadLetter(t, active, 1, "1", contract.ReasonRejected)
	var page DeadLetterPage
	s.manage(t, active, http.MethodGet, "/dead-letters?cursor=&limit=&reason=&failed_after=&failed_before=&tenant_id=", "").into(t, http.StatusOK, &page)
	require.Len(t, page.Data, 1)
	require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, "/dead-letters/"+l.ID.String()+"?tenant_id=", "").status)
	require.Equal(t, http.StatusAccepted, s.call(t, call{
		http.MethodPost, "/messages?tenant_id=", "application/json", `{"payload":1}`, token(t, active, auth.ScopeMessagesWrite),
	}).status)
}

// An id is the same id in every spelling that RFC 3986 takes for equal, and no other.
func TestSpellingsOfAnID(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	id := s.deadLetter(t, active, 1, "1", contract.ReasonRejected).ID.String()
	for _, same := range []string{strings.ToUpper(id), strings.ReplaceAll(id, "-", "%2D"), strings.ReplaceAll(id, "-", "%2d"), "%" + strconv.FormatInt(int64(id[0]), 16) + id[1:]} {
		require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, "/dead-letters/"+same, "").status, same)
	}
	for _, other := range []string{"%7B" + id + "%7D", "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), strings.ReplaceAll(id, "-", "%252D"), "%20" + id, id + "%20", id + "%00"} {
		s.manage(t, active, http.MethodGet, "/dead-letters/"+other, "").problem(t, http.StatusBadRequest, "invalid_uuid")
	}
	s.manage(t, active, http.MethodGet, "/dead-letters/"+id+"%2Freplay", "").problem(t, http.StatusBadRequest, "invalid_uuid")
}

// What is asked for in a body that nobody reads would be ignored.
func TestRoutesWithoutABody(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	l := s.deadLetter(t, active, 1, "1", contract.ReasonRejected)
	one := "/dead-letters/" + l.ID.String()
	for _, c := range []struct{ method, path string }{
		{http.MethodGet, "/dead-letters"},
		{http.MethodGet, one},
		{http.MethodPost, "/dead-letters/replay?dry_run=true&all=true"},
	} {
		for _, body := range []string{"", " \r\n", "{}", "{ }"} {
			require.Equal(t, http.StatusOK, s.manage(t, active, c.method, c.path, body).status, body)
		}
	}
	for _, c := range []struct{ method, path string }{
		{http.MethodGet, "/dead-letters"},
		{http.MethodGet, one},
		{http.MethodDelete, one},
		{http.MethodDelete, "/dead-letters?all=true"},
		{http.MethodPost, "/dead-letters/replay?all=true"},
	} {
		for _, body := range []string{"null", "[]", `{"all":true}`, "x", "\ufeff{}", "{}{}"} {
			s.manage(t, active, c.method, c.path, body).problem(t, http.StatusBadRequest, "unexpected_body")
		}
	}
	require.Empty(t, o.published)
	require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, one, "").status)
}

// Producers that pay for their traffic compress it. The limits are those of what it is without.
func TestCompressedMessages(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	post := func(path, contentType, encoding, body string) answer {
		return s.compressed(t, path, contentType, encoding, body)
	}
	var accepted Accepted
	var batch BatchResult
	for _, encoding := range []string{"gzip", "zstd"} {
		post("/messages", "application/json", encoding, `{"payload":{"a":1}}`).into(t, http.StatusAccepted, &accepted)
		require.JSONEq(t, `{"a":1}`, string(o.published[len(o.published)-1].Publishing.Body))
		post("/messages/batch", "application/x-ndjson", encoding, "{\"payload\":1}\n{\"payload\":2}\n").into(t, http.StatusAccepted, &batch)
		require.Equal(t, 2, batch.Accepted)
		published := len(o.published)
		post("/messages", "application/json", encoding, `{"payload":"`+strings.Repeat("x", limits.MessageBody)+`"}`).
			problem(t, http.StatusRequestEntityTooLarge, "body_too_large")
		post("/messages", "application/json", encoding, `{"payload":"`+strings.Repeat("x", 20<<20)+`"}`).
			problem(t, http.StatusRequestEntityTooLarge, "body_too_large")
		post("/messages/batch", "application/x-ndjson", encoding, strings.Repeat(" ", limits.BatchBody+1)).
			problem(t, http.StatusRequestEntityTooLarge, "body_too_large")
		post("/messages", "application/json", encoding, `{"payload":"\ud800"}`).problem(t, http.StatusBadRequest, "payload_unstorable")
		post("/messages", "application/json; charset=utf-16", encoding, `{"payload":1}`).problem(t, http.StatusUnsupportedMediaType, "unsupported_media_type")
		require.Len(t, o.published, published)
	}
	for _, encoding := range []string{"br", "deflate", "gzip, gzip"} {
		got := post("/messages", "application/json", encoding, `{"payload":1}`)
		got.problem(t, http.StatusUnsupportedMediaType, "unsupported_encoding")
		require.Equal(t, "gzip, zstd", got.header.Get("Accept-Encoding"))
	}
}

// compressed publishes a body as encoding says, if it is one that there is.
func (s *service) compressed(t *testing.T, path, contentType, encoding, body string) answer {
	t.Helper()
	var packed bytes.Buffer
	switch encoding {
	case "gzip":
		w := gzip.NewWriter(&packed)
		_, err := w.Write([]byte(body))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	case "zstd":
		w, err := zstd.NewWriter(&packed, zstd.WithEncoderConcurrency(1))
		require.NoError(t, err)
		_, err = w.Write([]byte(body))
		require.NoError(t, err)
		require.NoError(t, w.Close())
	default:
		packed.WriteString(body)
	}
	return s.do(t, raw.Request{
		Method: http.MethodPost, URL: s.url + path, Token: token(t, active, auth.ScopeMessagesWrite), ContentType: contentType,
		Header: map[string]string{"Content-Encoding": encoding}, Body: packed.Bytes(),
	})
}

// A bomb without a token costs the service nothing: it is not unpacked.
func TestBodiesAreUnpackedForThoseWhoMayPublish(t *testing.T) {
	t.Parallel()
	s, _ := serveFake(t)
	s.do(t, raw.Request{
		Method: http.MethodPost, URL: s.url + "/messages", Header: map[string]string{"Content-Encoding": "gzip"}, Body: []byte("no gzip"),
	}).problem(t, http.StatusUnauthorized, "missing_token")
}

// Whatever framing a proxy lets pass, no message is published by a request that is hidden in another.
func TestNoRequestIsHiddenInAnother(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	address, err := url.Parse(s.url)
	require.NoError(t, err)
	header := "Authorization: Bearer " + token(t, active, auth.ScopeMessagesWrite) + "\r\nContent-Type: application/json\r\n"
	hidden := `{"payload":"hidden"}`
	raw.Framing(t, raw.Target{
		Addr: address.Host, Method: http.MethodPost, Path: "/messages", Header: header, Body: `{"payload":"open"}`,
		Hidden: "POST /messages HTTP/1.1\r\nHost: x\r\n" + header + "Content-Length: " + strconv.Itoa(len(hidden)) + "\r\n\r\n" + hidden,
	})
	for _, m := range o.published {
		require.Equal(t, `"open"`, string(m.Publishing.Body))
	}
	require.NotEmpty(t, o.published)
}
