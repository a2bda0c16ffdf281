package deadletter

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// The test messages of an instance that was killed come back to nobody. They are not dead letters, of no tenant that exists, which
// somebody would look into; and they do not stop what comes with them.
func TestRecorderKeepsNoCanaryOfADeadInstance(t *testing.T) {
	t.Parallel()
	store, _ := database(t)
	link, publisher := broker(t)
	r := recorder(t, link, store)
	gone := tenantB // has no queue
	message := func(key, id string) publish.Message {
		return publish.Message{Exchange: contract.RetryTierName(tier), Key: key, Publishing: amqp.Publishing{MessageId: id, Body: []byte(`1`)}}
	}
	for range 3 {
		publishAll(t, publisher, message(contract.CanaryName("dead"), "retry tier #1"))
	}
	require.Eventually(t, func() bool { return depth(t, link, contract.ParkingQueue) == 3 }, waitLimit, 10*time.Millisecond)
	publishAll(t, publisher, message(gone.String(), "m"), message(contract.CanaryName("dead"), "node #2"))
	component.Run(t, r.Run)
	entries := waitForEntries(t, store, gone, 1)
	require.Equal(t, ReasonUnroutable, entries[0].Reason)
	require.Eventually(t, func() bool { return depth(t, link, contract.ParkingQueue) == 0 }, waitLimit, 10*time.Millisecond)
	require.Empty(t, list(t, store, uuid.Nil, Filter{}))
	require.InDelta(t, 1, testutil.ToFloat64(r.metrics.recorded), 0)
	require.Zero(t, testutil.ToFloat64(r.metrics.discarded))
}
