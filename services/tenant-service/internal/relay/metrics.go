package relay

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Kinds of repair.
const (
	repairRestored = "restored" // the bucket had lost a tenant, or said something else
	repairRemoved  = "removed"  // the bucket had a tenant that the registry does not have
)

type metrics struct {
	tenants     *prometheus.GaugeVec
	unpublished prometheus.Gauge
	lag         prometheus.Gauge
	published   prometheus.Counter
	repairs     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		tenants: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mtm_tenants", Help: "Tenants in the registry by desired state, without deleted ones. Every replica shows the same number.",
		}, []string{"state"}),
		unpublished: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_relay_unpublished_tenants", Help: "Tenants whose newest generation is not in the control channel yet (at most 500).",
		}),
		lag: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "mtm_relay_lag_seconds", Help: "Age of the oldest change that is not in the control channel yet, 0 if there is none.",
		}),
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mtm_relay_published_total", Help: "Writes of a tenant to the control channel.",
		}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mtm_relay_repairs_total", Help: "Differences between registry and control channel that were found and repaired.",
		}, []string{"kind"}),
	}
	for _, kind := range []string{repairRestored, repairRemoved} {
		m.repairs.WithLabelValues(kind)
	}
	reg.MustRegister(m.tenants, m.unpublished, m.lag, m.published, m.repairs)
	return m
}

// lagging shows what waits to be published.
func (m *metrics) lagging(waiting []tenant.Tenant) {
	var oldest time.Duration
	for _, t := range waiting {
		oldest = max(oldest, time.Since(t.UpdatedAt))
	}
	m.unpublished.Set(float64(len(waiting)))
	m.lag.Set(oldest.Seconds())
}

// count refreshes the number of tenants, which costs a query: soon after a change of this process, else now and then.
func (r *Relay) count(ctx context.Context) error {
	since := time.Since(r.counted)
	if since < countInterval && (!r.changed || since < r.options.Poll) {
		return nil
	}
	counts, err := r.registry.Counts(ctx)
	if err != nil {
		return err
	}
	for _, state := range []tenant.State{tenant.Active, tenant.Suspended, tenant.Deleting} {
		r.metrics.tenants.WithLabelValues(string(state)).Set(float64(counts[state]))
	}
	r.counted, r.changed = time.Now(), false
	return nil
}
