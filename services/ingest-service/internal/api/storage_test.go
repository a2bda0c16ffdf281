package api

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// rooms is what the tenants with a limit may still store.
type rooms struct {
	t *testing.T

	mu    sync.Mutex
	left  map[uuid.UUID]int64 // guarded by mu: of those that are known
	asked func()              // guarded by mu; nil: nothing happens
}

func (r *rooms) Room(tenant uuid.UUID, limit int64) (room int64, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	assert.Contains(r.t, []uuid.UUID{bounded, retaining}, tenant, "a tenant without the limit is nobody's concern")
	assert.EqualValues(r.t, 5000, limit)
	room, known = r.left[tenant]
	if r.asked != nil {
		r.asked()
	}
	return room, known
}

func (r *rooms) set(tenant uuid.UUID, left int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left[tenant] = left
}

// A tenant that has stored as much as it may is told so by name, and whether it makes sense to wait; below its limit, or as long as nobody
// knows, nothing is different.
func TestStorageFull(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	const message = `{"payload":1}`
	for _, tenant := range []uuid.UUID{bounded, retaining} {
		require.Equal(t, http.StatusAccepted, s.publish(t, tenant, message).status, "not known yet: it waits in the queue")
		s.rooms.set(tenant, 1)
		require.Equal(t, http.StatusAccepted, s.publish(t, tenant, message).status)
	}
	require.Len(t, o.published, 4)

	s.rooms.set(bounded, 0)
	refused := s.publish(t, bounded, message)
	p := refused.problem(t, http.StatusInsufficientStorage, "storage_full")
	require.Contains(t, p.Detail, "5000 bytes")
	require.Empty(t, refused.header.Get("Retry-After"), "waiting does not help")
	s.rooms.set(retaining, -100)
	refused = s.publish(t, retaining, message)
	refused.problem(t, http.StatusInsufficientStorage, "storage_full")
	require.Equal(t, "10", refused.header.Get("Retry-After"), "the retention makes room")
	require.Len(t, o.published, 4, "nothing was enqueued")
	require.InDelta(t, 1, testutil.ToFloat64(s.metrics.published.WithLabelValues(bounded.String(), "storage_full")), 0)

	s.publish(t, bounded, `{"payload":`).problem(t, http.StatusBadRequest, "malformed_json")
	require.Equal(t, http.StatusAccepted, s.publish(t, active, message).status, "others are not affected")
	s.rooms.set(bounded, 5000)
	require.Equal(t, http.StatusAccepted, s.publish(t, bounded, message).status)
}

// In a batch each line says so, in its place; lines that are wrong keep their own mistake.
func TestBatchOfAFullTenant(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	s.rooms.set(bounded, 0)
	s.rooms.set(retaining, 0)
	const body = "{\"payload\":1}\nbad\n\n{\"payload\":2}\n"
	for tenant, after := range map[uuid.UUID]string{bounded: "", retaining: "10"} {
		var got BatchResult
		answer := s.publishBatch(t, tenant, body)
		answer.into(t, http.StatusAccepted, &got)
		require.Equal(t, after, answer.header.Get("Retry-After"))
		require.Zero(t, got.Accepted)
		require.Equal(t, 3, got.Failed)
		require.Equal(t, "malformed_json", got.Results[1].Code)
		for _, i := range []int{0, 2} {
			require.Equal(t, http.StatusInsufficientStorage, got.Results[i].Status)
			require.Equal(t, "storage_full", got.Results[i].Code)
			require.NotEmpty(t, got.Results[i].ID, "under which it is safe to repeat")
		}
	}
	require.Empty(t, o.published)
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.published.WithLabelValues(bounded.String(), "storage_full")), 0)
}

// A large batch of a tenant that becomes full meanwhile is accepted up to there: behind the first line that was refused none passes.
func TestStorageFullWithinABatch(t *testing.T) {
	t.Parallel()
	s := serveFor(t, &outlet{}, nowhere, Config{MaxPayload: 4096, MessageBody: 5120, BatchBody: 1 << 20, BatchLines: 10_000}, waitLimit)
	s.rooms.set(bounded, 1)
	room := []int64{0, 100} // at the second look and at the third, which must not come
	s.rooms.asked = func() {
		if len(room) > 0 {
			s.rooms.left[bounded], room = room[0], room[1:]
		}
	}
	var got BatchResult
	s.publishBatch(t, bounded, strings.Repeat("{\"payload\":2}\n", 2*chunkLines+10)).into(t, http.StatusAccepted, &got)
	require.Equal(t, chunkLines, got.Accepted)
	for i, r := range got.Results {
		require.Equal(t, i < chunkLines, r.Status == http.StatusAccepted)
	}
}

var (
	limitsOfBounded   = contract.Limits{StoredMaxBytes: 5000}                         //nolint:gochecknoglobals // a fixed value of a type that has no constants
	limitsOfRetaining = contract.Limits{StoredMaxBytes: 5000, RetentionSeconds: 3600} //nolint:gochecknoglobals // a fixed value of a type that has no constants
)
