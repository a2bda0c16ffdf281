package store

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
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
