package rest

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one server. There is no tenant label: a histogram has a dozen series for each combination.
type metrics struct {
	duration *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, service string) *metrics {
	m := &metrics{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:        "mtm_http_request_duration_seconds",
		Help:        "Time from the request's last byte to the end of its handler.",
		ConstLabels: prometheus.Labels{"service": service},
		Buckets:     []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"method", "route", "status"})}
	reg.MustRegister(m.duration)
	return m
}

// observe takes the route's template, never a path, so that the number of series is bounded by the
// number of routes.
func (m *metrics) observe(method, route string, status int, took time.Duration) {
	m.duration.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
}
