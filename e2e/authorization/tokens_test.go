package authorization_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// issuer signs the tokens of the installation, and forges others.
type issuer struct {
	t          *testing.T
	key, other *rsa.PrivateKey
	public     []byte // in DER
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t}
	for _, key := range []**rsa.PrivateKey{&i.key, &i.other} {
		var err error
		*key, err = rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
	}
	var err error
	i.public, err = x509.MarshalPKIXPublicKey(i.key.Public())
	require.NoError(t, err)
	return i
}

// pem is the public key as the installation is configured with it.
func (i *issuer) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: i.public}))
}

// claims are those of a good token of a tenant, or of none if it is uuid.Nil.
func claims(tenant uuid.UUID, scopes ...auth.Scope) jwt.MapClaims {
	names := make([]string, len(scopes))
	for i, scope := range scopes {
		names[i] = string(scope)
	}
	c := jwt.MapClaims{
		"iss": stack.Issuer, "aud": stack.Audience, "sub": "e2e", "scope": strings.Join(names, " "),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if tenant != uuid.Nil {
		c["tenant_id"] = tenant.String()
	}
	return c
}

// token is a good token.
func (i *issuer) token(tenant uuid.UUID, scopes ...auth.Scope) string {
	return i.sign(jwt.SigningMethodRS256, i.key, claims(tenant, scopes...))
}

// changed is a token that is signed well and has other claims than an administrator's; nil removes one.
func (i *issuer) changed(change jwt.MapClaims) string {
	c := claims(uuid.Nil, auth.ScopeTenantsAdmin)
	for name, value := range change {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return i.sign(jwt.SigningMethodRS256, i.key, c)
}

func (i *issuer) sign(method jwt.SigningMethod, key any, c jwt.Claims, header ...string) string {
	i.t.Helper()
	token := jwt.NewWithClaims(method, c)
	for at := 0; at+1 < len(header); at += 2 {
		token.Header[header[at]] = header[at+1]
	}
	text, err := token.SignedString(key)
	require.NoError(i.t, err)
	return text
}

// part is a part of a token.
func (i *issuer) part(value any) string {
	i.t.Helper()
	text, err := json.Marshal(value)
	require.NoError(i.t, err)
	return base64.RawURLEncoding.EncodeToString(text)
}

// bad are tokens that would let an administrator act on every tenant, were they good.
func (i *issuer) bad() map[string]string {
	good := i.changed(nil)
	parts := strings.Split(good, ".")
	admin := claims(uuid.Nil, auth.ScopeTenantsAdmin)
	stolen := i.token(uuid.New(), auth.ScopeMessagesRead)
	hour := time.Hour
	unsigned := func(algorithm string) string {
		return i.part(jwt.MapClaims{"alg": algorithm, "typ": "JWT"}) + "." + parts[1]
	}
	hmac := func(key []byte) string { return i.sign(jwt.SigningMethodHS256, key, admin) }
	return map[string]string{
		"expired":                          i.changed(jwt.MapClaims{"exp": time.Now().Add(-hour).Unix()}),
		"without an expiry":                i.changed(jwt.MapClaims{"exp": nil}),
		"not valid yet":                    i.changed(jwt.MapClaims{"nbf": time.Now().Add(hour).Unix()}),
		"issued in the future":             i.changed(jwt.MapClaims{"iat": time.Now().Add(hour).Unix()}),
		"of another issuer":                i.changed(jwt.MapClaims{"iss": "https://evil.example"}),
		"without an issuer":                i.changed(jwt.MapClaims{"iss": nil}),
		"for another audience":             i.changed(jwt.MapClaims{"aud": "billing"}),
		"without an audience":              i.changed(jwt.MapClaims{"aud": nil}),
		"bound to no UUID":                 i.changed(jwt.MapClaims{"tenant_id": "*"}),
		"bound to the nil UUID":            i.changed(jwt.MapClaims{"tenant_id": uuid.Nil.String()}),
		"bound to two tenants":             i.changed(jwt.MapClaims{"tenant_id": []string{uuid.NewString(), uuid.NewString()}}),
		"with scopes that are an object":   i.changed(jwt.MapClaims{"scope": map[string]bool{"tenants:admin": true}}),
		"of no tenant and no admin":        i.changed(jwt.MapClaims{"scope": "messages:read messages:write deadletters:manage"}),
		"signed with another key":          i.sign(jwt.SigningMethodRS256, i.other, admin),
		"with the key in its header":       i.sign(jwt.SigningMethodRS256, i.other, admin, "jku", "https://evil.example/keys", "x5u", "https://evil.example/key"),
		"with a critical header":           i.sign(jwt.SigningMethodRS256, i.key, admin, "crit", "exp"),
		"RS512 with the key":               i.sign(jwt.SigningMethodRS512, i.key, admin),
		"PS256 with the key":               i.sign(jwt.SigningMethodPS256, i.key, admin),
		"HS256 with the public key as PEM": hmac([]byte(i.pem())),
		"HS256 with the public key as DER": hmac(i.public),
		"HS256 with the modulus":           hmac(i.key.N.Bytes()),
		"HS256 with no key":                hmac([]byte{}),
		"alg none":                         unsigned("none") + ".",
		"alg nOnE":                         unsigned("nOnE") + ".",
		"alg none with a signature":        unsigned("none") + "." + parts[2],
		"alg empty":                        unsigned("") + ".",
		"without a signature":              parts[0] + "." + parts[1] + ".",
		"of two parts":                     parts[0] + "." + parts[1],
		"of four parts":                    good + ".x",
		"of three empty parts":             "..",
		"with the claims of another one":   parts[0] + "." + strings.Split(stolen, ".")[1] + "." + parts[2],
		"with a header that is no JSON":    "x." + parts[1] + "." + parts[2],
		"with claims that are no JSON":     parts[0] + ".x." + parts[2],
		"with padding":                     good + "=",
		"with a null character":            parts[0] + "." + parts[1] + "." + parts[2] + "%00",
		"garbage":                          "garbage",
		"very long":                        strings.Repeat("a", 8<<10),
	}
}
