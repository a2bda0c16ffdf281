package main

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// An operator's script with an empty variable must not touch, or list, what it has not named.
func TestAnEmptyIDNeverMeansAll(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	for _, path := range []string{
		"/tenants/", "/tenants//", "//tenants", "/Tenants", "/TENANTS", "/tenants/../tenants", "/tenants//suspend", "/tenants//resume", "/tenants//config/concurrency", "/tenants//config", "/tenants/" + id.String() + "/config/", "/tenants/" + id.String() + "/Config",
		"/tenants/" + id.String() + "/", "/tenants/" + id.String() + "/suspend/", "/tenants/" + id.String() + "/Suspend", "/tenants/" + id.String() + "//suspend", "/tenants%2F",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			got := r.do(request{method: method, path: path})
			require.Equal(t, http.StatusNotFound, got.status, "%s %s", method, path)
			require.Equal(t, "route_not_found", got.problem.Code)
		}
	}
	for _, bad := range []string{"%20", "%2F", ".", "..", "*", "null", "%00", "00000000-0000-0000-0000-000000000000", id.String() + "%2Fsuspend"} {
		for _, c := range []request{{method: "GET", path: "/tenants/" + bad}, {method: "DELETE", path: "/tenants/" + bad}, {method: "POST", path: "/tenants/" + bad + "/suspend"}} {
			got := r.do(c)
			require.Equal(t, http.StatusBadRequest, got.status, c.path)
			require.Equal(t, "invalid_uuid", got.problem.Code)
		}
	}
	after := r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")})
	require.EqualValues(t, 1, after.tenant.Generation)
}

func TestEmptyParametersAreAbsent(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	for _, query := range []string{"?cursor=", "?limit=", "?cursor&limit", "?cursor=&limit=1", "?q=&state=", "?q&state&cursor"} {
		var page api.Page
		require.NoError(t, json.Unmarshal(r.require(http.StatusOK, request{method: http.MethodGet, path: "/tenants" + query}).body, &page))
		require.Len(t, page.Data, 1)
	}
	r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "?tenant_id=")})
	require.Equal(t, "repeated_parameter", r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/tenants?limit=&limit=1"}).problem.Code)
}

func TestSpellingsOfAnID(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a").String()
	for _, same := range []string{strings.ToUpper(id), strings.ReplaceAll(id, "-", "%2D"), strings.ReplaceAll(id, "-", "%2d")} {
		require.Equal(t, id, r.require(http.StatusOK, request{method: http.MethodGet, path: "/tenants/" + same}).tenant.ID)
		require.Equal(t, "suspended", r.require(http.StatusOK, request{method: http.MethodPost, path: "/tenants/" + same + "/suspend"}).tenant.State)
	}
	for _, other := range []string{"%7B" + id + "%7D", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""), id + "%20"} {
		require.Equal(t, "invalid_uuid", r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/tenants/" + other}).problem.Code)
	}
}

// What is asked for in a body that nobody reads would be ignored: a client that sends {"workers":5} to /suspend means something.
func TestRoutesWithoutABody(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	routes := []request{
		{method: "GET", path: "/tenants"},
		{method: "GET", path: path(id, "")},
		{method: "GET", path: path(id, "/config")},
		{method: "POST", path: path(id, "/suspend")},
		{method: "POST", path: path(id, "/resume")},
		{method: "DELETE", path: path(id, "")},
	}
	for _, c := range routes {
		for _, body := range []string{"null", "[]", `""`, `{"workers":5}`, "x", "\ufeff{}", "{}{}", "{},", "{"} {
			c.body = body
			require.Equal(t, "unexpected_body", r.require(http.StatusBadRequest, c).problem.Code, "%s %s %s", c.method, c.path, body)
		}
	}
	require.EqualValues(t, 1, r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")}).tenant.Generation)
	for _, c := range routes {
		for _, body := range []string{" ", "{}", " {\r\n} "} {
			c.body = body
			require.Less(t, r.do(c).status, 300, "%s %s %s", c.method, c.path, body)
		}
	}
}

// Two names that look the same are the same, and none hides a part of a line.
func TestNames(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	create := func(name string) answer {
		return r.do(request{method: http.MethodPost, path: "/tenants", body: `{"name":"` + name + `"}`})
	}
	for name, text := range map[string]string{
		"zero width space": "a\u200bb", "zero width non-joiner": "a\u200cb", "zero width joiner": "a\u200db", "word joiner": "a\u2060b", "no-break space, zero width": "\ufeffa",
		"left-to-right mark": "a\u200e", "right-to-left override": "a\u202eb", "isolate": "a\u2066b\u2069", "soft hyphen": "a\u00adb", "Mongolian separator": "a\u180eb",
		"grapheme joiner": "a\u034fb", "filler": "a\u3164b", "filler, half": "\uffa0", "blank pattern": "\u2800", "tag": "a\U000e0041b", "variation": "a\ufe0f", "variation, other": "a\U000e0100",
		"variation of a digit": "1\ufe0f", "variation of a plus": "+\ufe0f", "variations of an ideograph, two": "\u845b\U000e0100\U000e0101",
		"flag of no region": "\U0001f3f4\U000e0068\U000e0069\U000e007f", "flag without an end": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067", "text behind a flag": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f\U000e0061",
		"joiner behind an emoji": "\U0001f468\u200d", "two joiners": "\U0001f468\u200d\u200d\U0001f469", "joiner before a letter": "\U0001f468\u200da", "private": "\ue000", "not a character": "a\ufffe", "interlinear": "a\ufff9b", "line separator": "a\u2028b", "paragraph": "a\u2029b",
		"next line": "a\u0085b", "escape": `a\u001bb`, "escaped": `a\u200Bb`, "delete": "a\u007fb", "only white space": " \u00a0\u3000 ",
	} {
		t.Run(name, func(t *testing.T) {
			got := create(text)
			require.Equal(t, http.StatusBadRequest, got.status, string(got.body))
			require.Equal(t, "validation_failed", got.problem.Code)
			require.Equal(t, "name", got.problem.Errors[0].Field)
		})
	}
	for name, text := range map[string]string{
		"high surrogate": `\ud800`, "low surrogate": `a\udc00`, "reversed": `\udc00\ud800`, "two high": `\ud800\ud800`, "before an escape": `\ud800\n`, "in capitals": `\uDBFF`,
	} {
		t.Run(name, func(t *testing.T) {
			got := create(text)
			require.Equal(t, http.StatusBadRequest, got.status, string(got.body))
			require.Equal(t, "invalid_string", got.problem.Code)
			require.Equal(t, "name", got.problem.Errors[0].Field)
		})
	}
	for sent, want := range map[string]string{
		"\u00a0ACME, production\u3000": "ACME, production", "caf\u00e9": "caf\u00e9", "cafe\u0301": "cafe\u0301", "株式会社\u3000例": "株式会社\u3000例", `\ud83d\ude00`: "\U0001f600",
		"1\ufe0f\u20e3 shop": "1\ufe0f\u20e3 shop", "\u2139\ufe0f Info": "\u2139\ufe0f Info", "a \u2194\ufe0f b": "a \u2194\ufe0f b", "\u845b\U000e0100\u57ce\u5e02": "\u845b\U000e0100\u57ce\u5e02",
		"\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
		"\u2764\ufe0f": "\u2764\ufe0f", "\U0001f44d\U0001f3fd": "\U0001f44d\U0001f3fd", "\u0645\u062b\u0627\u0644": "\u0645\u062b\u0627\u0644", "x\u00a0y": "x\u00a0y",
	} {
		got := create(sent)
		require.Equal(t, http.StatusCreated, got.status, "%q: %s", sent, got.body)
		require.Equal(t, want, got.tenant.Name)
	}
}

// A whole number is one however it is written, and times sort as text.
func TestNumbersAndTimes(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	for text, want := range map[string]int{"1.0": 1, "1e0": 1, "10e-1": 1, "0.2E+1": 2, "300e-2": 3, "4": 4, "5.000": 5} {
		got := r.require(http.StatusOK, request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":` + text + `}`})
		require.Equal(t, want, got.tenant.Workers, text)
		got = r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: `{"name":"a","workers":` + text + `,"max_attempts":` + text + `}`})
		require.Equal(t, want, got.tenant.Workers, text)
		require.Equal(t, want, got.tenant.MaxAttempts, text)
	}
	for text, code := range map[string]string{
		"1.5": "wrong_type", "15e-1": "wrong_type", "1e400": "wrong_type", "1e-400": "wrong_type", "1e99999999999": "wrong_type", "9223372036854775808": "wrong_type",
		"-0": "validation_failed", "0.0": "validation_failed", "-1.0": "validation_failed", "1e10": "validation_failed", "01": "malformed_json", "+1": "malformed_json", "1.": "malformed_json",
		".5": "malformed_json", "0x1": "malformed_json", "NaN": "malformed_json", "1,\"workers\":5": "duplicate_field", "1,\"work\\u0065rs\":5": "duplicate_field",
		"\"1\"": "wrong_type", "true": "wrong_type", "[1]": "wrong_type", "1,": "malformed_json", "1}{": "malformed_json",
	} {
		got := r.require(http.StatusBadRequest, request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":` + text + `}`})
		require.Equal(t, code, got.problem.Code, text)
	}
	for _, contentType := range []string{"application/json; charset=UTF-16", "application/json;charset=latin1", "text/json"} {
		got := r.do(request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":1}`, contentType: contentType})
		require.Equal(t, http.StatusUnsupportedMediaType, got.status, contentType)
	}
	six := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	var shown struct {
		CreatedAt string `json:"created_at"`
		UpdatedAt string `json:"updated_at"`
	}
	require.NoError(t, json.Unmarshal(r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")}).body, &shown))
	require.Regexp(t, six, shown.CreatedAt)
	require.Regexp(t, six, shown.UpdatedAt)
}

// Whatever framing a proxy lets pass, no tenant is made by a request that is hidden in another.
func TestNoRequestIsHiddenInAnother(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := uuid.New()
	header := "Authorization: Bearer " + admin(t) + "\r\nContent-Type: application/json\r\n"
	hidden := `{"name":"hidden","id":"` + id.String() + `"}`
	raw.Framing(t, raw.Target{
		Addr: r.cfg.HTTP.Addr, Method: http.MethodPost, Path: "/tenants", Header: header, Body: `{"name":"open"}`,
		Hidden: "POST /tenants HTTP/1.1\r\nHost: x\r\n" + header + "Content-Length: " + strconv.Itoa(len(hidden)) + "\r\n\r\n" + hidden,
	})
	r.require(http.StatusNotFound, request{method: http.MethodGet, path: path(id, "")})
}
