package api

import (
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
)

// Why a read was refused, as a label.
const (
	resultRateLimited  = "rate_limited"
	resultTooManyReads = "too_many_reads"
)

// Metrics count what the limits of tenants have refused. Only tenants that were refused something have series.
type Metrics struct{ refused *prometheus.CounterVec }

// NewMetrics registers the counters. They are to be told of deleted tenants.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mtm_reads_refused_total", Help: "Reads that a limit of their tenant has refused.",
	}, []string{"tenant_id", "reason"})}
	reg.MustRegister(m.refused)
	return m
}

// Forget removes the series of a tenant that is deleted.
func (m *Metrics) Forget(tenant uuid.UUID) {
	m.refused.DeletePartialMatch(prometheus.Labels{"tenant_id": tenant.String()})
}

func (m *Metrics) refuse(tenant uuid.UUID, reason string) {
	m.refused.WithLabelValues(tenant.String(), reason).Inc()
}
