package openapi_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
)

// proxy stands between a generated client, which is a process of its own, and the services. Requests and answers are checked on
// their way.
type proxy struct {
	t         *testing.T
	document  *openapi.Document
	transport http.RoundTripper

	mu   sync.Mutex
	seen map[string]map[int]bool // guarded by mu: statuses by operation
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	document, err := openapi.Platform()
	require.NoError(t, err)
	base := &http.Transport{}
	t.Cleanup(base.CloseIdleConnections)
	return &proxy{t: t, document: document, transport: openapi.Transport(base), seen: map[string]map[int]bool{}}
}

// before returns the address at which the clients find a service.
func (p *proxy) before(service string) string {
	p.t.Helper()
	target, err := url.Parse(service)
	require.NoError(p.t, err)
	server := httptest.NewServer(&httputil.ReverseProxy{Transport: p, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }})
	p.t.Cleanup(server.Close)
	return server.URL
}

// RoundTrip passes a request on, whose body can be read once more by the check, and notes how it was answered.
func (p *proxy) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body != nil {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		if request.Body, err = request.GetBody(); err != nil {
			return nil, err
		}
	}
	response, err := p.transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	operation := p.document.Operation(request)
	if p.seen[operation] == nil {
		p.seen[operation] = map[int]bool{}
	}
	p.seen[operation][response.StatusCode] = true
	return response, nil
}

// requireAll demands that every operation was successful once and answered with an error once.
func (p *proxy) requireAll() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []string
	for _, operation := range p.document.Operations() {
		success, failure := false, false
		for status := range p.seen[operation] {
			success, failure = success || status < http.StatusMultipleChoices, failure || status >= http.StatusBadRequest
		}
		if !success {
			missing = append(missing, operation+" successful")
		}
		if !failure {
			missing = append(missing, operation+" with an error")
		}
	}
	require.Empty(p.t, missing, "what was never seen")
}
