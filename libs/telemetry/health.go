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
	checks   map[string]state
	stopping bool
}

// state is that of a check.
type state struct {
	err      error // nil: fine
	degraded bool  // the process is ready all the same
}

// NewHealth makes a Health without checks, which is ready, and registers mtm_backing_up on reg.
func NewHealth(reg prometheus.Registerer) *Health {
	h := &Health{
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mtm_backing_up",
			Help: "1 while the backing service can be used by this process, else 0.",
		}, []string{"service"}),
		checks: map[string]state{},
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
		h.checks[name] = state{err: ErrStarting}
	}
	return &Check{health: h, name: name}
}

// Set reports the state: nil for fine, else the reason, which /readyz shows to operators and which must
// not hold a secret.
func (c *Check) Set(err error) { c.set(state{err: err}) }

// Degrade reports that the process does its work but for a part of it, and why; nil for fine. It stays ready: taking its
// traffic away would help nobody.
func (c *Check) Degrade(err error) { c.set(state{err: err, degraded: err != nil}) }

func (c *Check) set(s state) {
	err := s.err
	c.health.mu.Lock()
	defer c.health.mu.Unlock()
	c.health.checks[c.name] = s
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
		if check := checks[name]; check.err != nil && !check.degraded {
			errs = append(errs, fmt.Errorf("%s: %w", name, check.err))
		}
	}
	return errors.Join(errs...)
}

func (h *Health) state() (stopping bool, checks map[string]state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopping, maps.Clone(h.checks)
}

// readiness is the body of /readyz.
type readiness struct {
	Status string                 `json:"status"` // ready, degraded (200 as well), not_ready or stopping
	Checks map[string]checkStatus `json:"checks"`
}

type checkStatus struct {
	OK       bool   `json:"ok"`
	Degraded bool   `json:"degraded,omitempty"`
	Error    string `json:"error,omitempty"`
}

// ready answers 200 or 503 with the state of every check.
func (h *Health) ready(w http.ResponseWriter, _ *http.Request) {
	stopping, checks := h.state()
	body := readiness{Status: "ready", Checks: make(map[string]checkStatus, len(checks))}
	status := http.StatusOK
	for name, check := range checks {
		switch {
		case check.err == nil:
			body.Checks[name] = checkStatus{OK: true}
			continue
		case !check.degraded:
			body.Status, status = "not_ready", http.StatusServiceUnavailable
		case body.Status == "ready":
			body.Status = "degraded"
		}
		body.Checks[name] = checkStatus{Degraded: check.degraded, Error: check.err.Error()}
	}
	if stopping {
		body.Status, status = "stopping", http.StatusServiceUnavailable
	}
	writeJSON(w, status, body)
}

// alive answers 200: a process that can answer is alive.
func (h *Health) alive(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the caller has gone
}
