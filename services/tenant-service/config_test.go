package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

// An operator takes what the example shows for the defaults, as it says.
func TestExampleShowsTheDefaults(t *testing.T) {
	want, got := defaultConfig(), defaultConfig()
	require.NoError(t, config.Load(&got, "../../deployments/config/tenant-service.yaml", true, nil))
	// Of these it says that they are not.
	want.Database.URL, want.Database.MigrateURL, want.Auth.JWKSURL = got.Database.URL, got.Database.MigrateURL, got.Auth.JWKSURL
	require.Equal(t, want, got)
}

// A management API without a virtual host is no broker; without either, a service as of before has no credentials.
func TestManagementNeedsTheBroker(t *testing.T) {
	environ := []string{"DATABASE_URL=postgres://db/mtm", "AUTH_SECRET=" + secret}
	cfg := defaultConfig()
	require.NoError(t, config.Load(&cfg, "", false, environ))
	environ = append(environ, "RABBITMQ_MANAGEMENT_URL=http://mq:15672")
	require.ErrorContains(t, config.Load(&cfg, "", false, environ), "rabbitmq.url (RABBITMQ_URL) is required")
	require.NoError(t, config.Load(&cfg, "", false, append(environ, "RABBITMQ_URL=amqp://mq")))
}
