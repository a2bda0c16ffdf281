package consume_test

import (
	"errors"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A channel exception, here 406 for an acknowledgement of a tag that the broker does not know, as its own timeout of 30
// minutes would be, costs that channel alone: what it held is delivered again, and the connection lives on.
func TestAChannelExceptionGivesBackWhatItsConsumerHeld(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, link, tenantA, tenantB)
	publisher := amqptest.StartPublisher(t, link, 1)
	for _, tenant := range []string{tenantA, tenantB} {
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenant, "m")))
	}
	s := amqptest.Session(t, link)
	consume := func(tenant string) (*consume.Consumer, amqp.Delivery) {
		c, err := consume.Plain(amqptest.Deadline(t, amqptest.WaitLimit), s, amqptest.Queue(tenant), "test-"+tenant, 10)
		require.NoError(t, err)
		select {
		case d := <-c.Deliveries:
			return c, d
		case <-time.After(amqptest.WaitLimit):
			t.Fatal("nothing is delivered")
			return nil, amqp.Delivery{}
		}
	}
	other, held := consume(tenantB)
	broken, _ := consume(tenantA)
	require.NoError(t, broken.Ack(77, false))
	select {
	case _, open := <-broken.Deliveries:
		require.False(t, open)
	case <-time.After(amqptest.WaitLimit):
		t.Fatal("the consumer does not notice that its channel is closed")
	}
	require.Error(t, broken.Ack(1, false), "an acknowledgement on a dead channel fails")
	broken.Release()

	require.NoError(t, s.Err(), "the connection lives on")
	require.NoError(t, other.Ack(held.DeliveryTag, false))
	again, d := consume(tenantA)
	require.True(t, d.Redelivered)
	require.Equal(t, "m", d.MessageId)
	require.NoError(t, again.Ack(d.DeliveryTag, false))
	require.NoError(t, errors.Join(again.Stop(), other.Stop()))
	again.Release()
	other.Release()
	require.Eventually(t, func() bool { return len(amqptest.Drain(t, link, amqptest.Queue(tenantB))) == 0 }, amqptest.WaitLimit, time.Millisecond)
}
