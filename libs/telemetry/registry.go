package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/srireskianita/multi-tenant-messaging/libs/build"
)

// NewRegistry makes the registry of a binary, with the collectors for the Go runtime and the process and
// the gauge mtm_build_info, which is always 1 and says in its labels what is running.
func NewRegistry(service string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	info := build.Read()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mtm_build_info",
			Help: "Always 1; the labels say which build is running.",
			ConstLabels: prometheus.Labels{
				"service":    service,
				"version":    info.Version,
				"revision":   info.Revision,
				"go_version": info.Go,
			},
		}, func() float64 { return 1 }),
	)
	return reg
}
