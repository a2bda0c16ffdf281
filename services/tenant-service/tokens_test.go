package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// issuingConfig is a service with a signing key.
func issuingConfig(t *testing.T) Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "signing.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.Auth.SigningKeyFile = path
	return cfg
}

// startIssuing is startReady with a signing key.
func startIssuing(t *testing.T) *running {
	t.Helper()
	r := start(t, issuingConfig(t))
	r.requireReady(true)
	return r
}

func (r *running) issue(id uuid.UUID, body string) api.IssuedToken {
	r.t.Helper()
	got := r.require(http.StatusCreated, request{method: http.MethodPost, path: path(id, "/tokens"), body: body})
	require.Equal(r.t, "no-store", got.header.Get("Cache-Control"))
	var issued api.IssuedToken
	require.NoError(r.t, json.Unmarshal(got.body, &issued))
	return issued
}

func (r *running) tokens(id uuid.UUID) api.TokenPage {
	r.t.Helper()
	var page api.TokenPage
	require.NoError(r.t, json.Unmarshal(r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "/tokens")}).body, &page))
	return page
}

// refused waits until a token is refused as one that was revoked.
func (r *running) refused(id uuid.UUID, token string) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		got := r.do(request{method: http.MethodGet, path: path(id, ""), token: token})
		return got.status == http.StatusUnauthorized && got.problem.Detail == "the token was revoked"
	}, waitLimit, tick)
}

// A tenant gets a token, uses it, and loses it. It is shown once: neither the list nor the log nor the database has it.
func TestTokenFromIssueToRevocation(t *testing.T) {
	t.Parallel()
	cfg := issuingConfig(t)
	core, logs := observer.New(zap.DebugLevel)
	r := startLogging(t, cfg, zap.New(core))
	r.requireReady(true)
	id, other := r.create("a"), r.create("b")

	issued := r.issue(id, `{"name":" checkout ","scopes":["messages:write","messages:read"],"expires_in_seconds":3600}`)
	require.Equal(t, "checkout", issued.Name)
	require.Equal(t, id.String(), issued.TenantID)
	require.Equal(t, []string{"messages:write", "messages:read"}, issued.Scopes)
	require.Equal(t, "test", issued.CreatedBy)
	require.WithinDuration(t, issued.CreatedAt.Add(time.Hour), issued.ExpiresAt.Time, time.Second)
	day := r.issue(id, `{"name":"a day","scopes":["deadletters:manage"]}`)
	require.WithinDuration(t, day.CreatedAt.Add(24*time.Hour), day.ExpiresAt.Time, time.Second)

	r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, ""), token: issued.Secret})
	r.require(http.StatusNotFound, request{method: http.MethodGet, path: path(other, ""), token: issued.Secret})
	r.require(http.StatusForbidden, request{method: http.MethodPost, path: path(id, "/tokens"), body: `{"name":"a","scopes":["messages:read"]}`, token: issued.Secret})

	page := r.tokens(id)
	require.Equal(t, []api.Token{issued.Token, day.Token}, page.Data)
	require.False(t, page.HasMore)
	require.Empty(t, r.tokens(other).Data)

	revoke := func(tenant uuid.UUID, token string) request {
		return request{method: http.MethodDelete, path: path(tenant, "/tokens/"+token)}
	}
	require.Equal(t, "token_not_found", r.require(http.StatusNotFound, revoke(other, issued.ID)).problem.Code, "another tenant's")
	require.Equal(t, "token_not_found", r.require(http.StatusNotFound, revoke(id, uuid.NewString())).problem.Code)
	require.Equal(t, "tenant_not_found", r.require(http.StatusNotFound, revoke(uuid.New(), issued.ID)).problem.Code)
	r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, ""), token: issued.Secret})
	r.require(http.StatusNoContent, revoke(id, issued.ID))
	r.refused(id, issued.Secret)
	r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, ""), token: day.Secret})
	listed := r.tokens(id).Data[0]
	require.NotNil(t, listed.RevokedAt)
	r.require(http.StatusNoContent, revoke(id, issued.ID))
	require.Equal(t, listed, r.tokens(id).Data[0], "repeated, it changes nothing")

	signature := issued.Secret[strings.LastIndex(issued.Secret, ".")+1:]
	for _, entry := range logs.All() {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), signature)
	}
	operator, err := pgx.Connect(t.Context(), cfg.Database.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(t.Context())) }()
	var kept string
	require.NoError(t, operator.QueryRow(t.Context(), `SELECT string_agg(t::text, ' ') FROM tokens t`).Scan(&kept))
	require.Contains(t, kept, issued.ID)
	require.NotContains(t, kept, signature)
}

// Others read the key where the OpenAPI document says, without a token; the private key is not among what they get.
func TestKeySet(t *testing.T) {
	t.Parallel()
	r := startIssuing(t)
	issued := r.issue(r.create("a"), `{"name":"a","scopes":["messages:read"]}`)
	got := r.require(http.StatusOK, request{method: http.MethodGet, path: "/.well-known/jwks.json", token: "-"})
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	require.Equal(t, "public, max-age=60", got.header.Get("Cache-Control"))
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(got.body, &set))
	require.Len(t, set.Keys, 1)
	require.NotContains(t, set.Keys[0], "d")
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(issued.Secret, ".")[0])
	require.NoError(t, err)
	require.JSONEq(t, `{"alg":"ES256","typ":"JWT","kid":"`+set.Keys[0]["kid"]+`"}`, string(header))

	r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/.well-known/jwks.json?x=1", token: "-"})
	r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/.well-known/jwks.json", body: `{"a":1}`, token: "-"})
	r.require(http.StatusMethodNotAllowed, request{method: http.MethodPost, path: "/.well-known/jwks.json", token: "-"})
}

// An installation without a key says so, whatever else it does.
func TestTokensWithoutASigningKey(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	got := r.require(http.StatusConflict, request{method: http.MethodPost, path: path(id, "/tokens"), body: `{"name":"a","scopes":["messages:read"]}`})
	require.Equal(t, "no_signing_key", got.problem.Code)
	require.Empty(t, r.tokens(id).Data)
	require.JSONEq(t, `{"keys":[]}`, string(r.require(http.StatusOK, request{method: http.MethodGet, path: "/.well-known/jwks.json", token: "-"}).body))
}

// A deleted tenant's tokens must not act any more while it is being torn down, nor can it get others.
func TestTokensOfADeletedTenant(t *testing.T) {
	t.Parallel()
	r := startIssuing(t)
	id := r.create("a")
	body := `{"name":"a","scopes":["messages:read"]}`
	issued := r.issue(id, body)
	r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, "")})
	r.refused(id, issued.Secret)
	require.Equal(t, "tenant_deleting", r.require(http.StatusConflict, request{method: http.MethodPost, path: path(id, "/tokens"), body: body}).problem.Code)
	require.NotNil(t, r.tokens(id).Data[0].RevokedAt)
}

// Issued tokens are an administrator's to give and to take.
func TestWhoMayIssueTokens(t *testing.T) {
	t.Parallel()
	r := startIssuing(t)
	id, other := r.create("a"), r.create("b")
	issued := r.issue(id, `{"name":"a","scopes":["messages:read"]}`)
	for name, tc := range map[string]struct {
		token  string
		status int
		code   string
	}{
		"no token":                           {"-", 401, "missing_token"},
		"no scopes":                          {token(t, id), 403, "insufficient_scope"},
		"other scopes":                       {token(t, id, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeMessagesConsume, auth.ScopeDeadLettersManage), 403, "insufficient_scope"},
		"an administrator of another tenant": {token(t, other, auth.ScopeTenantsAdmin), 404, "tenant_not_found"},
		"an administrator of the tenant":     {token(t, id, auth.ScopeTenantsAdmin), 0, ""},
		"an administrator who is not bound":  {admin(t), 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, q := range []request{
				{method: http.MethodPost, path: path(id, "/tokens"), body: `{"name":"a","scopes":["messages:read"]}`},
				{method: http.MethodGet, path: path(id, "/tokens")},
				{method: http.MethodDelete, path: path(id, "/tokens/"+issued.ID)},
			} {
				q.token = tc.token
				got := r.do(q)
				if tc.status == 0 {
					require.Less(t, got.status, 300, "%s: %s", q.method, got.body)
					continue
				}
				require.Equal(t, tc.status, got.status, "%s: %s", q.method, got.body)
				require.Equal(t, tc.code, got.problem.Code)
			}
		})
	}
}

// Every wrong request gets its 4xx, and is told which field is wrong; none of them leaves a token behind.
func TestBadTokenRequests(t *testing.T) {
	t.Parallel()
	r := startIssuing(t)
	id, other := r.create("a"), r.create("b")
	issue := func(body string) request {
		return request{method: http.MethodPost, path: path(id, "/tokens"), body: body}
	}
	with := func(field, value string) request {
		fields := map[string]string{"name": `"a"`, "scopes": `["messages:read"]`, "expires_in_seconds": "60"}
		fields[field] = value
		return issue(`{"name":` + fields["name"] + `,"scopes":` + fields["scopes"] + `,"expires_in_seconds":` + fields["expires_in_seconds"] + `}`)
	}
	list := func(query string) request { return request{method: http.MethodGet, path: path(id, "/tokens?"+query)} }
	revoke := func(token string) request {
		return request{method: http.MethodDelete, path: path(id, "/tokens/"+token)}
	}
	foreign := r.tokens(other).NextCursor
	for name, tc := range map[string]struct {
		request request
		status  int
		code    string
		field   string
	}{
		"no body":                  {issue(""), 415, "unsupported_media_type", "Content-Type"},
		"not JSON":                 {issue(`{"name"`), 400, "malformed_json", ""},
		"a list":                   {issue(`[]`), 400, "wrong_type", ""},
		"null":                     {issue(`null`), 400, "wrong_type", ""},
		"empty object":             {issue(`{}`), 400, "validation_failed", "name"},
		"unknown field":            {issue(`{"name":"a","scopes":["messages:read"],"tenant_id":"x"}`), 400, "unknown_field", "tenant_id"},
		"field twice":              {issue(`{"name":"a","scopes":["messages:read"],"scopes":["messages:write"]}`), 400, "duplicate_field", "scopes"},
		"a token to be signed":     {issue(`{"name":"a","scopes":["messages:read"],"token":"x"}`), 400, "unknown_field", "token"},
		"name null":                {with("name", "null"), 400, "validation_failed", "name"},
		"name empty":               {with("name", `" "`), 400, "validation_failed", "name"},
		"name too long":            {with("name", `"`+strings.Repeat("ä", 201)+`"`), 400, "validation_failed", "name"},
		"name with NUL":            {with("name", `"a\u0000"`), 400, "validation_failed", "name"},
		"name with a line break":   {with("name", `"a\nb"`), 400, "validation_failed", "name"},
		"name with half a pair":    {with("name", `"\ud800"`), 400, "invalid_string", "name"},
		"name a number":            {with("name", "1"), 400, "wrong_type", "name"},
		"no scopes":                {issue(`{"name":"a"}`), 400, "validation_failed", "scopes"},
		"scopes null":              {with("scopes", "null"), 400, "validation_failed", "scopes"},
		"scopes empty":             {with("scopes", "[]"), 400, "validation_failed", "scopes"},
		"scopes a string":          {with("scopes", `"messages:read"`), 400, "wrong_type", "scopes"},
		"scopes an object":         {with("scopes", `{}`), 400, "wrong_type", "scopes"},
		"scopes with a number":     {with("scopes", `[1]`), 400, "wrong_type", "scopes[0]"},
		"scopes with null":         {with("scopes", `[null]`), 400, "wrong_type", "scopes[0]"},
		"scope of administrators":  {with("scopes", `["messages:read","tenants:admin"]`), 400, "validation_failed", "scopes[1]"},
		"scope unknown":            {with("scopes", `["messages:*"]`), 400, "validation_failed", "scopes[0]"},
		"scope empty":              {with("scopes", `[""]`), 400, "validation_failed", "scopes[0]"},
		"two scopes in one":        {with("scopes", `["messages:read tenants:admin"]`), 400, "validation_failed", "scopes[0]"},
		"scope twice":              {with("scopes", `["messages:read","messages:write","messages:read"]`), 400, "validation_failed", "scopes[2]"},
		"a scope 50,000 times":     {with("scopes", `[`+strings.Repeat(`"messages:read",`, 50000)+`"messages:read"]`), 400, "validation_failed", "scopes[1]"},
		"expiry 0":                 {with("expires_in_seconds", "0"), 400, "validation_failed", "expires_in_seconds"},
		"expiry negative":          {with("expires_in_seconds", "-60"), 400, "validation_failed", "expires_in_seconds"},
		"expiry too soon":          {with("expires_in_seconds", "59"), 400, "validation_failed", "expires_in_seconds"},
		"expiry too late":          {with("expires_in_seconds", "31622401"), 400, "validation_failed", "expires_in_seconds"},
		"expiry of 64 bits":        {with("expires_in_seconds", "9223372036854775807"), 400, "validation_failed", "expires_in_seconds"},
		"expiry of 65 bits":        {with("expires_in_seconds", "18446744073709551616"), 400, "wrong_type", "expires_in_seconds"},
		"expiry a fraction":        {with("expires_in_seconds", "60.5"), 400, "wrong_type", "expires_in_seconds"},
		"expiry a string":          {with("expires_in_seconds", `"60"`), 400, "wrong_type", "expires_in_seconds"},
		"unknown query":            {request{method: http.MethodPost, path: path(id, "/tokens?x=1"), body: `{}`}, 400, "unknown_parameter", "x"},
		"another tenant in query":  {request{method: http.MethodPost, path: path(id, "/tokens?tenant_id="+other.String()), body: `{}`}, 400, "tenant_mismatch", "tenant_id"},
		"tenant unknown":           {request{method: http.MethodPost, path: path(uuid.New(), "/tokens"), body: `{"name":"a","scopes":["messages:read"]}`}, 404, "tenant_not_found", ""},
		"tenant no UUID":           {request{method: http.MethodPost, path: "/tenants/x/tokens", body: `{}`}, 400, "invalid_uuid", "id"},
		"list of an unknown":       {request{method: http.MethodGet, path: path(uuid.New(), "/tokens")}, 404, "tenant_not_found", ""},
		"limit 0":                  {list("limit=0"), 400, "invalid_limit", "limit"},
		"limit 1001":               {list("limit=1001"), 400, "invalid_limit", "limit"},
		"cursor made up":           {list("cursor=hello"), 400, "bad_cursor", "cursor"},
		"cursor of another tenant": {list("cursor=" + foreign), 400, "bad_cursor", "cursor"},
		"cursor twice":             {list("cursor=" + foreign + "&cursor=" + foreign), 400, "repeated_parameter", "cursor"},
		"list with a body":         {request{method: http.MethodGet, path: path(id, "/tokens"), body: `[]`}, 400, "unexpected_body", ""},
		"revoke no UUID":           {revoke("x"), 400, "invalid_uuid", "token"},
		"revoke the nil UUID":      {revoke(uuid.Nil.String()), 400, "invalid_uuid", "token"},
		"revoke with a slash":      {revoke("a%2Fb"), 400, "invalid_uuid", "token"},
		"revoke with a query":      {revoke(uuid.NewString() + "?all=true"), 400, "unknown_parameter", "all"},
		"revoke with a body":       {request{method: http.MethodDelete, path: path(id, "/tokens/"+uuid.NewString()), body: `{"id":1}`}, 400, "unexpected_body", ""},
		"revoke nothing":           {revoke(""), 404, "route_not_found", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.require(tc.status, tc.request)
			require.Equal(t, tc.code, got.problem.Code, string(got.body))
			if tc.field != "" {
				require.NotEmpty(t, got.problem.Errors, string(got.body))
				require.Equal(t, tc.field, got.problem.Errors[0].Field)
			}
		})
	}
	require.Empty(t, r.tokens(id).Data)
	for _, good := range []string{"60", "6e1", "60.0", "31622400", "null"} {
		r.require(http.StatusCreated, with("expires_in_seconds", good))
	}
}

// Whoever issues a token has a subject that some issuer has made up: what cannot be kept of it must not be a 500.
func TestSubjectsOfIssuers(t *testing.T) {
	t.Parallel()
	r := startIssuing(t)
	id := r.create("a")
	defaults := auth.DefaultConfig()
	for sent, want := range map[string]string{
		"a\x00b\u202e\nc": "abc", strings.Repeat("ä", 3000): strings.Repeat("ä", 200), "": "", "ops@example.com": "ops@example.com",
	} {
		signed, err := auth.Sign(secret, auth.Claims{
			Issuer: defaults.Issuer, Audience: defaults.Audience, Subject: sent, Scopes: []auth.Scope{auth.ScopeTenantsAdmin},
		})
		require.NoError(t, err)
		got := r.require(http.StatusCreated, request{method: http.MethodPost, path: path(id, "/tokens"), body: `{"name":"a","scopes":["messages:read"]}`, token: signed})
		var issued api.IssuedToken
		require.NoError(t, json.Unmarshal(got.body, &issued))
		require.Equal(t, want, issued.CreatedBy)
	}
}
