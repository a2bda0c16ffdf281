package control_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// raw is a plain client, to do to a bucket what this product does not.
func raw(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		nc.Close()
		<-closed
	})
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

// Two relays write the same key: without these conditions the later one, with an older state, would win.
func TestBucketConditions(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	tenants := control.Tenants(connect(t, client(backing.StartNATS(t)), nil))

	_, err := tenants.Get(ctx, "a")
	require.ErrorIs(t, err, control.ErrNotFound)
	require.NoError(t, tenants.Delete(ctx, "a"), "deleting nothing is fine")

	first, err := tenants.Create(ctx, "a", spec("a", 1))
	require.NoError(t, err)
	_, err = tenants.Create(ctx, "a", spec("a", 1))
	require.ErrorIs(t, err, control.ErrConflict)

	second, err := tenants.Update(ctx, "a", spec("a", 2), first)
	require.NoError(t, err)
	_, err = tenants.Update(ctx, "a", spec("a", 3), first)
	require.ErrorIs(t, err, control.ErrConflict)

	found, err := tenants.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, control.Entry[contract.TenantSpec]{Key: "a", Value: spec("a", 2), Revision: second}, found)

	third, err := tenants.Put(ctx, "a", spec("a", 9))
	require.NoError(t, err)
	require.Greater(t, third, second)
	_, err = tenants.Put(ctx, "b", spec("b", 1))
	require.NoError(t, err)
	require.NoError(t, tenants.Delete(ctx, "b"))
	_, err = tenants.Get(ctx, "b")
	require.ErrorIs(t, err, control.ErrNotFound)

	all, err := tenants.Snapshot(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]control.Entry[contract.TenantSpec]{
		"a": {Key: "a", Value: spec("a", 9), Revision: third},
	}, all)

	again, err := tenants.Create(ctx, "b", spec("b", 2))
	require.NoError(t, err, "a deleted key can be created again")
	require.ErrorIs(t, tenants.DeleteRevision(ctx, "b", again-1), control.ErrConflict)
	require.NoError(t, tenants.DeleteRevision(ctx, "b", again))
	_, err = tenants.Get(ctx, "b")
	require.ErrorIs(t, err, control.ErrNotFound)
}

// A dead instance must not stay "running", and an instance that lives must not disappear. Nor must anything stay for ever.
func TestStatusesExpire(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	statuses := control.Statuses(connect(t, client(n), nil))
	key := contract.StatusKey("a", "i")
	_, err := statuses.Put(t.Context(), key, contract.TenantStatus{TenantID: "a", Instance: "i"})
	require.NoError(t, err)

	kv, err := raw(t, n.URL).KeyValue(t.Context(), contract.StatusBucket)
	require.NoError(t, err)
	status, err := kv.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, contract.StatusTTL, status.TTL())
	require.NotZero(t, status.LimitMarkerTTL(), "watchers would not see the end of a status")
	require.EqualValues(t, 1, status.History())

	beat := func(ttl time.Duration, revision uint64) (uint64, error) {
		return statuses.Renew(t.Context(), contract.InstanceKey("i"), contract.TenantStatus{Instance: "i"}, ttl, revision)
	}
	first, err := beat(contract.HeartbeatTTL, 0)
	require.NoError(t, err)
	second, err := beat(time.Second, first)
	require.NoError(t, err)
	_, err = beat(contract.HeartbeatTTL, first)
	require.ErrorIs(t, err, control.ErrConflict, "somebody else has written it")
	require.Eventually(t, func() bool {
		_, err := statuses.Get(t.Context(), contract.InstanceKey("i"))
		return errors.Is(err, control.ErrNotFound)
	}, waitLimit, 5*time.Millisecond, "the heartbeat of a dead instance stays")
	_, err = statuses.Get(t.Context(), key)
	require.NoError(t, err, "its status does not expire with it")
	_, err = beat(contract.HeartbeatTTL, second)
	require.ErrorIs(t, err, control.ErrConflict, "it has expired")
	_, err = beat(contract.HeartbeatTTL, 0)
	require.NoError(t, err)
}

// Deleting the bucket, or the loss of all data, must not need a restart of anything.
func TestMissingBucketIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	tenants := control.Tenants(connect(t, client(n), nil))
	js := raw(t, n.URL)
	operations := map[string]struct {
		run  func(context.Context) error
		want error
	}{
		"put":    {run: func(ctx context.Context) error { _, err := tenants.Put(ctx, "a", spec("a", 1)); return err }},
		"create": {run: func(ctx context.Context) error { _, err := tenants.Create(ctx, "a", spec("a", 1)); return err }},
		"delete": {run: func(ctx context.Context) error { return tenants.Delete(ctx, "a") }},
		"snapshot": {run: func(ctx context.Context) error {
			all, err := tenants.Snapshot(ctx)
			require.Empty(t, all)
			return err
		}},
		"get":    {run: func(ctx context.Context) error { _, err := tenants.Get(ctx, "a"); return err }, want: control.ErrNotFound},
		"update": {run: func(ctx context.Context) error { _, err := tenants.Update(ctx, "a", spec("a", 2), 7); return err }, want: control.ErrConflict},
	}
	for name, operation := range operations {
		_, err := tenants.Put(t.Context(), "a", spec("a", 1))
		require.NoError(t, err)
		require.NoError(t, js.DeleteKeyValue(t.Context(), contract.TenantsBucket))
		// The server refuses to make a stream ("error creating store") while it still removes the old one's files.
		require.Eventually(t, func() bool {
			err := operation.run(t.Context())
			return err == nil || (operation.want != nil && errors.Is(err, operation.want))
		}, waitLimit, 10*time.Millisecond, name)
	}
}

// A request must not hang, nor its write be sent after the reconnect, while NATS is away.
func TestWritesFailAtOnceWhileDisconnected(t *testing.T) {
	t.Parallel()
	n := backing.StartNATS(t)
	reports := make(chan error, 100)
	tenants := control.Tenants(connect(t, client(n), func(err error) { reports <- err }))
	_, err := tenants.Put(t.Context(), "a", spec("a", 1))
	require.NoError(t, err)
	requireReport(t, reports, true)
	n.Stop()
	requireReport(t, reports, false)

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = tenants.Put(ctx, "a", spec("a", 2))
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "the write waited for a connection")

	n.Start()
	requireReport(t, reports, true)
	found, err := tenants.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, int64(1), found.Value.Generation, "a write that failed was carried out")
}

// requireReport waits until the connection was reported to work, or not to work.
func requireReport(t *testing.T, reports <-chan error, works bool) {
	t.Helper()
	deadline := time.After(waitLimit)
	for {
		select {
		case err := <-reports:
			if (err == nil) == works {
				return
			}
		case <-deadline:
			require.Fail(t, "no report", "works: %v", works)
		}
	}
}
