package telemetry_test

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestOpsBehindTLS(t *testing.T) {
	ours, others := certificate.NewAuthority(t), certificate.NewAuthority(t)
	for name, c := range map[string]struct {
		pair tls.Certificate
		want string // a part of the client's error
	}{
		"as it should be":   {ours.Issue(t, "127.0.0.1"), ""},
		"another name":      {ours.Issue(t, "ops.example"), "127.0.0.1"},
		"expired":           {ours.IssueExpired(t, "127.0.0.1"), "expired"},
		"another authority": {others.Issue(t, "127.0.0.1"), "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			var cfg telemetry.Config
			cfg.TLSCertFile, cfg.TLSKeyFile = certificate.Files(t, c.pair)
			o := startWith(t, cfg, func(*telemetry.Ops) {})
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ours.Pool, MinVersion: tls.VersionTLS12}}
			t.Cleanup(transport.CloseIdleConnections)
			response, err := raw.Do(t.Context(), transport, raw.Request{URL: strings.Replace(o.url, "http:", "https:", 1) + "/metrics"})
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, response.Status)
			status, body := o.get(t, "/metrics")
			require.Equal(t, http.StatusBadRequest, status, "in clear")
			require.NotContains(t, body, "mtm_build_info")
		})
	}
}

func TestOpsWithAKeyThatIsNone(t *testing.T) {
	reg := prometheus.NewRegistry()
	_, err := telemetry.NewOps(telemetry.Config{Addr: "127.0.0.1:0", TLSCertFile: "/none", TLSKeyFile: "/none"}, reg, telemetry.NewHealth(reg), zap.NewNop()).Listen()
	require.ErrorContains(t, err, "ops.tls_cert_file")
}

// Without an end, clients that never finish would have all file descriptors of the process, those of the API included.
func TestSlowClientsOfOpsAreGivenUp(t *testing.T) {
	short := func(o *telemetry.Ops) { o.SetTimeouts(100 * time.Millisecond) }
	t.Run("plain", func(t *testing.T) {
		raw.Slow(t, strings.TrimPrefix(startWith(t, telemetry.Config{}, short).url, "http://"), "/healthz", nil)
	})
	t.Run("TLS", func(t *testing.T) {
		authority := certificate.NewAuthority(t)
		var cfg telemetry.Config
		cfg.TLSCertFile, cfg.TLSKeyFile = certificate.Files(t, authority.Issue(t, "127.0.0.1"))
		o := startWith(t, cfg, short)
		raw.Slow(t, strings.TrimPrefix(o.url, "http://"), "/healthz", &tls.Config{RootCAs: authority.Pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	})
}

// A scraper's header has a few hundred bytes; net/http would read a megabyte for each connection.
func TestHeaderFloodOfOps(t *testing.T) {
	o := start(t)
	response, err := raw.Do(t.Context(), o.client.Transport, raw.Request{URL: o.url + "/healthz", Header: map[string]string{"X": strings.Repeat("a", 64<<10)}})
	require.NoError(t, err)
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, response.Status)
}
