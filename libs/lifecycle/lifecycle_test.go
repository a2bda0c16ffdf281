package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// journal records what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// component notes its stop and takes drain to finish; it returns result.
func (j *journal) component(name string, drain time.Duration, result error) lifecycle.Component {
	return lifecycle.Component{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		j.add(name + " told")
		<-time.After(drain)
		j.add(name + " ended")
		return result
	}}
}

// fails returns an error at once.
func fails(name string, err error) lifecycle.Component {
	return lifecycle.Component{Name: name, Run: func(context.Context) error { return err }}
}

// If a store closed before the consumer that writes to it, a graceful stop would lose what is in flight.
func TestStopsInReverseOrderOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)

		err := lifecycle.Run(ctx, time.Minute, zap.NewNop(),
			j.component("ops", time.Second, nil), j.component("store", 2*time.Second, context.Canceled), j.component("http", 3*time.Second, nil))

		require.NoError(t, err)
		require.Equal(t, []string{"http told", "http ended", "store told", "store ended", "ops told", "ops ended"}, j.lines)
	})
}

func TestFailureOfOneStopsAllAndIsReturned(t *testing.T) {
	for name, order := range map[string]int{"first": 0, "last": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				components := []lifecycle.Component{j.component("a", 0, nil), j.component("b", 0, nil)}
				components = append(components[:order:order], append([]lifecycle.Component{fails("bad", errBoom)}, components[order:]...)...)

				err := lifecycle.Run(t.Context(), time.Minute, zap.NewNop(), components...)

				require.ErrorIs(t, err, errBoom)
				require.EqualError(t, err, "bad: boom")
				require.Equal(t, []string{"b told", "b ended", "a told", "a ended"}, j.lines)
			})
		})
	}
}

// A component whose own context was not ended has no excuse for context.Canceled.
func TestCanceledBeforeTheStopIsAFailure(t *testing.T) {
	err := lifecycle.Run(t.Context(), time.Minute, zap.NewNop(), fails("early", context.Canceled))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "early")
}

func TestFailureDuringTheStopIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		err := lifecycle.Run(ctx, time.Minute, zap.NewNop(), j.component("a", 0, errors.New("second")), j.component("flush", 0, errBoom))

		require.EqualError(t, err, "flush: boom")
		require.Len(t, j.lines, 4)
	})
}

func TestComponentThatIsDoneDoesNotStopTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		once := lifecycle.Component{Name: "once", Run: func(context.Context) error { j.add("once"); return nil }}
		result := make(chan error, 1)
		go func() { result <- lifecycle.Run(ctx, time.Minute, zap.NewNop(), j.component("a", 0, nil), once) }()

		synctest.Wait()
		require.Equal(t, []string{"once"}, j.lines)

		cancel()
		require.NoError(t, <-result)
		require.Equal(t, []string{"once", "a told", "a ended"}, j.lines)
	})
}

func TestReturnsWhenAllAreDone(t *testing.T) {
	require.NoError(t, lifecycle.Run(t.Context(), time.Minute, zap.NewNop(), fails("a", nil), fails("b", nil)))
	require.NoError(t, lifecycle.Run(t.Context(), time.Minute, zap.NewNop()))
}

// The supervisor kills a process that does not stop; the log should say which part it was.
func TestTimeoutNamesWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		release := make(chan struct{})
		hangs := lifecycle.Component{Name: "consumer", Run: func(context.Context) error { <-release; return nil }}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		err := lifecycle.Run(ctx, 30*time.Second, zap.NewNop(), j.component("store", 0, nil), hangs, j.component("http", 0, nil))

		require.ErrorIs(t, err, lifecycle.ErrStopTimeout)
		require.EqualError(t, err, "consumer: did not stop in time (30s)")
		synctest.Wait()
		require.Equal(t, []string{"http told", "http ended", "store told", "store ended"}, j.lines, "the rest is told at once")
		close(release)
	})
}

func TestTimeoutCoversAllComponentsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		cancel()

		err := lifecycle.Run(ctx, 30*time.Second, zap.NewNop(), j.component("slow2", 20*time.Second, nil), j.component("slow1", 20*time.Second, nil))

		require.EqualError(t, err, "slow2: did not stop in time (30s)")
		time.Sleep(time.Minute) //nolint:forbidigo // synctest's clock: lets the component that was left behind end
	})
}

func TestTimeoutDoesNotHideTheFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		hangs := lifecycle.Component{Name: "consumer", Run: func(context.Context) error { <-release; return nil }}

		err := lifecycle.Run(t.Context(), time.Second, zap.NewNop(), hangs, fails("bad", errBoom))

		require.ErrorIs(t, err, errBoom)
		require.ErrorIs(t, err, lifecycle.ErrStopTimeout)
		close(release)
	})
}

type key struct{}

// Values such as a trace must reach the components, though the end of the context must not.
func TestComponentsSeeTheValuesOfTheContext(t *testing.T) {
	ctx := context.WithValue(t.Context(), key{}, "v")
	var got any
	require.NoError(t, lifecycle.Run(ctx, time.Second, zap.NewNop(), lifecycle.Component{Name: "a", Run: func(ctx context.Context) error {
		got = ctx.Value(key{})
		return nil
	}}))
	require.Equal(t, "v", got)
}
