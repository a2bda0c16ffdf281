package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

// unsigned makes a token without a signature, which the library would not.
func unsigned(t *testing.T, alg string, c jwt.MapClaims) string {
	t.Helper()
	part := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]any{"alg": alg, "typ": "JWT", "kid": "rsa"}) + "." + part(c) + "."
}

// Each of these is an attack or a mistake that some library has let pass. The keys are a set with an RSA, a
// P-256 and an Ed25519 key.
func TestTokensAgainstAKeySet(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "rsa", k.rsa.Public()), jwk(t, "ec", k.ec.Public()), jwk(t, "ed", k.ed.Public()))
	app := newApp(newVerifier(t, auth.Config{JWKSURL: server.URL}))

	pkix := publicPEM(t, k.rsa.Public())
	der, err := x509.MarshalPKIXPublicKey(k.rsa.Public())
	require.NoError(t, err)
	kid := func(id string) map[string]any { return map[string]any{"kid": id} }
	rs256 := func(change jwt.MapClaims) string {
		return sign(t, jwt.SigningMethodRS256, k.rsa, kid("rsa"), claims(change))
	}
	confused := func(id string, key []byte) string {
		return sign(t, jwt.SigningMethodHS256, key, kid(id), claims(nil))
	}
	hour := time.Hour

	tests := map[string]struct {
		token string
		want  int
		code  string
	}{
		"valid RS256":                            {rs256(nil), 200, ""},
		"valid ES256":                            {sign(t, jwt.SigningMethodES256, k.ec, kid("ec"), claims(nil)), 200, ""},
		"valid EdDSA":                            {sign(t, jwt.SigningMethodEdDSA, k.ed, kid("ed"), claims(nil)), 200, ""},
		"missing":                                {"", 401, "missing_token"},
		"garbage":                                {"garbage", 401, "invalid_token"},
		"two dots":                               {"a.b.c", 401, "invalid_token"},
		"four parts":                             {rs256(nil) + ".x", 401, "invalid_token"},
		"alg none":                               {unsigned(t, "none", claims(nil)), 401, "invalid_token"},
		"alg NoNe":                               {unsigned(t, "NoNe", claims(nil)), 401, "invalid_token"},
		"alg empty":                              {unsigned(t, "", claims(nil)), 401, "invalid_token"},
		"no signature":                           {unsigned(t, "RS256", claims(nil)), 401, "invalid_token"},
		"valid HS256, which is not for this key": {hs256(t, nil), 401, "invalid_token"},
		"HS256 with the public key as PEM":       {confused("rsa", []byte(pkix)), 401, "invalid_token"},
		"HS256 with the public key as DER":       {confused("rsa", der), 401, "invalid_token"},
		"HS256 with the modulus":                 {confused("rsa", k.rsa.N.Bytes()), 401, "invalid_token"},
		"HS256 with the Ed25519 key":             {confused("ed", k.ed[32:]), 401, "invalid_token"},
		"RS256 with another key":                 {sign(t, jwt.SigningMethodRS256, k.otherRSA, kid("rsa"), claims(nil)), 401, "invalid_token"},
		"RS256 with the Ed25519 key's id":        {sign(t, jwt.SigningMethodRS256, k.rsa, kid("ed"), claims(nil)), 401, "invalid_token"},
		"RS512 with the RSA key":                 {sign(t, jwt.SigningMethodRS512, k.rsa, kid("rsa"), claims(nil)), 401, "invalid_token"},
		"PS256 with the RSA key":                 {sign(t, jwt.SigningMethodPS256, k.rsa, kid("rsa"), claims(nil)), 401, "invalid_token"},
		"PS512 with the RSA key":                 {sign(t, jwt.SigningMethodPS512, k.rsa, kid("rsa"), claims(nil)), 401, "invalid_token"},
		"no kid":                                 {sign(t, jwt.SigningMethodRS256, k.rsa, nil, claims(nil)), 401, "invalid_token"},
		"kid is a number":                        {sign(t, jwt.SigningMethodRS256, k.rsa, map[string]any{"kid": 1}, claims(nil)), 401, "invalid_token"},
		"unknown kid":                            {sign(t, jwt.SigningMethodRS256, k.rsa, kid("other"), claims(nil)), 401, "invalid_token"},
		"critical header":                        {sign(t, jwt.SigningMethodRS256, k.rsa, map[string]any{"kid": "rsa", "crit": []string{"exp"}}, claims(nil)), 401, "invalid_token"},
		"changed after it was signed":            {tampered(t, rs256(nil)), 401, "invalid_token"},
		"expired":                                {rs256(jwt.MapClaims{"exp": time.Now().Add(-hour).Unix()}), 401, "invalid_token"},
		"no exp":                                 {rs256(jwt.MapClaims{"exp": nil}), 401, "invalid_token"},
		"exp is a word":                          {rs256(jwt.MapClaims{"exp": "never"}), 401, "invalid_token"},
		"nbf in the future":                      {rs256(jwt.MapClaims{"nbf": time.Now().Add(hour).Unix()}), 401, "invalid_token"},
		"iat in the future":                      {rs256(jwt.MapClaims{"iat": time.Now().Add(hour).Unix()}), 401, "invalid_token"},
		"wrong iss":                              {rs256(jwt.MapClaims{"iss": "https://evil.example"}), 401, "invalid_token"},
		"no iss":                                 {rs256(jwt.MapClaims{"iss": nil}), 401, "invalid_token"},
		"wrong aud":                              {rs256(jwt.MapClaims{"aud": "billing"}), 401, "invalid_token"},
		"no aud":                                 {rs256(jwt.MapClaims{"aud": nil}), 401, "invalid_token"},
		"one of several aud":                     {rs256(jwt.MapClaims{"aud": []string{"billing", audience}}), 200, ""},
		"no tenant_id":                           {rs256(jwt.MapClaims{"tenant_id": nil}), 401, "invalid_token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := do(t, app, http.MethodGet, "/read", tt.token)
			require.Equal(t, tt.want, got.status, string(got.body))
			if tt.want == 200 {
				require.Equal(t, tenantA, string(got.body))
				return
			}
			require.Equal(t, tt.code, got.code(t))
			require.Equal(t, "application/problem+json", got.header.Get("Content-Type"))
			require.True(t, strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer"))
		})
	}
}

// Clocks differ by a little, in either direction; a token must not be refused for that, nor live on for long.
func TestLeeway(t *testing.T) {
	k := newKeys(t)
	path := signingKeyFile(t, k.ec)
	v := newVerifier(t, auth.Config{Secret: secret, SigningKeyFile: path})
	v.Revocations().Add(nil)
	app := newApp(v)
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	for kind, get := range map[string]func(change jwt.MapClaims) int{
		"of another issuer": func(change jwt.MapClaims) int { return get(t, app, hs256(t, change)) },
		"issued": func(change jwt.MapClaims) int {
			c := claims(jwt.MapClaims{"jti": uuid.NewString()})
			maps.Copy(c, change)
			return get(t, app, sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": publishedIDs(t, v)[0]}, c))
		},
	} {
		t.Run(kind, func(t *testing.T) {
			require.Equal(t, 200, get(jwt.MapClaims{"iat": at(28 * time.Second), "nbf": at(28 * time.Second)}), "our clock is behind")
			require.Equal(t, 401, get(jwt.MapClaims{"iat": at(time.Minute)}))
			require.Equal(t, 401, get(jwt.MapClaims{"nbf": at(time.Minute)}))
			require.Equal(t, 200, get(jwt.MapClaims{"exp": at(-20 * time.Second)}), "our clock is ahead")
			require.Equal(t, 401, get(jwt.MapClaims{"exp": at(-31 * time.Second)}))
		})
	}
}

// tampered gives the token another tenant.
func tampered(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	require.NoError(t, err)
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(payload), tenantA, tenantB)))
	return strings.Join(parts, ".")
}

func TestTokensAgainstASecret(t *testing.T) {
	k := newKeys(t)
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	with := func(method jwt.SigningMethod, key any) string { return sign(t, method, key, nil, claims(nil)) }
	tests := map[string]struct {
		token string
		want  int
	}{
		"valid HS256":               {hs256(t, nil), 200},
		"with a kid":                {sign(t, jwt.SigningMethodHS256, []byte(secret), map[string]any{"kid": "x"}, claims(nil)), 200},
		"HS384 with the secret":     {with(jwt.SigningMethodHS384, []byte(secret)), 401},
		"HS512 with the secret":     {with(jwt.SigningMethodHS512, []byte(secret)), 401},
		"HS256 with another secret": {with(jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32))), 401},
		"HS256 with no secret":      {with(jwt.SigningMethodHS256, []byte{}), 401},
		"RS256":                     {with(jwt.SigningMethodRS256, k.rsa), 401},
		"EdDSA":                     {with(jwt.SigningMethodEdDSA, k.ed), 401},
		"alg none":                  {unsigned(t, "none", claims(nil)), 401},
		"alg HS256, no signature":   {unsigned(t, "HS256", claims(nil)), 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, do(t, app, http.MethodGet, "/read", tt.token).status)
		})
	}
}

// The payload of a JWT need not be an object; with a good signature it reaches our own code.
func TestPayloadsThatAreNotClaims(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	for _, payload := range []string{"null", "[]", `"x"`, "1", "", "{", `{"exp":1}{`} {
		head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
		signature, err := jwt.SigningMethodHS256.Sign(head, []byte(secret))
		require.NoError(t, err)
		got := do(t, app, http.MethodGet, "/read", head+"."+base64.RawURLEncoding.EncodeToString(signature))
		require.Equal(t, 401, got.status, payload)
	}
}

func TestTokensAgainstAPublicKey(t *testing.T) {
	k := newKeys(t)
	keys := map[string]struct {
		public any
		method jwt.SigningMethod
		key    any
		wrong  jwt.SigningMethod
	}{
		"RSA":     {k.rsa.Public(), jwt.SigningMethodRS256, k.rsa, jwt.SigningMethodPS256},
		"P-256":   {k.ec.Public(), jwt.SigningMethodES256, k.ec, nil},
		"Ed25519": {k.ed.Public(), jwt.SigningMethodEdDSA, k.ed, nil},
	}
	for name, tt := range keys {
		t.Run(name, func(t *testing.T) {
			text := publicPEM(t, tt.public)
			path := filepath.Join(t.TempDir(), "key.pem")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			for _, cfg := range []auth.Config{
				{PublicKey: text},
				{PublicKey: strings.ReplaceAll(text, "\n", `\n`)}, // an environment variable on one line
				{PublicKeyFile: path},
			} {
				app := newApp(newVerifier(t, cfg))
				require.Equal(t, 200, do(t, app, http.MethodGet, "/read", sign(t, tt.method, tt.key, nil, claims(nil))).status)
				require.Equal(t, 401, do(t, app, http.MethodGet, "/read", sign(t, jwt.SigningMethodHS256, []byte(text), nil, claims(nil))).status)
				require.Equal(t, 401, do(t, app, http.MethodGet, "/read", unsigned(t, "none", claims(nil))).status)
				if tt.wrong != nil {
					require.Equal(t, 401, do(t, app, http.MethodGet, "/read", sign(t, tt.wrong, tt.key, nil, claims(nil))).status)
				}
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	k := newKeys(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	weak := weakRSA(t)
	privatePEM := strings.ReplaceAll(publicPEM(t, k.rsa.Public()), "PUBLIC", "PRIVATE")
	tests := map[string]struct {
		change func(*auth.Config)
		want   string
	}{
		"no key":            {func(*auth.Config) {}, "no key for tokens: set auth.secret"},
		"two keys":          {func(c *auth.Config) { c.Secret, c.JWKSURL = secret, "https://x/" }, "auth.secret and auth.jwks_url are set"},
		"no issuer":         {func(c *auth.Config) { c.Secret, c.Issuer = secret, "" }, "auth.issuer"},
		"no audience":       {func(c *auth.Config) { c.Secret, c.Audience = secret, "" }, "auth.audience"},
		"short secret":      {func(c *auth.Config) { c.Secret = strings.Repeat("x", 31) }, "auth.secret has 31 bytes, at least 32"},
		"PEM as the secret": {func(c *auth.Config) { c.Secret = publicPEM(t, k.rsa.Public()) }, "use auth.public_key"},
		"not PEM":           {func(c *auth.Config) { c.PublicKey = "key" }, "auth.public_key: it is not PEM"},
		"private key":       {func(c *auth.Config) { c.PublicKey = privatePEM }, "a public key is needed"},
		"broken PEM":        {func(c *auth.Config) { c.PublicKey = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" }, "auth.public_key: parse PUBLIC KEY"},
		"P-384":             {func(c *auth.Config) { c.PublicKey = publicPEM(t, p384.Public()) }, "only P-256"},
		"weak RSA":          {func(c *auth.Config) { c.PublicKey = publicPEM(t, weak.Public()) }, "RSA key of 1024 bits"},
		"RSA, exponent 1":   {func(c *auth.Config) { c.PublicKey = publicPEM(t, &rsa.PublicKey{N: k.rsa.N, E: 1}) }, "RSA key with an exponent"},
		"small order":       {func(c *auth.Config) { c.PublicKey = publicPEM(t, ed25519.PublicKey(make([]byte, 32))) }, "small order"},
		"no such file":      {func(c *auth.Config) { c.PublicKeyFile = "/nowhere/key.pem" }, "auth.public_key_file"},
		"not a URL":         {func(c *auth.Config) { c.JWKSURL = "keys" }, "auth.jwks_url must be"},
		"a file as the URL": {func(c *auth.Config) { c.JWKSURL = "file:///etc/passwd" }, "auth.jwks_url must be"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := auth.DefaultConfig()
			tt.change(&cfg)
			_, err := auth.New(t.Context(), cfg, zap.NewNop())
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), strings.Repeat("x", 31))
		})
	}
}

func TestSign(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	bound := auth.Claims{Issuer: issuer, Audience: audience, Subject: "dev", Scopes: []auth.Scope{auth.ScopeMessagesRead}, TenantID: uuid.MustParse(tenantA)}

	token, err := auth.Sign(secret, bound)
	require.NoError(t, err)
	got := do(t, app, http.MethodGet, "/whoami", token)
	require.Equal(t, 200, got.status, string(got.body))
	require.JSONEq(t, `{"subject":"dev","scopes":["messages:read"],"tenant_id":"`+tenantA+`","bound":true}`, string(got.body))

	token, err = auth.Sign(secret, auth.Claims{Issuer: issuer, Audience: audience, Scopes: []auth.Scope{auth.ScopeTenantsAdmin}})
	require.NoError(t, err)
	require.Equal(t, 200, do(t, app, http.MethodGet, "/tenants", token).status)

	bound.ExpiresAt = time.Now().Add(-time.Minute)
	token, err = auth.Sign(secret, bound)
	require.NoError(t, err)
	require.Equal(t, 401, do(t, app, http.MethodGet, "/whoami", token).status)

	_, err = auth.Sign("short", bound)
	require.ErrorContains(t, err, "at least 32")
}
