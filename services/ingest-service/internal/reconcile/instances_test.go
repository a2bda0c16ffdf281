package reconcile_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/reconcile"
)

// Two instances hear of a tenant. The one that has made its queue loses its connection before it could trust it, while the
// other one found the queue and producers use it. What was confirmed to them must not go when the first one comes back,
// whenever that is.
func TestQueueThatAnotherInstanceUsesIsKept(t *testing.T) {
	r := newRig(t)
	quarantine := rabbitmq.NewLink(r.broker, "maker quarantine", zap.NewNop(), nil)
	link := rabbitmq.NewLink(r.broker, "maker", zap.NewNop(), nil).WithQuarantine(quarantine)
	r.run(quarantine.Run)
	disconnect := r.run(link.Run)
	declared, held := make(chan struct{}), make(chan struct{})
	goOn := sync.OnceFunc(func() { close(held) })
	hold := sync.OnceFunc(func() {
		close(declared)
		<-held
	})
	deps := r.deps
	deps.Topology = reconcile.NewTopology(link, []time.Duration{time.Second}, rabbitmq.QueueOptions{}, zap.NewNop())
	deps.Step = func(_ uuid.UUID, _ int64, step reconcile.Step) {
		if step == reconcile.StepDeclared {
			hold()
		}
	}
	const maker = "maker"
	r.run(reconcile.New(reconcile.Config{Instance: maker, MaxAttempts: 3, Concurrency: 4}, deps).Run)
	t.Cleanup(goOn)
	tenant := uuid.New()
	r.want(tenant, contract.DesiredSuspended, 1, 1)
	select {
	case <-declared:
	case <-time.After(patience):
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
