package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
)

// Every wrong request gets its 4xx, and is told which field is wrong.
func TestBadInput(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	create := func(body string) request { return request{method: http.MethodPost, path: "/tenants", body: body} }
	resize := func(body string) request {
		return request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: body}
	}
	list := func(query string) request { return request{method: http.MethodGet, path: "/tenants?" + query} }
	cursor := func(raw ...byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
	for name, tc := range map[string]struct {
		request request
		status  int
		code    string
		field   string
	}{
		"no body":                    {create(""), 415, "unsupported_media_type", "Content-Type"},
		"empty body":                 {request{method: "POST", path: "/tenants", contentType: "application/json"}, 400, "empty_body", ""},
		"not JSON":                   {create(`{"name"`), 400, "malformed_json", ""},
		"two values":                 {create(`{"name":"a"}{}`), 400, "malformed_json", ""},
		"a list":                     {create(`[]`), 400, "wrong_type", ""},
		"null":                       {create(`null`), 400, "wrong_type", ""},
		"form":                       {request{method: "POST", path: "/tenants", body: "name=a", contentType: "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", "Content-Type"},
		"invalid UTF-8":              {create("{\"name\":\"a\xff\"}"), 400, "malformed_json", ""},
		"unknown field":              {create(`{"name":"a","color":"red"}`), 400, "unknown_field", "color"},
		"field in other case":        {create(`{"Name":"a"}`), 400, "unknown_field", "Name"},
		"field twice":                {create(`{"name":"a","name":"b"}`), 400, "duplicate_field", "name"},
		"state is not to be set":     {create(`{"name":"a","state":"suspended"}`), 400, "unknown_field", "state"},
		"no name":                    {create(`{}`), 400, "validation_failed", "name"},
		"null name":                  {create(`{"name":null}`), 400, "validation_failed", "name"},
		"empty name":                 {create(`{"name":""}`), 400, "validation_failed", "name"},
		"blank name":                 {create(`{"name":"  \t "}`), 400, "validation_failed", "name"},
		"name is a number":           {create(`{"name":1}`), 400, "wrong_type", "name"},
		"name too long":              {create(`{"name":"` + strings.Repeat("ä", 201) + `"}`), 400, "validation_failed", "name"},
		"name with NUL":              {create(`{"name":"a\u0000b"}`), 400, "validation_failed", "name"},
		"name with line break":       {create(`{"name":"a\nb"}`), 400, "validation_failed", "name"},
		"id is no UUID":              {create(`{"name":"a","id":"x"}`), 400, "invalid_uuid", "id"},
		"id is a number":             {create(`{"name":"a","id":7}`), 400, "wrong_type", "id"},
		"id is the nil UUID":         {create(`{"name":"a","id":"00000000-0000-0000-0000-000000000000"}`), 400, "invalid_uuid", "id"},
		"id in another form":         {create(`{"name":"a","id":"{0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11}"}`), 400, "invalid_uuid", "id"},
		"id is taken":                {create(`{"name":"a","id":"` + id.String() + `"}`), 409, "tenant_exists", "id"},
		"no worker":                  {create(`{"name":"a","workers":0}`), 400, "validation_failed", "workers"},
		"negative workers":           {create(`{"name":"a","workers":-1}`), 400, "validation_failed", "workers"},
		"too many workers":           {create(`{"name":"a","workers":65}`), 400, "validation_failed", "workers"},
		"half a worker":              {create(`{"name":"a","workers":1.5}`), 400, "wrong_type", "workers"},
		"workers in a string":        {create(`{"name":"a","workers":"3"}`), 400, "wrong_type", "workers"},
		"absurd workers":             {create(`{"name":"a","workers":1e99}`), 400, "wrong_type", "workers"},
		"no attempt":                 {create(`{"name":"a","max_attempts":0}`), 400, "validation_failed", "max_attempts"},
		"too many attempts":          {create(`{"name":"a","max_attempts":101}`), 400, "validation_failed", "max_attempts"},
		"unknown query on create":    {request{method: "POST", path: "/tenants?dry_run=1", body: `{"name":"a"}`}, 400, "unknown_parameter", "dry_run"},
		"body over the limit":        {create(`{"name":"` + strings.Repeat("a", 1<<20) + `"}`), 413, "body_too_large", ""},
		"resize without workers":     {resize(`{}`), 400, "validation_failed", "workers"},
		"resize to null":             {resize(`{"workers":null}`), 400, "validation_failed", "workers"},
		"resize to none":             {resize(`{"workers":0}`), 400, "validation_failed", "workers"},
		"resize to too many":         {resize(`{"workers":65}`), 400, "validation_failed", "workers"},
		"resize with more":           {resize(`{"workers":5,"name":"b"}`), 400, "unknown_field", "name"},
		"resize without body":        {resize(``), 415, "unsupported_media_type", "Content-Type"},
		"limit 0":                    {list("limit=0"), 400, "invalid_limit", "limit"},
		"limit over":                 {list("limit=1001"), 400, "invalid_limit", "limit"},
		"limit is a word":            {list("limit=many"), 400, "invalid_limit", "limit"},
		"unknown query":              {list("offset=5"), 400, "unknown_parameter", "offset"},
		"no cursor of ours":          {list("cursor=hello"), 400, "bad_cursor", "cursor"},
		"cursor not base64url":       {list("cursor=%00%ff"), 400, "bad_cursor", "cursor"},
		"cursor of another version":  {list("cursor=" + cursor(append([]byte{9}, make([]byte, 24)...)...)), 400, "bad_cursor", "cursor"},
		"cursor too short":           {list("cursor=" + cursor(1, 2, 3)), 400, "bad_cursor", "cursor"},
		"cursor at the end of time":  {list("cursor=" + cursor(append([]byte{1, 0x7f, 255, 255, 255, 255, 255, 255, 255}, make([]byte, 16)...)...)), 400, "bad_cursor", "cursor"},
		"cursor before all time":     {list("cursor=" + cursor(append([]byte{1, 0x80, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 16)...)...)), 400, "bad_cursor", "cursor"},
		"get: no UUID":               {request{method: "GET", path: "/tenants/x"}, 400, "invalid_uuid", "id"},
		"get: unknown":               {request{method: "GET", path: path(uuid.New(), "")}, 404, "tenant_not_found", ""},
		"get: unknown query":         {request{method: "GET", path: path(id, "?verbose=1")}, 400, "unknown_parameter", "verbose"},
		"get: other tenant in query": {request{method: "GET", path: path(id, "?tenant_id="+uuid.NewString())}, 400, "tenant_mismatch", "tenant_id"},
		"delete: no UUID":            {request{method: "DELETE", path: "/tenants/x"}, 400, "invalid_uuid", "id"},
		"delete: unknown":            {request{method: "DELETE", path: path(uuid.New(), "")}, 404, "tenant_not_found", ""},
		"suspend: unknown":           {request{method: "POST", path: path(uuid.New(), "/suspend")}, 404, "tenant_not_found", ""},
		"resume: no UUID":            {request{method: "POST", path: "/tenants/x/resume"}, 400, "invalid_uuid", "id"},
		"resize: unknown":            {request{method: "PUT", path: path(uuid.New(), "/config/concurrency"), body: `{"workers":5}`}, 404, "tenant_not_found", ""},
		"wrong method":               {request{method: "PATCH", path: path(id, "")}, 405, "method_not_allowed", ""},
		"wrong path":                 {request{method: "GET", path: path(id, "/nothing")}, 404, "route_not_found", ""},
		"strict preference":          {request{method: "POST", path: path(id, "/resume"), prefer: "handling=strict, wait=soon"}, 400, "invalid_preference", "Prefer"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.do(tc.request)
			require.Equal(t, tc.status, got.status, string(got.body))
			require.Equal(t, tc.code, got.problem.Code)
			if tc.field != "" {
				require.NotEmpty(t, got.problem.Errors, "no field is named: %s", got.body)
				require.Equal(t, tc.field, got.problem.Errors[0].Field)
				require.NotEmpty(t, got.problem.Errors[0].Detail)
			}
		})
	}
	after := r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")})
	require.EqualValues(t, 1, after.tenant.Generation, "a request that was refused has changed something")
}

// Preferences that cannot be understood are ignored, as RFC 7240 wants it.
func TestPreferencesThatAreIgnored(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	for _, prefer := range []string{"wait=soon", "wait", "wait=-1", "return=minimal", ";;,,=", `wait="`} {
		got := r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: `{"name":"a"}`, prefer: prefer})
		require.Empty(t, got.header.Get("Preference-Applied"), prefer)
	}
}

// Authorization. A hole here shows one customer the tenants of another.
func TestAccess(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	own, other := r.create("own"), r.create("other")
	tokens := map[string]string{
		"admin":       token(t, uuid.Nil, auth.ScopeTenantsAdmin),
		"bound admin": token(t, own, auth.ScopeTenantsAdmin),
		"bound":       token(t, own, auth.ScopeMessagesRead),
		"bound none":  token(t, own),
		"none":        token(t, uuid.Nil),
		"anonymous":   "-",
	}
	type want map[string]int // by token
	type access struct {
		request request
		want    want
	}
	for name, tc := range map[string]access{
		"create": {request{method: "POST", path: "/tenants", body: `{"name":"a"}`}, want{
			"admin": 201, "bound admin": 403, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"list": {request{method: "GET", path: "/tenants"}, want{
			"admin": 200, "bound admin": 403, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"get own": {request{method: "GET", path: path(own, "")}, want{
			"admin": 200, "bound admin": 200, "bound": 200, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"get own, named": {request{method: "GET", path: path(own, "?tenant_id="+own.String())}, want{
			"admin": 200, "bound admin": 200, "bound": 200, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"get own, other named": {request{method: "GET", path: path(own, "?tenant_id="+other.String())}, want{
			"admin": 400, "bound admin": 403, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"get other": {request{method: "GET", path: path(other, "")}, want{
			"admin": 200, "bound admin": 404, "bound": 404, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"get unknown": {request{method: "GET", path: path(uuid.New(), "")}, want{
			"admin": 404, "bound admin": 404, "bound": 404, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"resize own": {request{method: "PUT", path: path(own, "/config/concurrency"), body: `{"workers":5}`}, want{
			"admin": 200, "bound admin": 200, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"resize other": {request{method: "PUT", path: path(other, "/config/concurrency"), body: `{"workers":5}`}, want{
			"admin": 200, "bound admin": 404, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"config of own": {request{method: "GET", path: path(own, "/config")}, want{
			"admin": 200, "bound admin": 200, "bound": 200, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"config of other": {request{method: "GET", path: path(other, "/config")}, want{
			"admin": 200, "bound admin": 404, "bound": 404, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"configure own": {request{method: "PATCH", path: path(own, "/config"), body: `{"publish_rate":5}`}, want{
			"admin": 200, "bound admin": 200, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"configure other": {request{method: "PATCH", path: path(other, "/config"), body: `{"publish_rate":5}`}, want{
			"admin": 200, "bound admin": 404, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"configure own, other named": {request{method: "PATCH", path: path(own, "/config?tenant_id="+other.String()), body: `{"publish_rate":5}`}, want{
			"admin": 400, "bound admin": 403, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"suspend own": {request{method: "POST", path: path(own, "/suspend")}, want{
			"admin": 200, "bound admin": 200, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"resume other": {request{method: "POST", path: path(other, "/resume")}, want{
			"admin": 200, "bound admin": 404, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
		"delete other": {request{method: "DELETE", path: path(other, "")}, want{
			"bound admin": 404, "bound": 403, "bound none": 403, "none": 403, "anonymous": 401,
		}},
	} {
		for who, status := range tc.want {
			t.Run(name+" as "+who, func(t *testing.T) {
				q := tc.request
				q.token = tokens[who]
				got := r.do(q)
				require.Equal(t, status, got.status, string(got.body))
				if status == http.StatusUnauthorized {
					require.NotEmpty(t, got.header.Get("WWW-Authenticate"))
				}
			})
		}
	}
	// A foreign tenant and one that is not there must not be told apart.
	foreign := r.do(request{method: "GET", path: path(other, ""), token: tokens["bound"]}).problem
	unknown := r.do(request{method: "GET", path: path(uuid.New(), ""), token: tokens["bound"]}).problem
	require.Equal(t, unknown.Code, foreign.Code)
	require.Equal(t, unknown.Detail, foreign.Detail)
	deleted := r.require(http.StatusAccepted, request{method: "DELETE", path: path(own, ""), token: tokens["bound admin"]})
	require.Equal(t, "deleting", deleted.tenant.State)
}

// Following next_cursor meets every tenant once, and, later on, those that are new.
func TestListOverHTTP(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	read := func(query string) api.Page {
		var page api.Page
		got := r.require(http.StatusOK, request{method: http.MethodGet, path: "/tenants" + query})
		require.NoError(t, json.Unmarshal(got.body, &page))
		return page
	}
	empty := read("")
	require.Empty(t, empty.Data)
	require.NotNil(t, empty.Data)
	require.False(t, empty.HasMore)
	require.Equal(t, empty.NextCursor, read("?cursor="+empty.NextCursor).NextCursor, "the start of the list has a cursor")

	var want []string
	for i := range 7 {
		want = append(want, r.create(fmt.Sprintf("t%d", i)).String())
	}
	var seen []string
	cursor := empty.NextCursor
	for {
		page := read("?limit=3&cursor=" + cursor)
		for _, listed := range page.Data {
			seen = append(seen, listed.ID)
			require.Equal(t, "unknown", listed.Status.State)
		}
		cursor = page.NextCursor
		if !page.HasMore {
			break
		}
	}
	require.Equal(t, want, seen)
	require.Empty(t, read("?cursor="+cursor).Data)
	require.Equal(t, cursor, read("?cursor="+cursor).NextCursor)
	later := r.create("later").String()
	page := read("?cursor=" + cursor)
	require.Len(t, page.Data, 1)
	require.Equal(t, later, page.Data[0].ID)
}

// The document that clients are generated from has every route, and an answer for everything that can happen.
func TestSwagger(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	got := r.require(http.StatusOK, request{method: http.MethodGet, path: "/swagger/doc.json", token: "-"})
	var document struct {
		Paths map[string]map[string]struct {
			Summary   string
			Security  []any
			Responses map[string]any
		}
		SecurityDefinitions map[string]any
	}
	require.NoError(t, json.Unmarshal(got.body, &document))
	require.Contains(t, document.SecurityDefinitions, "Bearer")
	routes := map[string][]string{
		"/tenants": {"get", "post"}, "/tenants/{id}": {"get", "delete"}, "/tenants/{id}/config": {"get", "patch"}, "/tenants/{id}/config/concurrency": {"put"},
		"/tenants/{id}/suspend": {"post"}, "/tenants/{id}/resume": {"post"}, "/audit-events": {"get"}, "/tenants/{id}/usage": {"get"},
		"/tenants/{id}/tokens": {"get", "post"}, "/tenants/{id}/tokens/{token}": {"delete"},
		"/tenants/{id}/credentials": {"get", "post"}, "/tenants/{id}/credentials/{credential}": {"delete"},
	}
	const public = "/.well-known/jwks.json"
	require.Len(t, document.Paths, len(routes)+1)
	require.Empty(t, document.Paths[public]["get"].Security)
	require.NotEmpty(t, document.Paths[public]["get"].Summary)
	for path, methods := range routes {
		require.Len(t, document.Paths[path], len(methods), path)
		for _, method := range methods {
			operation := document.Paths[path][method]
			require.NotEmpty(t, operation.Summary, "%s %s", method, path)
			require.NotEmpty(t, operation.Security, "%s %s", method, path)
			for _, status := range []string{"400", "401", "403", "503"} {
				require.Contains(t, operation.Responses, status, "%s %s", method, path)
			}
		}
	}
}
