package api

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
)

// Results of publishing, as a label.
const (
	resultAccepted    = "accepted"
	resultRejected    = "rejected"
	resultUnroutable  = "unroutable"
	resultBlocked     = "blocked"
	resultUnavailable = "unavailable"
	resultTimeout     = "timeout"
	resultRateLimited = "rate_limited"
	resultStorageFull = "storage_full"
)

// Metrics count what was published over HTTP.
type Metrics struct {
	published *prometheus.CounterVec

	mu   sync.Mutex
	gone map[uuid.UUID]time.Time // guarded by mu: tenants whose series were removed lately
}

// goneFor is longer than any request: one that was under way when its tenant was deleted must not bring the series back.
const goneFor = time.Minute

// NewMetrics registers the counters. They are to be told of deleted tenants.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{gone: make(map[uuid.UUID]time.Time), published: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mtm_messages_published_total", Help: "Messages published over HTTP, by what has become of them.",
	}, []string{"tenant_id", "result"})}
	reg.MustRegister(m.published)
	return m
}

// Forget removes the series of a tenant that is deleted.
func (m *Metrics) Forget(tenant uuid.UUID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(m.gone, func(_ uuid.UUID, since time.Time) bool { return now.Sub(since) > goneFor })
	m.gone[tenant] = now
	m.published.DeletePartialMatch(prometheus.Labels{"tenant_id": tenant.String()})
}

// count counts one message.
func (m *Metrics) count(tenant uuid.UUID, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, gone := m.gone[tenant]; !gone {
		m.published.WithLabelValues(tenant.String(), resultOf(err)).Inc()
	}
}

func resultOf(err error) string {
	switch {
	case err == nil:
		return resultAccepted
	case errors.Is(err, errRateLimited):
		return resultRateLimited
	case errors.Is(err, errStorageFull):
		return resultStorageFull
	case errors.Is(err, publish.ErrRejected):
		return resultRejected
	case errors.Is(err, publish.ErrUnroutable):
		return resultUnroutable
	case errors.Is(err, conn.ErrBlocked):
		return resultBlocked
	case errors.Is(err, conn.ErrUnavailable):
		return resultUnavailable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return resultTimeout
	default:
		return resultUnavailable
	}
}
