package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

const secret = "password=hunter2"

func failing(err error) func(*fiber.App) {
	return func(app *fiber.App) {
		app.Get("/fail/:id", func(*fiber.Ctx) error { return err })
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	tests := map[string]struct {
		err        error
		status     int
		code       string
		retryAfter string
		logged     bool
	}{
		"problem":           {problem.New(409, "conflict", "taken"), 409, "conflict", "", false},
		"wrapped problem":   {fmt.Errorf("create: %w", problem.New(409, "conflict", "taken")), 409, "conflict", "", false},
		"retry after":       {problem.New(503, "blocked", "").WithRetryAfter(1500 * time.Millisecond), 503, "blocked", "2", true},
		"limit of storage":  {problem.New(507, "storage_full", ""), 507, "storage_full", "", false},
		"unknown":           {errors.New(secret), 500, "internal", "", true},
		"deadline":          {fmt.Errorf("query: %w", context.DeadlineExceeded), 503, "timeout", "2", true},
		"canceled":          {fmt.Errorf("query: %w", context.Canceled), 503, "unavailable", "2", true},
		"fiber's own":       {fiber.ErrTeapot, 418, "i'm_a_teapot", "", false},
		"fiber's own 5xx":   {fiber.NewError(502, secret), 500, "internal", "", true},
		"typed nil problem": {(*problem.Problem)(nil), 500, "internal", "", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := start(t, rest.Config{}, failing(tt.err))

			resp := a.get(t, "/fail/7?cursor=abc")

			p := resp.problem(t, tt.status, tt.code)
			require.Equal(t, "/fail/7", p.Instance, "a query may hold a cursor and is left out")
			require.Equal(t, tt.retryAfter, resp.Header.Get("Retry-After"))
			require.NotContains(t, resp.body, secret, "what was not meant for clients must not get there")
			failures := a.logs.FilterMessage("request has failed").All()
			if !tt.logged {
				require.Empty(t, failures)
				return
			}
			require.Len(t, failures, 1)
			require.Equal(t, p.RequestID, failures[0].ContextMap()["request_id"], "the id must lead to the cause")
		})
	}
}

func TestUnknownErrorIsLoggedWithItsText(t *testing.T) {
	a := start(t, rest.Config{}, failing(errors.New("disk is on fire")))
	a.get(t, "/fail/1").problem(t, 500, "internal")
	require.Equal(t, "disk is on fire", a.logs.FilterMessage("request has failed").All()[0].ContextMap()["error"])
}

func TestFieldErrorsAreInTheDocument(t *testing.T) {
	a := start(t, rest.Config{}, failing(problem.New(422, "invalid", "no").WithField("name", "is required")))
	p := a.get(t, "/fail/1").problem(t, 422, "invalid")
	require.Equal(t, []problem.FieldError{{Field: "name", Detail: "is required"}}, p.Errors)
}

// The same problem value is often returned by many requests at a time.
func TestSharedProblemIsNotChanged(t *testing.T) {
	shared := problem.New(404, "not_found", "")
	a := start(t, rest.Config{}, failing(shared))
	a.get(t, "/fail/1").problem(t, 404, "not_found")
	require.Empty(t, shared.RequestID)
	require.Empty(t, shared.Instance)
}

func TestPanicIsAnInternalErrorWithoutItsStack(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/panic", func(*fiber.Ctx) error { panic(secret) })
		app.Get("/index", func(c *fiber.Ctx) error { _ = []int{}[len(c.Path())]; return nil })
	})
	for _, path := range []string{"/panic", "/index"} {
		resp := a.get(t, path)
		resp.problem(t, 500, "internal")
		require.NotContains(t, resp.body, secret)
		require.NotContains(t, resp.body, "goroutine")
		require.NotContains(t, resp.body, ".go:")
	}
	panics := a.logs.FilterMessage("panic in a handler").All()
	require.Len(t, panics, 2)
	require.Contains(t, panics[0].ContextMap()["stack"], "errors_test.go")
	require.Empty(t, a.logs.FilterMessage("request has failed").All(), "logged once")
}

func routes(app *fiber.App) {
	ok := func(c *fiber.Ctx) error { return c.SendString("ok") }
	app.Get("/things", ok)
	app.Post("/things", func(c *fiber.Ctx) error { return c.SendString(fmt.Sprint(len(c.BodyRaw()))) })
	app.Delete("/things/:id", ok)
}

func TestUnknownPath(t *testing.T) {
	a := start(t, rest.Config{}, routes)
	p := a.get(t, "/nothing/here?x=1").problem(t, 404, "route_not_found")
	require.Equal(t, "/nothing/here", p.Instance)
	require.NotContains(t, p.Detail, "nothing/here", "nothing of the request is echoed as text")
}

func TestMethodNotAllowedListsThoseThatAre(t *testing.T) {
	a := start(t, rest.Config{}, routes)
	for method, allow := range map[string]string{
		http.MethodPut:     "GET, HEAD, POST",
		http.MethodOptions: "GET, HEAD, POST",
		http.MethodTrace:   "GET, HEAD, POST",
		"PURGE":            "GET, HEAD, POST",
		"get":              "GET, HEAD, POST",
	} {
		resp := a.do(t, method, "/things", "")
		resp.problem(t, 405, "method_not_allowed")
		require.Equal(t, allow, resp.Header.Get("Allow"), method)
	}
	resp := a.get(t, "/things/5")
	resp.problem(t, 405, "method_not_allowed")
	require.Equal(t, "DELETE", resp.Header.Get("Allow"))

	a.do(t, "PURGE", "/nothing", "").problem(t, 404, "route_not_found")
}

func TestHeadHasNoBody(t *testing.T) {
	a := start(t, rest.Config{}, routes)
	resp := a.do(t, http.MethodHead, "/nothing", "")
	require.Equal(t, 404, resp.StatusCode)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	require.Empty(t, resp.body)
}

func TestRequestsThatCannotBeRead(t *testing.T) {
	a := start(t, rest.Config{BodyLimit: 1024}, routes)
	tests := map[string]struct {
		request string
		status  int
		code    string
	}{
		"not http":              {"hello\r\n\r\n", 400, "malformed_request"},
		"header without colon":  {"GET /things HTTP/1.1\r\nHost: x\r\nAuthorization Bearer hunter2\r\nAccept: x\r\n\r\n", 400, "malformed_request"},
		"two content types":     {"POST /things HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\ncontent-type: text/plain\r\n\r\n", 400, "repeated_header"},
		"bad content length":    {"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400, "malformed_request"},
		"header too large":      {"GET /things HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("a", 20_000) + "\r\n\r\n", 431, "header_too_large"},
		"path too large":        {"GET /" + strings.Repeat("a", 20_000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, "header_too_large"},
		"body too large":        {"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n", 413, "body_too_large"},
		"body absurdly large":   {"POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000000000000\r\n\r\n", 413, "body_too_large"},
		"chunks too large":      {"POST /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n" + strings.Repeat("a", 1025) + "\r\n0\r\n\r\n", 413, "body_too_large"},
		"chunk size is no size": {"POST /things HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed_request"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := a.raw(t, tt.request)
			resp.problem(t, tt.status, tt.code)
			require.True(t, resp.Close, "what follows on the connection can't be told apart")
			require.NotContains(t, resp.body, "hunter2")
		})
	}
	for _, e := range a.logs.All() {
		require.NotContains(t, fmt.Sprint(e.ContextMap()), "hunter2", "a token in a broken header must not be logged")
	}
}

func TestBodyAtTheLimitIsTaken(t *testing.T) {
	a := start(t, rest.Config{BodyLimit: 1024}, routes)
	resp := a.do(t, http.MethodPost, "/things", strings.Repeat("a", 1024))
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "1024", resp.body)
	a.do(t, http.MethodPost, "/things", strings.Repeat("a", 1025)).problem(t, 413, "body_too_large")
}

// A client that writes all before it reads, as most do, must see the 413 and not "connection reset".
func TestClientThatIsStillSendingGetsTheAnswer(t *testing.T) {
	a := start(t, rest.Config{BodyLimit: 1024}, routes)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()

	const size = 16 << 20 // more than the socket buffers hold
	_, err = fmt.Fprintf(conn, "POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
	require.NoError(t, err)
	_, err = io.CopyN(conn, zeros{}, size)
	require.NoError(t, err, "the server must read on while the client is sending")
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)

	require.Contains(t, string(answer), "HTTP/1.1 413 ")
	require.Contains(t, string(answer), `"code":"body_too_large"`)
}

// curl asks before it sends more than a megabyte (RFC 9110 section 10.1.1).
func TestBodyTooLargeForAClientThatAsksFirst(t *testing.T) {
	a := start(t, rest.Config{BodyLimit: 1024}, routes)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, "POST /things HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2000\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "HTTP/1.1 413 ")
	require.Contains(t, string(answer), `"code":"body_too_large"`)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSlowClientIsGivenUp(t *testing.T) {
	a := start(t, rest.Config{ReadTimeout: 50 * time.Millisecond}, routes)
	a.raw(t, "POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").problem(t, 408, "request_timeout")
}

func TestProblemIsValidJSONForAnyPath(t *testing.T) {
	a := start(t, rest.Config{}, routes)
	resp := a.raw(t, "GET /\xff\"\\<script> HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.GreaterOrEqual(t, resp.StatusCode, 400)
	require.True(t, json.Valid([]byte(resp.body)), resp.body)
	require.NotContains(t, resp.body, "<script>")
}
