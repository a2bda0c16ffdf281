package stack_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// list lists the tenants, with a token.
func list(t *testing.T, s *stack.Stack, token string, status int) {
	t.Helper()
	raw.Must(t, &http.Transport{DisableKeepAlives: true}, status, raw.Request{URL: s.Tenant.URL + "/tenants", Token: token})
}

func TestAStackRunsAndItsServicesAreKilledAndRestarted(t *testing.T) {
	s := stack.Start(t, stack.Shared(t))
	admin, err := s.AdminToken()
	require.NoError(t, err)
	list(t, s, admin, http.StatusOK)
	list(t, s, "x", http.StatusUnauthorized)

	first := s.Tenant.PID()
	require.NoError(t, s.Tenant.Kill(t.Context()))
	code, err := s.Tenant.ExitStatus()
	require.NoError(t, err)
	require.Equal(t, 128+9, code)
	require.Error(t, s.Tenant.Ready(t.Context()))
	require.NoError(t, s.Tenant.Start(t.Context()))
	require.NotEqual(t, first, s.Tenant.PID())
	list(t, s, admin, http.StatusOK) // at the same address

	for _, service := range []*stack.Service{s.Tenant, s.Ingest, s.Query} {
		code, err := service.Term(t.Context())
		require.NoError(t, err)
		require.Zero(t, code, "%s ends in an orderly way", service.Name)
		require.False(t, service.Running())
	}
	require.NoError(t, s.Query.Restart(t.Context()))

	further, err := s.Add(t.Context(), stack.QueryService)
	require.NoError(t, err)
	require.NotEqual(t, s.Query.URL, further.URL)
	_, err = s.Add(t.Context(), "mail-service")
	require.ErrorContains(t, err, "mail-service")
}

func TestAServiceThatEndsSaysWhy(t *testing.T) {
	opts := stack.Shared(t)
	opts.ServiceEnv = map[string]map[string]string{stack.QueryService: {"HTTP_REQUEST_TIMEOUT": "soon"}}
	_, err := stack.New(t.Context(), opts)
	require.ErrorContains(t, err, stack.QueryService)
	require.True(t, strings.Contains(err.Error(), "http.request_timeout") || strings.Contains(err.Error(), "HTTP_REQUEST_TIMEOUT"), err)
}
