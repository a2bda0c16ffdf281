package store

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// An operator has to see that a forgotten transaction keeps messages from every reader.
func TestHorizonAge(t *testing.T) {
	f := newFixture(t)
	reg := prometheus.NewRegistry()
	h := NewHorizon(f.pool, reg, zap.NewNop())
	require.True(t, math.IsNaN(horizonAge(t, reg)), "not known before the first sample")

	forgotten := f.begin(t)
	_, err := forgotten.Exec(t.Context(), `SELECT pg_current_xact_id()`)
	require.NoError(t, err)
	var older float64 // other tests of the same cluster may hold it back as well
	require.NoError(t, forgotten.QueryRow(t.Context(), `SELECT extract(epoch FROM clock_timestamp() - now())::float8`).Scan(&older))
	age, err := h.sample(t.Context())
	require.NoError(t, err)
	require.Greater(t, age, older)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	require.Eventually(t, func() bool { return horizonAge(t, reg) > 0 }, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-done)
}

func TestHorizonAgeIsUnknown(t *testing.T) {
	f := newFixture(t)
	h := NewHorizon(f.pool, prometheus.NewRegistry(), zap.NewNop())

	// A schema's owner without the right to see others' transactions would report 0 for ever.
	f.exec(t, `GRANT CREATE ON SCHEMA public TO mtm_query`)
	f.exec(t, `ALTER FUNCTION reading_horizon_age() OWNER TO mtm_query`)
	_, err := h.sample(t.Context())
	require.ErrorIs(t, err, errBlind)

	f.pool.Close()
	_, err = h.sample(t.Context())
	require.Error(t, err)
}

func horizonAge(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 1)
	require.Equal(t, "mtm_reading_horizon_age_seconds", families[0].GetName())
	return families[0].GetMetric()[0].GetGauge().GetValue()
}

// A transaction that was prepared and forgotten belongs to no session any more, and holds back readers until somebody finds
// it.
func TestHorizonAgeOfAPreparedTransaction(t *testing.T) {
	services := backing.Dedicated(t, backing.ServicePostgres)
	exec := func(sql string) {
		t.Helper()
		connection, err := pgx.Connect(t.Context(), services.DatabaseURL)
		require.NoError(t, err)
		defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
		_, err = connection.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	require.NoError(t, schema.Migrate(t.Context(), services.DatabaseURL, zap.NewNop()))
	exec(`ALTER SYSTEM SET max_prepared_transactions = 2`)
	server := services.Process(backing.ServicePostgres)
	require.NoError(t, server.Kill(t.Context()))
	require.NoError(t, server.Start(t.Context()))
	pool := pgtest.As(t, services.DatabaseURL, postgres.RoleQuery)
	h := NewHorizon(pool, prometheus.NewRegistry(), zap.NewNop())

	age, err := h.sample(t.Context())
	require.NoError(t, err)
	require.Zero(t, age, "nobody writes on this server")
	exec(`BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'forgotten'`)
	age, err = h.sample(t.Context())
	require.NoError(t, err)
	require.Positive(t, age)
	exec(`ROLLBACK PREPARED 'forgotten'`)
	age, err = h.sample(t.Context())
	require.NoError(t, err)
	require.Zero(t, age)
}
