package conn_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// A search for the cause of lost connections among deliveries must not be started after a shutdown or a silent broker, nor miss a
// connection that was cut.
func TestLossesSayWhetherADeliveryCanBeTheCause(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	for name, test := range map[string]struct {
		cause     func(t *testing.T, p *amqptest.Proxy, link *conn.Link)
		explained bool
	}{
		"cut": {func(_ *testing.T, p *amqptest.Proxy, _ *conn.Link) { p.Cut() }, false},
		"cut, and noticed by writing": {func(t *testing.T, p *amqptest.Proxy, l *conn.Link) {
			t.Helper()
			p.Cut()
			_, _ = amqptest.Session(t, l).Channel(amqptest.Deadline(t, amqptest.WaitLimit))
		}, false},
		"closed by the broker, which crashed": {func(_ *testing.T, p *amqptest.Proxy, _ *conn.Link) {
			p.Set(func(f *amqptest.Faults) { f.Insert = amqptest.ConnectionClose(541) })
		}, false},
		"closed by an operator": {func(t *testing.T, _ *amqptest.Proxy, _ *conn.Link) { t.Helper(); closeConnections(t, broker, t.Name()) }, true},
		"silent":                {func(_ *testing.T, p *amqptest.Proxy, _ *conn.Link) { p.Set(func(f *amqptest.Faults) { f.Deaf = true }) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			through, proxied := amqptest.NewProxy(t, broker.URL)
			lost := make(chan *conn.LostError, 100)
			link := conn.NewLink(conn.Config{URL: proxied, Heartbeat: time.Second}, t.Name(), zaptest.NewLogger(t), func(err error) {
				if l, ok := errors.AsType[*conn.LostError](err); ok {
					lost <- l
				}
			})
			amqptest.Run(t, link.Run)
			amqptest.Session(t, link)
			test.cause(t, through, link)
			select {
			case l := <-lost:
				require.Equal(t, test.explained, l.Explained, "%v", l)
				require.ErrorIs(t, l, conn.ErrUnavailable)
				require.Empty(t, l.Consumer)
			case <-time.After(amqptest.WaitLimit):
				t.Fatal("the loss goes unnoticed")
			}
		})
	}
}

// A link that has ended must not keep anybody waiting for a connection.
func TestSessionEndsWithItsLink(t *testing.T) {
	t.Parallel()
	link := conn.NewLink(conn.Config{URL: "amqp://127.0.0.1:1/"}, t.Name(), zaptest.NewLogger(t), nil)
	stop := amqptest.Run(t, link.Run)
	ended := make(chan error, 1)
	go func() { _, err := link.Session(t.Context()); ended <- err }()
	stop()
	link.End()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, conn.ErrUnavailable)
	case <-time.After(amqptest.WaitLimit):
		t.Fatal("somebody waits for ever")
	}
}
