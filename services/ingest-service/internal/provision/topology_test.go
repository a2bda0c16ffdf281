package provision_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// topology is that of an instance with a connection of its own, which it may lose.
func (r *rig) topology(name string) (topology *provision.Topology, link *conn.Link, disconnect func()) {
	r.t.Helper()
	probing := conn.NewLink(r.broker, name+" quarantine", zap.NewNop(), nil)
	link = conn.NewLink(r.broker, name, zap.NewNop(), nil)
	r.run(probing.Run)
	return provision.NewTopology(link, consume.NewProber(probing), nil, provision.QueueOptions{}, "", zap.NewNop()), link, r.run(link.Run)
}

// A queue that the broker may still forget must not take a message that it confirms, whichever instance has made it and
// whoever publishes.
func TestQueueTakesNothingBeforeItCanBeTrusted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	maker, _, disconnect := r.topology("maker")
	finder, _, _ := r.topology("finder")
	tenant := uuid.New()
	require.NoError(t, maker.Declare(t.Context(), tenant))
	require.NoError(t, finder.Declare(t.Context(), tenant))
	require.False(t, r.routes(tenant))
	disconnect()
	require.ErrorIs(t, maker.Bind(t.Context(), tenant), conn.ErrUnavailable)
	require.False(t, r.routes(tenant), "the broker may have gone with the connection")
	require.NoError(t, finder.Bind(t.Context(), tenant))
	require.True(t, r.routes(tenant))
	require.NoError(t, finder.Bind(t.Context(), tenant), "asked again, it is trusted at once")
}

// A queue of another type than new ones are to have is used as it is, with what is in it.
func TestQueueWithOtherArgumentsIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	quorum, link, _ := r.topology("quorum")
	classic := provision.NewTopology(link, nil, nil, provision.QueueOptions{Type: amqp.QueueTypeClassic}, "", zap.NewNop())
	for _, order := range [][]*provision.Topology{{classic, quorum}, {quorum, classic}} {
		tenant := uuid.New()
		for before, topology := range order {
			require.NoError(t, topology.Declare(t.Context(), tenant))
			require.NoError(t, topology.Bind(t.Context(), tenant))
			r.publish(tenant, 1)
			require.Equal(t, before+1, r.queue(tenant).Messages)
		}
	}
}

// An instance that has lost its connection when it had just made a queue does not know whether the broker was lost. If it was
// not, and another instance has had messages confirmed, they must stay.
func TestQueueWhoseMakerLostItsConnectionIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	maker, link, disconnect := r.topology("maker")
	finder, _, _ := r.topology("finder")
	tenant := uuid.New()
	require.NoError(t, maker.Declare(t.Context(), tenant))
	disconnect()
	require.NoError(t, finder.Declare(t.Context(), tenant))
	require.NoError(t, finder.Bind(t.Context(), tenant))
	r.publish(tenant, 1)

	r.run(link.Run)
	require.NoError(t, maker.Declare(t.Context(), tenant))
	require.NoError(t, maker.Bind(t.Context(), tenant))
	require.Equal(t, 1, r.queue(tenant).Messages)
}

// A broker that is killed right after it has made a queue may have forgotten half of it. Nobody could ever use such a queue:
// it is made again once the broker is back, by all instances that have made it at once. One that was there before keeps what it holds.
func TestQueueWhoseBrokerWasLostYoungIsMadeAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills a broker until a queue has lost its leader")
	}
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	broker := services.Process(backing.ServiceRabbitMQ)
	r := rigOn(t, services.RabbitMQURL)
	var makers []*provision.Topology
	for _, name := range []string{"first maker", "second maker"} {
		maker, _, _ := r.topology(name)
		makers = append(makers, maker)
	}
	old := uuid.New()
	require.NoError(t, makers[0].Declare(t.Context(), old))
	require.NoError(t, makers[0].Bind(t.Context(), old))
	r.publish(old, 1)
	for range 6 {
		young := uuid.New()
		r.each(makers, func(ctx context.Context, maker *provision.Topology) bool { return maker.Declare(ctx, young) == nil })
		require.NoError(t, broker.Kill(t.Context()))
		require.NoError(t, broker.Start(t.Context()))
		lost := r.each(makers, func(ctx context.Context, maker *provision.Topology) bool { return bind(ctx, maker, young) })
		r.publish(young, 1)
		require.Equal(t, 1, r.queue(young).Messages)
		require.Equal(t, 1, r.queue(old).Messages)
		if lost {
			return
		}
	}
	t.Fatal("the broker remembers its queues whenever it is killed")
}

// each does something with all makers at a time, and reports whether any of them says true.
func (r *rig) each(makers []*provision.Topology, do func(context.Context, *provision.Topology) bool) (one bool) {
	r.t.Helper()
	answers := make(chan bool, len(makers))
	for _, maker := range makers {
		r.run(func(ctx context.Context) error {
			answers <- do(ctx, maker)
			return nil
		})
	}
	for range makers {
		select {
		case answer := <-answers:
			one = one || answer
		case <-time.After(4 * waitLimit):
			r.t.Fatal("no queue that can be trusted")
		}
	}
	return one
}

// bind declares and binds until that succeeds, as a controller does, and reports whether the queue was lost.
func bind(ctx context.Context, topology *provision.Topology, tenant uuid.UUID) (lost bool) {
	for {
		err := topology.Declare(ctx, tenant)
		if err == nil {
			err = topology.Bind(ctx, tenant)
		}
		if err == nil || ctx.Err() != nil {
			return lost
		}
		lost = lost || strings.Contains(err.Error(), "the broker has lost the queue")
		select {
		case <-time.After(poll):
		case <-ctx.Done():
		}
	}
}

// An operator who looks for the tenant whose messages pile up must be led to that one, also beside a queue that has gone.
func TestDepthsAreThoseOfEachTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	topology, _, _ := r.topology("depths")
	depths := map[uuid.UUID]int64{}
	var tenants []uuid.UUID
	for _, n := range []int{3, -1, 0, 7, -1, 1} {
		tenant := uuid.New()
		tenants, depths[tenant] = append(tenants, tenant), int64(n)
		if n < 0 {
			continue // it has no queue
		}
		require.NoError(t, topology.Declare(t.Context(), tenant))
		require.NoError(t, topology.Bind(t.Context(), tenant))
		r.publish(tenant, n)
	}
	seen := map[uuid.UUID]int64{}
	require.NoError(t, topology.Depths(t.Context(), tenants, func(tenant uuid.UUID, ready int64) {
		require.NotContains(t, seen, tenant, "told once")
		seen[tenant] = ready
	}))
	require.Equal(t, depths, seen)
}
