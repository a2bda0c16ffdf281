package control

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// ending is a bucket whose watchers the test can end, as a library does that gives up on one.
type ending struct {
	jetstream.KeyValue
	mu       sync.Mutex
	watchers []jetstream.KeyWatcher // guarded by mu
}

func (e *ending) WatchAll(ctx context.Context, options ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	watcher, err := e.KeyValue.WatchAll(ctx, options...)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watchers = append(e.watchers, watcher)
	return watcher, err
}

// end ends the newest watcher and returns how many there were.
func (e *ending) end(t *testing.T) int {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	require.NoError(t, e.watchers[len(e.watchers)-1].Stop())
	return len(e.watchers)
}

// A watcher that ends without a word, and without a reconnect that would tell, must be started again: otherwise an instance
// receives no tenant any more, and looks healthy.
func TestWatcherThatEndsIsStartedAgain(t *testing.T) {
	config := DefaultConfig()
	config.URL, config.Resync = backing.NATS(t), 10*time.Minute
	conn, err := Connect(config, "test", zap.NewNop(), func(error) {})
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	b := Tenants(conn)
	var opening *opened
	require.Eventually(t, func() bool {
		opening, err = b.ensure(t.Context())
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	bucket := &ending{KeyValue: opening.kv}
	b.open.Store(&opened{kv: bucket, markers: opening.markers})

	told, synced := make(chan Entry[contract.TenantSpec], 100), make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() {
		watched <- b.Watch(ctx, func(e Entry[contract.TenantSpec]) { told <- e }, func() { synced <- struct{}{} })
	}()
	wait := func(generation int64) {
		t.Helper()
		select {
		case entry := <-told:
			require.Equal(t, generation, entry.Value.Generation)
		case <-time.After(30 * time.Second):
			t.Fatal("nobody is told of a change")
		}
	}
	<-synced
	for generation := range int64(3) {
		_, err := b.Put(t.Context(), "tenant", contract.TenantSpec{Generation: generation + 1})
		require.NoError(t, err)
		wait(generation + 1)
		require.EqualValues(t, generation+1, bucket.end(t), "one watcher at a time")
		select {
		case <-synced:
		case <-time.After(30 * time.Second):
			t.Fatal("the watch was not started again")
		}
	}
	cancel()
	require.NoError(t, <-watched)
	require.Empty(t, told, "what is known is not told again")
}
