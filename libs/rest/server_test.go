package rest_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func TestRequestID(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error { return c.SendString(rest.RequestID(c)) })
	})
	made := regexp.MustCompile(`^[0-9a-f-]{36}$`)
	tests := map[string]struct {
		id   string
		kept bool
	}{
		"none":                {"", false},
		"uuid":                {"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11", true},
		"trace":               {"Root=1-67891233-abcdef012345678912345678", true},
		"longest":             {strings.Repeat("a", 128), true},
		"too long":            {strings.Repeat("a", 129), false},
		"space":               {"a b", false},
		"quote":               {`a"b`, false},
		"angle":               {"<script>", false},
		"not ascii":           {"é", false},
		"a line for the logs": {"a\tlevel=error", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := a.get(t, "/", "X-Request-ID", tt.id)
			require.Equal(t, resp.body, resp.Header.Get("X-Request-Id"))
			if tt.kept {
				require.Equal(t, tt.id, resp.body)
			} else {
				require.Regexp(t, made, resp.body)
			}
		})
	}
}

func TestAccessLog(t *testing.T) {
	tenant := uuid.New()
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Post("/tenants/:id/messages", func(c *fiber.Ctx) error {
			rest.SetTenant(c, tenant)
			return c.Status(202).SendString("secret answer")
		})
		app.Get("/fails", func(*fiber.Ctx) error { return problem.New(409, "conflict", "") })
	})

	id := a.do(t, http.MethodPost, "/tenants/7/messages?token=hunter2", `{"payload":"hunter2"}`,
		"Authorization", "Bearer hunter2", "X-Request-ID", "req-1").Header.Get("X-Request-Id")
	a.get(t, "/fails")
	a.get(t, "/nowhere/hunter2")
	a.do(t, "HUNT", "/fails", "")

	lines := a.requests()
	require.Len(t, lines, 4)
	require.Equal(t, "req-1", id)
	want := []map[string]any{
		{"method": "POST", "route": "/tenants/:id/messages", "status": int64(202), "request_id": "req-1", "tenant_id": tenant.String()},
		{"method": "GET", "route": "/fails", "status": int64(409)},
		{"method": "GET", "route": "unmatched", "status": int64(404)},
		{"method": "HUNT", "route": "unmatched", "status": int64(405)},
	}
	for i, line := range lines {
		for key, value := range want[i] {
			require.Equal(t, value, line[key], "%d %s", i, key)
		}
		require.Contains(t, line, "duration")
		require.NotEmpty(t, line["request_id"])
		require.NotContains(t, line, "tenant", i)
		for key, value := range line {
			require.NotContains(t, fmt.Sprint(value), "hunter2", key)
		}
	}
	require.NotContains(t, lines[1], "tenant_id")
}

// A label with paths in it would make a series for every message that is read.
func TestMetricsHaveRouteTemplates(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/messages/:id", func(c *fiber.Ctx) error {
			if c.Params("id") == "0" {
				return problem.New(404, "not_stored", "")
			}
			return nil
		})
	})
	for _, path := range []string{"/messages/1", "/messages/2", "/messages/0", "/x1", "/x2", "/messages/1?cursor=3"} {
		a.get(t, path)
	}
	a.do(t, http.MethodDelete, "/messages/1", "")
	a.do(t, "HUNT1", "/messages/1", "")
	a.do(t, "HUNT2", "/messages/1", "")

	got := map[string]uint64{}
	families, err := a.reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		require.Equal(t, "mtm_http_request_duration_seconds", f.GetName())
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, " ")] = m.GetHistogram().GetSampleCount()
		}
	}
	require.Equal(t, map[string]uint64{
		"GET /messages/:id test-service 200": 3,
		"GET /messages/:id test-service 404": 1,
		"GET unmatched test-service 404":     2,
		"DELETE unmatched test-service 405":  1,
		"other unmatched test-service 405":   2,
	}, got)
}

func TestHandlersGetADeadline(t *testing.T) {
	a := start(t, rest.Config{RequestTimeout: 20 * time.Millisecond}, func(app *fiber.App) {
		app.Get("/slow", func(c *fiber.Ctx) error {
			<-c.UserContext().Done()
			return c.UserContext().Err()
		})
	})
	resp := a.get(t, "/slow")
	resp.problem(t, 503, "timeout")
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
}

// Fiber reuses request memory: without Immutable, a parameter that is kept becomes another tenant's.
func TestParametersMayBeKept(t *testing.T) {
	var mu sync.Mutex
	var kept []string
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Post("/:id", func(c *fiber.Ctx) error {
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, c.Params("id"), c.Query("q"), string(c.BodyRaw()), c.Get("X-H"))
			return nil
		})
	})
	a.do(t, http.MethodPost, "/aaaa?q=bbbb", "cccc", "X-H", "dddd")
	a.do(t, http.MethodPost, "/eeee?q=ffff", "gggg", "X-H", "hhhh")
	require.Equal(t, []string{"aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg", "hhhh"}, kept)
}

// A request that was accepted is answered, whatever happens to the process.
func TestRunDrainsWhatIsInFlight(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			close(entered)
			<-release
			return c.UserContext().Err()
		})
	})
	result := a.background(t, "/")
	<-entered

	a.cancel()
	require.Eventually(t, func() bool { // new connections are refused while the old one continues
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
		if err != nil {
			return true
		}
		require.NoError(t, conn.Close())
		return false
	}, 10*time.Second, time.Millisecond)
	require.Empty(t, a.done)
	close(release)

	resp := <-result
	require.NoError(t, resp.err)
	require.Equal(t, 200, resp.StatusCode)
	require.NoError(t, resp.Body.Close())
	require.True(t, resp.Close, "the client is told not to use the connection again")
	require.NoError(t, <-a.done)
	a.done <- nil
}

// One client that reads slowly must not keep a deploy from ending well.
func TestRunGivesUpOnRequestsThatDoNotEnd(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(*fiber.Ctx) error { close(entered); <-release; return nil })
	})
	a.server.SetDrain(time.Millisecond)
	result := a.background(t, "/")
	<-entered

	a.cancel()

	require.NoError(t, <-a.done, "a client that does not finish is no failure of the service")
	close(release)
	resp := <-result
	require.NoError(t, resp.err)
	require.NoError(t, resp.Body.Close())
	a.done <- nil
}

// Clients keep connections open; a stop must not wait for them to time out.
func TestRunClosesIdleConnections(t *testing.T) {
	a := start(t, rest.Config{IdleTimeout: time.Hour}, routes)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, "GET /things HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	buf := make([]byte, 4096)
	_, err = conn.Read(buf)
	require.NoError(t, err)

	a.cancel()

	require.NoError(t, <-a.done)
	a.done <- nil
	_, err = io.ReadAll(conn)
	require.NoError(t, err, "closed, not reset")
}

// With Fiber's own Listen a stop that comes first is lost, and the process serves for ever.
func TestRunReturnsWhenItsContextHasEndedBefore(t *testing.T) {
	for name, listen := range map[string]bool{"before Listen": false, "after Listen": true} {
		t.Run(name, func(t *testing.T) {
			s := rest.New(rest.Config{Addr: "127.0.0.1:0"}, "s", prometheus.NewRegistry(), zap.NewNop())
			if listen {
				_, err := s.Listen()
				require.NoError(t, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			require.NoError(t, s.Run(ctx))
		})
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()

	err = rest.New(rest.Config{Addr: taken.Addr().String()}, "s", prometheus.NewRegistry(), zap.NewNop()).Run(t.Context())

	require.ErrorContains(t, err, "http.addr "+taken.Addr().String())
	require.ErrorContains(t, err, "address already in use")
}

func TestListenTwiceIsTheSameAddress(t *testing.T) {
	s := rest.New(rest.Config{Addr: "127.0.0.1:0"}, "s", prometheus.NewRegistry(), zap.NewNop())
	first, err := s.Listen()
	require.NoError(t, err)
	second, err := s.Listen()
	require.NoError(t, err)
	require.Equal(t, first, second)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
}
