package telemetry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrStarting is the state of a check that has not been set yet.
var ErrStarting = errors.New("starting")

// ErrStopping is the state of a process that is on its way down.
var ErrStopping = errors.New("stopping")

// Health is the readiness of a process. It is safe for concurrent use.
type Health struct {
	up *prometheus.GaugeVec

	mu       sync.Mutex
	checks   map[string]error // nil: fine
	stopping bool
}

// NewHealth makes a Health without checks, which is ready, and registers mtm_backing_up on reg.
func NewHealth(reg prometheus.Registerer) *Health {
	h := &Health{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mtm_backing_up",
			Help: "1 while the backing service can be used by this process, else 0.",
		}, []string{"service"}),
		checks: map[string]error{},
	}
	reg.MustRegister(h.up)
	return h
}

// Check is one condition for being ready. It is safe for concurrent use.
type Check struct {
	health *Health
	name   string
	gauge  prometheus.Gauge // nil unless it stands for a backing service
}

// Backing adds a check for a backing service (postgres, rabbitmq or nats), which is also exported as
// mtm_backing_up. It is not ready until it is set. Asking again for a name gives the same state.
func (h *Health) Backing(name string) *Check {
	c := h.Check(name)
	c.gauge = h.up.WithLabelValues(name)
	return c
}

// Check adds a check that has no metric, such as "the first snapshot has been read". It is not ready
// until it is set. Asking again for a name gives the same state.
func (h *Health) Check(name string) *Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.checks[name]; !ok {
		h.checks[name] = ErrStarting
	}
	return &Check{health: h, name: name}
}

// Set reports the state: nil for fine, else the reason, which /readyz shows to operators and which must
// not hold a secret.
func (c *Check) Set(err error) {
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	c.health.checks[c.name] = err
	if c.gauge == nil {
		return
	}
	if err == nil {
		c.gauge.Set(1)
	} else {
		c.gauge.Set(0)
	}
}

// Stopping makes the process not ready for good. It is called first when a process stops, so that load
// balancers turn away before the listener closes.
func (h *Health) Stopping() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Err is nil when the process is ready, else an error that names each failing check.
func (h *Health) Err() error {
	stopping, checks := h.state()
	var errs []error
	if stopping {
		errs = append(errs, ErrStopping)
	}
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if err := checks[name]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *Health) state() (stopping bool, checks map[string]error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopping, maps.Clone(h.checks)
}

// readiness is the body of /readyz.
type readiness struct {
	Status string                 `json:"status"` // ready, not_ready or stopping
	Checks map[string]checkStatus `json:"checks"`
}

type checkStatus struct {
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// ready answers 200 or 503 with the state of every check.
func (h *Health) ready(w http.ResponseWriter, _ *http.Request) {
	stopping, checks := h.state()
	body := readiness{Status: "ready", Checks: make(map[string]checkStatus, len(checks))}
	for name, err := range checks {
		if err == nil {
			body.Checks[name] = checkStatus{OK: true}
			continue
		}
		body.Checks[name] = checkStatus{Error: err.Error()}
		body.Status = "not_ready"
	}
	status := http.StatusOK
	if stopping {
		body.Status = "stopping"
	}
	if body.Status != "ready" {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, body)
}

// alive answers 200: whoever can answer is alive.
func (h *Health) alive(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the caller has gone
}
