package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// run calls the program with arguments and an environment of its own, and returns what it printed.
func run(t *testing.T, environ []string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := command().Line(environ, &out).Run(t.Context(), append([]string{serviceName}, args...))
	return out.String(), err
}

// enough is an environment that the service accepts, with more over it.
func enough(more ...string) []string {
	return append([]string{
		"DATABASE_URL=postgres://user:hidden@127.0.0.1:1/db", "NATS_URL=nats://user:hidden@127.0.0.1:2", "AUTH_SECRET=" + secret,
		"HTTP_ADDR=127.0.0.1:0", "OPS_ADDR=127.0.0.1:0",
	}, more...)
}

// An operator looks at what is in effect, and pastes it into a ticket.
func TestConfigCommand(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte("workers: 5\nmax_workers: 9\n"), 0o600))
	out, err := run(t, enough("MAX_WORKERS=7", "HTTP_ADDR=:1234"), "--config", file, "config")
	require.NoError(t, err)
	require.Contains(t, out, "workers: 5")
	require.Contains(t, out, "max_workers: 7")
	require.Contains(t, out, "1234")
	require.NotContains(t, out, "hidden")
	require.NotContains(t, out, secret)

	after, err := run(t, enough("MAX_WORKERS=7", "HTTP_ADDR=:1234"), "config", "--config", file)
	require.NoError(t, err)
	require.Equal(t, out, after, "the flag may stand behind the command")

	for _, misspelt := range [][]string{{"migarte"}, {"serve", "now"}, {"config", "x"}} {
		_, err = run(t, enough(), misspelt...)
		require.ErrorIs(t, err, service.ErrArgument)
	}
	help, err := run(t, nil, "--help")
	require.NoError(t, err)
	require.Contains(t, help, "max_workers")
	require.Contains(t, help, "NATS_REPLICAS")
}

// Each mistake is named, and none of them starts the service half configured.
func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		environ []string
		yaml    string
		want    []string
	}{
		"negative limit":        {enough("LIMITS_PUBLISH_RATE=-1"), "", []string{"limits.publish_rate (LIMITS_PUBLISH_RATE) must be between 0 and"}},
		"limit over its range":  {enough(), "limits: {max_streams: 101, weight: 200}", []string{"limits.max_streams (LIMITS_MAX_STREAMS) must be between 0 and 100", "limits.weight (LIMITS_WEIGHT) must be between 1 and 100"}},
		"limit with a fraction": {enough(), "limits: {read_bytes: 1.5}", []string{"limits.read_bytes (LIMITS_READ_BYTES) must be a whole number"}},
		"unknown limit":         {enough(), "limits: {write_bytes: 1}", []string{"limits.write_bytes is not a known key"}},
		"limits contradict":     {enough("LIMITS_RETENTION_BYTES=2"), "limits: {stored_max_bytes: 1}", []string{"limits.retention_bytes (LIMITS_RETENTION_BYTES) must not be above stored_max_bytes: 2 and 1"}},
		"attempts":              {enough("LIMITS_MAX_ATTEMPTS=101"), "", []string{"limits.max_attempts (LIMITS_MAX_ATTEMPTS) must be between 1 and 100"}},
		"no database":           {[]string{"AUTH_SECRET=" + secret}, "", []string{"database.url"}},
		"no key":                {enough()[:2], "", []string{"auth"}},
		"secret too short":      {enough("AUTH_SECRET=short"), "", []string{"auth"}},
		"unknown key":           {enough(), "wrokers: 3", []string{"wrokers"}},
		"several":               {enough("WORKERS=0", "SHUTDOWN_TIMEOUT=soon"), "nats: {replicas: 9}", []string{"workers", "shutdown_timeout", "nats.replicas"}},
		"default over maximum":  {enough("WORKERS=10", "MAX_WORKERS=9"), "", []string{"workers"}},
		"not a port":            {enough("OPS_ADDR=9081"), "", []string{"ops.addr"}},
		"NATS URL is a lie":     {enough("NATS_URL=nats://user:hidden@[::1"), "", []string{"nats.url"}},
		"database URL is a lie": {enough("DATABASE_URL=postgres://%zz"), "", []string{"database.url"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "config.yaml")
			require.NoError(t, os.WriteFile(file, []byte(tc.yaml), 0o600))
			_, err := run(t, tc.environ, "--config", file)
			require.Error(t, err)
			for _, want := range tc.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "hidden")
		})
	}
	_, err := run(t, enough(), "--config", filepath.Join(t.TempDir(), "absent.yaml"), "config")
	require.Error(t, err, "a file that was asked for must be there")
}

// The probe of the container: 0 when it is ready, else not.
func TestHealthcheckCommand(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	environ := enough("OPS_ADDR=" + r.cfg.Ops.Addr)
	out, err := run(t, environ, "healthcheck")
	require.NoError(t, err)
	require.Contains(t, out, `"ready"`)
	r.stop()
	_, err = run(t, environ, "healthcheck")
	require.Error(t, err)

	notReady := start(t, testConfig(t, "postgres://127.0.0.1:1/nothing", "nats://127.0.0.1:1"))
	require.Eventually(t, func() bool {
		_, err := run(t, enough("OPS_ADDR="+notReady.cfg.Ops.Addr), "healthcheck")
		return errors.Is(err, service.ErrNotReady)
	}, waitLimit, tick)
}

// Migrating apart, for installations whose service may not.
func TestMigrateCommand(t *testing.T) {
	t.Parallel()
	url := backing.Postgres(t)
	for range 2 {
		_, err := run(t, enough("DATABASE_URL="+url), "migrate")
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, command().Line(enough("DATABASE_URL="+url), &bytes.Buffer{}).Run(ctx, []string{serviceName, "migrate"}))
}
