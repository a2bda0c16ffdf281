package deadletter

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// refresh is how often the state of the dead letters is read. It is a look at the whole table, so never at a scrape.
const refresh = 15 * time.Second

// Metrics of dead letters: counters of this instance, and gauges of the table that all instances share. The gauges have
// a series for each tenant that has dead letters, and are at most 15 s old.
type Metrics struct {
	recorded, discarded prometheus.Counter
	quarantined         prometheus.Gauge
	blocked             *prometheus.GaugeVec
	replayed            *prometheus.CounterVec

	entries, oldest *prometheus.Desc
	stats           atomic.Pointer[[]Stat] // nil until they were read
}

// NewMetrics registers the metrics of dead letters.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		recorded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_dead_letters_recorded_total", Help: "Dead letters written to the database, repeated ones included.",
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_dead_letters_discarded_total", Help: "Dead letters discarded because their tenant is deleted.",
		}),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_quarantine_messages", Help: "Messages that are to be dead letters and cannot be recorded, in the queue quarantine.",
		}),
		blocked: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mtm_dead_letters_blocked", Help: "1 while the deliveries of a queue of dead letters break the connection of this instance.",
		}, []string{"queue"}),
		replayed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mtm_dead_letters_replayed_total", Help: "Replays of dead letters by result.",
		}, []string{"result"}),
		entries: prometheus.NewDesc("mtm_dead_letters", "Dead letters of a tenant.", []string{"tenant_id"}, nil),
		oldest:  prometheus.NewDesc("mtm_dead_letters_oldest_seconds", "Age of a tenant's oldest dead letter, since its first failure.", []string{"tenant_id"}, nil),
	}
	reg.MustRegister(m.recorded, m.discarded, m.quarantined, m.blocked, m.replayed, m)
	return m
}

// Run keeps the gauges up to date until ctx ends.
func (m *Metrics) Run(ctx context.Context, store *Store, log *zap.Logger) error {
	for {
		stats, err := store.Stats(ctx)
		if err == nil {
			m.stats.Store(&stats)
		} else if ctx.Err() == nil {
			log.Debug("the state of the dead letters could not be read", zap.Error(err))
		}
		if retry.Sleep(ctx, refresh) != nil {
			return nil //nolint:nilerr // the end of ctx is the way to stop it
		}
	}
}

// Forget removes the series of a tenant that is deleted, before the next reading would.
func (m *Metrics) Forget(tenant uuid.UUID) {
	for {
		stats := m.stats.Load()
		if stats == nil {
			return
		}
		left := slices.DeleteFunc(slices.Clone(*stats), func(s Stat) bool { return s.TenantID == tenant })
		if m.stats.CompareAndSwap(stats, &left) {
			return
		}
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.entries
	ch <- m.oldest
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	stats := m.stats.Load()
	if stats == nil {
		return
	}
	for _, s := range *stats {
		tenant := s.TenantID.String()
		if s.TenantID == uuid.Nil {
			tenant = "none"
		}
		ch <- prometheus.MustNewConstMetric(m.entries, prometheus.GaugeValue, float64(s.Count), tenant)
		ch <- prometheus.MustNewConstMetric(m.oldest, prometheus.GaugeValue, time.Since(s.Oldest).Seconds(), tenant)
	}
}
