package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Without it a connection that the broker closes is an outage until someone restarts the service.
func TestLinkReconnectsAfterTheBrokerClosedTheConnection(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	var seen reports
	link := startLink(t, broker.URL, seen.add)

	first := session(t, link)
	closeConnections(t, broker, t.Name())
	select {
	case <-first.Done():
	case <-time.After(waitLimit):
		t.Fatal("the loss of the connection goes unnoticed")
	}
	require.ErrorIs(t, first.Err(), rabbitmq.ErrUnavailable)
	_, err := first.Channel(deadline(t, waitLimit))
	require.ErrorIs(t, err, rabbitmq.ErrUnavailable, "a session that is over opens no channels")

	second := session(t, link)
	require.NotSame(t, first, second)
	require.NoError(t, second.Err())
	_, err = second.Channel(deadline(t, waitLimit))
	require.NoError(t, err)
	require.Eventually(t, func() bool { heard, err := seen.last(); return heard && err == nil }, waitLimit, time.Millisecond)
}

// If an acknowledgement of an old session went through it would confirm messages that nobody has processed.
func TestAcknowledgementOfAnOldSessionFails(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	direct := startLink(t, broker.URL, nil)
	declare(t, direct, rabbitmq.QueueOptions{}, tenantA)
	publisher := startPublisher(t, direct, 1)
	for _, id := range []string{"m1", "m2", "m3", "m4"} {
		require.NoError(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, id)))
	}

	link := startLink(t, proxied, nil)
	consume := func() (second amqp.Delivery) {
		ch := channel(t, link)
		require.NoError(t, ch.Qos(2, 0, false))
		deliveries, err := ch.ConsumeWithContext(context.WithoutCancel(t.Context()), contract.QueueName(tenantA), "", false, false, false, false, nil)
		require.NoError(t, err)
		<-deliveries
		return <-deliveries
	}
	old := session(t, link)
	held := consume()
	require.EqualValues(t, 2, held.DeliveryTag)
	through.cut()
	<-old.Done()

	fresh := consume()
	require.EqualValues(t, 2, fresh.DeliveryTag)
	require.Error(t, held.Ack(true), "an old acknowledgement must not reach the new session")
	require.NoError(t, session(t, link).Do(deadline(t, waitLimit), func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(contract.QueueName(tenantA), true, false, false, false, nil)
		if err == nil && q.Messages != 2 {
			err = errors.New("messages are missing")
		}
		return err
	}))
}

// A service that starts before its broker must neither end nor stop trying.
func TestLinkWaitsForABrokerThatIsNotThere(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())

	var seen reports
	link := startLink(t, "amqp://guest:secret@"+address+"/", seen.add)
	publisher := startPublisher(t, link, 1)
	require.Eventually(t, func() bool { _, err := seen.last(); return errors.Is(err, rabbitmq.ErrUnavailable) }, waitLimit, time.Millisecond)

	_, err = link.Session(deadline(t, 50*time.Millisecond))
	require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connect")
	require.NotContains(t, err.Error(), "secret")
	require.ErrorIs(t, publisher.Publish(deadline(t, waitLimit), message(tenantA, "m")), rabbitmq.ErrUnavailable)
	require.ErrorIs(t, publisher.Publish(deadline(t, 50*time.Millisecond), message(tenantA, "m")), rabbitmq.ErrUnavailable)
}

// A broker that accepts connections and says nothing must not hold up the end of the service.
func TestLinkEndsDuringAHandshake(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	link := rabbitmq.NewLink(rabbitmq.Config{URL: "amqp://" + l.Addr().String(), ConnectTimeout: time.Minute}, t.Name(), zaptest.NewLogger(t), nil)
	stop := run(t, link.Run)
	c := <-accepted
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	started := time.Now()
	stop()
	require.Less(t, time.Since(started), 2*time.Second)
}

func TestLinkRefusesAnURLThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "http://host/", "amqp://user:topsecret/1@host:port", "amqp://user:topsecret%zz@host/"} {
		err := rabbitmq.NewLink(rabbitmq.Config{URL: address}, t.Name(), zap.NewNop(), nil).Run(t.Context())
		require.ErrorContains(t, err, "rabbitmq.url", address)
		require.NotContains(t, err.Error(), "topsecret")
	}
}

// A request that a frozen broker does not answer must not outlive its context, nor hold up the end of the service.
func TestRequestsToASilentBrokerEndWithTheirContext(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := newProxy(t, broker.URL)
	link := rabbitmq.NewLink(rabbitmq.Config{URL: proxied, Heartbeat: time.Minute}, t.Name(), zaptest.NewLogger(t), nil)
	stop := run(t, link.Run)
	s := session(t, link)
	through.set(func(p *proxy) { p.deaf = true })

	_, err := s.Channel(deadline(t, 50*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, s.Err(), "one slow answer does not cost everyone the connection")
	started := time.Now()
	stop()
	require.Less(t, time.Since(started), 5*time.Second)
}

// An operator writes the URL as another client wants it, and must not end up in another virtual host.
func TestURLsThatNameTheDefaultVirtualHost(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	named, err := url.Parse(broker.URL)
	require.NoError(t, err)
	for _, path := range []string{"", "/", "/%2F", "/%2f", "//"} {
		t.Run("path "+path, func(t *testing.T) {
			base := *named
			base.Path, base.RawPath = "", ""
			address := base.String() + path
			uri, err := amqp.ParseURI(address)
			require.NoError(t, err)
			require.Equal(t, "/", uri.Vhost)
			require.NoError(t, session(t, startLink(t, address, nil)).Err())
		})
	}
	// Every other one is named by its path, encoded or not.
	encoded := named.String()[:len(named.String())-len(broker.VHost)]
	for i := range len(broker.VHost) {
		encoded += fmt.Sprintf("%%%02X", broker.VHost[i])
	}
	declare(t, startLink(t, broker.URL, nil), rabbitmq.QueueOptions{}, tenantA)
	link := startLink(t, encoded, nil)
	require.NoError(t, startPublisher(t, link, 1).Publish(deadline(t, waitLimit), message(tenantA, "m1")))
	require.Equal(t, []string{"m1"}, drain(t, link, contract.QueueName(tenantA)))
}
