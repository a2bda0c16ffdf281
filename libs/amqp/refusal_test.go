package rabbitmq_test

import (
	"errors"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A password that is being changed, or a virtual host that is not there yet, is an outage like any other: the link goes on
// trying, says why, and does not say the password.
func TestRefusedConnectionsAreTriedAgain(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	for name, change := range map[string]func(u *url.URL){
		"wrong password":  func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "topsecret") },
		"no virtual host": func(u *url.URL) { u.Path = "/nowhere" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(broker.URL)
			require.NoError(t, err)
			change(u)
			var seen reports
			startLink(t, u.String(), seen.add)
			require.Eventually(t, func() bool {
				seen.mu.Lock()
				defer seen.mu.Unlock()
				return len(seen.errs) >= 3
			}, waitLimit, time.Millisecond, "it gives up")
			_, err = seen.last()
			require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
			require.NotContains(t, err.Error(), "topsecret")
			var refused *amqp.Error
			require.ErrorAs(t, err, &refused)
			require.Contains(t, []int{amqp.AccessRefused, amqp.NotAllowed}, refused.Code)
		})
	}
}

// A channel exception, here 406 for an acknowledgement of a tag that the broker does not know, as its own timeout of 30
// minutes would be, costs that channel alone: what it held is delivered again, and the connection lives on.
func TestAChannelExceptionGivesBackWhatItsConsumerHeld(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := startLink(t, broker.URL, nil)
	declare(t, link, rabbitmq.QueueOptions{}, tenantA, tenantB)
	publisher := startPublisher(t, link, 1)
	for _, tenant := range []string{tenantA, tenantB} {
		require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenant, "m")))
	}
	s := session(t, link)
	consume := func(tenant string) (*rabbitmq.Consumption, amqp.Delivery) {
		c, err := s.Consume(deadline(t, waitLimit), contract.QueueName(tenant), "test-"+tenant, 10)
		require.NoError(t, err)
		select {
		case d := <-c.Deliveries:
			return c, d
		case <-time.After(waitLimit):
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
	case <-time.After(waitLimit):
		t.Fatal("the consumer does not hear that its channel is closed")
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
	require.Eventually(t, func() bool { return len(drain(t, link, contract.QueueName(tenantB))) == 0 }, waitLimit, time.Millisecond)
}
