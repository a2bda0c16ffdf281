package telemetry

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes the registry of a binary, with the collectors for the Go runtime and the process and
// the gauge mtm_build_info, which is always 1 and says in its labels what is running.
func NewRegistry(service string) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	version, revision := build()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "mtm_build_info",
			Help: "Always 1; the labels say which build is running.",
			ConstLabels: prometheus.Labels{
				"service":    service,
				"version":    version,
				"revision":   revision,
				"go_version": runtime.Version(),
			},
		}, func() float64 { return 1 }),
	)
	return reg
}

// build reads what the Go tool stamps into a binary; "unknown" where it was built without version control.
func build() (version, revision string) {
	version, revision = "unknown", "unknown"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version, revision
	}
	if info.Main.Version != "" {
		version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}
