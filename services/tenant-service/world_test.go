package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/mortal"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) {
	if mortal.IsService() {
		lifecycle.Main(mortalService)
		return
	}
	// One goroutine of the whole process, which fasthttp starts with its first server and never ends.
	goleak.VerifyTestMain(openapi.Checked(m), goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const (
	waitLimit = time.Minute // on a busy machine
	tick      = 20 * time.Millisecond
	secret    = "a secret of the tests, and of nobody else"
)

// running is a service that was started by a test.
type running struct {
	t         *testing.T
	url       string
	ops       string
	cfg       Config
	transport http.RoundTripper // checks what is answered
	stopped   chan error
	cancel    context.CancelFunc
}

// testConfig is a service on the given backing services, with ports of its own.
func testConfig(t *testing.T, databaseURL, natsURL string) Config {
	t.Helper()
	ports, err := port.Free(t.Context(), 2)
	require.NoError(t, err)
	cfg := defaultConfig()
	cfg.HTTP.Addr = "127.0.0.1:" + strconv.Itoa(ports[0])
	cfg.Ops.Addr = "127.0.0.1:" + strconv.Itoa(ports[1])
	cfg.Database.URL = databaseURL
	cfg.Database.ConnectTimeout = time.Second
	cfg.NATS.URL = natsURL
	cfg.Auth.Secret = secret
	return cfg
}

// start runs the service until the end of the test.
func start(t *testing.T, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	r := &running{
		t: t, url: "http://" + cfg.HTTP.Addr, ops: "http://" + cfg.Ops.Addr, cfg: cfg,
		transport: openapi.Transport(transport), stopped: make(chan error, 1), cancel: cancel,
	}
	go func() { r.stopped <- serve(ctx, cfg, zap.NewNop()) }()
	t.Cleanup(func() {
		r.stop()
		transport.CloseIdleConnections()
	})
	return r
}

// startReady is start on fresh backing services, and waits until it is ready.
func startReady(t *testing.T) *running {
	t.Helper()
	r := start(t, testConfig(t, backing.Postgres(t), backing.NATS(t)))
	r.requireReady(true)
	return r
}

// stop ends the service, once, and requires that it ended well.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if err, ok := <-r.stopped; ok {
		close(r.stopped)
		require.NoError(r.t, err)
	}
}

func (r *running) requireReady(want bool) {
	r.t.Helper()
	require.EventuallyWithT(r.t, func(c *assert.CollectT) {
		got, err := raw.Do(r.t.Context(), r.transport, raw.Request{URL: r.ops + "/readyz"})
		require.NoError(c, err)
		require.Equal(c, want, got.Status == http.StatusOK, string(got.Body))
	}, waitLimit, tick)
}

// token makes a token. tenantID may be uuid.Nil.
func token(t *testing.T, tenantID uuid.UUID, scopes ...auth.Scope) string {
	t.Helper()
	cfg := auth.DefaultConfig()
	signed, err := auth.Sign(secret, auth.Claims{
		Issuer: cfg.Issuer, Audience: cfg.Audience, Subject: "test", Scopes: scopes, TenantID: tenantID,
	})
	require.NoError(t, err)
	return signed
}

func admin(t *testing.T) string {
	t.Helper()
	return token(t, uuid.Nil, auth.ScopeTenantsAdmin)
}

// request is one HTTP request. A body is sent as JSON unless its type says otherwise.
type request struct {
	method, path, body, prefer, contentType string
	token                                   string // "" means that of an administrator, "-" means none
}

// answer is what came back.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	tenant  api.Tenant      // of a 2xx
	problem problem.Problem // of a 4xx or 5xx
}

func (r *running) do(q request) answer {
	r.t.Helper()
	got, err := r.try(q)
	require.NoError(r.t, err)
	return got
}

func (r *running) try(q request) (answer, error) {
	r.t.Helper()
	out := raw.Request{Method: q.method, URL: r.url + q.path, ContentType: q.contentType, Body: []byte(q.body)}
	switch q.token {
	case "":
		out.Token = admin(r.t)
	case "-":
	default:
		out.Token = q.token
	}
	if q.contentType == "" && q.body != "" {
		out.ContentType = "application/json"
	}
	if q.prefer != "" {
		out.Header = map[string]string{"Prefer": q.prefer}
	}
	response, err := raw.Do(r.t.Context(), r.transport, out)
	if err != nil {
		return answer{}, err
	}
	got := answer{status: response.Status, header: response.Header, body: response.Body}
	if got.status >= 400 {
		require.Equal(r.t, problem.ContentType, got.header.Get("Content-Type"), string(got.body))
		require.NoError(r.t, json.Unmarshal(got.body, &got.problem), string(got.body))
		require.Equal(r.t, got.status, got.problem.Status)
		require.NotEmpty(r.t, got.problem.RequestID)
		return got, nil
	}
	if got.status == http.StatusNoContent {
		return got, nil
	}
	return got, json.Unmarshal(got.body, &got.tenant)
}

// require does a request and requires a status.
func (r *running) require(status int, q request) answer {
	r.t.Helper()
	got := r.do(q)
	require.Equal(r.t, status, got.status, "%s %s: %s", q.method, q.path, got.body)
	return got
}

// create makes a tenant and returns its id.
func (r *running) create(name string) uuid.UUID {
	r.t.Helper()
	body, err := json.Marshal(map[string]string{"name": name})
	require.NoError(r.t, err)
	got := r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: string(body)})
	return uuid.MustParse(got.tenant.ID)
}

func path(id uuid.UUID, rest string) string { return "/tenants/" + id.String() + rest }

// get waits until the tenant looks as wanted.
func (r *running) eventually(id uuid.UUID, check func(c *assert.CollectT, got api.Tenant)) {
	r.t.Helper()
	require.EventuallyWithT(r.t, func(c *assert.CollectT) {
		got, err := r.try(request{method: http.MethodGet, path: path(id, "")})
		require.NoError(c, err)
		require.Equal(c, http.StatusOK, got.status)
		check(c, got.tenant)
	}, waitLimit, tick)
}

// instance stands for an ingest-service: it sees desired states, and reports that they have come about.
type instance struct {
	t        *testing.T
	name     string
	tenants  *control.Bucket[contract.TenantSpec]
	statuses *control.Bucket[contract.TenantStatus]

	mu    sync.Mutex
	specs map[string]contract.TenantSpec // as seen
	idle  bool                           // reports nothing
}

func startInstance(t *testing.T, natsURL, name string) *instance {
	t.Helper()
	conn, err := control.Connect(control.Config{URL: natsURL, Resync: time.Second}, name, zap.NewNop(), nil)
	require.NoError(t, err)
	i := &instance{
		t: t, name: name, tenants: control.Tenants(conn), statuses: control.Statuses(conn), specs: make(map[string]contract.TenantSpec),
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- i.tenants.Watch(ctx, func(e control.Entry[contract.TenantSpec]) { i.see(ctx, e) }, nil)
	}()
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		i.beat(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		<-beats
		conn.Close()
	})
	return i
}

// beat says that the instance is alive until ctx ends, whether NATS is there or not.
func (i *instance) beat(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		_, err := i.statuses.Renew(ctx, contract.InstanceKey(i.name), contract.TenantStatus{Instance: i.name}, contract.HeartbeatTTL, 0)
		if err != nil && ctx.Err() == nil {
			i.t.Logf("heartbeat: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (i *instance) see(ctx context.Context, e control.Entry[contract.TenantSpec]) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if e.Deleted {
		delete(i.specs, e.Key)
		return
	}
	i.specs[e.Key] = e.Value
	if !i.idle {
		i.report(ctx, e.Value)
	}
}

// report tells that a state has come about. The caller holds the lock.
func (i *instance) report(ctx context.Context, spec contract.TenantSpec) {
	states := map[contract.DesiredState]contract.ConsumerState{
		contract.DesiredActive: contract.StateRunning, contract.DesiredSuspended: contract.StateSuspended, contract.DesiredDeleting: contract.StateDeleted,
	}
	status := contract.TenantStatus{
		TenantID: spec.TenantID, Instance: i.name, ObservedGeneration: spec.Generation, State: states[spec.State],
		QueueReady: 12, QueueUnacked: -1, ObservedAt: time.Now().UTC(),
	}
	if status.State == contract.StateRunning {
		status.Workers = spec.Workers
	}
	_, err := i.statuses.Put(ctx, contract.StatusKey(spec.TenantID, i.name), status)
	if ctx.Err() == nil {
		assert.NoError(i.t, err)
	}
}

// pause lets the instance report nothing any more.
func (i *instance) pause() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.idle = true
}

// resume lets it report, beginning with what it has seen meanwhile.
func (i *instance) resume() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.idle = false
	for _, spec := range i.specs {
		i.report(i.t.Context(), spec)
	}
}

// spec returns what the instance has been told of a tenant.
func (i *instance) spec(id uuid.UUID) (contract.TenantSpec, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	spec, ok := i.specs[id.String()]
	return spec, ok
}
