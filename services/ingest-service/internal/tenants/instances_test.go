package tenants_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// Two instances are told of a tenant. The one that has made its queue loses its connection before it could trust it, while the
// other one found the queue and producers use it. What was confirmed to them must not go when the first one comes back,
// whenever that is.
func TestQueueThatAnotherInstanceUsesIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	probing := conn.NewLink(r.broker, "maker quarantine", zap.NewNop(), nil)
	link := conn.NewLink(r.broker, "maker", zap.NewNop(), nil)
	r.run(probing.Run)
	disconnect := r.run(link.Run)
	declared, held := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(held) })
	hold := sync.OnceFunc(func() {
		close(declared)
		<-held
	})
	deps := r.deps
	deps.Topology = provision.NewTopology(link, consume.NewProber(probing), []time.Duration{time.Second}, provision.QueueOptions{}, "", zap.NewNop())
	deps.Step = func(_ uuid.UUID, _ int64, done step.Step) {
		if done == step.Declared {
			hold()
		}
	}
	const maker = "maker"
	r.run(tenants.New(tenants.Config{Instance: maker, MaxAttempts: 3, Concurrency: 4}, deps).Run)
	t.Cleanup(goOn)
	tenant := uuid.New()
	r.want(tenant, contract.DesiredSuspended, 1, 1)
	select {
	case <-declared:
	case <-time.After(waitLimit):
		t.Fatal("no queue is made")
	}

	r.start()
	r.observed(tenant, contract.StateSuspended, 1)
	r.publish(tenant, 10)
	disconnect()
	goOn()
	r.run(link.Run)
	r.observedBy(maker, tenant, contract.StateSuspended, 1)
	q, exists := r.queue(tenant)
	require.True(t, exists)
	require.Equal(t, 10, q.Messages)
}

// instanceOn starts one more instance, with a connection of its own to the control channel. cut ends that connection for good.
func (r *rig) instanceOn(name string) (stop, cut func()) {
	r.t.Helper()
	channel := control.DefaultConfig()
	channel.URL = r.natsURL
	conn, err := control.Connect(channel, name, zap.NewNop(), nil)
	require.NoError(r.t, err)
	cut = sync.OnceFunc(conn.Close)
	r.t.Cleanup(cut)
	deps := r.deps
	deps.Specs, deps.Statuses, deps.Heartbeats = control.Tenants(conn), control.Statuses(conn), control.Statuses(conn)
	controller := tenants.New(tenants.Config{Instance: name, MaxAttempts: 3, Concurrency: 4}, deps)
	return r.run(controller.Run), cut
}

// dividedAmong waits until the instances report their shares of a tenant's workers.
func (r *rig) dividedAmong(tenant uuid.UUID, workers int, instances ...string) {
	r.t.Helper()
	for _, name := range instances {
		want := members.Share(tenant, workers, name, instances)
		require.Eventually(r.t, func() bool {
			entry, err := r.statuses.Get(r.t.Context(), contract.StatusKey(tenant.String(), name))
			return err == nil && entry.Value.State == contract.StateRunning && entry.Value.Workers == want
		}, waitLimit, poll, "%s of %d workers", name, workers)
	}
}

// Two and then three instances divide the workers of tenants, on real servers: each tenant has the total that was configured, its
// queue as many consumers as there are instances with a share, and what is published is stored.
func TestWorkersAreDivided(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stopA, _ := r.instanceOn("a")
	r.instanceOn("b")
	totals := map[uuid.UUID]int{}
	for _, workers := range []int{1, 1, 1, 2, 4, 5} {
		tenant := uuid.New()
		totals[tenant] = workers
		r.want(tenant, contract.DesiredActive, workers, 1)
	}
	holds := func(instances ...string) {
		t.Helper()
		for tenant, workers := range totals {
			r.dividedAmong(tenant, workers, instances...)
			require.Eventually(t, func() bool {
				q, exists := r.queue(tenant)
				return exists && q.Consumers == min(workers, len(instances))
			}, waitLimit, poll)
		}
	}
	holds("a", "b")
	r.instanceOn("c")
	holds("a", "b", "c")
	for tenant := range totals {
		r.publish(tenant, 20)
		require.Eventually(t, func() bool { return r.stored(tenant) == 20 }, waitLimit, poll)
	}
	stopA()
	holds("b", "c")
	for tenant, workers := range totals {
		r.want(tenant, contract.DesiredActive, workers+1, 2)
		totals[tenant]++
	}
	holds("b", "c")

	// A tenant goes, whoever has consumed it.
	for tenant := range totals {
		r.want(tenant, contract.DesiredDeleting, 1, 3)
	}
	for tenant := range totals {
		r.observedBy("b", tenant, contract.StateDeleted, 3)
		r.observedBy("c", tenant, contract.StateDeleted, 3)
		_, exists := r.queue(tenant)
		require.False(t, exists)
	}
}

// The instance that consumes a tenant of one worker is cut off from the control channel. It stands back, and the other one takes
// over when its heartbeat has run out. That there are never two is held on a simulated clock (TestInstanceIsCutOff).
func TestInstanceThatIsCutOffStandsBack(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it waits for a heartbeat to expire")
	}
	t.Parallel()
	r := newRig(t)
	_, cutA := r.instanceOn("a")
	_, cutB := r.instanceOn("b")
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 1, 1)
	r.dividedAmong(tenant, 1, "a", "b")
	left, cut := "b", cutA
	if members.Share(tenant, 1, "b", []string{"a", "b"}) == 1 {
		left, cut = "a", cutB
	}
	cut()
	require.Eventually(t, func() bool {
		entry, err := r.statuses.Get(t.Context(), contract.StatusKey(tenant.String(), left))
		return err == nil && entry.Value.Workers == 1
	}, 2*contract.HeartbeatTTL, poll)
	require.Eventually(t, func() bool { q, _ := r.queue(tenant); return q.Consumers == 1 }, waitLimit, poll)
	r.publish(tenant, 10)
	require.Eventually(t, func() bool { return r.stored(tenant) == 10 }, waitLimit, poll)
}
