package platform_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// Every bad input gets a clear 4xx that is a problem document: never a 5xx, never a stack trace.
func TestBadInput(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 1)
	token := w.token(t, tenant, "messages:read messages:write deadletters:manage")
	other := w.token(t, uuid.New(), "messages:read messages:write")
	nested := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	tenants, messages := w.TenantURL+"/tenants", w.IngestURL+"/messages"
	for name, test := range map[string]struct {
		method, url, token, body string
		contentType              string // JSON if there is a body
		status                   int
	}{
		"tenant: empty body":           {method: "POST", url: tenants, token: w.admin, contentType: "application/json", status: 400},
		"tenant: not JSON":             {method: "POST", url: tenants, token: w.admin, body: `{`, status: 400},
		"tenant: array":                {method: "POST", url: tenants, token: w.admin, body: `[]`, status: 400},
		"tenant: unknown field":        {method: "POST", url: tenants, token: w.admin, body: `{"name":"x","colour":"red"}`, status: 400},
		"tenant: no name":              {method: "POST", url: tenants, token: w.admin, body: `{}`, status: 400},
		"tenant: long name":            {method: "POST", url: tenants, token: w.admin, body: fmt.Sprintf(`{"name":%q}`, strings.Repeat("x", 201)), status: 400},
		"tenant: name of wrong type":   {method: "POST", url: tenants, token: w.admin, body: `{"name":7}`, status: 400},
		"tenant: bad id":               {method: "POST", url: tenants, token: w.admin, body: `{"name":"x","id":"7"}`, status: 400},
		"tenant: no workers":           {method: "POST", url: tenants, token: w.admin, body: `{"name":"x","workers":0}`, status: 400},
		"tenant: too many workers":     {method: "POST", url: tenants, token: w.admin, body: `{"name":"x","workers":100000}`, status: 400},
		"tenant: fraction of a worker": {method: "POST", url: tenants, token: w.admin, body: `{"name":"x","workers":1.5}`, status: 400},
		"tenant: nested":               {method: "POST", url: tenants, token: w.admin, body: nested, status: 400},
		"tenant: duplicate":            {method: "POST", url: tenants, token: w.admin, body: fmt.Sprintf(`{"name":"x","id":%q}`, tenant), status: 409},
		"tenant: wrong content type":   {method: "POST", url: tenants, token: w.admin, body: `{"name":"x"}`, contentType: "text/plain", status: 415},
		"tenant: unknown":              {method: "GET", url: tenants + "/" + uuid.NewString(), token: w.admin, status: 404},
		"tenant: path is no UUID":      {method: "GET", url: tenants + "/x", token: w.admin, status: 400},
		"tenant: bad limit":            {method: "GET", url: tenants + "?limit=0", token: w.admin, status: 400},
		"tenant: bad cursor":           {method: "GET", url: tenants + "?cursor=x", token: w.admin, status: 400},
		"tenant: list with own token":  {method: "GET", url: tenants, token: token, status: 403},
		"tenant: no such method":       {method: "PATCH", url: tenants, token: w.admin, status: 405},
		"workers: missing":             {method: "PUT", url: tenants + "/" + tenant.String() + "/config/concurrency", token: w.admin, body: `{}`, status: 400},
		"workers: of another":          {method: "PUT", url: tenants + "/" + uuid.NewString() + "/config/concurrency", token: w.admin, body: `{"workers":1}`, status: 404},

		"message: empty body":        {method: "POST", url: messages, token: token, contentType: "application/json", status: 400},
		"message: no payload":        {method: "POST", url: messages, token: token, body: `{}`, status: 400},
		"message: not JSON":          {method: "POST", url: messages, token: token, body: `{"payload":`, status: 400},
		"message: bad id":            {method: "POST", url: messages, token: token, body: `{"id":"7","payload":1}`, status: 400},
		"message: unknown field":     {method: "POST", url: messages, token: token, body: `{"payload":1,"x":1}`, status: 400},
		"message: null character":    {method: "POST", url: messages, token: token, body: `{"payload":"\u0000"}`, status: 400},
		"message: lone surrogate":    {method: "POST", url: messages, token: token, body: `{"payload":"\ud800"}`, status: 400},
		"message: number bomb":       {method: "POST", url: messages, token: token, body: `{"payload":1e131071}`, status: 400},
		"message: invalid UTF-8":     {method: "POST", url: messages, token: token, body: "{\"payload\":\"\xff\"}", status: 400},
		"message: nested":            {method: "POST", url: messages, token: token, body: `{"payload":` + nested + `}`, status: 400},
		"message: 10 MB":             {method: "POST", url: messages, token: token, body: `{"payload":"` + strings.Repeat("x", 10<<20) + `"}`, status: 413},
		"message: unknown tenant":    {method: "POST", url: messages, token: other, body: `{"payload":1}`, status: 404},
		"message: names no tenant":   {method: "POST", url: messages, token: w.admin, body: `{"payload":1}`, status: 400},
		"message: another's tenant":  {method: "POST", url: messages + "?tenant_id=" + uuid.NewString(), token: token, body: `{"payload":1}`, status: 403},
		"message: only reads":        {method: "POST", url: messages, token: w.token(t, tenant, "messages:read"), body: `{"payload":1}`, status: 403},
		"batch: empty":               {method: "POST", url: messages + "/batch", token: token, contentType: "application/x-ndjson", status: 400},
		"read: bad limit":            {method: "GET", url: w.QueryURL + "/messages?limit=1001", token: token, status: 400},
		"read: bad order":            {method: "GET", url: w.QueryURL + "/messages?order=up", token: token, status: 400},
		"read: bad cursor":           {method: "GET", url: w.QueryURL + "/messages?cursor=AAAA", token: token, status: 400},
		"read: bad time":             {method: "GET", url: w.QueryURL + "/messages?created_after=yesterday", token: token, status: 400},
		"read: unknown parameter":    {method: "GET", url: w.QueryURL + "/messages?colour=red", token: token, status: 400},
		"read: not stored":           {method: "GET", url: w.QueryURL + "/messages/" + uuid.NewString(), token: token, status: 404},
		"read: only writes":          {method: "GET", url: w.QueryURL + "/messages", token: w.token(t, tenant, "messages:write"), status: 403},
		"letters: unknown":           {method: "GET", url: w.IngestURL + "/dead-letters/" + uuid.NewString(), token: token, status: 404},
		"letters: without the scope": {method: "GET", url: w.IngestURL + "/dead-letters", token: w.token(t, tenant, "messages:read"), status: 403},
		"letters: bad cursor":        {method: "GET", url: w.IngestURL + "/dead-letters?cursor=x", token: token, status: 400},
		"no token":                   {method: "GET", url: w.QueryURL + "/messages", status: 401},
		"garbage for a token":        {method: "GET", url: w.QueryURL + "/messages", token: "x.y.z", status: 401},
		"alg none":                   {method: "GET", url: w.QueryURL + "/messages", token: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.", status: 401},
		"no scopes":                  {method: "GET", url: w.QueryURL + "/messages", token: w.token(t, tenant, ""), status: 403},
		"no such route":              {method: "GET", url: w.QueryURL + "/nothing", token: token, status: 404},
	} {
		t.Run(name, func(t *testing.T) {
			if test.contentType == "" && test.body != "" {
				test.contentType = "application/json"
			}
			a := w.raw(t, test.status, raw.Request{
				Method: test.method, URL: test.url, Token: test.token, ContentType: test.contentType, Body: []byte(test.body),
			})
			require.NotEmpty(t, a.Code(t))
			require.NotContains(t, string(a.Body), "goroutine")
		})
	}

	// One bad line never sinks its neighbours.
	batch := `{"payload":1}` + "\n" + `{"payload":` + "\n" + `{"payload":{"n":3}}` + "\n"
	w.raw(t, http.StatusAccepted, raw.Request{
		Method: http.MethodPost, URL: messages + "/batch", Token: token, ContentType: "application/x-ndjson", Body: []byte(batch),
	})
	require.Eventually(t, func() bool { return w.stored(t, tenant) == 2 }, waitLimit, poll)
}

// The OpenAPI document and its page work on every service, and need nothing from outside.
func TestSwagger(t *testing.T) {
	w := newWorld(t)
	for _, service := range []string{w.TenantURL, w.IngestURL, w.QueryURL} {
		page := w.raw(t, http.StatusOK, raw.Request{URL: service + "/swagger/index.html"})
		require.NotContains(t, string(page.Body), "https://")
		var document struct {
			Paths map[string]any `json:"paths"`
		}
		w.raw(t, http.StatusOK, raw.Request{URL: service + "/swagger/doc.json"}).Into(t, &document)
		require.NotEmpty(t, document.Paths)
	}
}

// What an operator watches must be there.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 2)
	token := w.token(t, tenant, "messages:read messages:write")
	w.requireExactly(t, tenant, token, w.publishMany(t, token, 20))
	w.publishRaw(t, tenant, uuid.NewString(), []byte(`{`))
	for ops, names := range map[string][]string{
		w.TenantOpsURL: {"mtm_tenants{", "mtm_backing_up{service=\"postgres\"} 1", "mtm_backing_up{service=\"nats\"} 1", "mtm_http_request_duration_seconds", "process_open_fds", "go_goroutines"},
		w.IngestOpsURL: {
			"mtm_queue_messages{", `state="ready"`, `state="unacked"`, "mtm_workers{", `state="busy"`, `state="idle"`, "mtm_workers_desired{",
			"mtm_messages_stored_total{", "mtm_messages_dead_lettered_total{", "mtm_messages_published_total", "mtm_batch_size", "mtm_store_seconds",
			"mtm_http_request_duration_seconds", "mtm_backing_up{service=\"rabbitmq\"} 1",
		},
		w.QueryOpsURL: {"mtm_backing_up{service=\"postgres\"} 1", "mtm_http_request_duration_seconds"},
	} {
		var scrape string
		require.Eventually(t, func() bool {
			scrape = w.metrics(t, ops)
			for _, name := range names {
				if !strings.Contains(scrape, name) {
					return false
				}
			}
			return true
		}, waitLimit, poll, "want all of %v", names)
	}
}
