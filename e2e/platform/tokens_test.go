package platform_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// newIssuingWorld is a platform with a signing key, and with a NATS that the test may stop.
func newIssuingWorld(t *testing.T) (*world, *backing.NATSServer) {
	t.Helper()
	requireOwn(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	nats := backing.StartNATS(t)
	keys := file("keys.pem", "PUBLIC KEY", public)
	w := ownWorld(t, stack.Options{
		DatabaseURL: backing.Postgres(t), RabbitMQURL: backing.RabbitMQ(t).URL, NATSURL: nats.URL,
		ServiceEnv: map[string]map[string]string{
			stack.TenantService: {"AUTH_SIGNING_KEY_FILE": file("signing.pem", "PRIVATE KEY", private)},
			stack.IngestService: {"AUTH_ISSUED_KEYS_FILE": keys},
			stack.QueryService:  {"AUTH_ISSUED_KEYS_FILE": keys},
		},
	})
	return w, nats
}

// A token that was issued works on all services until it is revoked, and then on none: within two seconds, also while NATS is away. A
// token that is still good, and those of the other issuer, are not affected. No log has a token.
func TestIssuedTokens(t *testing.T) {
	w, nats := newIssuingWorld(t)
	tenant := w.createTenant(t, 1)
	scopes := []client.Scope{client.ScopeMessagesRead, client.ScopeMessagesWrite, client.ScopeDeadLettersManage}
	issue := func(name string) client.IssuedToken {
		issued, err := w.api.IssueToken(t.Context(), client.ID(tenant), client.NewToken{Name: name, Scopes: scopes, Lifetime: time.Hour})
		require.NoError(t, err)
		return issued
	}
	revoked, kept := issue("to be revoked"), issue("to be kept")
	routes := map[string]string{
		stack.TenantService: w.TenantURL + "/tenants/" + tenant.String(), stack.IngestService: w.IngestURL + "/dead-letters", stack.QueryService: w.QueryURL + "/messages",
	}
	for _, url := range routes {
		w.raw(t, http.StatusOK, raw.Request{URL: url, Token: revoked.Token})
		w.raw(t, http.StatusOK, raw.Request{URL: url, Token: kept.Token})
	}
	id, err := w.as(revoked.Token).Publish(t.Context(), client.Publishing{Payload: "by an issued token"})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := w.as(kept.Token).Message(t.Context(), id)
		return err == nil
	}, waitLimit, poll)

	nats.Stop()
	require.NoError(t, w.api.RevokeToken(t.Context(), client.ID(tenant), revoked.ID))
	begun := time.Now()
	for service, url := range routes {
		require.Eventually(t, func() bool {
			got, err := raw.Do(t.Context(), w.transport, raw.Request{URL: url, Token: revoked.Token})
			return err == nil && got.Status == http.StatusUnauthorized
		}, waitLimit, poll, service)
		t.Logf("%s refuses the token %v after its revocation", service, time.Since(begun))
		w.raw(t, http.StatusOK, raw.Request{URL: url, Token: kept.Token})
		w.raw(t, http.StatusOK, raw.Request{URL: url, Token: w.token(t, tenant, "messages:read deadletters:manage")})
	}
	nats.Start()
	w.awaitReady(t)

	// A service that has just started knows it, too.
	require.NoError(t, w.own.Query.Restart(t.Context()))
	w.raw(t, http.StatusUnauthorized, raw.Request{URL: routes[stack.QueryService], Token: revoked.Token})
	w.raw(t, http.StatusOK, raw.Request{URL: routes[stack.QueryService], Token: kept.Token})

	require.NoError(t, w.api.DeleteTenant(t.Context(), client.ID(tenant)))
	for service, url := range routes {
		require.Eventually(t, func() bool {
			got, err := raw.Do(t.Context(), w.transport, raw.Request{URL: url, Token: kept.Token})
			return err == nil && got.Status == http.StatusUnauthorized
		}, waitLimit, poll, "%s after the deletion of the tenant", service)
	}
	for _, service := range []*stack.Service{w.own.Tenant, w.own.Ingest, w.own.Query} {
		log, err := os.ReadFile(service.LogFile())
		require.NoError(t, err)
		for _, token := range []string{revoked.Token, kept.Token} {
			require.NotContains(t, string(log), token[strings.LastIndex(token, ".")+1:], service.Name)
		}
	}
}
