package raw_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A helper that repairs a request would show a service that accepts malformed ones as one that refuses them.
func TestRequestsGoOutAsWritten(t *testing.T) {
	var seen *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusSeeOther)
		_, _ = io.WriteString(w, `{"code":"moved"}`)
	}))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()

	got := raw.Must(t, transport, http.StatusSeeOther, raw.Request{
		Method: "BREW", URL: server.URL + "//a/../b?c=%zz", Token: "broken token", ContentType: "text/html; charset=",
		Header: map[string]string{"Prefer": "wait=x"}, Body: []byte("{\xff"),
	})
	require.Equal(t, "moved", got.Code(t))
	require.Equal(t, "BREW", seen.Method)
	require.Equal(t, "//a/../b?c=%zz", seen.RequestURI)
	require.Equal(t, "Bearer broken token", seen.Header.Get("Authorization"))
	require.Equal(t, "text/html; charset=", seen.Header.Get("Content-Type"))
	require.Equal(t, "wait=x", seen.Header.Get("Prefer"))
	require.Equal(t, "{\xff", string(body))

	raw.Must(t, transport, http.StatusSeeOther, raw.Request{URL: server.URL})
	require.Equal(t, http.MethodGet, seen.Method)
	for _, name := range []string{"Authorization", "Content-Type"} {
		require.NotContains(t, seen.Header, name)
	}
	require.Empty(t, body)
}
