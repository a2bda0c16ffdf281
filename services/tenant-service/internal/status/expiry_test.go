package status

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func (d *Directory) told(id uuid.UUID, instance, run string, state contract.ConsumerState) {
	d.observe(control.Entry[contract.TenantStatus]{
		Key: contract.StatusKey(id.String(), instance), Revision: 1,
		Value: contract.TenantStatus{TenantID: id.String(), Instance: instance, Run: run, State: state, ObservedGeneration: 4},
	})
}

func (d *Directory) beatBy(instance, run string) {
	d.observe(control.Entry[contract.TenantStatus]{
		Key: contract.InstanceKey(instance), Value: contract.TenantStatus{Instance: instance, Run: run},
	})
}

// NATS is away: nothing tells this service that an instance has died, and yet it must not stay "running". One that lives
// says so for all its tenants at once.
func TestReportsCountAsLongAsTheirInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		directory := NewDirectory(nil, zap.NewNop())
		id := uuid.New()
		changed, cancel := directory.Subscribe(id)
		defer cancel()
		directory.told(id, "dead", "1", contract.StateRunning)
		directory.told(id, "alive", "1", contract.StateDeleted)
		<-changed
		require.Empty(t, directory.Of(id), "nobody vouches for them yet")
		directory.beatBy("dead", "1")
		directory.beatBy("alive", "1")
		<-changed
		require.Len(t, directory.Of(id), 2)

		<-time.After(contract.HeartbeatTTL / 2)
		directory.beatBy("alive", "1")
		require.Empty(t, changed, "a heartbeat changes nothing")
		directory.dropExpired(time.Now())
		require.Len(t, directory.Of(id), 2)
		require.Empty(t, directory.swapTornDown())

		<-time.After(contract.HeartbeatTTL/2 + time.Second)
		require.Len(t, directory.Of(id), 1, "expired, though nobody has swept yet")
		directory.dropExpired(time.Now())
		<-changed
		require.Contains(t, directory.swapTornDown(), id, "the others are all done now")

		<-time.After(contract.HeartbeatTTL)
		directory.dropExpired(time.Now())
		<-changed
		require.Empty(t, directory.Of(id))
		directory.beatBy("alive", "1")
		<-changed
		require.Len(t, directory.Of(id), 1, "only its heartbeat was not received")
	})
}

// An instance that is started again does not vouch for what it said before.
func TestReportsOfAnEarlierRunDoNotCount(t *testing.T) {
	directory := NewDirectory(nil, zap.NewNop())
	id := uuid.New()
	changed, cancel := directory.Subscribe(id)
	defer cancel()
	directory.beatBy("one", "1")
	directory.told(id, "one", "1", contract.StateRunning)
	<-changed
	require.Len(t, directory.Of(id), 1)
	directory.beatBy("one", "2")
	<-changed
	require.Empty(t, directory.Of(id))
	directory.told(id, "one", "2", contract.StateProvisioning)
	require.Equal(t, contract.StateProvisioning, directory.Of(id)[0].State)
}

// What dead instances have left must not pile up; and what a living one has written must not be lost because this service
// was not told.
func TestLeftoversAreRemoved(t *testing.T) {
	conn, err := control.Connect(control.Config{URL: backing.NATS(t)}, t.Name(), zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	bucket := control.Statuses(conn)
	require.Eventually(t, func() bool { _, err := bucket.Snapshot(t.Context()); return err == nil }, time.Minute, 10*time.Millisecond)
	directory := NewDirectory(bucket, zap.NewNop())
	id := uuid.New()
	put := func(instance, run string) {
		key := contract.StatusKey(id.String(), instance)
		value := contract.TenantStatus{TenantID: id.String(), Instance: instance, Run: run, State: contract.StateRunning}
		revision, err := bucket.Put(t.Context(), key, value)
		require.NoError(t, err)
		directory.observe(control.Entry[contract.TenantStatus]{Key: key, Value: value, Revision: revision})
	}
	there := func(instance string) bool {
		_, err := bucket.Get(t.Context(), contract.StatusKey(id.String(), instance))
		require.True(t, err == nil || errors.Is(err, control.ErrNotFound), "%v", err)
		return err == nil
	}
	for _, instance := range []string{"dead", "restarted", "unheard", "back", "alive"} {
		put(instance, "1")
	}
	for instance, run := range map[string]string{"restarted": "2", "unheard": "1", "alive": "1"} {
		_, err := bucket.Renew(t.Context(), contract.InstanceKey(instance), contract.TenantStatus{Instance: instance, Run: run}, contract.HeartbeatTTL, 0)
		require.NoError(t, err)
	}
	directory.beatBy("alive", "1")
	require.Empty(t, directory.leftovers(time.Now()), "seen for the first time")
	leftovers := directory.leftovers(time.Now())
	require.Len(t, leftovers, 4)
	_, err = bucket.Put(t.Context(), contract.StatusKey(id.String(), "back"), contract.TenantStatus{Instance: "back", Run: "2"})
	require.NoError(t, err)
	require.NoError(t, directory.remove(t.Context(), leftovers))
	for instance, want := range map[string]bool{"dead": false, "restarted": false, "unheard": true, "back": true, "alive": true} {
		require.Equal(t, want, there(instance), instance)
	}
}
