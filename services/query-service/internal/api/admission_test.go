package api

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// ledger lets reads pass, and notes what they were charged.
type ledger struct {
	mu      sync.Mutex
	wait    time.Duration // guarded by mu: what is refused
	charged []int         // guarded by mu
	open    int           // guarded by mu: reads that have not ended
	held    chan struct{} // guarded by mu: unless it is nil, reads of tenant that were sent something end when it is closed
	tenant  uuid.UUID     // guarded by mu
	blocked int           // guarded by mu: those that have come so far
}

func (l *ledger) Begin(_ context.Context, tenant uuid.UUID) (end func(bytes int), wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wait > 0 {
		return nil, l.wait
	}
	l.open++
	held := l.held
	if tenant != l.tenant {
		held = nil
	}
	return func(bytes int) {
		if held != nil && bytes > 0 {
			l.mu.Lock()
			l.blocked++
			l.mu.Unlock()
			<-held
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open--
		l.charged = append(l.charged, bytes)
	}, 0
}

// take returns what was charged since the last time.
func (l *ledger) take(t *testing.T) (charged []int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Zero(t, l.open, "a read that never ends holds tokens")
	charged, l.charged = l.charged, nil
	return charged
}

// A tenant pays for the bytes that it was sent, and for nothing else: not for what was refused, was not there or could not be read, and
// not for an answer without a body.
func TestReadsAreChargedByWhatWasSent(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `{"a":1}`, `{"b":2}`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	for _, path := range []string{"/messages", "/messages?limit=1&order=desc", "/messages/" + ids[0]} {
		a := s.get(t, reader, path)
		require.Equal(t, http.StatusOK, a.status, a.body)
		require.Equal(t, []int{len(a.body)}, s.ledger.take(t), path)

		head, err := raw.Do(t.Context(), s.transport, raw.Request{Method: http.MethodHead, URL: s.url + path, Token: reader})
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, head.Status)
		require.Equal(t, []int{0}, s.ledger.take(t), path)
	}
	s.get(t, reader, "/messages/"+uuid.NewString()).requireProblem(t, http.StatusNotFound, "not_stored", "")
	require.Equal(t, []int{0}, s.ledger.take(t))
	for _, path := range []string{"/messages?limit=0", "/messages?cursor=x", "/messages/1", "/messages?offset=1"} {
		require.Equal(t, http.StatusBadRequest, s.get(t, reader, path).status)
	}
	s.get(t, "", "/messages").requireProblem(t, http.StatusUnauthorized, "missing_token", "")
	require.Empty(t, s.ledger.take(t), "what is refused before")

	_, err := s.operator.Exec(t.Context(), `DROP TABLE messages CASCADE`)
	require.NoError(t, err)
	s.get(t, reader, "/messages").requireProblem(t, http.StatusServiceUnavailable, "database_unavailable", "")
	require.Equal(t, []int{0}, s.ledger.take(t))
}

// A reader over the limit is told when to come back, in whole seconds.
func TestReadsOverTheLimit(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	s.ledger.wait = 2300 * time.Millisecond
	for _, path := range []string{"/messages", "/messages/" + ids[0]} {
		a := s.get(t, reader, path)
		a.requireProblem(t, http.StatusTooManyRequests, "rate_limited", "")
		require.Equal(t, "3", a.header.Get("Retry-After"))
	}
	s.get(t, reader, "/messages?limit=0").requireProblem(t, http.StatusBadRequest, "invalid_limit", "limit")
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.refused.WithLabelValues(tenant.String(), resultRateLimited)), 0)
	s.metrics.Forget(tenant)
	require.Zero(t, testutil.CollectAndCount(s.metrics.refused))
}

// One tenant that reads with a hundred connections leaves the rest of the pool to the others: while two of its reads are under way a
// third one waits a second and is refused, and another tenant is answered.
func TestReadsOfOneTenantAtATime(t *testing.T) {
	s := start(t)
	tenant, ids := s.tenant(t, `1`)
	other, _ := s.tenant(t, `2`)
	reader := token(t, tenant, auth.ScopeMessagesRead)
	s.ledger.held, s.ledger.tenant = make(chan struct{}), tenant
	var reading sync.WaitGroup
	for range maxReads {
		reading.Go(func() {
			if a := s.get(t, reader, "/messages/"+ids[0]); a.status != http.StatusOK {
				t.Errorf("%d %s", a.status, a.body)
			}
		})
	}
	require.Eventually(t, func() bool {
		s.ledger.mu.Lock()
		defer s.ledger.mu.Unlock()
		return s.ledger.blocked == maxReads
	}, 10*time.Second, 5*time.Millisecond)
	for _, path := range []string{"/messages", "/messages/" + ids[0]} {
		a := s.get(t, reader, path)
		a.requireProblem(t, http.StatusTooManyRequests, "too_many_reads", "")
		require.Equal(t, "1", a.header.Get("Retry-After"))
	}
	require.Equal(t, http.StatusOK, s.get(t, token(t, other, auth.ScopeMessagesRead), "/messages").status)
	close(s.ledger.held)
	reading.Wait()
	require.Equal(t, http.StatusOK, s.get(t, reader, "/messages").status)
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.refused.WithLabelValues(tenant.String(), resultTooManyReads)), 0)
	require.Len(t, s.ledger.take(t), maxReads+4)
}

// A read that waits begins as soon as one of its tenant ends, gives up after a second or with its client, and leaves nothing behind.
func TestSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		a := newAdmission(1, l, NewMetrics(prometheus.NewPedanticRegistry()))
		tenant := uuid.New()
		first, err := a.begin(t.Context(), tenant)
		require.NoError(t, err)
		begun := time.Now()
		_, err = a.begin(t.Context(), tenant)
		p, ok := problem.As(err)
		require.True(t, ok)
		require.Equal(t, "too_many_reads", p.Code)
		require.Equal(t, slotWait, time.Since(begun))
		require.Equal(t, []int{0}, l.charged, "a read that was refused costs nothing")

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = a.begin(gone, tenant)
		require.Error(t, err)
		require.Equal(t, slotWait, time.Since(begun))

		time.AfterFunc(slotWait/2, func() { first(100) })
		second, err := a.begin(t.Context(), tenant)
		require.NoError(t, err)
		require.Equal(t, slotWait*3/2, time.Since(begun))
		synctest.Wait()
		second(200)
		require.Equal(t, []int{0, 0, 100, 200}, l.charged)
		require.Empty(t, a.slots)
	})
}
