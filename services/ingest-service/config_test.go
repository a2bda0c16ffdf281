package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

// An operator takes what the example shows for the defaults, as it says.
func TestExampleShowsTheDefaults(t *testing.T) {
	want, got := defaultConfig(), defaultConfig()
	require.NoError(t, config.Load(&got, "../../deployments/config/ingest-service.yaml", true, nil))
	// Of these it says that they are not.
	want.Database.URL, want.RabbitMQ.URL, want.Auth.JWKSURL = got.Database.URL, got.RabbitMQ.URL, got.Auth.JWKSURL
	want.Ingest.Instance = got.Ingest.Instance // it is another one each time
	require.Equal(t, want, got)
}
