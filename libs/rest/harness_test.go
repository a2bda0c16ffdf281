package rest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func TestMain(m *testing.M) {
	// fasthttp has one goroutine a process for the header Date.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

// api is a running server.
type api struct {
	server *rest.Server
	addr   string
	logs   *observer.ObservedLogs
	reg    *prometheus.Registry
	client *http.Client
	cancel context.CancelFunc
	done   chan error // one value, the result of Run
}

// start serves the routes on a free port until the test ends.
func start(t *testing.T, cfg rest.Config, routes func(*fiber.App)) *api {
	t.Helper()
	return startServer(t, cfg, func(s *rest.Server) { routes(s.App()) })
}

func startServer(t *testing.T, cfg rest.Config, setUp func(*rest.Server)) *api {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	a := &api{
		logs:   logs,
		reg:    prometheus.NewRegistry(),
		client: &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		done:   make(chan error, 1),
	}
	cfg.Addr = "127.0.0.1:0"
	a.server = rest.New(cfg, "test-service", a.reg, zap.New(core))
	setUp(a.server)
	addr, err := a.server.Listen()
	require.NoError(t, err)
	a.addr = addr.String()
	ctx, cancel := context.WithCancel(t.Context())
	a.cancel = cancel
	go func() { a.done <- a.server.Run(ctx) }()
	t.Cleanup(func() {
		a.client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-a.done)
	})
	return a
}

// answer is a response whose body has been read.
type answer struct {
	*http.Response
	body string
}

func (a *api) do(t *testing.T, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.addr+path, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := a.client.Do(req)
	require.NoError(t, err)
	return read(t, resp)
}

func (a *api) get(t *testing.T, path string, header ...string) answer {
	t.Helper()
	return a.do(t, http.MethodGet, path, "", header...)
}

// response is what a request in the background got.
type response struct {
	*http.Response
	err error
}

// background sends a request and gives its response later.
func (a *api) background(t *testing.T, path string) <-chan response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.addr+path, http.NoBody)
	require.NoError(t, err)
	result := make(chan response, 1)
	go func() {
		resp, err := a.client.Do(req) //nolint:bodyclose // by the receiver
		result <- response{resp, err}
	}()
	return result
}

// raw sends bytes that an HTTP client would not, and reads one answer.
func (a *api) raw(t *testing.T, request string) answer {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	return read(t, resp)
}

func read(t *testing.T, resp *http.Response) answer {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return answer{resp, string(b)}
}

// problem checks that the answer is a complete problem document and returns it.
func (r answer) problem(t *testing.T, status int, code string) problem.Problem {
	t.Helper()
	require.Equal(t, status, r.StatusCode, r.body)
	require.Equal(t, "application/problem+json", r.Header.Get("Content-Type"))
	var p problem.Problem
	require.NoError(t, json.Unmarshal([]byte(r.body), &p), r.body)
	require.Equal(t, code, p.Code, r.body)
	require.Equal(t, status, p.Status)
	require.Equal(t, http.StatusText(status), p.Title)
	require.Equal(t, "about:blank", p.Type)
	require.NotEmpty(t, p.RequestID)
	require.Equal(t, r.Header.Get("X-Request-Id"), p.RequestID)
	return p
}

// requests returns the lines of the access log.
func (a *api) requests() []map[string]any {
	var lines []map[string]any
	for _, e := range a.logs.FilterMessage("request").All() {
		lines = append(lines, e.ContextMap())
	}
	return lines
}
