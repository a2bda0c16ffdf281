package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// horizonInterval is how often the horizon is looked at: often enough to see a transaction of the thirty seconds
	// that the services' own may take, rare enough to cost nothing.
	horizonInterval = 5 * time.Second
	horizonTimeout  = 3 * time.Second
)

// errBlind says that the age of the horizon cannot be told.
var errBlind = errors.New("the owner of the schema may not see the transactions of others: GRANT pg_read_all_stats to it")

// Horizon watches how far readers are behind, and exports it as mtm_reading_horizon_age_seconds. It is sampled in the
// background, so that a scrape never waits for the database.
type Horizon struct {
	pool *pgxpool.Pool
	log  *zap.Logger
	age  prometheus.Gauge
}

// NewHorizon makes a Horizon and registers its metric on reg. The metric is NaN while the age is not known.
func NewHorizon(pool *pgxpool.Pool, reg prometheus.Registerer, log *zap.Logger) *Horizon {
	h := &Horizon{pool: pool, log: log, age: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mtm_reading_horizon_age_seconds",
		Help: "Age of the oldest open transaction that has written, in any database of the cluster. Messages written since then are stored and not shown by GET /messages yet. NaN while unknown.",
	})}
	h.age.Set(math.NaN())
	reg.MustRegister(h.age)
	return h
}

// Run samples until ctx ends.
func (h *Horizon) Run(ctx context.Context) error {
	ticker := time.NewTicker(horizonInterval)
	defer ticker.Stop()
	last := fmt.Sprint(error(nil)) // the error of the last sample: the same one again is not worth a line
	for {
		age, err := h.sample(ctx)
		if err != nil {
			age = math.NaN()
		}
		h.age.Set(age)
		if now := fmt.Sprint(err); now != last && ctx.Err() == nil {
			last = now
			if err != nil {
				h.log.Warn("the age of the reading horizon is not known", zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// sample is the age of the horizon in seconds, 0 if no transaction holds it back.
func (h *Horizon) sample(ctx context.Context) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, horizonTimeout)
	defer cancel()
	var age *float64
	if err := h.pool.QueryRow(ctx, `SELECT reading_horizon_age()`).Scan(&age); err != nil {
		return 0, fmt.Errorf("read the age of the reading horizon: %w", err)
	}
	if age == nil {
		return 0, errBlind
	}
	return *age, nil
}
