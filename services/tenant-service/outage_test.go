package main

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// PostgreSQL and NATS may be away at the start and at any time after it: the service stays up, says what is missing, and
// resumes without intervention.
func TestOutages(t *testing.T) {
	t.Parallel()
	services := backing.Dedicated(t, backing.ServicePostgres, backing.ServiceNATS)
	database, channel := services.Process(backing.ServicePostgres), services.Process(backing.ServiceNATS)
	ctx := t.Context()
	require.NoError(t, database.Stop(ctx))
	require.NoError(t, channel.Stop(ctx))

	r := start(t, testConfig(t, services.DatabaseURL, services.NATSURL))
	r.requireReady(false)
	create := request{method: http.MethodPost, path: "/tenants", body: `{"name":"a"}`}
	away := r.require(http.StatusServiceUnavailable, create)
	require.Equal(t, "registry_unavailable", away.problem.Code)
	require.NotEmpty(t, away.header.Get("Retry-After"))
	require.NotContains(t, string(away.body), "127.0.0.1", "the cause is for the log alone")

	require.NoError(t, database.Start(ctx))
	require.NoError(t, channel.Start(ctx))
	r.requireReady(true)
	ingest := startInstance(t, services.NATSURL, "one")
	id := r.create("a")
	running := func(c *assert.CollectT, got api.Tenant) { require.Equal(c, "running", got.Status.State) }
	r.eventually(id, running)

	// The registry works without NATS; the change arrives when it is back.
	require.NoError(t, channel.Kill(ctx))
	r.requireReady(false)
	r.require(http.StatusOK, request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":9}`})
	require.NoError(t, channel.Start(ctx))
	up := time.Now()
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec.Workers == 9
	}, waitLimit, tick)
	t.Logf("the change arrived %v after NATS was back", time.Since(up))
	r.requireReady(true)

	require.NoError(t, database.Kill(ctx))
	r.requireReady(false)
	require.Equal(t, "registry_unavailable", r.require(http.StatusServiceUnavailable, create).problem.Code)
	require.NoError(t, database.Start(ctx))
	r.requireReady(true)
	r.require(http.StatusCreated, create)

	r.eventually(id, running)
}

// A table that somebody holds locked must not hold the requests.
func TestLockedTable(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.Database.StatementTimeout = 500 * time.Millisecond
	r := start(t, cfg)
	r.requireReady(true)
	id := r.create("a")
	other, err := pgx.Connect(t.Context(), cfg.Database.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close(context.WithoutCancel(t.Context()))) }()
	tx, err := other.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE tenants`)
	require.NoError(t, err)
	for _, q := range []request{
		{method: http.MethodGet, path: path(id, "")},
		{method: http.MethodGet, path: "/tenants"},
		{method: http.MethodPost, path: "/tenants", body: `{"name":"b"}`},
		{method: http.MethodPost, path: path(id, "/suspend")},
	} {
		require.Equal(t, "registry_unavailable", r.require(http.StatusServiceUnavailable, q).problem.Code)
	}
	require.NoError(t, tx.Rollback(t.Context()))
	r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")})
}
