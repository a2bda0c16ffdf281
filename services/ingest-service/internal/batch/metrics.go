package batch

import "github.com/prometheus/client_golang/prometheus"

// Metrics of the writers. They have no tenant label: histograms of ten thousand tenants would be a million series.
type Metrics struct {
	batchSize    prometheus.Histogram
	storeSeconds prometheus.Histogram
}

// NewMetrics registers the histograms of the writers.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mtm_batch_size", Help: "Messages in one committed batch.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 12), // 1 to 2,048, above the largest batch
		}),
		storeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mtm_store_seconds", Help: "Time from sending a batch to the database to its commit.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), // 0.5 ms to 8 s
		}),
	}
	reg.MustRegister(m.batchSize, m.storeSeconds)
	return m
}
