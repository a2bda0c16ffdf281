package rest_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

const doc = `{"swagger":"2.0","info":{"title":"Tenants"}}`

func startSwagger(t *testing.T, doc string) *api {
	t.Helper()
	return startServer(t, rest.Config{}, func(s *rest.Server) { s.Swagger([]byte(doc)) })
}

// Installations without the internet are the ones whose operators need the page most.
func TestSwaggerHasNoExternalReference(t *testing.T) {
	a := startSwagger(t, doc)

	page := a.get(t, "/swagger/index.html")

	require.Equal(t, 200, page.StatusCode)
	require.Contains(t, page.Header.Get("Content-Type"), "text/html")
	require.Contains(t, page.body, "SwaggerUIBundle(config)")
	for _, ref := range regexp.MustCompile(`(?i)(?:src|href)\s*=\s*"([^"]*)"`).FindAllStringSubmatch(page.body, -1) {
		require.Regexp(t, `^\./`, ref[1], "everything the page loads comes from this server")
	}
	require.NotContains(t, page.body, "fonts.googleapis")
	for _, u := range regexp.MustCompile(`https?:[\\/]+[^\s"']*`).FindAllString(page.body, -1) {
		require.Regexp(t, `^http://www\.w3\.org/`, u, "XML namespaces are the only URLs left")
	}
	require.Contains(t, page.body, `"validatorUrl":"none"`)
	require.Contains(t, page.body, `"url":"doc.json"`)
	require.Contains(t, page.body, `"deepLinking":true`)
	require.Contains(t, page.Header.Get("Content-Security-Policy"), "default-src 'self'")
}

func TestSwaggerServesAllThatThePageLoads(t *testing.T) {
	a := startSwagger(t, doc)
	page := a.get(t, "/swagger/index.html")
	refs := regexp.MustCompile(`(?:src|href)="\./([^"]*)"`).FindAllStringSubmatch(page.body, -1)
	require.GreaterOrEqual(t, len(refs), 5)
	for _, ref := range refs {
		resp := a.get(t, "/swagger/"+ref[1])
		require.Equal(t, 200, resp.StatusCode, ref[1])
		require.NotEmpty(t, resp.body)
	}
}

func TestSwaggerDocument(t *testing.T) {
	resp := startSwagger(t, doc).get(t, "/swagger/doc.json")
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, resp.Header.Get("Content-Type"), "application/json")
	require.JSONEq(t, doc, resp.body)
}

// gofiber/swagger keeps the first request's prefix for everyone after it: a single request would turn the
// page of all users over to somebody else's path.
func TestSwaggerIgnoresForwardedPrefix(t *testing.T) {
	a := startSwagger(t, doc)
	for _, header := range [][]string{{"X-Forwarded-Prefix", "/evil"}, nil} {
		for _, path := range []string{"/swagger/", "/swagger"} {
			resp := a.get(t, path, header...)
			require.Equal(t, 301, resp.StatusCode)
			require.NotContains(t, resp.Header.Get("Location"), "evil")
			require.Regexp(t, `/swagger/index\.html$`, resp.Header.Get("Location"))
		}
		page := a.get(t, "/swagger/index.html", header...)
		require.NotContains(t, page.body, "evil")
	}
}

// A proxy that takes a prefix off is how several services share a host. The page, what it loads and where "Try it out" sends its
// requests have to be below that prefix.
func TestSwaggerBehindAPrefix(t *testing.T) {
	a := startSwagger(t, doc)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := httptest.NewServer(http.StripPrefix("/ingest", &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: a.addr}) },
	}))
	t.Cleanup(proxy.Close)
	fetch := func(t *testing.T, target string) answer {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, http.NoBody)
		require.NoError(t, err)
		resp, err := proxy.Client().Do(req)
		require.NoError(t, err)
		return read(t, resp)
	}
	for _, path := range []string{"/ingest/swagger", "/ingest/swagger/", "/ingest/swagger/index.html"} {
		page := fetch(t, proxy.URL+path)
		require.Equal(t, 200, page.StatusCode, path)
		require.Equal(t, "/ingest/swagger/index.html", page.Request.URL.Path)
		refs := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(page.body, -1)
		require.GreaterOrEqual(t, len(refs), 5)
		for _, ref := range refs {
			loaded, err := page.Request.URL.Parse(ref[1])
			require.NoError(t, err)
			require.True(t, strings.HasPrefix(loaded.Path, "/ingest/"), ref[1])
			require.Equal(t, 200, fetch(t, loaded.String()).StatusCode)
		}
		// What the page does with its document, in the words of the page.
		require.Contains(t, page.body, `"url":"doc.json"`)
		require.Regexp(t, `config\.responseInterceptor = function \(response\) \{[^}]*`+
			regexp.QuoteMeta(`doc.basePath = new URL("..", location.href).pathname`), page.body)
		require.JSONEq(t, doc, fetch(t, proxy.URL+"/ingest/swagger/doc.json").body)
	}
}

func TestSwaggerUnknownFile(t *testing.T) {
	a := startSwagger(t, doc)
	a.get(t, "/swagger/nope.js").problem(t, 404, "route_not_found")
	a.get(t, "/swagger/..%2f..%2fetc/passwd").problem(t, 404, "route_not_found")
}

// Several servers live in one process in tests; each has its own document.
func TestSwaggerDocumentsOfTwoServersAreApart(t *testing.T) {
	a := startSwagger(t, doc)
	b := startSwagger(t, `{"swagger":"2.0"}`)
	require.JSONEq(t, doc, a.get(t, "/swagger/doc.json").body)
	require.JSONEq(t, `{"swagger":"2.0"}`, b.get(t, "/swagger/doc.json").body)
}
