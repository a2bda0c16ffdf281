package control

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
)

// Whoever answers in the place of NATS decides which tenants exist.
func TestControlChannelBehindTLS(t *testing.T) {
	ours, others := certificate.NewAuthority(t), certificate.NewAuthority(t)
	clientCert, clientKey := certificate.Files(t, ours.Issue(t, "client.example"))
	strangeCert, strangeKey := certificate.Files(t, others.Issue(t, "client.example"))
	type pair = func() (certFile, keyFile string)
	issued := func(certificateOf tls.Certificate) pair {
		return func() (string, string) { return certificate.Files(t, certificateOf) }
	}
	server := func(t *testing.T, files pair) string {
		t.Helper()
		cert, key := files()
		return backing.StartNATSWith(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", cert, key, ours.File)).URL
	}
	good := issued(ours.Issue(t, "127.0.0.1"))
	client := Config{TLSCAFile: ours.File, TLSCertFile: clientCert, TLSKeyFile: clientKey}
	for name, c := range map[string]struct {
		files pair
		cfg   Config
		want  string // a part of what is reported
	}{
		"as it should be":       {good, client, ""},
		"another name":          {issued(ours.Issue(t, "nats.example")), client, "127.0.0.1"},
		"expired":               {issued(ours.IssueExpired(t, "127.0.0.1")), client, "expired"},
		"another authority":     {good, Config{TLSCAFile: others.File, TLSCertFile: clientCert, TLSKeyFile: clientKey}, "unknown authority"},
		"the system's":          {good, Config{TLSCertFile: clientCert, TLSKeyFile: clientKey}, "unknown authority"},
		"no certificate of own": {good, Config{TLSCAFile: ours.File}, "tls"},
		"another's certificate": {good, Config{TLSCAFile: ours.File, TLSCertFile: strangeCert, TLSKeyFile: strangeKey}, "tls"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.URL = server(t, c.files)
			reported := make(chan error, 1)
			conn, err := Connect(c.cfg, t.Name(), zap.NewNop(), func(err error) {
				if c.want != "" && err != nil && strings.Contains(err.Error(), c.want) {
					select {
					case reported <- err:
					default:
					}
				}
			})
			require.NoError(t, err)
			defer conn.Close()
			id := uuid.New()
			if c.want != "" {
				select {
				case err := <-reported:
					require.ErrorIs(t, err, errDisconnected)
				case <-time.After(30 * time.Second):
					t.Fatal("nothing is reported")
				}
			}
			_, err = Tenants(conn).Put(t.Context(), id.String(), contract.TenantSpec{TenantID: id.String(), Generation: 1})
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, errDisconnected)
		})
	}
	_, err := Connect(Config{URL: "nats://127.0.0.1:1", TLSCAFile: filepath.Join(t.TempDir(), "none")}, t.Name(), zap.NewNop(), nil)
	require.ErrorContains(t, err, "no such file", "a mistake in the configuration ends the start")
}
