package telemetry_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("connection refused")

// ops is a running listener.
type ops struct {
	url    string
	health *telemetry.Health
	reg    *prometheus.Registry
	client *http.Client
	stop   context.CancelFunc
	done   chan error
}

func start(t *testing.T) *ops {
	t.Helper()
	return startWith(t, telemetry.Config{}, func(*telemetry.Ops) {})
}

func startWith(t *testing.T, cfg telemetry.Config, setUp func(*telemetry.Ops)) *ops {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	o := &ops{reg: telemetry.NewRegistry("test-service"), client: &http.Client{Transport: &http.Transport{}}, done: make(chan error, 1)}
	o.health = telemetry.NewHealth(o.reg)
	listener := telemetry.NewOps(cfg, o.reg, o.health, zap.NewNop())
	setUp(listener)
	addr, err := listener.Listen()
	require.NoError(t, err)
	o.url = "http://" + addr.String()
	ctx, cancel := context.WithCancel(t.Context())
	o.stop = cancel
	go func() { o.done <- listener.Run(ctx) }()
	t.Cleanup(func() {
		o.client.CloseIdleConnections()
		cancel()
		require.NoError(t, <-o.done)
	})
	return o
}

func (o *ops) get(t *testing.T, path string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, o.url+path, http.NoBody)
	require.NoError(t, err)
	resp, err := o.client.Do(req)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(b)
}

func TestReadiness(t *testing.T) {
	o := start(t)
	postgres := o.health.Backing("postgres")
	snapshot := o.health.Check("snapshot")

	steps := []struct {
		name   string
		do     func()
		status int
		body   string
		err    string
	}{
		{
			"before anything was reported", func() {}, 503,
			`{"status":"not_ready","checks":{"postgres":{"ok":false,"error":"starting"},"snapshot":{"ok":false,"error":"starting"}}}`,
			"postgres: starting\nsnapshot: starting",
		},
		{
			"one of two", func() { postgres.Set(nil) }, 503,
			`{"status":"not_ready","checks":{"postgres":{"ok":true},"snapshot":{"ok":false,"error":"starting"}}}`,
			"snapshot: starting",
		},
		{
			"all", func() { snapshot.Set(nil) }, 200,
			`{"status":"ready","checks":{"postgres":{"ok":true},"snapshot":{"ok":true}}}`, "",
		},
		{
			"lost again", func() { postgres.Set(errDown) }, 503,
			`{"status":"not_ready","checks":{"postgres":{"ok":false,"error":"connection refused"},"snapshot":{"ok":true}}}`,
			"postgres: connection refused",
		},
		{
			"a part of the work is not done", func() { postgres.Set(nil); snapshot.Degrade(errDown) }, 200,
			`{"status":"degraded","checks":{"postgres":{"ok":true},"snapshot":{"ok":false,"degraded":true,"error":"connection refused"}}}`, "",
		},
		{
			"and something is missing", func() { postgres.Set(errDown) }, 503,
			`{"status":"not_ready","checks":{"postgres":{"ok":false,"error":"connection refused"},"snapshot":{"ok":false,"degraded":true,"error":"connection refused"}}}`,
			"postgres: connection refused",
		},
		{
			"all again", func() { postgres.Set(nil); snapshot.Degrade(nil) }, 200,
			`{"status":"ready","checks":{"postgres":{"ok":true},"snapshot":{"ok":true}}}`, "",
		},
		{
			"stopping", func() { postgres.Set(nil); o.health.Stopping() }, 503,
			`{"status":"stopping","checks":{"postgres":{"ok":true},"snapshot":{"ok":true}}}`, "stopping",
		},
	}
	for _, step := range steps {
		step.do()
		status, body := o.get(t, "/readyz")
		require.Equal(t, step.status, status, step.name)
		require.JSONEq(t, step.body, body, step.name)
		if step.err == "" {
			require.NoError(t, o.health.Err(), step.name)
		} else {
			require.EqualError(t, o.health.Err(), step.err, step.name)
		}
		// A process that is not ready is still alive: restarting it would not help.
		status, body = o.get(t, "/healthz")
		require.Equal(t, 200, status, step.name)
		require.JSONEq(t, `{"status":"alive"}`, body)
	}
}

func TestReadyWithoutChecks(t *testing.T) {
	h := telemetry.NewHealth(prometheus.NewRegistry())
	require.NoError(t, h.Err())
	h.Stopping()
	require.ErrorIs(t, h.Err(), telemetry.ErrStopping)
}

func TestErrLeadsToTheCause(t *testing.T) {
	h := telemetry.NewHealth(prometheus.NewRegistry())
	c := h.Check("a")
	require.ErrorIs(t, h.Err(), telemetry.ErrStarting)
	c.Set(errDown)
	require.ErrorIs(t, h.Err(), errDown)
}

// Two parts of a service may watch the same backing service; they share its state.
func TestSameNameIsTheSameCheck(t *testing.T) {
	h := telemetry.NewHealth(prometheus.NewRegistry())
	h.Backing("nats").Set(nil)
	h.Backing("nats")
	require.NoError(t, h.Err())
}

func TestBackingIsExported(t *testing.T) {
	o := start(t)
	postgres, nats := o.health.Backing("postgres"), o.health.Backing("nats")
	o.health.Backing("rabbitmq")
	o.health.Check("snapshot").Set(nil)
	postgres.Set(nil)
	nats.Set(nil)
	nats.Set(errDown)

	_, body := o.get(t, "/metrics")

	var got []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "mtm_backing_up{") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	require.Equal(t, []string{
		`mtm_backing_up{service="nats"} 0`,
		`mtm_backing_up{service="postgres"} 1`,
		`mtm_backing_up{service="rabbitmq"} 0`,
	}, got)
}

func TestMetricsAndProfiles(t *testing.T) {
	o := start(t)
	for path, want := range map[string]string{
		"/metrics":                       `mtm_build_info{go_version="go1.`,
		"/debug/pprof/":                  "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile",
		"/debug/pprof/heap?debug=1":      "heap profile",
		"/debug/pprof/cmdline":           "telemetry.test",
		"/debug/pprof/symbol":            "num_symbols",
	} {
		status, body := o.get(t, path)
		require.Equal(t, 200, status, path)
		require.Contains(t, body, want, path)
	}
	_, body := o.get(t, "/metrics")
	require.Contains(t, body, "go_goroutines ")
	require.Contains(t, body, "process_resident_memory_bytes ")
	require.Contains(t, body, `service="test-service"`)
}

// Waits are recorded while somebody asks for them.
func TestProfilesOfWaits(t *testing.T) {
	o := start(t)
	done := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() { // until the profiles are there
		for {
			tick := time.NewTimer(time.Millisecond)
			select {
			case <-done:
				tick.Stop()
				return
			case <-tick.C:
			}
		}
	})
	status, body := o.get(t, "/debug/pprof/block?seconds=1")
	close(done)
	waiting.Wait()
	require.Equal(t, 200, status, body)
	unpacked, err := gzip.NewReader(strings.NewReader(body))
	require.NoError(t, err)
	profile, err := io.ReadAll(unpacked)
	require.NoError(t, err)
	require.Contains(t, string(profile), "telemetry_test.TestProfilesOfWaits")
	status, _ = o.get(t, "/debug/pprof/mutex?seconds=1")
	require.Equal(t, 200, status)
	for _, path := range []string{"/debug/pprof/block", "/debug/pprof/mutex"} {
		status, body = o.get(t, path)
		require.Equal(t, 400, status)
		require.Contains(t, body, "?seconds=")
	}
}

func TestUnknownPath(t *testing.T) {
	status, _ := start(t).get(t, "/")
	require.Equal(t, 404, status)
}

type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc }

func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.desc, errDown)
}

// One collector that can't reach its source must not blind the operator to all the rest.
func TestBrokenCollectorDoesNotHideTheOthers(t *testing.T) {
	o := start(t)
	o.reg.MustRegister(broken{prometheus.NewDesc("broken", "x", nil, nil)})
	status, body := o.get(t, "/metrics")
	require.Equal(t, 200, status)
	require.Contains(t, body, "mtm_build_info")
}

func TestRunEndsWithItsContext(t *testing.T) {
	o := start(t)
	o.get(t, "/healthz")
	o.stop()
	require.NoError(t, <-o.done)
	o.done <- nil
}

func TestPortInUseIsNamed(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	reg := prometheus.NewRegistry()

	err = telemetry.NewOps(telemetry.Config{Addr: taken.Addr().String()}, reg, telemetry.NewHealth(reg), zap.NewNop()).Run(t.Context())

	require.ErrorContains(t, err, "ops.addr "+taken.Addr().String())
	require.ErrorContains(t, err, "address already in use")
}

// Whatever framing a proxy lets pass, the listener answers no request that is hidden in another.
func TestNoRequestIsHiddenInAnother(t *testing.T) {
	o := start(t)
	raw.Framing(t, raw.Target{
		Addr: strings.TrimPrefix(o.url, "http://"), Method: http.MethodGet, Path: "/healthz", Body: "{}", Repairs: true,
		Hidden: "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
	})
}
