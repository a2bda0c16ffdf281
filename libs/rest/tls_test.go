package rest_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// secured is an API behind TLS.
func secured(t *testing.T, cfg rest.Config, pair tls.Certificate) *api {
	t.Helper()
	cfg.TLSCertFile, cfg.TLSKeyFile = certificate.Files(t, pair)
	return start(t, cfg, routes)
}

// A token that travels in clear is everybody's; a client must get through only to the service that it means.
func TestAPIBehindTLS(t *testing.T) {
	ours, others := certificate.NewAuthority(t), certificate.NewAuthority(t)
	for name, c := range map[string]struct {
		pair tls.Certificate
		want string // a part of the client's error
	}{
		"as it should be":   {ours.Issue(t, "127.0.0.1"), ""},
		"another name":      {ours.Issue(t, "api.example"), "127.0.0.1"},
		"expired":           {ours.IssueExpired(t, "127.0.0.1"), "expired"},
		"another authority": {others.Issue(t, "127.0.0.1"), "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			a := secured(t, rest.Config{}, c.pair)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ours.Pool, MinVersion: tls.VersionTLS12}}
			t.Cleanup(transport.CloseIdleConnections)
			response, err := raw.Do(t.Context(), transport, raw.Request{URL: "https://" + a.addr + "/things"})
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, response.Status)
			_, err = raw.Do(t.Context(), &http.Transport{DisableKeepAlives: true}, raw.Request{URL: "http://" + a.addr + "/things"})
			require.Error(t, err, "in clear")
		})
	}
}

func TestAPIWithAKeyThatIsNone(t *testing.T) {
	cert, _ := certificate.Files(t, certificate.NewAuthority(t).Issue(t, "127.0.0.1"))
	server := rest.New(rest.Config{Addr: "127.0.0.1:0", TLSCertFile: cert, TLSKeyFile: cert}, "test-service", prometheus.NewRegistry(), zap.NewNop())
	_, err := server.Listen()
	require.ErrorContains(t, err, "http.tls_cert_file")
}

// Behind TLS, too, a client that sends on is told what was wrong before the connection ends.
func TestRefusalBehindTLSIsRead(t *testing.T) {
	authority := certificate.NewAuthority(t)
	a := secured(t, rest.Config{BodyLimit: 1024}, authority.Issue(t, "127.0.0.1"))
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: authority.Pool, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	const size = 4 << 20
	_, err = fmt.Fprintf(conn, "POST /things HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
	require.NoError(t, err)
	_, err = io.CopyN(conn, zeros{}, size)
	require.NoError(t, err, "the server must read on while the client is sending")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	read(t, response).problem(t, http.StatusRequestEntityTooLarge, "body_too_large")
}

// A connection costs the server a buffer and a goroutine: clients that never finish would have all of them.
func TestSlowClientsAreGivenUp(t *testing.T) {
	cfg := rest.Config{ReadTimeout: 100 * time.Millisecond, IdleTimeout: 100 * time.Millisecond}
	t.Run("plain", func(t *testing.T) {
		raw.Slow(t, start(t, cfg, routes).addr, "/things", nil)
	})
	t.Run("TLS", func(t *testing.T) {
		authority := certificate.NewAuthority(t)
		a := secured(t, cfg, authority.Issue(t, "127.0.0.1"))
		raw.Slow(t, a.addr, "/things", &tls.Config{RootCAs: authority.Pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	})
}

// A page of 8 MiB is held in memory until it is read.
func TestSlowReadersAreGivenUp(t *testing.T) {
	a := start(t, rest.Config{WriteTimeout: 100 * time.Millisecond}, func(app *fiber.App) {
		app.Get("/large", func(c *fiber.Ctx) error { return c.SendString(strings.Repeat("x", 32<<20)) })
	})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = io.ReadFull(conn, one)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return a.server.App().Server().GetOpenConnectionsCount() == 0 }, 20*time.Second, 5*time.Millisecond)
}

// However a header is made large, it is refused, and what has been read of it is a buffer and not more.
func TestHeaderFloods(t *testing.T) {
	a := start(t, rest.Config{}, routes)
	for name, header := range map[string]string{
		"one long line": "X: " + strings.Repeat("a", 1<<20),
		"many lines":    strings.Repeat("X: a\r\n", 1<<18),
		"a long name":   strings.Repeat("a", 1<<15) + ": a",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", a.addr)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			go func() { _, _ = io.WriteString(conn, "GET /things HTTP/1.1\r\nHost: x\r\n"+header+"\r\n\r\n") }()
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			read(t, response).problem(t, http.StatusRequestHeaderFieldsTooLarge, "header_too_large")
		})
	}
}
