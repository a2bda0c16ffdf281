package lifecycle_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// connect is a connection to the control channel that is there.
func (w *world) connect() *control.Conn {
	w.t.Helper()
	conn, err := control.Connect(control.Config{URL: w.natsURL}, "test", zap.NewNop(), nil)
	require.NoError(w.t, err)
	w.t.Cleanup(conn.Close)
	require.Eventually(w.t, func() bool {
		_, err := control.Tenants(conn).Snapshot(w.t.Context())
		return err == nil
	}, waitLimit, poll)
	return conn
}

// plain is a plain client, to do to the buckets what this product does not.
func plain(t *testing.T, url string) jetstream.JetStream {
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

// desire is the last thing that an operator has asked for.
type desire struct {
	state   contract.DesiredState
	workers int
}

// holds demands that what was desired is what runs: in the registry, in the report of the instance, and for the messages.
func (w *world) holds(id uuid.UUID, want desire) {
	w.t.Helper()
	observed := map[contract.DesiredState]contract.ConsumerState{
		contract.DesiredActive: contract.StateRunning, contract.DesiredSuspended: contract.StateSuspended,
	}[want.state]
	require.NoError(w.t, w.await(w.t.Context(), id, func(tenant client.Tenant) bool {
		fine := string(tenant.State) == string(want.state) && tenant.Workers == want.workers
		fine = fine && string(tenant.Status.State) == string(observed) && tenant.Status.ObservedGeneration == tenant.Generation
		return fine && (want.state != contract.DesiredActive || tenant.Status.Workers == want.workers)
	}))
	if want.state == contract.DesiredActive {
		require.NoError(w.t, w.use(w.t.Context(), id))
	}
}

func resize(ctx context.Context, replica *client.Client, id uuid.UUID, workers int) error {
	_, err := replica.ResizeTenant(ctx, client.ID(id), workers)
	return err
}

func suspend(ctx context.Context, replica *client.Client, id uuid.UUID) error {
	_, err := replica.SuspendTenant(ctx, client.ID(id))
	return err
}

func resume(ctx context.Context, replica *client.Client, id uuid.UUID) error {
	_, err := replica.ResumeTenant(ctx, client.ID(id))
	return err
}

// Whatever happens to the control channel, what an operator has asked for last is what runs in the end, and a tenant that
// nobody has touched continues as it is. Two replicas relay all the time.
func TestDesiredStateWins(t *testing.T) {
	c := backing.StartNATS(t)
	w := newWorld(t, c.URL, "NATS_RESYNC=2s") // as little as there may be, since it is waited for
	replica, err := w.Add(t.Context(), stack.TenantService)
	require.NoError(t, err)
	first, second := w.api, w.at(client.URLs{Tenant: replica.URL})
	bucket := control.Tenants(w.connect())
	id, untouched := uuid.New(), uuid.New()
	require.NoError(t, w.create(t.Context(), id, 2))
	require.NoError(t, w.create(t.Context(), untouched, 3))
	check := func(t *testing.T, want desire) {
		t.Helper()
		w.holds(id, want)
		w.holds(untouched, desire{contract.DesiredActive, 3})
		entry, err := bucket.Get(t.Context(), id.String())
		require.NoError(t, err)
		require.Equal(t, want, desire{entry.Value.State, entry.Value.Workers})
	}
	// spec is what the channel says now.
	spec := func(t *testing.T) contract.TenantSpec {
		t.Helper()
		entry, err := bucket.Get(t.Context(), id.String())
		require.NoError(t, err)
		return entry.Value
	}
	tell := func(t *testing.T, said contract.TenantSpec) {
		t.Helper()
		require.Eventually(t, func() bool { // a bucket that is being removed cannot be made at the same moment
			_, err := bucket.Put(t.Context(), said.TenantID, said)
			return err == nil
		}, waitLimit, poll)
	}

	t.Run("NATS is wiped", func(t *testing.T) {
		c.Stop()
		require.NoError(t, resize(t.Context(), second, id, 4), "the registry does not need it")
		c.Wipe()
		c.Start()
		check(t, desire{contract.DesiredActive, 4})
	})
	t.Run("the bucket is made again with old values", func(t *testing.T) {
		old := spec(t)
		require.NoError(t, resize(t.Context(), first, id, 5))
		check(t, desire{contract.DesiredActive, 5})
		require.NoError(t, plain(t, c.URL).DeleteKeyValue(t.Context(), contract.TenantsBucket))
		tell(t, old)
		require.NoError(t, resize(t.Context(), second, id, 6))
		check(t, desire{contract.DesiredActive, 6})
	})
	t.Run("the watchers are silent", func(t *testing.T) {
		stream, err := plain(t, c.URL).Stream(t.Context(), "KV_"+contract.TenantsBucket)
		require.NoError(t, err)
		names := stream.ConsumerNames(t.Context())
		var silenced int
		for name := range names.Name() {
			require.NoError(t, stream.DeleteConsumer(t.Context(), name))
			silenced++
		}
		require.NoError(t, names.Err())
		require.Positive(t, silenced)
		require.NoError(t, resize(t.Context(), first, id, 7))
		check(t, desire{contract.DesiredActive, 7})
	})
	t.Run("updates are repeated, and older ones arrive late", func(t *testing.T) {
		said := spec(t)
		late := said
		late.Generation--
		for _, state := range []contract.DesiredState{contract.DesiredSuspended, contract.DesiredDeleting, contract.DesiredActive} {
			late.State, late.Workers = state, 1
			tell(t, said)
			tell(t, late)
			tell(t, late)
			// The instance has taken these in once it has a tenant that came after them.
			after := uuid.New()
			require.NoError(t, w.create(t.Context(), after, 1))
			w.holds(id, desire{contract.DesiredActive, 7})
			require.NoError(t, w.remove(t.Context(), after))
		}
		tell(t, said)
		check(t, desire{contract.DesiredActive, 7})
	})
	t.Run("two replicas relay at once", func(t *testing.T) {
		var asking sync.WaitGroup
		for i, replica := range []*client.Client{first, second} {
			asking.Go(func() {
				for n := range 25 {
					for _, err := range []error{resize(t.Context(), replica, id, 1+(2*n+i)%20), suspend(t.Context(), replica, id), resume(t.Context(), replica, id)} {
						if err != nil {
							t.Errorf("replica %d: %v", i, err)
						}
					}
				}
			})
		}
		asking.Wait()
		require.NoError(t, suspend(t.Context(), first, id))
		require.NoError(t, resize(t.Context(), second, id, 8))
		check(t, desire{contract.DesiredSuspended, 8})
		require.NoError(t, resume(t.Context(), second, id))
		check(t, desire{contract.DesiredActive, 8})
	})
	t.Run("a deletion is not taken back", func(t *testing.T) {
		said := spec(t)
		require.NoError(t, w.remove(t.Context(), id))
		keys := func(n int) {
			t.Helper()
			require.Eventually(t, func() bool {
				all, err := bucket.Snapshot(t.Context())
				return err == nil && len(all) == n
			}, waitLimit, poll, "the key of a deleted tenant stays")
		}
		keys(1)
		tell(t, said)
		after := uuid.New()
		require.NoError(t, w.create(t.Context(), after, 1)) // see above
		c.Stop()
		c.Start() // the replicas compare now, and not in half a minute
		keys(2)
		_, err := second.Tenant(t.Context(), client.ID(id))
		require.ErrorIs(t, err, client.ErrTenantNotFound)
		var queues []struct{ Name string }
		require.NoError(t, json.Unmarshal(w.get(t, w.management("/api/queues/"+w.broker.VHost)), &queues))
		for _, queue := range queues {
			require.NotEqual(t, contract.QueueName(id.String()), queue.Name)
		}
		w.holds(untouched, desire{contract.DesiredActive, 3})
	})
}
