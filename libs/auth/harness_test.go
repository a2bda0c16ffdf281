package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func TestMain(m *testing.M) {
	// fasthttp has one goroutine a process for the header Date.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const (
	issuer   = "https://issuer.example"
	audience = "messaging"
	secret   = "an-hs256-secret-of-32-bytes-or-more"
	tenantA  = "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"
	tenantB  = "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a12"
)

// keys are of every kind.
type keys struct {
	rsa, otherRSA *rsa.PrivateKey
	ec            *ecdsa.PrivateKey
	ed            ed25519.PrivateKey
}

func newKeys(t *testing.T) keys {
	t.Helper()
	k, err := generated()
	require.NoError(t, err)
	return k
}

// generated are keys for all tests: to make those of RSA takes a third of a second.
var generated = sync.OnceValues(func() (k keys, err error) { //nolint:gochecknoglobals // made once for all tests
	_, ed, errEd := ed25519.GenerateKey(rand.Reader)
	first, errFirst := rsa.GenerateKey(rand.Reader, 2048)
	second, errSecond := rsa.GenerateKey(rand.Reader, 2048)
	ec, errEC := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return keys{rsa: first, otherRSA: second, ec: ec, ed: ed}, errors.Join(errEd, errFirst, errSecond, errEC)
})

func publicPEM(t *testing.T, public crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// claims are good ones, changed as the test wants it; a nil value takes a claim out.
func claims(change jwt.MapClaims) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{
		"iss": issuer, "aud": audience, "sub": "someone",
		"exp": now.Add(time.Hour).Unix(), "iat": now.Unix(),
		"scope": "messages:read messages:write", "tenant_id": tenantA,
	}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func sign(tb testing.TB, method jwt.SigningMethod, key any, header map[string]any, c jwt.MapClaims) string {
	tb.Helper()
	token := jwt.NewWithClaims(method, c)
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	require.NoError(tb, err)
	return s
}

// hs256 signs with the secret that newVerifier uses.
func hs256(tb testing.TB, change jwt.MapClaims) string {
	tb.Helper()
	return sign(tb, jwt.SigningMethodHS256, []byte(secret), nil, claims(change))
}

func newVerifier(tb testing.TB, cfg auth.Config) *auth.Verifier {
	tb.Helper()
	cfg.Issuer, cfg.Audience = issuer, audience
	v, err := auth.New(tb.Context(), cfg, zap.NewNop())
	require.NoError(tb, err)
	return v
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) code(t *testing.T) string {
	t.Helper()
	return a.problem(t).Code
}

func (a answer) problem(t *testing.T) problem.Problem {
	t.Helper()
	var p problem.Problem
	require.NoError(t, json.Unmarshal(a.body, &p), string(a.body))
	return p
}

// newApp has a route for each kind of guard.
func newApp(v *auth.Verifier) *fiber.App {
	s := rest.New(rest.Config{}, "test", prometheus.NewRegistry(), zap.NewNop())
	app := s.App()
	whoami := func(c *fiber.Ctx) error {
		id := auth.From(c)
		return c.JSON(map[string]any{"subject": id.Subject, "scopes": id.Scopes, "tenant_id": id.TenantID, "bound": id.Bound()})
	}
	tenant := func(c *fiber.Ctx) error {
		id, err := auth.Tenant(c)
		if err != nil {
			return err
		}
		return c.SendString(id.String())
	}
	app.Get("/open", whoami)
	app.Get("/open-tenant", tenant)
	app.Get("/whoami", v.Authenticate(), whoami)
	app.Get("/read", v.Authenticate(), auth.Require(auth.ScopeMessagesRead), tenant)
	app.Get("/write", v.Authenticate(), auth.Require(auth.ScopeMessagesWrite), tenant)
	app.Get("/deadletters", v.Authenticate(), auth.Require(auth.ScopeDeadLettersManage), tenant)
	app.Get("/admin", v.Authenticate(), auth.Require(auth.ScopeTenantsAdmin), whoami)
	app.Post("/tenants", v.Authenticate(), auth.Require(auth.ScopeTenantsAdmin), auth.RequireUnbound(), whoami)
	app.Get("/tenants", v.Authenticate(), auth.Require(auth.ScopeTenantsAdmin), auth.RequireUnbound(), whoami)
	return app
}

// do sends a request with a bearer token, unless it is "".
func do(t *testing.T, app *fiber.App, method, path, token string) answer {
	t.Helper()
	header := ""
	if token != "" {
		header = "Bearer " + token
	}
	return doHeader(t, app, method, path, header)
}

func doHeader(t *testing.T, app *fiber.App, method, path, authorization string) answer {
	t.Helper()
	header := http.Header{}
	if authorization != "" {
		header.Set("Authorization", authorization)
	}
	return doHeaders(t, app, method, path, header)
}

func doHeaders(t *testing.T, app *fiber.App, method, path string, header http.Header) answer {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	maps.Copy(req.Header, header)
	resp, err := app.Test(req, -1)
	require.NoError(t, err)
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return answer{resp.StatusCode, resp.Header, body}
}

func get(t *testing.T, app *fiber.App, token string) int {
	t.Helper()
	return do(t, app, http.MethodGet, "/read", token).status
}

// keyServer publishes a key set that can be changed, broken and counted.
type keyServer struct {
	*httptest.Server
	mu       sync.Mutex
	set      jwkset.JWKSMarshal
	broken   bool
	requests int
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	s := &keyServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests++
		if s.broken {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if err := json.NewEncoder(w).Encode(s.set); err != nil {
			panic(err)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *keyServer) fail(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// publish replaces the set.
func (s *keyServer) publish(t *testing.T, keys ...jwkset.JWKMarshal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set = jwkset.JWKSMarshal{Keys: keys}
}

func jwk(t *testing.T, kid string, key any, change ...func(*jwkset.JWKMarshal)) jwkset.JWKMarshal {
	t.Helper()
	k, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: kid}, Marshal: jwkset.JWKMarshalOptions{Private: true}})
	require.NoError(t, err)
	m := k.Marshal()
	for _, c := range change {
		c(&m)
	}
	return m
}

// run keeps the verifier's keys up to date until the test ends.
func run(t *testing.T, v *auth.Verifier) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

// observed is a verifier of a key set, with what it logs.
func observed(t *testing.T, url string, level zapcore.Level) (*auth.Verifier, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(level)
	v, err := auth.New(t.Context(), auth.Config{Issuer: issuer, Audience: audience, JWKSURL: url}, zap.New(core))
	require.NoError(t, err)
	v.SetPace(time.Hour, 0)
	return v, logs
}

// weakRSA is a key of 1,024 bits.
func weakRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	weak, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // what is tested is that it is refused
	require.NoError(t, err)
	return weak
}
