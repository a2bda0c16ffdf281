package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// What an instance of ingest-service sees from its start on: all tenants, then every change in order.
func TestWatchTellsSnapshotAndChanges(t *testing.T) {
	t.Parallel()
	tenants := control.Tenants(connect(t, client(backing.StartNATS(t)), nil))
	ctx := t.Context()
	const many = 1000 // more than the library's watcher buffers
	for i := range many {
		key := fmt.Sprintf("t%d", i)
		_, err := tenants.Put(ctx, key, spec(key, 1))
		require.NoError(t, err)
	}
	_, err := tenants.Put(ctx, "gone", spec("gone", 1))
	require.NoError(t, err)
	require.NoError(t, tenants.Delete(ctx, "gone"))

	seen := watch(t, tenants)
	seen.requireSnapshots(t, 1)
	for i := range many {
		require.Equal(t, []int64{1}, seen.generations(fmt.Sprintf("t%d", i)))
	}
	require.Empty(t, seen.of("gone"), "a key that was never told needs no deletion")

	for generation := int64(2); generation <= 50; generation++ {
		_, err := tenants.Put(ctx, "t1", spec("t1", generation))
		require.NoError(t, err)
	}
	require.NoError(t, tenants.Delete(ctx, "t1"))
	require.Eventually(t, func() bool {
		told := seen.generations("t1")
		return told[len(told)-1] == -1
	}, waitLimit, 5*time.Millisecond)
	told := seen.generations("t1")
	require.IsIncreasing(t, told[:len(told)-1])

	// Starting over tells nothing again.
	seen.requireSnapshots(t, seen.snapshots()+2)
	require.Equal(t, []int64{1}, seen.generations("t2"))
	require.Equal(t, told, seen.generations("t1"))
}

// NATS is restarted: a change right after it reaches the instances by a snapshot that begins with the reconnect. The client library's own
// watcher notices after 14 seconds.
func TestWatchSurvivesRestart(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	cfg := client(n)
	cfg.Resync = time.Hour // so that nothing but the reconnect begins another snapshot
	tenants := control.Tenants(connect(t, cfg, nil))
	ctx := t.Context()
	for _, key := range []string{"a", "b"} {
		_, err := tenants.Put(ctx, key, spec(key, 1))
		require.NoError(t, err)
	}
	seen := watch(t, tenants)
	seen.requireSnapshots(t, 1)
	for generation := int64(2); generation <= 4; generation++ {
		before := seen.snapshots()
		n.Stop()
		n.Start()
		require.Eventually(t, func() bool {
			_, err := tenants.Put(ctx, "a", spec("a", generation))
			return err == nil
		}, waitLimit, 5*time.Millisecond)
		require.Eventually(t, func() bool {
			told := seen.generations("a")
			return told[len(told)-1] == generation
		}, waitLimit, 5*time.Millisecond)
		seen.requireSnapshots(t, before+1)
	}
	require.Equal(t, []int64{1}, seen.generations("b"), "nothing has changed here")
}

// NATS comes back without its data: the watch says so, makes the bucket again, and continues.
func TestWatchSurvivesWipe(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	tenants := control.Tenants(connect(t, client(n), nil))
	ctx := t.Context()
	for _, key := range []string{"a", "b", "c"} {
		_, err := tenants.Put(ctx, key, spec(key, 5))
		require.NoError(t, err)
	}
	seen := watch(t, tenants)
	seen.requireSnapshots(t, 1)
	n.Stop()
	n.Wipe()
	n.Start()
	for _, key := range []string{"a", "b", "c"} {
		seen.requireGenerations(t, key, 5, -1)
	}
	_, err := tenants.Put(ctx, "a", spec("a", 6))
	require.NoError(t, err)
	seen.requireGenerations(t, "a", 5, -1, 6)
}

// Somebody deletes the bucket and it is made again with other values under the same revisions, while nobody loses a
// connection: the client library stays silent for ever.
func TestWatchNoticesRecreatedBucket(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	tenants := control.Tenants(connect(t, client(n), nil))
	ctx := t.Context()
	revision, err := tenants.Put(ctx, "a", spec("a", 1))
	require.NoError(t, err)
	_, err = tenants.Put(ctx, "b", spec("b", 1))
	require.NoError(t, err)
	seen := watch(t, tenants)
	seen.requireSnapshots(t, 1)

	require.NoError(t, raw(t, n.URL).DeleteKeyValue(ctx, contract.TenantsBucket))
	again, err := tenants.Put(ctx, "a", spec("a", 2))
	require.NoError(t, err)
	require.Equal(t, revision, again, "the case in question")
	seen.requireGenerations(t, "a", 1, 2)
	seen.requireGenerations(t, "b", 1, -1)
}

// A service starts before NATS does.
func TestWatchWaitsForServer(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	cfg := client(n)
	n.Stop()
	reports := make(chan error, 1000)
	conn := connect(t, cfg, func(err error) { reports <- err })
	requireReport(t, reports, false)
	tenants := control.Tenants(conn)
	_, err := tenants.Get(t.Context(), "a")
	require.Error(t, err)
	seen := watch(t, tenants)
	n.Start()
	requireReport(t, reports, true)
	seen.requireSnapshots(t, 1)
	_, err = tenants.Put(t.Context(), "a", spec("a", 1))
	require.NoError(t, err)
	seen.requireGenerations(t, "a", 1)
}

// One broken value must not hide the tenants after it.
func TestWatchSkipsBrokenValue(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	tenants := control.Tenants(connect(t, client(n), nil))
	ctx := t.Context()
	_, err := tenants.Put(ctx, "a", spec("a", 1))
	require.NoError(t, err)
	kv, err := raw(t, n.URL).KeyValue(ctx, contract.TenantsBucket)
	require.NoError(t, err)
	revision, err := kv.Put(ctx, "broken", []byte("{"))
	require.NoError(t, err)
	broken, err := tenants.Get(ctx, "broken")
	require.ErrorIs(t, err, control.ErrMalformed)
	require.Equal(t, revision, broken.Revision, "without it nobody could repair the value")
	_, err = tenants.Put(ctx, "z", spec("z", 1))
	require.NoError(t, err)
	seen := watch(t, tenants)
	seen.requireSnapshots(t, 2)
	require.Equal(t, []int64{1}, seen.generations("a"))
	require.Equal(t, []int64{1}, seen.generations("z"))
	require.Empty(t, seen.of("broken"))
	all, err := tenants.Snapshot(ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
}

// The marker of a deleted tenant goes away without coming back as another marker; else each tenant that ever was would
// stay in every snapshot.
func TestDeletionMarkersExpire(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	js := raw(t, n.URL)
	ctx := t.Context()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "markers", LimitMarkerTTL: time.Second})
	require.NoError(t, err)
	_, err = kv.Put(ctx, "a", []byte("1"))
	require.NoError(t, err)
	require.NoError(t, kv.Purge(ctx, "a", jetstream.PurgeTTL(time.Second)))
	require.Eventually(t, func() bool {
		status, err := kv.Status(ctx)
		return err == nil && status.Values() == 0
	}, waitLimit, 50*time.Millisecond)
}
