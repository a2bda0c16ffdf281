package postgres_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
)

// Whoever answers in the place of PostgreSQL has all messages.
func TestDatabaseBehindTLS(t *testing.T) {
	plain := backing.Dedicated(t, backing.ServicePostgres).DatabaseURL
	ours, others := certificate.NewAuthority(t), certificate.NewAuthority(t)
	address, err := url.Parse(plain)
	require.NoError(t, err)
	operator, err := pgx.Connect(t.Context(), plain)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) }()
	_, err = operator.Exec(t.Context(), `CREATE ROLE `+postgres.RoleQuery)
	require.NoError(t, err)
	good := ours.Issue(t, address.Hostname())
	for name, c := range map[string]struct {
		pair      tls.Certificate
		authority *certificate.Authority
		want      string // a part of the error
	}{
		"as it should be":   {good, ours, ""},
		"another name":      {ours.Issue(t, "db.example"), ours, address.Hostname()},
		"expired":           {ours.IssueExpired(t, address.Hostname()), ours, "expired"},
		"another authority": {good, others, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			serveWith(t, plain, c.pair)
			with := *address
			with.RawQuery = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {c.authority.File}}.Encode()
			cfg := postgres.DefaultConfig()
			cfg.URL = with.String()
			pool, err := postgres.Open(t.Context(), cfg, postgres.RoleQuery)
			require.NoError(t, err)
			defer pool.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			connection, err := pool.Acquire(ctx)
			if c.want != "" {
				require.ErrorContains(t, err, c.want)
				return
			}
			require.NoError(t, err)
			defer connection.Release()
			require.IsType(t, new(tls.Conn), connection.Conn().PgConn().Conn())
		})
	}
}

// serveWith gives the server another certificate, which it uses for connections from then on. Its key has to be readable by the server
// alone, which therefore writes it itself.
func serveWith(t *testing.T, operatorURL string, pair tls.Certificate) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), operatorURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	cert, key := certificate.PEM(t, pair)
	for file, content := range map[string][]byte{"tls-test.crt": cert, "tls-test.key": key} {
		_, err := connection.Exec(t.Context(), fmt.Sprintf(
			`COPY (SELECT '%s') TO PROGRAM 'umask 077; base64 -d > %s'`, base64.StdEncoding.EncodeToString(content), file))
		require.NoError(t, err)
	}
	for _, setting := range []string{"ssl_cert_file = 'tls-test.crt'", "ssl_key_file = 'tls-test.key'", "ssl = on"} {
		_, err := connection.Exec(t.Context(), "ALTER SYSTEM SET "+setting)
		require.NoError(t, err)
	}
	_, err = connection.Exec(t.Context(), `SELECT pg_reload_conf()`)
	require.NoError(t, err)
	served := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	require.Eventually(t, func() bool {
		cfg, err := pgx.ParseConfig(operatorURL)
		if err != nil {
			return false
		}
		var given []byte
		cfg.TLSConfig, cfg.Fallbacks = served.Clone(), nil
		cfg.TLSConfig.VerifyConnection = func(state tls.ConnectionState) error { given = state.PeerCertificates[0].Raw; return nil }
		probe, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			return false
		}
		return probe.Close(t.Context()) == nil && string(given) == string(pair.Certificate[0])
	}, 20*time.Second, 20*time.Millisecond)
}
