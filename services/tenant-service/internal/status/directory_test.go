package status_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute // on a busy machine
	tick      = 20 * time.Millisecond
)

// instance writes what instances of ingest-service would report.
type instance struct {
	t      *testing.T
	bucket *control.Bucket[contract.TenantStatus]
}

// start runs a directory until the end of the test, next to instances.
func start(t *testing.T, retire status.Retire) (*status.Directory, instance) {
	t.Helper()
	connected := make(chan struct{}, 1)
	conn, err := control.Connect(control.Config{URL: backing.NATS(t), Resync: time.Second}, t.Name(), zap.NewNop(), func(err error) {
		if err == nil {
			select {
			case connected <- struct{}{}:
			default:
			}
		}
	})
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	select {
	case <-connected:
	case <-time.After(waitLimit):
		require.Fail(t, "no connection to NATS")
	}
	i := instance{t: t, bucket: control.Statuses(conn)}
	directory := status.NewDirectory(i.bucket, zap.NewNop())
	component.Run(t, func(ctx context.Context) error { return directory.Run(ctx, retire) })
	return directory, i
}

func never(context.Context, uuid.UUID, int64) (bool, error) { return false, nil }

func (i instance) report(id uuid.UUID, name string, state contract.ConsumerState, generation int64) {
	i.t.Helper()
	_, err := i.bucket.Renew(i.t.Context(), contract.InstanceKey(name), contract.TenantStatus{Instance: name}, contract.HeartbeatTTL, 0)
	require.NoError(i.t, err)
	_, err = i.bucket.Put(i.t.Context(), contract.StatusKey(id.String(), name), contract.TenantStatus{
		TenantID: id.String(), Instance: name, State: state, ObservedGeneration: generation, Workers: 3, ObservedAt: time.Now().UTC(),
	})
	require.NoError(i.t, err)
}

// states are the current states by instance.
func states(directory *status.Directory, id uuid.UUID) map[string]contract.ConsumerState {
	current := make(map[string]contract.ConsumerState)
	for _, s := range directory.Of(id) {
		current[s.Instance] = s.State
	}
	return current
}

func requireStates(t *testing.T, directory *status.Directory, id uuid.UUID, want map[string]contract.ConsumerState) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.Equal(c, want, states(directory, id)) }, waitLimit, tick)
}

// What an operator sees of a tenant is what the instances report, each for itself.
func TestDirectoryFollowsInstances(t *testing.T) {
	t.Parallel()
	directory, i := start(t, never)
	a, b := uuid.New(), uuid.New()
	require.Empty(t, directory.Of(a))
	require.Zero(t, directory.Observed(a))
	i.report(a, "one", contract.StateProvisioning, 1)
	i.report(a, "two", contract.StateRunning, 2)
	i.report(b, "one", contract.StateFailed, 1)
	requireStates(t, directory, a, map[string]contract.ConsumerState{"one": "provisioning", "two": "running"})
	requireStates(t, directory, b, map[string]contract.ConsumerState{"one": "failed"})
	require.EqualValues(t, 2, directory.Observed(a))

	i.report(a, "one", contract.StateRunning, 2)
	require.NoError(t, i.bucket.Delete(t.Context(), contract.StatusKey(a.String(), "two")))
	requireStates(t, directory, a, map[string]contract.ConsumerState{"one": "running"})

	_, err := i.bucket.Put(t.Context(), "no-tenant", contract.TenantStatus{})
	require.NoError(t, err)
	i.report(b, "one", contract.StateRunning, 1)
	requireStates(t, directory, b, map[string]contract.ConsumerState{"one": "running"})
}

// A request that waits for a tenant is woken by its reports, and not by those of other tenants.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	directory, i := start(t, never)
	a, b := uuid.New(), uuid.New()
	ofA, cancelA := directory.Subscribe(a)
	ofB, cancelB := directory.Subscribe(b)
	defer cancelB()
	i.report(a, "one", contract.StateRunning, 1)
	requireValue(t, ofA)
	require.Empty(t, ofB)
	cancelA()
	i.report(a, "one", contract.StateRunning, 2)
	i.report(b, "one", contract.StateRunning, 1)
	requireValue(t, ofB)
	require.Empty(t, ofA, "after the end of the subscription")
}

func requireValue(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(waitLimit):
		require.Fail(t, "not woken")
	}
}

// call is one call of a retire function.
type call struct {
	id       uuid.UUID
	observed int64
}

// A tenant is gone when every instance that works for it says so, and not before: what is left would be left for ever.
func TestRetiresWhenAllAreDone(t *testing.T) {
	t.Parallel()
	calls := make(chan call, 100)
	directory, i := start(t, func(_ context.Context, id uuid.UUID, observed int64) (bool, error) {
		calls <- call{id, observed}
		return true, nil
	})
	a, sentinel := uuid.New(), uuid.New()
	changed, cancel := directory.Subscribe(a)
	defer cancel()
	i.report(a, "one", contract.StateRunning, 6)
	i.report(a, "two", contract.StateDeleting, 7)
	i.report(a, "one", contract.StateDeleted, 8)
	// Reports come in order, so once the sentinel is retired, a would have been, too.
	i.report(sentinel, "one", contract.StateDeleted, 1)
	require.Equal(t, call{sentinel, 1}, next(t, calls))
	require.Empty(t, calls)

	i.report(a, "two", contract.StateDeleted, 7)
	require.Equal(t, call{a, 7}, next(t, calls), "the lowest generation counts")
	requireStates(t, directory, a, map[string]contract.ConsumerState{})
	requireValue(t, changed)
	for _, name := range []string{"one", "two"} {
		require.Eventually(t, func() bool {
			_, err := i.bucket.Get(t.Context(), contract.StatusKey(a.String(), name))
			return errors.Is(err, control.ErrNotFound)
		}, waitLimit, tick, "the status of a deleted tenant stays")
	}
}

func next(t *testing.T, calls <-chan call) call {
	t.Helper()
	select {
	case c := <-calls:
		return c
	case <-time.After(waitLimit):
		require.Fail(t, "not retired")
		return call{}
	}
}

// An instance that dies in the middle of a deletion must not hold it up for ever.
func TestRetiresWhenTheLastOtherDisappears(t *testing.T) {
	t.Parallel()
	calls := make(chan call, 100)
	_, i := start(t, func(_ context.Context, id uuid.UUID, observed int64) (bool, error) {
		calls <- call{id, observed}
		return true, nil
	})
	a := uuid.New()
	i.report(a, "dead", contract.StateRunning, 1)
	i.report(a, "alive", contract.StateDeleted, 2)
	require.NoError(t, i.bucket.Delete(t.Context(), contract.InstanceKey("dead"))) // as if it had expired
	require.Equal(t, call{a, 2}, next(t, calls))
}

// The report came while this service, or the registry, was away.
func TestRetiresLater(t *testing.T) {
	t.Parallel()
	var down atomic.Bool
	down.Store(true)
	var mu sync.Mutex
	tried := make(map[uuid.UUID]int)
	directory, i := start(t, func(_ context.Context, id uuid.UUID, _ int64) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		tried[id]++
		if down.Load() {
			return false, errors.New("the registry is away")
		}
		return true, nil
	})
	tenants := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	for _, id := range tenants {
		i.report(id, "one", contract.StateDeleted, 1)
	}
	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(tried) > 0
	}, waitLimit, tick)
	down.Store(false)
	for _, id := range tenants {
		requireStates(t, directory, id, map[string]contract.ConsumerState{})
	}
}

// A report about a tenant that is not to be deleted changes nothing.
func TestKeepsWhatIsNotRetired(t *testing.T) {
	t.Parallel()
	called := make(chan call, 100)
	directory, i := start(t, func(_ context.Context, id uuid.UUID, observed int64) (bool, error) {
		called <- call{id, observed}
		return false, nil
	})
	a := uuid.New()
	i.report(a, "one", contract.StateDeleted, 1)
	require.Equal(t, call{a, 1}, next(t, called))
	require.Equal(t, map[string]contract.ConsumerState{"one": "deleted"}, states(directory, a))
	i.report(a, "one", contract.StateDeleted, 2)
	require.Equal(t, call{a, 2}, next(t, called), "it is asked again with the next report")
}
