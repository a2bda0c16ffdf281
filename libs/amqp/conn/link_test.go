package conn_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Without it a connection that the broker closes is an outage until someone restarts the service.
func TestLinkReconnectsAfterTheBrokerClosedTheConnection(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	var seen amqptest.Reports
	link := amqptest.StartLink(t, broker.URL, seen.Add)

	first := amqptest.Session(t, link)
	closeConnections(t, broker, t.Name())
	select {
	case <-first.Done():
	case <-time.After(amqptest.WaitLimit):
		t.Fatal("the loss of the connection goes unnoticed")
	}
	require.ErrorIs(t, first.Err(), conn.ErrUnavailable)
	_, err := first.Channel(amqptest.Deadline(t, amqptest.WaitLimit))
	require.ErrorIs(t, err, conn.ErrUnavailable, "a session that is over opens no channels")

	second := amqptest.Session(t, link)
	require.NotSame(t, first, second)
	require.NoError(t, second.Err())
	_, err = second.Channel(amqptest.Deadline(t, amqptest.WaitLimit))
	require.NoError(t, err)
	require.Eventually(t, func() bool { n, err := seen.Last(); return n > 0 && err == nil }, amqptest.WaitLimit, time.Millisecond)
}

// If an acknowledgement of an old session went through it would confirm messages that nobody has processed.
func TestAcknowledgementOfAnOldSessionFails(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	direct := amqptest.StartLink(t, broker.URL, nil)
	amqptest.Declare(t, direct, tenantA)
	publisher := amqptest.StartPublisher(t, direct, 1)
	for _, id := range []string{"m1", "m2", "m3", "m4"} {
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, id)))
	}

	link := amqptest.StartLink(t, proxied, nil)
	consume := func() (second amqp.Delivery) {
		ch := amqptest.Channel(t, link)
		require.NoError(t, ch.Qos(2, 0, false))
		deliveries, err := ch.ConsumeWithContext(context.WithoutCancel(t.Context()), amqptest.Queue(tenantA), "", false, false, false, false, nil)
		require.NoError(t, err)
		<-deliveries
		return <-deliveries
	}
	old := amqptest.Session(t, link)
	held := consume()
	require.EqualValues(t, 2, held.DeliveryTag)
	through.Cut()
	<-old.Done()

	fresh := consume()
	require.EqualValues(t, 2, fresh.DeliveryTag)
	require.Error(t, held.Ack(true), "an old acknowledgement must not reach the new session")
	require.NoError(t, amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(amqptest.Queue(tenantA), true, false, false, false, nil)
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

	var seen amqptest.Reports
	link := amqptest.StartLink(t, "amqp://guest:secret@"+address+"/", seen.Add)
	publisher := amqptest.StartPublisher(t, link, 1)
	require.Eventually(t, func() bool { _, err := seen.Last(); return errors.Is(err, conn.ErrUnavailable) }, amqptest.WaitLimit, time.Millisecond)

	_, err = link.Session(amqptest.Deadline(t, 50*time.Millisecond))
	require.ErrorIs(t, err, conn.ErrUnavailable)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "connect")
	require.NotContains(t, err.Error(), "secret")
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "m")), conn.ErrUnavailable)
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, 50*time.Millisecond), amqptest.NewMessage(tenantA, "m")), conn.ErrUnavailable)
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
	link := conn.NewLink(conn.Config{URL: "amqp://" + l.Addr().String(), ConnectTimeout: 3 * amqptest.WaitLimit}, t.Name(), zaptest.NewLogger(t), nil)
	stop := amqptest.Run(t, link.Run)
	c := <-accepted
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	stop() // an error after the limit of all waits, of which the attempt to connect has three
}

func TestLinkRefusesAnURLThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "http://host/", "amqp://user:topsecret/1@host:port", "amqp://user:topsecret%zz@host/"} {
		err := conn.NewLink(conn.Config{URL: address}, t.Name(), zap.NewNop(), nil).Run(t.Context())
		require.ErrorContains(t, err, "rabbitmq.url", address)
		require.NotContains(t, err.Error(), "topsecret")
	}
}

// A request that a frozen broker does not answer must not outlive its context, nor hold up the end of the service.
func TestRequestsToASilentBrokerEndWithTheirContext(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	through, proxied := amqptest.NewProxy(t, broker.URL)
	link := conn.NewLink(conn.Config{URL: proxied, Heartbeat: time.Minute}, t.Name(), zaptest.NewLogger(t), nil)
	stop := amqptest.Run(t, link.Run)
	s := amqptest.Session(t, link)
	through.Set(func(f *amqptest.Faults) { f.Deaf = true })

	_, err := s.Channel(amqptest.Deadline(t, 50*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, s.Err(), "one slow answer does not cost everyone the connection")
	stop() // an error after the limit of all waits; requests have longer, and the silence of the broker is noticed later still
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
			require.NoError(t, amqptest.Session(t, amqptest.StartLink(t, address, nil)).Err())
		})
	}
	// Every other one is named by its path, encoded or not.
	encoded := named.String()[:len(named.String())-len(broker.VHost)]
	for i := range len(broker.VHost) {
		encoded += fmt.Sprintf("%%%02X", broker.VHost[i])
	}
	amqptest.Declare(t, amqptest.StartLink(t, broker.URL, nil), tenantA)
	link := amqptest.StartLink(t, encoded, nil)
	require.NoError(t, amqptest.StartPublisher(t, link, 1).Publish(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.NewMessage(tenantA, "m1")))
	require.Equal(t, []string{"m1"}, amqptest.Drain(t, link, amqptest.Queue(tenantA)))
}

// closeConnections has the broker close all connections of the vhost whose client-given name is name.
func closeConnections(t *testing.T, b backing.Broker, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		closed := false
		for _, c := range connections(t, b) {
			if c.Client.Name == name {
				amqptest.Request(t, b.ManagementURL, b.URL, http.MethodDelete, "/api/connections/"+url.PathEscape(c.Name), nil)
				closed = true
			}
		}
		return closed
	}, amqptest.WaitLimit, 50*time.Millisecond, "the broker does not list the connection %s", name)
}

type connection struct {
	Name   string `json:"name"`
	VHost  string `json:"vhost"`
	Client struct {
		Name string `json:"connection_name"`
	} `json:"client_properties"`
}

func connections(t *testing.T, b backing.Broker) []connection {
	t.Helper()
	var all []connection
	amqptest.Request(t, b.ManagementURL, b.URL, http.MethodGet, "/api/vhosts/"+url.PathEscape(b.VHost)+"/connections", &all)
	return all
}
