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
	require.Equal(t, want, got)
}
