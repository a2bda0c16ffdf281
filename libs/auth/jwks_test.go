package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

func (k keys) rs256(t *testing.T, kid string) string {
	t.Helper()
	return sign(t, jwt.SigningMethodRS256, k.rsa, map[string]any{"kid": kid}, claims(nil))
}

// An issuer changes its keys without telling us; nobody should have to restart anything.
func TestRotation(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "old", k.rsa.Public()))
	v := newVerifier(t, auth.Config{JWKSURL: server.URL})
	v.SetPace(time.Hour, 0)
	app := newApp(v)
	run(t, v)
	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", k.rs256(t, "old")).status)

	server.publish(t, jwk(t, "new", k.rsa.Public()))

	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", k.rs256(t, "new")).status, "the first request with it waits for the refresh")
	require.Equal(t, 401, do(t, app, http.MethodGet, "/read", k.rs256(t, "old")).status, "a key that was taken out is out")
}

// An identity provider that is restarted at the same time must not keep the services from starting, and
// clients must not throw good tokens away because of it.
func TestKeySetThatIsDownAtStart(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "rsa", k.rsa.Public()))
	server.fail(true)
	v := newVerifier(t, auth.Config{JWKSURL: server.URL})
	v.SetPace(time.Millisecond, time.Hour)
	app := newApp(v)

	got := do(t, app, http.MethodGet, "/read", k.rs256(t, "rsa"))
	require.Equal(t, 503, got.status)
	require.Equal(t, "keys_unavailable", got.code(t))
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.Equal(t, 401, do(t, app, http.MethodGet, "/read", "").status)

	run(t, v)
	server.fail(false)

	require.Eventually(t, func() bool {
		return do(t, app, http.MethodGet, "/read", k.rs256(t, "rsa")).status == 200
	}, 20*time.Second, time.Millisecond, "without anyone asking for it")
}

func TestKeysStayWhileTheKeySetIsDown(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "rsa", k.rsa.Public()))
	v, logs := observed(t, server.URL, zap.WarnLevel)
	app := newApp(v)
	run(t, v)
	server.fail(true)

	require.Equal(t, 401, do(t, app, http.MethodGet, "/read", k.rs256(t, "unknown")).status)
	require.Eventually(t, func() bool { return logs.FilterMessageSnippet("could not be refreshed").Len() == 1 }, 20*time.Second, 10*time.Millisecond, "it has been tried")
	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", k.rs256(t, "rsa")).status)
}

// Anyone can make up key ids; the issuer must not feel it.
func TestUnknownKeysDoNotFloodTheIssuer(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "rsa", k.rsa.Public()))
	v := newVerifier(t, auth.Config{JWKSURL: server.URL})
	v.SetPace(time.Hour, time.Hour)
	app := newApp(v)
	run(t, v)
	token := k.rs256(t, "made-up")

	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				do(t, app, http.MethodGet, "/read", token)
			}
		})
	}
	wg.Wait()

	require.Equal(t, 1, server.count(), "the one at the start")
}

// Requests that wait for a refresh share it.
func TestRequestsShareARefresh(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "old", k.rsa.Public()))
	v := newVerifier(t, auth.Config{JWKSURL: server.URL})
	v.SetPace(time.Hour, 0)
	app := newApp(v)
	server.publish(t, jwk(t, "new", k.rsa.Public()))
	token := k.rs256(t, "new")

	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if got := do(t, app, http.MethodGet, "/read", token); got.status != 200 {
				t.Errorf("status %d", got.status)
			}
		})
	}
	run(t, v)
	wg.Wait()

	require.Equal(t, 2, server.count(), "the one at the start, and one for all of them")
}

// A set is published for everyone: it may hold keys for other purposes, and future kinds of keys.
func TestKeysOfTheSetThatAreNotUsed(t *testing.T) {
	k := newKeys(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	require.NoError(t, err)
	server := newKeyServer(t)
	server.publish(t,
		jwk(t, "good", k.rsa.Public()),
		jwk(t, "sig", k.rsa.Public(), func(m *jwkset.JWKMarshal) { m.USE, m.ALG = jwkset.UseSig, jwkset.AlgRS256 }),
		jwk(t, "enc", k.rsa.Public(), func(m *jwkset.JWKMarshal) { m.USE = jwkset.UseEnc }),
		jwk(t, "ps256", k.rsa.Public(), func(m *jwkset.JWKMarshal) { m.ALG = jwkset.AlgPS256 }),
		jwk(t, "", k.rsa.Public()),
		jwk(t, "p384", p384.Public()),
		jwk(t, "oct", []byte(secret)),
		jwkset.JWKMarshal{KID: "future", KTY: "XYZ"},
		jwkset.JWKMarshal{KID: "broken", KTY: jwkset.KtyRSA, N: "!"},
		jwk(t, "good", k.otherRSA.Public()), // both of two with one id are tried
	)
	app := newApp(newVerifier(t, auth.Config{JWKSURL: server.URL}))
	header := func(kid string) map[string]any { return map[string]any{"kid": kid} }
	tests := map[string]struct {
		token string
		want  int
	}{
		"good":               {k.rs256(t, "good"), 200},
		"marked":             {k.rs256(t, "sig"), 200},
		"for encryption":     {k.rs256(t, "enc"), 401},
		"for PS256":          {k.rs256(t, "ps256"), 401},
		"for PS256, PS256":   {sign(t, jwt.SigningMethodPS256, k.rsa, header("ps256"), claims(nil)), 401},
		"no id":              {k.rs256(t, ""), 401},
		"another curve":      {sign(t, jwt.SigningMethodES384, p384, header("p384"), claims(nil)), 401},
		"symmetric":          {sign(t, jwt.SigningMethodHS256, []byte(secret), header("oct"), claims(nil)), 401},
		"unknown type":       {k.rs256(t, "future"), 401},
		"second of the name": {sign(t, jwt.SigningMethodRS256, k.otherRSA, header("good"), claims(nil)), 200},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, do(t, app, http.MethodGet, "/read", tt.token).status)
		})
	}
}

// A proxy's error page with status 200, or an emptied file, must not throw away the keys.
func TestAnswersThatAreNoKeySet(t *testing.T) {
	k := newKeys(t)
	for name, body := range map[string]string{
		"html":       "<html>",
		"empty":      "",
		"no keys":    `{"keys":[]}`,
		"other json": `{}`,
		"too large":  `{"keys":[` + strings.Repeat(" ", 2<<20) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(body))
			}))
			defer server.Close()
			app := newApp(newVerifier(t, auth.Config{JWKSURL: server.URL}))
			require.Equal(t, 503, do(t, app, http.MethodGet, "/read", k.rs256(t, "rsa")).status)
		})
	}
}

func TestRunWithoutAKeySetWaitsForItsEnd(t *testing.T) {
	v := newVerifier(t, auth.Config{Secret: secret})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, v.Run(ctx))
}
