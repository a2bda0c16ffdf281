package auth_test

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

// A token is read once and then known: it must not be good for longer, or for more, than one that is read every time.
func TestAKnownTokenIsStillChecked(t *testing.T) {
	v := newVerifier(t, auth.Config{Secret: secret})
	app := newApp(v)

	token := hs256(t, jwt.MapClaims{"exp": time.Now().Add(-28 * time.Second).Unix()}) // within the leeway, for two seconds
	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", token).status)
	require.Eventually(t, func() bool {
		return do(t, app, http.MethodGet, "/read", token).status == 401
	}, 20*time.Second, 10*time.Millisecond, "it expires")

	token = hs256(t, jwt.MapClaims{"scope": "messages:read"})
	for range 3 {
		require.Equal(t, 200, do(t, app, http.MethodGet, "/read", token).status)
		require.Equal(t, 403, do(t, app, http.MethodGet, "/write", token).status)
		require.Equal(t, 401, do(t, app, http.MethodGet, "/read", token[:len(token)-4]+"AAAA").status, "another signature is another token")
	}

	token = hs256(t, jwt.MapClaims{"iss": "somebody else"})
	for range 3 {
		require.Equal(t, 401, do(t, app, http.MethodGet, "/read", token).status)
	}
}

// The very same token, as it was known before its key was taken out.
func TestAKnownTokenGoesWithItsKey(t *testing.T) {
	k := newKeys(t)
	server := newKeyServer(t)
	server.publish(t, jwk(t, "old", k.rsa.Public()))
	v := newVerifier(t, auth.Config{JWKSURL: server.URL})
	v.SetPace(time.Hour, 0)
	app := newApp(v)
	run(t, v)
	token := k.rs256(t, "old")
	for range 3 {
		require.Equal(t, 200, do(t, app, http.MethodGet, "/read", token).status)
	}
	server.publish(t, jwk(t, "new", k.rsa.Public()))
	require.Equal(t, 200, do(t, app, http.MethodGet, "/read", k.rs256(t, "new")).status)
	require.Equal(t, 401, do(t, app, http.MethodGet, "/read", token).status)
}

// More tokens than are remembered, from many clients at a time, each with a tenant of its own.
func TestManyTokens(t *testing.T) {
	v := newVerifier(t, auth.Config{Secret: secret})
	app := newApp(v)
	var clients sync.WaitGroup
	for client := range 8 {
		clients.Go(func() {
			for n := range 300 {
				tenant := fmt.Sprintf("0197a3c2-8f0e-7cc1-9d39-%04d%08d", client, n)
				token := hs256(t, jwt.MapClaims{"tenant_id": tenant})
				for range 2 {
					if got := do(t, app, http.MethodGet, "/read", token); got.status != 200 || string(got.body) != tenant {
						t.Errorf("tenant %s: status %d, tenant %s", tenant, got.status, got.body)
					}
				}
			}
		})
	}
	clients.Wait()
}

// BenchmarkAuthenticate is a request to a route that does nothing, with a token that was seen before and with new ones.
func BenchmarkAuthenticate(b *testing.B) {
	handler := newApp(newVerifier(b, auth.Config{Secret: secret})).Handler()
	tokens := make([]string, 2000) // more than are remembered, so that none is when its turn comes
	for i := range tokens {
		tokens[i] = hs256(b, jwt.MapClaims{"sub": strconv.Itoa(i)})
	}
	for name, used := range map[string][]string{"known": tokens[:1], "new": tokens} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var request fasthttp.RequestCtx
			for n := 0; b.Loop(); n++ {
				request.Request.Reset()
				request.Response.Reset()
				request.Request.SetRequestURI("/read")
				request.Request.Header.Set("Authorization", "Bearer "+used[n%len(used)])
				handler(&request)
				require.Equal(b, 200, request.Response.StatusCode())
			}
		})
	}
}
