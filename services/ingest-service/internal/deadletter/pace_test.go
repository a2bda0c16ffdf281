package deadletter

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
)

// tokens are those of every tenant, which do not change with time.
type tokens struct {
	t     *testing.T
	limit atomic.Int64 // of a tenant

	mu    sync.Mutex
	left  int64         // guarded by mu
	wait  time.Duration // guarded by mu
	asked chan struct{} // has an element once somebody was refused
}

func (k *tokens) Take(_ context.Context, _ uuid.UUID, limits rate.Amounts, costs []rate.Amounts) (passed int, q rate.Quota) {
	k.mu.Lock()
	defer k.mu.Unlock()
	assert.Equal(k.t, rate.Amounts{rate.Messages: k.limit.Load()}, limits)
	passed = int(min(k.left, int64(len(costs))))
	k.left -= int64(passed)
	if passed == 0 {
		select {
		case k.asked <- struct{}{}:
		default:
		}
	}
	return passed, rate.Quota{Wait: k.wait}
}

func (k *tokens) GiveBack(_ uuid.UUID, tokens rate.Amounts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left += tokens[rate.Messages]
}

func (k *tokens) set(left int64, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.wait = left, wait
}

// limitedReplayer replays with those tokens.
func limitedReplayer(t *testing.T, s *Store, o *outlet, perSecond int) (*Replayer, *tokens) {
	t.Helper()
	k := &tokens{t: t, asked: make(chan struct{}, 1)}
	k.limit.Store(400)
	r := replayer(t, s, o, perSecond)
	r.Limit(k, func(uuid.UUID) int64 { return k.limit.Load() })
	return r, k
}

// A replay over the tenant's limit is refused with the time after which to try again, and changes nothing; one that comes to nothing for
// another reason costs nothing.
func TestReplayOverTheLimit(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	first, second, broken := newTestEntry(tenantA, 1), newTestEntry(tenantA, 2), newTestEntry(tenantA, 3)
	broken.Payload = []byte("{")
	record(t, s, first, second, broken)
	var o outlet
	r, k := limitedReplayer(t, s, &o, 100)
	k.set(1, 3*time.Second)
	_, err := r.Replay(t.Context(), tenantA, broken.ID, Edit{}, someone())
	require.Error(t, err)
	_, err = r.Replay(t.Context(), tenantA, uuid.New(), Edit{}, someone())
	require.ErrorIs(t, err, ErrNotFound)
	_, err = r.Replay(t.Context(), tenantA, first.ID, Edit{}, someone())
	require.NoError(t, err)

	_, err = r.Replay(t.Context(), tenantA, second.ID, Edit{}, someone())
	over := new(RateError)
	require.ErrorAs(t, err, &over)
	require.Equal(t, 3*time.Second, over.Wait)
	require.Len(t, o.published, 1)
	require.Len(t, list(t, s, tenantA, Filter{}), 2)
	require.InDelta(t, 1, testutil.ToFloat64(r.metrics.replayed.WithLabelValues("rate_limited")), 0)

	k.limit.Store(0)
	_, err = r.Replay(t.Context(), tenantA, second.ID, Edit{}, someone())
	require.NoError(t, err, "without a limit nobody is asked")
}

// A replay of many takes what there is, in order, and says at the end of its time where to continue. Nothing of what it took and did not
// use is lost.
func TestReplayAllWithinTheLimit(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var all []Entry
	for n := range 150 {
		all = append(all, newTestEntry(tenantA, n))
	}
	record(t, s, all...)
	var o outlet
	r, k := limitedReplayer(t, s, &o, 10_000)
	k.set(130, time.Hour)
	untilRefused := func() context.Context { // the time of a request that ends while it waits
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer cancel()
			<-k.asked
		}()
		return ctx
	}
	outcome, err := r.ReplayAll(untilRefused(), tenantA, Filter{}, Position{}, someone())
	require.NoError(t, err)
	require.Equal(t, Outcome{Replayed: 130, Next: Position{all[129].FirstFailedAt, all[129].ID}, More: true}, outcome)

	outcome, err = r.ReplayAll(untilRefused(), tenantA, Filter{}, outcome.Next, someone())
	require.NoError(t, err)
	require.Equal(t, Outcome{Next: Position{all[129].FirstFailedAt, all[129].ID}, More: true}, outcome, "not one passed")

	k.set(30, 0)
	outcome, err = r.ReplayAll(t.Context(), tenantA, Filter{}, outcome.Next, someone())
	require.NoError(t, err)
	require.Equal(t, 20, outcome.Replayed)
	require.False(t, outcome.More)
	require.Equal(t, int64(10), k.left, "the end of the list took none")
	for n, m := range o.published {
		require.Equal(t, strconv.Itoa(n), m.Publishing.MessageId, "in the order of their first failure")
	}
}

// A limit that an operator raises or takes away while a replay waits for it is in force for that replay.
func TestReplayAllNoticesAChange(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	record(t, s, newTestEntry(tenantA, 1), newTestEntry(tenantA, 2))
	var o outlet
	r, k := limitedReplayer(t, s, &o, 10_000)
	k.set(0, time.Hour)
	done := make(chan Outcome, 1)
	go func() {
		outcome, err := r.ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
		assert.NoError(t, err)
		done <- outcome
	}()
	<-k.asked
	k.limit.Store(0)
	outcome := <-done
	require.Equal(t, 2, outcome.Replayed)
}

// The limit counts what is replayed one by one and many at a time, and another tenant does not notice.
func TestReplaysShareTheLimit(t *testing.T) {
	t.Parallel()
	s, _ := database(t)
	var all []Entry
	for n := range 40 {
		all = append(all, newTestEntry(tenantA, n), newTestEntry(tenantB, n))
	}
	record(t, s, all...)
	var o outlet
	r := replayer(t, s, &o, 10_000)
	limit := func(tenant uuid.UUID) int64 { return map[uuid.UUID]int64{tenantA: 20}[tenant] }
	r.Limit(rate.New(rate.Config{
		Self: "a", Instances: func() []string { return []string{"a"} }, Owner: rendezvous.Owner, Largest: rate.Amounts{rate.Messages: 1},
		Limits: func(tenant uuid.UUID) rate.Amounts { return rate.Amounts{rate.Messages: limit(tenant)} },
	}), limit)
	outcome, err := r.ReplayAll(t.Context(), tenantB, Filter{}, Position{}, someone())
	require.NoError(t, err)
	require.Equal(t, 40, outcome.Replayed)
	began := time.Now()
	outcome, err = r.ReplayAll(t.Context(), tenantA, Filter{}, Position{}, someone())
	require.NoError(t, err)
	require.Equal(t, 40, outcome.Replayed)
	require.GreaterOrEqual(t, time.Since(began), time.Second, "40 at 20 a second, of which 5 were there")
	require.Len(t, o.published, 80)
}
