package reconcile_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/reconcile"
)

// A broker that is killed right after it has made a queue may have forgotten half of it. Such a queue must not be trusted
// with messages: it is made again once the broker is back. One that was there before keeps what it holds.
func TestQueueWhoseBrokerWasLostYoungIsMadeAgain(t *testing.T) {
	r := newRig(t)
	link := rabbitmq.NewLink(r.broker, "test topology", zap.NewNop(), nil)
	topology := reconcile.NewTopology(link, nil, rabbitmq.QueueOptions{}, zap.NewNop())
	disconnect := r.run(link.Run)
	young, old := uuid.New(), uuid.New()
	require.NoError(t, topology.Declare(t.Context(), old))
	require.NoError(t, topology.Settle(t.Context(), old))
	require.NoError(t, topology.Settle(t.Context(), old), "asked again, it is trusted at once")
	require.NoError(t, topology.Declare(t.Context(), young))
	r.publish(young, 1)
	r.publish(old, 1)
	disconnect()
	require.ErrorIs(t, topology.Settle(t.Context(), young), rabbitmq.ErrUnavailable)

	r.run(link.Run)
	for _, tenant := range []uuid.UUID{young, old} {
		require.NoError(t, topology.Declare(t.Context(), tenant))
		require.NoError(t, topology.Settle(t.Context(), tenant))
	}
	messages, exists := r.queue(young)
	require.True(t, exists)
	require.Zero(t, messages.Messages, "it was made again")
	messages, _ = r.queue(old)
	require.Equal(t, 1, messages.Messages)
}
