package isolation

import "github.com/prometheus/client_golang/prometheus"

// Collector exports which tenants break connections, and how many are consumed apart. It asks nobody.
type Collector struct {
	connections        *Connections
	broken, candidates *prometheus.Desc
}

// NewCollector returns the collector of c.
func NewCollector(c *Connections) *Collector {
	return &Collector{
		connections: c,
		broken: prometheus.NewDesc("mtm_tenant_isolated",
			"1 for a tenant whose deliveries break the connection, and which is therefore consumed on one of its own.", []string{"tenant_id"}, nil),
		candidates: prometheus.NewDesc("mtm_isolation_candidates",
			"Tenants that are consumed on separate connections, to find out whose deliveries break them.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.broken
	ch <- c.candidates
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	broken, candidates := c.connections.counts()
	for _, tenant := range broken {
		ch <- prometheus.MustNewConstMetric(c.broken, prometheus.GaugeValue, 1, tenant.String())
	}
	ch <- prometheus.MustNewConstMetric(c.candidates, prometheus.GaugeValue, float64(candidates))
}
