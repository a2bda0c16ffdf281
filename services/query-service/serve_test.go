package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) {
	// fasthttp's clock never stops.
	goleak.VerifyTestMain(openapi.Checked(m), goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const secret = "a secret of thirty-two bytes, at least"

// waitLimit is the limit of every wait in these tests, and of a request; none of them takes nearly as long.
const waitLimit = 30 * time.Second

// link stands between the service and the database, to take the database away.
type link struct {
	t      *testing.T
	addr   string // where the service connects
	target string

	freezing sync.RWMutex // held for writing while nothing gets through

	mu       sync.Mutex
	listener net.Listener // nil while the database is down
	open     map[net.Conn]bool
	running  sync.WaitGroup
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	l := &link{t: t, addr: freeAddr(t), target: target, open: map[net.Conn]bool{}}
	t.Cleanup(func() {
		l.down()
		l.running.Wait()
	})
	return l
}

// freeAddr is an address of this host that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

// up lets connections through.
func (l *link) up() {
	listener, err := (&net.ListenConfig{}).Listen(l.t.Context(), "tcp", l.addr)
	require.NoError(l.t, err)
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	l.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.target)
			if err != nil {
				_ = client.Close()
				continue
			}
			l.mu.Lock()
			l.open[client], l.open[server] = true, true
			l.mu.Unlock()
			l.running.Go(func() { l.copy(client, server) })
			l.running.Go(func() { l.copy(server, client) })
		}
	})
}

// down refuses connections and cuts those that are open.
func (l *link) down() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		require.NoError(l.t, l.listener.Close())
		l.listener = nil
	}
	for conn := range l.open {
		_ = conn.Close()
	}
	clear(l.open)
}

// freeze keeps connections open, and nothing gets through them until thaw.
func (l *link) freeze() { l.freezing.Lock() }

func (l *link) thaw() { l.freezing.Unlock() }

func (l *link) copy(to, from net.Conn) {
	defer func() {
		_ = to.Close()
		_ = from.Close()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.freezing.RLock()
		_, failed := to.Write(buffer[:n])
		l.freezing.RUnlock()
		if err != nil || failed != nil {
			return
		}
	}
}

// process is the service, running.
type process struct {
	t         *testing.T
	cfg       Config
	transport http.RoundTripper // checks what is answered
	stop      context.CancelFunc
	done      chan error
}

func startProcess(t *testing.T, databaseURL string) *process {
	t.Helper()
	return startProcessWith(t, databaseURL, auth.DefaultConfig())
}

// startProcessWith is startProcess with further keys for tokens.
func startProcessWith(t *testing.T, databaseURL string, keys auth.Config) *process {
	t.Helper()
	cfg := defaultConfig()
	cfg.Auth = keys
	cfg.HTTP.Addr, cfg.Ops.Addr = freeAddr(t), freeAddr(t)
	cfg.HTTP.RequestTimeout = 2 * time.Second
	cfg.Auth.Secret = secret
	cfg.Database.URL = databaseURL
	cfg.Database.ConnectTimeout = time.Second
	ctx, cancel := context.WithCancel(t.Context())
	connections := &http.Transport{}
	p := &process{t: t, cfg: cfg, transport: openapi.Transport(connections), stop: cancel, done: make(chan error, 1)}
	go func() { p.done <- serve(ctx, cfg, zap.NewNop()) }()
	t.Cleanup(func() {
		cancel()
		connections.CloseIdleConnections()
	})
	return p
}

func (p *process) get(addr, path string) (status int, header http.Header, body string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), waitLimit)
	defer cancel()
	token, err := auth.Sign(secret, auth.Claims{
		Issuer: p.cfg.Auth.Issuer, Audience: p.cfg.Auth.Audience, Subject: "test",
		Scopes: []auth.Scope{auth.ScopeMessagesRead}, TenantID: uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"),
	})
	require.NoError(p.t, err)
	got, err := raw.Do(ctx, p.transport, raw.Request{URL: "http://" + addr + path, Token: token})
	if err != nil {
		return 0, nil, err.Error()
	}
	return got.Status, got.Header, string(got.Body)
}

// await waits until a path of the service answers with status.
func (p *process) await(addr, path string, status int) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		got, _, _ := p.get(addr, path)
		return got == status
	}, waitLimit, 20*time.Millisecond, "%s is to answer %d", path, status)
}

// requireUnavailable checks that reading fails while the database is away, and says when to come back.
func (p *process) requireUnavailable(path string) {
	p.t.Helper()
	status, header, body := p.get(p.cfg.HTTP.Addr, path)
	require.Equal(p.t, http.StatusServiceUnavailable, status, body)
	require.Equal(p.t, "2", header.Get("Retry-After"))
	require.Contains(p.t, body, `"code":"database_unavailable"`)
}

// A database that is down, frozen or restarted costs readers an error that tells them to come back, and nothing else:
// the service starts without it, stays up, says that it is not ready, and resumes without intervention.
func TestTheDatabaseComesAndGoes(t *testing.T) {
	operator, err := url.Parse(backing.Postgres(t))
	require.NoError(t, err)
	database := newLink(t, operator.Host)
	operator.Host = database.addr
	p := startProcess(t, operator.String())
	api, ops := p.cfg.HTTP.Addr, p.cfg.Ops.Addr

	p.await(ops, "/healthz", http.StatusOK)
	p.await(ops, "/readyz", http.StatusServiceUnavailable)
	p.requireUnavailable("/messages")

	database.up()
	p.await(ops, "/readyz", http.StatusOK)
	p.await(api, "/messages", http.StatusOK)
	_, _, metrics := p.get(ops, "/metrics")
	for _, want := range []string{
		`mtm_backing_up{service="postgres"} 1`, "mtm_reading_horizon_age_seconds ",
		`mtm_http_request_duration_seconds_count{method="GET",route="/messages",service="query-service",status="503"}`,
	} {
		require.Contains(t, metrics, want)
	}

	database.freeze()
	var requests sync.WaitGroup
	for _, path := range []string{"/messages", "/messages?order=desc", "/messages?created_after=2026-01-01T00:00:00Z", "/messages/" + uuid.NewString()} {
		requests.Go(func() { p.requireUnavailable(path) })
	}
	requests.Wait()
	p.await(ops, "/readyz", http.StatusServiceUnavailable)
	p.await(ops, "/healthz", http.StatusOK)
	database.thaw()
	p.await(ops, "/readyz", http.StatusOK)
	p.await(api, "/messages", http.StatusOK)

	database.down()
	p.await(ops, "/readyz", http.StatusServiceUnavailable)
	p.requireUnavailable("/messages")
	database.up()
	p.await(ops, "/readyz", http.StatusOK)
	p.await(api, "/messages", http.StatusOK)

	p.stop()
	require.NoError(t, <-p.done)
	status, _, _ := p.get(api, "/messages")
	require.Zero(t, status, "nobody listens any more")
}

// Stopping must not wait for a database that is away.
func TestStopWithoutADatabase(t *testing.T) {
	p := startProcess(t, fmt.Sprintf("postgres://nobody@%s/none", freeAddr(t)))
	p.await(p.cfg.Ops.Addr, "/healthz", http.StatusOK)
	p.stop()
	require.NoError(t, <-p.done)
}

func TestStartIsRefused(t *testing.T) {
	cfg := defaultConfig()
	cfg.HTTP.Addr, cfg.Ops.Addr, cfg.Database.URL = "127.0.0.1:0", "127.0.0.1:0", "postgres://nobody@127.0.0.1:1/none"
	require.ErrorContains(t, serve(t.Context(), cfg, zap.NewNop()), "auth.secret", "without a key for tokens")

	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	cfg.Auth.Secret = secret
	cfg.HTTP.Addr = taken.Addr().String()
	require.ErrorContains(t, serve(t.Context(), cfg, zap.NewNop()), "http.addr "+taken.Addr().String(), "the port is in use")

	cfg.HTTP.Addr, cfg.NATS.URL = "127.0.0.1:0", "nats://reader:hidden@[::1"
	err = serve(t.Context(), cfg, zap.NewNop())
	require.ErrorContains(t, err, "nats.url")
	require.NotContains(t, err.Error(), "hidden")
}

func TestConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "query.yaml")
	run := func(yaml string, environ ...string) (string, error) {
		require.NoError(t, os.WriteFile(file, []byte(yaml), 0o600))
		var out bytes.Buffer
		err := command().Line(environ, &out).Run(t.Context(), []string{serviceName, "--config", file, "config"})
		return out.String(), err
	}
	shown, err := run("http:\n  addr: 127.0.0.1:7777\n", "DATABASE_URL=postgres://reader:hidden@db:5432/mtm", "AUTH_SECRET="+secret)
	require.NoError(t, err)
	require.Contains(t, shown, "127.0.0.1:7777")
	require.Contains(t, shown, "db:5432")
	require.NotContains(t, shown, "hidden")
	require.NotContains(t, shown, secret)

	_, err = run("htpp: {}\nhttp:\n  request_timeout: soon\n")
	for _, key := range []string{"htpp", "http.request_timeout", "database.url"} {
		require.ErrorContains(t, err, key, "all mistakes at once, each with its key")
	}

	shown, err = run("nats:\n  url: nats://reader:hidden@nats:4222\n", "DATABASE_URL=postgres://db/mtm", "AUTH_SECRET="+secret)
	require.NoError(t, err)
	require.NotContains(t, shown, "hidden")
	_, err = run("nats:\n  resync: 0s\n  tls_cert_file: a.pem\nquery:\n  instance: a.b\n  max_reads_per_tenant: -1\n")
	for _, key := range []string{"nats.resync", "nats.tls_key_file", "query.instance", "query.max_reads_per_tenant"} {
		require.ErrorContains(t, err, key)
	}
}

// With the database away, what is known of revocations stays known: a revoked token is refused, others are not. A service that has
// started meanwhile cannot tell, so it accepts no issued token, and goes on without a restart once it can.
func TestRevocationsWhileTheDatabaseIsAway(t *testing.T) {
	operator, err := url.Parse(backing.Postgres(t))
	require.NoError(t, err)
	connection, err := pgx.Connect(t.Context(), operator.String())
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	database := newLink(t, operator.Host)
	operator.Host = database.addr
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "signing.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	keys := auth.DefaultConfig()
	keys.SigningKeyFile = path
	issuing, err := auth.New(t.Context(), keys, zap.NewNop())
	require.NoError(t, err)
	tenant, good, bad := uuid.New(), uuid.New(), uuid.New()
	sign := func(id uuid.UUID) string {
		signed, err := issuing.Signer().Sign(id, auth.Claims{Scopes: []auth.Scope{auth.ScopeMessagesRead}, TenantID: tenant, ExpiresAt: time.Now().Add(time.Hour)})
		require.NoError(t, err)
		return signed
	}
	get := func(p *process, id uuid.UUID) (int, string) {
		got, err := raw.Do(t.Context(), p.transport, raw.Request{URL: "http://" + p.cfg.HTTP.Addr + "/messages", Token: sign(id)})
		require.NoError(t, err)
		return got.Status, string(got.Body)
	}

	database.up()
	p := startProcessWith(t, operator.String(), keys)
	p.await(p.cfg.Ops.Addr, "/readyz", http.StatusOK)
	for _, id := range []uuid.UUID{good, bad} {
		status, body := get(p, id)
		require.Equal(t, http.StatusOK, status, body)
	}
	_, err = connection.Exec(t.Context(), `INSERT INTO tokens (id, tenant_id, name, scope, created_by, created_at, expires_at, revoked_at, revoked_xid)
		VALUES ($1, $2, 'a', 'messages:read', '', now(), now() + interval '1 hour', now(), pg_current_xact_id())`, bad, tenant)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		status, _ := get(p, bad)
		return status == http.StatusUnauthorized
	}, 30*time.Second, 20*time.Millisecond)

	database.down()
	late := startProcessWith(t, operator.String(), keys)
	late.await(late.cfg.Ops.Addr, "/healthz", http.StatusOK)
	p.await(p.cfg.Ops.Addr, "/readyz", http.StatusServiceUnavailable)
	status, body := get(p, good)
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, `"code":"database_unavailable"`, "it was let through")
	status, body = get(p, bad)
	require.Equal(t, http.StatusUnauthorized, status, body)
	for _, id := range []uuid.UUID{good, bad} {
		status, body = get(late, id)
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Contains(t, body, `"code":"revocations_unknown"`)
	}

	database.up()
	for _, p := range []*process{p, late} {
		p.await(p.cfg.Ops.Addr, "/readyz", http.StatusOK)
		status, body = get(p, good)
		require.Equal(t, http.StatusOK, status, body)
		status, body = get(p, bad)
		require.Equal(t, http.StatusUnauthorized, status, body)
	}
	for _, p := range []*process{p, late} {
		p.stop()
		require.NoError(t, <-p.done)
	}
}
