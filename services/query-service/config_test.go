package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

// An operator takes what the example shows for the defaults, as it says.
func TestExampleShowsTheDefaults(t *testing.T) {
	want, got := defaultConfig(), defaultConfig()
	require.NoError(t, config.Load(&got, "../../deployments/config/query-service.yaml", true, nil))
	// Of these it says that they are not.
	want.Database.URL, want.Auth.JWKSURL = got.Database.URL, got.Auth.JWKSURL
	want.Query.Instance = got.Query.Instance // it is another one each time
	require.Equal(t, want, got)
}

// One tenant leaves connections to the others, and a small pool is no reason to refuse everybody.
func TestReadsOfATenantAtATime(t *testing.T) {
	for _, test := range []struct {
		set   int
		conns int32
		want  int
	}{{0, 16, 8}, {0, 3, 1}, {0, 2, 1}, {5, 16, 5}, {50, 16, 50}} {
		cfg := defaultConfig()
		cfg.Query.MaxReadsPerTenant, cfg.Database.MaxConns = test.set, test.conns
		require.Equal(t, test.want, cfg.maxReads())
	}
}
