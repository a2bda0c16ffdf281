package consume_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A consumer that the broker does not answer gives up alone: the connection belongs to others, too.
func TestAnUnansweredConsumerCostsNoConnection(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	const limit = 200 * time.Millisecond
	probeLink := conn.NewLink(conn.Config{URL: proxied}, t.Name(), zaptest.NewLogger(t), nil)
	link := conn.NewLink(conn.Config{URL: proxied}, t.Name(), zaptest.NewLogger(t), nil)
	prober := consume.NewProber(probeLink).Hasten(limit)
	amqptest.Run(t, link.Run)
	amqptest.Run(t, probeLink.Run)
	amqptest.Declare(t, link, tenantA)
	queue, ctx := amqptest.Queue(tenantA), amqptest.Deadline(t, amqptest.WaitLimit)
	require.Eventually(t, func() bool { return prober.Probe(ctx, queue) == nil }, amqptest.WaitLimit, time.Millisecond)
	var refused *amqp.Error
	require.Eventually(t, func() bool { return errors.As(prober.Probe(ctx, amqptest.Queue(tenantB)), &refused) }, amqptest.WaitLimit, time.Millisecond)
	require.Equal(t, amqp.NotFound, refused.Code)

	before, probing := amqptest.Session(t, link), amqptest.Session(t, probeLink)
	through.Set(func(f *amqptest.Faults) { f.DropConsumes = true })
	_, err := consume.PlainWithin(ctx, before, queue, "", 10, limit)
	require.ErrorIs(t, err, conn.ErrUnanswered)
	var group sync.WaitGroup
	for range 10 { // more than are let through at a time
		group.Go(func() {
			if err := prober.Probe(ctx, queue); !errors.Is(err, conn.ErrUnanswered) {
				t.Errorf("probe: %v", err)
			}
		})
	}
	group.Wait()
	through.Set(func(f *amqptest.Faults) { f.DropConsumes = false })
	// A busy broker may take longer for an answer than the consumers here wait.
	require.Eventually(t, func() bool { return prober.Probe(ctx, queue) == nil }, amqptest.WaitLimit, time.Millisecond)
	require.Same(t, before, amqptest.Session(t, link))
	require.Same(t, probing, amqptest.Session(t, probeLink))
	require.Eventually(t, func() bool {
		_, err := consume.PlainWithin(ctx, before, queue, "", 10, limit)
		return err == nil
	}, amqptest.WaitLimit, time.Millisecond)
}
