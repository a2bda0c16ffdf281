package auth_test

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

// signingKeyFile is a file with a private key as PKCS #8.
func signingKeyFile(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return keyFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func keyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// published is the key set of a verifier as others read it.
func published(t *testing.T, v *auth.Verifier) []map[string]string {
	t.Helper()
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	require.NoError(t, json.Unmarshal(v.PublicKeys(), &set))
	require.NotNil(t, set.Keys, "a list, be it empty")
	return set.Keys
}

func publishedIDs(t *testing.T, v *auth.Verifier) []string {
	t.Helper()
	var ids []string
	for _, key := range published(t, v) {
		ids = append(ids, key["kid"])
	}
	return ids
}

// keyDocument is a key set that is served as it is; while it is nil the server fails.
type keyDocument struct {
	mu   sync.Mutex
	text []byte
}

func (d *keyDocument) set(text []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.text = text
}

// serve returns the URL of the document.
func (d *keyDocument) serve(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.text == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(d.text)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// issue makes a token of tenantA and returns its id, too.
func issue(t *testing.T, v *auth.Verifier) (token string, id uuid.UUID) {
	t.Helper()
	id = uuid.New()
	token, err := v.Signer().Sign(id, auth.Claims{
		Scopes: []auth.Scope{auth.ScopeMessagesRead}, TenantID: uuid.MustParse(tenantA), ExpiresAt: time.Now().Add(time.Hour),
	})
	require.NoError(t, err)
	return token, id
}

// informed is a verifier that knows the revocations, of which there are none.
func informed(t *testing.T, cfg auth.Config) *auth.Verifier {
	t.Helper()
	v := newVerifier(t, cfg)
	v.Revocations().Add(nil)
	return v
}

// What tenant-service issues is accepted by every service, however it gets the key: from the same file, a file with the public
// keys, the key set, or the key set as the one source of keys that there is. Its claims are those of the contract.
func TestIssuedTokens(t *testing.T) {
	k := newKeys(t)
	sec1, err := x509.MarshalECPrivateKey(k.ec)
	require.NoError(t, err)
	ecText := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" +
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	for name, tt := range map[string]struct {
		file string
		key  crypto.Signer
		alg  string
	}{
		"RSA":            {signingKeyFile(t, k.rsa), k.rsa, "RS256"},
		"RSA, PKCS #1":   {keyFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k.rsa)}))), k.rsa, "RS256"},
		"P-256":          {signingKeyFile(t, k.ec), k.ec, "ES256"},
		"P-256, openssl": {keyFile(t, ecText), k.ec, "ES256"},
		"Ed25519":        {signingKeyFile(t, k.ed), k.ed, "EdDSA"},
	} {
		t.Run(name, func(t *testing.T) {
			issuing := informed(t, auth.Config{Secret: secret, SigningKeyFile: tt.file})
			keys := published(t, issuing)
			require.Len(t, keys, 1)
			require.Equal(t, tt.alg, keys[0]["alg"])
			require.Equal(t, "sig", keys[0]["use"])
			for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
				require.NotContains(t, keys[0], private)
			}
			token, id := issue(t, issuing)

			parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
			require.NoError(t, err)
			require.Equal(t, map[string]any{"alg": tt.alg, "typ": "JWT", "kid": keys[0]["kid"]}, parsed.Header)
			got, ok := parsed.Claims.(jwt.MapClaims)
			require.True(t, ok)
			require.Equal(t, id.String(), got["jti"])
			require.Equal(t, "token:"+id.String(), got["sub"])
			require.Equal(t, issuer, got["iss"])
			require.Equal(t, audience, got["aud"])
			require.Equal(t, tenantA, got["tenant_id"])
			require.Equal(t, "messages:read", got["scope"])
			require.Contains(t, got, "iat")
			require.Contains(t, got, "exp")

			url := rawKeySet(t, string(issuing.PublicKeys()))
			public := publicPEM(t, tt.key.Public())
			for service, cfg := range map[string]auth.Config{
				"that issues":            {Secret: secret, SigningKeyFile: tt.file},
				"a signing key alone":    {SigningKeyFile: tt.file},
				"public keys":            {Secret: secret, IssuedKeysFile: keyFile(t, public)},
				"public keys alone":      {IssuedKeysFile: keyFile(t, public)},
				"a URL":                  {Secret: secret, IssuedJWKSURL: url},
				"a URL alone":            {IssuedJWKSURL: url},
				"as the only public key": {PublicKey: public},
				"as the only key set":    {JWKSURL: url},
			} {
				require.Equal(t, 200, get(t, newApp(informed(t, cfg)), token), service)
			}
			require.Equal(t, 401, get(t, newApp(informed(t, auth.Config{Secret: secret})), token), "a service that was not told")
		})
	}
}

// The example of RFC 7638 section 3.1: others compute the same name for the same key.
func TestThumbprintOfAKey(t *testing.T) {
	const n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
	modulus, err := base64.RawURLEncoding.DecodeString(n)
	require.NoError(t, err)
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
	v := newVerifier(t, auth.Config{IssuedKeysFile: keyFile(t, publicPEM(t, key))})
	require.Equal(t, []string{"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"}, publishedIDs(t, v))
}

// A key is replaced while tokens of the old one are in use, step by step as in the runbook: at no step is a token refused that
// is not to end, and at the end the old key is worth nothing.
func TestRotationOfTheSigningKey(t *testing.T) {
	k := newKeys(t)
	oldFile, newFile := signingKeyFile(t, k.ec), signingKeyFile(t, k.ed)
	oldPublic, newPublic := publicPEM(t, k.ec.Public()), publicPEM(t, k.ed.Public())
	document := &keyDocument{}
	url := document.serve(t)
	step := func(cfg auth.Config) *auth.Verifier {
		cfg.Secret = secret
		v := informed(t, cfg)
		document.set(v.PublicKeys())
		return v
	}
	before := step(auth.Config{SigningKeyFile: oldFile})
	v := informed(t, auth.Config{Secret: secret, IssuedJWKSURL: url})
	v.SetPace(time.Hour, 0)
	run(t, v)
	reader := newApp(v)
	first, _ := issue(t, before)
	require.Equal(t, 200, get(t, reader, first))

	announced := step(auth.Config{SigningKeyFile: oldFile, IssuedKeysFile: keyFile(t, newPublic)})
	require.Len(t, published(t, announced), 2)
	second, _ := issue(t, announced)
	require.Equal(t, 200, get(t, reader, second), "signed with the old key still")

	changed := step(auth.Config{SigningKeyFile: newFile, IssuedKeysFile: keyFile(t, oldPublic+newPublic)})
	require.Len(t, published(t, changed), 2, "each key once")
	require.NotEqual(t, publishedIDs(t, announced)[0], publishedIDs(t, changed)[0], "the one that signs comes first")
	third, _ := issue(t, changed)
	for _, app := range []*fiber.App{reader, newApp(announced), newApp(changed)} {
		for _, token := range []string{first, second, third} {
			require.Equal(t, 200, get(t, app, token))
		}
	}

	ended := step(auth.Config{SigningKeyFile: newFile})
	for _, app := range []*fiber.App{reader, newApp(ended)} {
		require.Equal(t, 200, get(t, app, third))
	}
	unknown := sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": "made up"}, claims(nil))
	require.Equal(t, 401, get(t, reader, unknown), "has the set read again")
	for _, app := range []*fiber.App{reader, newApp(ended)} {
		require.Equal(t, 401, get(t, app, first), "known or not")
		require.Equal(t, 401, get(t, app, second))
		require.Equal(t, 200, get(t, app, third))
	}
}

// The issuer may be away for as long as it likes: what is known stays in use. A service that has started meanwhile says so.
func TestIssuedTokensWhileTheIssuerIsAway(t *testing.T) {
	k := newKeys(t)
	issuing := informed(t, auth.Config{SigningKeyFile: signingKeyFile(t, k.ec)})
	token, _ := issue(t, issuing)
	document := &keyDocument{}
	url := document.serve(t)
	document.set(issuing.PublicKeys())
	v := informed(t, auth.Config{Secret: secret, IssuedJWKSURL: url})
	v.SetPace(time.Millisecond, 0)
	app := newApp(v)
	run(t, v)
	require.Equal(t, 200, get(t, app, token))

	document.set(nil)
	for range 5 {
		require.Equal(t, 401, get(t, app, sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": "made up"}, claims(nil))))
		require.Equal(t, 200, get(t, app, token))
		require.Equal(t, 200, get(t, app, hs256(t, nil)))
	}
	late := informed(t, auth.Config{Secret: secret, IssuedJWKSURL: url})
	late.SetPace(time.Millisecond, 0)
	lateApp := newApp(late)
	run(t, late)
	got := do(t, lateApp, http.MethodGet, "/read", token)
	require.Equal(t, 503, got.status)
	require.Equal(t, "keys_unavailable", got.code(t))
	require.Equal(t, 200, get(t, lateApp, hs256(t, nil)), "tokens of the other issuer do not wait for it")
	require.Equal(t, 401, get(t, lateApp, sign(t, jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32)), nil, claims(nil))))

	document.set(issuing.PublicKeys())
	require.Eventually(t, func() bool { return get(t, lateApp, token) == 200 }, 20*time.Second, time.Millisecond)
}

// Whoever wants to pass off a token as an issued one has the public keys, and may write into a token what they like.
func TestForgedIssuedTokens(t *testing.T) {
	k := newKeys(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ecPEM, rsaPEM := publicPEM(t, k.ec.Public()), publicPEM(t, k.rsa.Public())
	cfg := auth.Config{SigningKeyFile: signingKeyFile(t, k.ec), IssuedKeysFile: keyFile(t, rsaPEM)}
	both := cfg
	both.Secret, both.IssuedIssuer = secret, "https://messaging.example"
	v := informed(t, cfg)
	ids := publishedIDs(t, v)
	head := func(kid any) map[string]any { return map[string]any{"kid": kid} }
	good := func(change jwt.MapClaims) jwt.MapClaims {
		c := claims(jwt.MapClaims{"jti": uuid.NewString()})
		maps.Copy(c, change)
		return c
	}
	es256 := func(kid any, change jwt.MapClaims) string {
		return sign(t, jwt.SigningMethodES256, k.ec, head(kid), good(change))
	}
	require.Equal(t, 200, get(t, newApp(v), es256(ids[0], nil)))
	require.Equal(t, 200, get(t, newApp(v), sign(t, jwt.SigningMethodRS256, k.rsa, head(ids[1]), good(nil))))
	require.Equal(t, 200, get(t, newApp(informed(t, both)), es256(ids[0], jwt.MapClaims{"iss": "https://messaging.example"})))

	withoutKid := jwt.NewWithClaims(jwt.SigningMethodES256, good(nil))
	unnamed, err := withoutKid.SignedString(k.ec)
	require.NoError(t, err)
	for name, token := range map[string]string{
		"no kid where there are several keys":    unnamed,
		"kid empty":                              es256("", nil),
		"kid unknown":                            es256("made up", nil),
		"kid of 8,000 characters":                es256(strings.Repeat("x", 8000), nil),
		"kid a list":                             es256([]string{ids[0]}, nil),
		"kid an object":                          es256(map[string]string{"kid": ids[0]}, nil),
		"kid a number":                           es256(1, nil),
		"kid null":                               es256(nil, nil),
		"kid with a space":                       es256(ids[0]+" ", nil),
		"kid in another case":                    es256(strings.ToLower(ids[0])+"A", nil),
		"kid of another key":                     es256(ids[1], nil),
		"kid of another key of the same type":    sign(t, jwt.SigningMethodES256, stranger, head(ids[0]), good(nil)),
		"a key in the token":                     sign(t, jwt.SigningMethodES256, stranger, map[string]any{"jwk": jwk(t, "x", stranger.Public())}, good(nil)),
		"HS256 with the public key":              sign(t, jwt.SigningMethodHS256, []byte(ecPEM), head(ids[0]), good(nil)),
		"HS256 with the public RSA key":          sign(t, jwt.SigningMethodHS256, []byte(rsaPEM), head(ids[1]), good(nil)),
		"HS256 with the kid":                     sign(t, jwt.SigningMethodHS256, []byte(ids[0]), head(ids[0]), good(nil)),
		"HS256 with the published set":           sign(t, jwt.SigningMethodHS256, v.PublicKeys(), head(ids[0]), good(nil)),
		"PS256":                                  sign(t, jwt.SigningMethodPS256, k.rsa, head(ids[1]), good(nil)),
		"RS512":                                  sign(t, jwt.SigningMethodRS512, k.rsa, head(ids[1]), good(nil)),
		"alg none":                               unsigned(t, "none", good(nil)),
		"another issuer":                         es256(ids[0], jwt.MapClaims{"iss": "somebody else"}),
		"another audience":                       es256(ids[0], jwt.MapClaims{"aud": "somebody else"}),
		"expired":                                es256(ids[0], jwt.MapClaims{"exp": time.Now().Add(-time.Minute).Unix()}),
		"no expiry":                              es256(ids[0], jwt.MapClaims{"exp": nil}),
		"jti missing: it could never be revoked": es256(ids[0], jwt.MapClaims{"jti": nil}),
		"jti empty":                              es256(ids[0], jwt.MapClaims{"jti": ""}),
		"jti a number":                           es256(ids[0], jwt.MapClaims{"jti": 7}),
		"jti a list":                             es256(ids[0], jwt.MapClaims{"jti": []string{uuid.NewString()}}),
		"jti in braces":                          es256(ids[0], jwt.MapClaims{"jti": "{" + uuid.NewString() + "}"}),
		"jti of 9,000 digits":                    es256(ids[0], jwt.MapClaims{"jti": strings.Repeat("0", 9000)}),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 401, get(t, newApp(v), token))
			require.Equal(t, 401, get(t, newApp(informed(t, both)), token), "beside a secret")
		})
	}
	require.Equal(t, 401, get(t, newApp(informed(t, both)), es256(ids[0], nil)), "a key for issued tokens does not speak for auth.issuer")
	require.Equal(t, 401, get(t, newApp(informed(t, both)), hs256(t, jwt.MapClaims{"iss": "https://messaging.example"})), "nor the other way round")
	require.Equal(t, 200, get(t, newApp(informed(t, both)), hs256(t, jwt.MapClaims{"jti": 7})), "a claim of an outside issuer that means nothing here")
}

// A token ends when it is revoked, whichever way its key came and however often it was seen before. Until it is known which
// tokens were revoked, issued ones are not decided about; others are not affected.
func TestRevocation(t *testing.T) {
	k := newKeys(t)
	issuing := informed(t, auth.Config{SigningKeyFile: signingKeyFile(t, k.ec)})
	url := rawKeySet(t, string(issuing.PublicKeys()))
	for name, cfg := range map[string]auth.Config{
		"beside a secret":        {Secret: secret, IssuedJWKSURL: url},
		"with the key set alone": {JWKSURL: url}, // nothing says that it is ours, but the token itself
		"with the public key":    {PublicKey: publicPEM(t, k.ec.Public())},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, cfg)
			app := newApp(v)
			token, id := issue(t, issuing)
			other, _ := issue(t, issuing)
			outside := hs256(t, jwt.MapClaims{"jti": id.String()})
			if cfg.Secret == "" {
				outside = sign(t, jwt.SigningMethodES256, k.ec, map[string]any{"kid": publishedIDs(t, issuing)[0]}, claims(jwt.MapClaims{"jti": id.String()}))
			}
			for range 2 {
				got := do(t, app, http.MethodGet, "/read", token)
				require.Equal(t, 503, got.status)
				require.Equal(t, "revocations_unknown", got.code(t))
				require.Equal(t, "1", got.header.Get("Retry-After"))
				require.Equal(t, 200, get(t, app, outside))
			}
			v.Revocations().Add(nil)
			require.Equal(t, 200, get(t, app, token))
			v.Revocations().Add(map[uuid.UUID]time.Time{id: time.Now().Add(time.Hour)})
			for range 2 {
				got := do(t, app, http.MethodGet, "/read", token)
				require.Equal(t, 401, got.status)
				require.Equal(t, "invalid_token", got.code(t))
				require.Equal(t, "the token was revoked", got.problem(t).Detail)
				require.Equal(t, 200, get(t, app, other))
				require.Equal(t, 200, get(t, app, outside), "not an issued one, whatever its jti")
				v.Revocations().Add(map[uuid.UUID]time.Time{uuid.New(): time.Now().Add(time.Hour)})
			}
		})
	}
}

// Nothing of a private key is in an error, and each wrong file is named.
func TestSigningKeysThatAreRefused(t *testing.T) {
	k := newKeys(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k.ec)
	require.NoError(t, err)
	exchange, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	weak := weakRSA(t)
	for name, tt := range map[string]struct {
		change func(*auth.Config)
		want   string
	}{
		"no such file":            {func(c *auth.Config) { c.SigningKeyFile = "/nowhere/key.pem" }, "auth.signing_key_file"},
		"a folder":                {func(c *auth.Config) { c.SigningKeyFile = t.TempDir() }, "auth.signing_key_file"},
		"empty":                   {func(c *auth.Config) { c.SigningKeyFile = keyFile(t, "") }, "it is not PEM"},
		"a public key":            {func(c *auth.Config) { c.SigningKeyFile = keyFile(t, publicPEM(t, k.ec.Public())) }, "it is a PUBLIC KEY, a private key is needed"},
		"encrypted":               {func(c *auth.Config) { c.SigningKeyFile = keyFile(t, block("ENCRYPTED PRIVATE KEY", pkcs8)) }, "it is encrypted"},
		"broken":                  {func(c *auth.Config) { c.SigningKeyFile = keyFile(t, block("PRIVATE KEY", pkcs8[:50])) }, "parse PRIVATE KEY"},
		"P-384":                   {func(c *auth.Config) { c.SigningKeyFile = signingKeyFile(t, p384) }, "only P-256"},
		"weak RSA":                {func(c *auth.Config) { c.SigningKeyFile = signingKeyFile(t, weak) }, "RSA key of 1024 bits"},
		"X25519":                  {func(c *auth.Config) { c.SigningKeyFile = signingKeyFile(t, exchange) }, "not supported"},
		"parameters alone":        {func(c *auth.Config) { c.SigningKeyFile = keyFile(t, block("EC PARAMETERS", []byte{6, 0})) }, "it is not PEM"},
		"no public keys":          {func(c *auth.Config) { c.IssuedKeysFile = keyFile(t, "\n") }, "auth.issued_keys_file"},
		"a private one":           {func(c *auth.Config) { c.IssuedKeysFile = signingKeyFile(t, k.ec) }, "key 1: it is a PRIVATE KEY, a public key is needed"},
		"a second that is broken": {func(c *auth.Config) { c.IssuedKeysFile = keyFile(t, publicPEM(t, k.ec.Public())+"-----BEGIN") }, "behind 1 keys there is something"},
		"a second that is weak": {func(c *auth.Config) {
			c.IssuedKeysFile = keyFile(t, publicPEM(t, k.ec.Public())+publicPEM(t, weak.Public()))
		}, "key 2: RSA key of 1024 bits"},
		"not a URL": {func(c *auth.Config) { c.IssuedJWKSURL = "tenant-service" }, "auth.issued_jwks_url must be"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := auth.DefaultConfig()
			cfg.Secret = secret
			tt.change(&cfg)
			_, err := auth.New(t.Context(), cfg, zap.NewNop())
			require.ErrorContains(t, err, tt.want)
			require.NotContains(t, err.Error(), base64.StdEncoding.EncodeToString(pkcs8)[:20])
		})
	}
}
