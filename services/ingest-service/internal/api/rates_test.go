package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
)

var limitsOfLimited = contract.Limits{PublishRate: 100, PublishBytes: 10_000, MaxPayload: 1000} //nolint:gochecknoglobals // a fixed value of a type that has no constants

// tokens are the tokens of the limited tenant, which do not change with time.
type tokens struct {
	t *testing.T

	mu   sync.Mutex
	left rate.Amounts // guarded by mu
	wait time.Duration
}

func (k *tokens) Take(_ context.Context, tenant uuid.UUID, limits rate.Amounts, costs []rate.Amounts) (passed int, q rate.Quota) {
	k.mu.Lock()
	defer k.mu.Unlock()
	assert.Equal(k.t, limited, tenant, "a tenant without limits is nobody's concern")
	assert.Equal(k.t, rate.Amounts{100, 10_000}, limits)
	for _, cost := range costs {
		if cost[rate.Messages] > k.left[rate.Messages] || cost[rate.Bytes] > k.left[rate.Bytes] {
			return passed, rate.Quota{Left: k.left, Wait: k.wait}
		}
		k.left = rate.Amounts{k.left[rate.Messages] - cost[rate.Messages], k.left[rate.Bytes] - cost[rate.Bytes]}
		passed++
	}
	return passed, rate.Quota{Left: k.left}
}

func (k *tokens) GiveBack(_ uuid.UUID, tokens rate.Amounts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = rate.Amounts{k.left[rate.Messages] + tokens[rate.Messages], k.left[rate.Bytes] + tokens[rate.Bytes]}
}

func (k *tokens) set(messages, bytes int64, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.wait = rate.Amounts{messages, bytes}, wait
}

const policy = `"messages";q=100;w=1, "bytes";q=10000;qu="content-bytes";w=1`

// A client below its limit is told what is left of it, and one that is over it when to come back; nobody else is told anything.
func TestMessagesOverTheRate(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	s.rates.set(2, 1000, 2300*time.Millisecond)
	const message = `{"payload":1}`
	got := s.publish(t, limited, message)
	require.Equal(t, http.StatusAccepted, got.status, got.body)
	require.Equal(t, policy, got.header.Get("RateLimit-Policy"))
	require.Equal(t, fmt.Sprintf(`"messages";r=1;t=1, "bytes";r=%d;t=1`, 1000-len(message)), got.header.Get("RateLimit"))
	require.Empty(t, got.header.Get("Retry-After"))
	require.Equal(t, http.StatusAccepted, s.publish(t, limited, message).status)

	refused := s.publish(t, limited, message)
	refused.problem(t, http.StatusTooManyRequests, "rate_limited")
	require.Equal(t, "3", refused.header.Get("Retry-After"), "whole seconds, rounded up")
	require.Equal(t, policy, refused.header.Get("RateLimit-Policy"))
	require.Equal(t, fmt.Sprintf(`"messages";r=0;t=3, "bytes";r=%d;t=3`, 1000-2*len(message)), refused.header.Get("RateLimit"))
	require.Len(t, o.published, 2)
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.published.WithLabelValues(limited.String(), "rate_limited")), 0)

	s.rates.set(2, 5, 0)
	refused = s.publish(t, limited, message)
	refused.problem(t, http.StatusTooManyRequests, "rate_limited")
	require.Equal(t, "1", refused.header.Get("Retry-After"), "at least a second")

	free := s.publish(t, active, message)
	require.Equal(t, http.StatusAccepted, free.status)
	require.Empty(t, free.header.Values("RateLimit"))
	require.Empty(t, free.header.Values("RateLimit-Policy"))
}

// Of a batch over the rate the first lines are accepted, and all others say so, each in its place.
func TestBatchOverTheRate(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	s.rates.set(3, 1000, 1500*time.Millisecond)
	body := "{\"payload\":1}\nbad\n\n" + strings.Repeat("{\"payload\":2}\n", 5)
	var got BatchResult
	answer := s.publishBatch(t, limited, body)
	answer.into(t, http.StatusAccepted, &got)
	require.Equal(t, "2", answer.header.Get("Retry-After"))
	require.Equal(t, policy, answer.header.Get("RateLimit-Policy"))
	statuses := map[int]int{}
	for _, r := range got.Results {
		statuses[r.Line] = r.Status
		if r.Status == http.StatusTooManyRequests {
			require.Equal(t, "rate_limited", r.Code)
			require.NotEmpty(t, r.ID, "under which it is safe to repeat")
		}
	}
	require.Equal(t, map[int]int{1: 202, 2: 400, 4: 202, 5: 202, 6: 429, 7: 429, 8: 429}, statuses)
	require.Equal(t, 3, got.Accepted)
	require.Equal(t, 4, got.Failed)
	require.Len(t, o.published, 3)

	s.rates.set(100, 10_000, time.Second)
	answer = s.publishBatch(t, limited, body)
	answer.into(t, http.StatusAccepted, &got)
	require.Equal(t, 6, got.Accepted)
	require.Empty(t, answer.header.Get("Retry-After"))
}

// After a line that is over the rate none passes, however small and however far behind it is: what is accepted is the beginning.
func TestNothingPassesBehindARefusedLine(t *testing.T) {
	t.Parallel()
	s := serveFor(t, &outlet{}, nowhere, Config{MaxPayload: 4096, MessageBody: 5120, BatchBody: 1 << 20, BatchLines: 10_000}, waitLimit)
	s.rates.set(chunkLines, 1<<20, time.Second)
	s.rates.wait = time.Second
	var got BatchResult
	s.publishBatch(t, limited, strings.Repeat("{\"payload\":2}\n", 2*chunkLines+10)).into(t, http.StatusAccepted, &got)
	require.Equal(t, chunkLines, got.Accepted)
	for i, r := range got.Results {
		require.Equal(t, i < chunkLines, r.Status == http.StatusAccepted)
	}
}

// A message that was not accepted for another reason has cost nothing; one that may have been accepted has.
func TestFailuresCostNothing(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	s.rates.set(50, 5000, time.Second)
	for name, test := range map[string]struct {
		err  error
		code string
		cost int64
	}{
		"full queue": {publish.ErrRejected, "queue_full", 0},
		"no queue":   {publish.ErrUnroutable, "queue_missing", 0},
		"unknown":    {conn.ErrUnavailable, "broker_unavailable", 1},
	} {
		o.fail = func(context.Context, publish.Message) error { return test.err }
		before := s.rates.left[rate.Messages]
		s.publish(t, limited, `{"payload":1}`).problem(t, http.StatusServiceUnavailable, test.code)
		require.Equal(t, before-test.cost, s.rates.left[rate.Messages], name)
		var got BatchResult
		s.publishBatch(t, limited, `{"payload":1}`).into(t, http.StatusAccepted, &got)
		require.Equal(t, test.code, got.Results[0].Code)
		require.Equal(t, before-2*test.cost, s.rates.left[rate.Messages], name)
	}
	left := s.rates.left
	s.publish(t, limited, `{"payload":`).problem(t, http.StatusBadRequest, "malformed_json")
	s.publish(t, limited, `{"payload":"`+strings.Repeat("x", 1000)+`"}`).problem(t, http.StatusRequestEntityTooLarge, "payload_too_large")
	require.Equal(t, left, s.rates.left)
}

// A tenant's own limit of a payload holds beside that of the installation: up to it nothing, above it 413, by line in a batch.
func TestPayloadOverTheTenantsLimit(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	s.rates.set(50, 50_000, time.Second)
	fits, over := `{"payload":"`+strings.Repeat("x", 998)+`"}`, `{"payload":"`+strings.Repeat("x", 999)+`"}`
	require.Equal(t, http.StatusAccepted, s.publish(t, limited, fits).status)
	p := s.publish(t, limited, over).problem(t, http.StatusRequestEntityTooLarge, "payload_too_large")
	require.Contains(t, field(t, p, "payload"), "1000")
	require.Equal(t, http.StatusAccepted, s.publish(t, active, over).status)
	var got BatchResult
	s.publishBatch(t, limited, strings.Join([]string{fits, over, fits}, "\n")).into(t, http.StatusAccepted, &got)
	require.Equal(t, 413, got.Results[1].Status)
	require.Equal(t, "payload_too_large", got.Results[1].Code)
	require.Equal(t, "payload", got.Results[1].Errors[0].Field)
	require.Equal(t, 2, got.Accepted)
	require.Len(t, o.published, 4)
}
