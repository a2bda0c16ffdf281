package rabbitmq_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Who looks for the cause of lost connections among deliveries must not be sent after a shutdown or a silent broker, nor miss a
// connection that was cut.
func TestLossesSayWhetherADeliveryCanBeTheCause(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	for name, test := range map[string]struct {
		cause     func(t *testing.T, p *proxy, link *rabbitmq.Link)
		explained bool
	}{
		"cut": {func(_ *testing.T, p *proxy, _ *rabbitmq.Link) { p.cut() }, false},
		"cut, and noticed by writing": {func(t *testing.T, p *proxy, l *rabbitmq.Link) {
			t.Helper()
			p.cut()
			_, _ = session(t, l).Channel(deadline(t, waitLimit))
		}, false},
		"closed by the broker, which crashed": {func(_ *testing.T, p *proxy, _ *rabbitmq.Link) { p.insertNow(connectionClose(541)) }, false},
		"closed by an operator":               {func(t *testing.T, _ *proxy, _ *rabbitmq.Link) { t.Helper(); closeConnections(t, broker, t.Name()) }, true},
		"silent":                              {func(_ *testing.T, p *proxy, _ *rabbitmq.Link) { p.set(func(p *proxy) { p.deaf = true }) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			through, proxied := newProxy(t, broker.URL)
			lost := make(chan *rabbitmq.LostError, 100)
			link := rabbitmq.NewLink(rabbitmq.Config{URL: proxied, Heartbeat: time.Second}, t.Name(), zaptest.NewLogger(t), func(err error) {
				if l, ok := errors.AsType[*rabbitmq.LostError](err); ok {
					lost <- l
				}
			})
			run(t, link.Run)
			session(t, link)
			test.cause(t, through, link)
			select {
			case l := <-lost:
				require.Equal(t, test.explained, l.Explained, "%v", l)
				require.ErrorIs(t, l, rabbitmq.ErrUnavailable)
				require.Empty(t, l.Consumer)
			case <-time.After(waitLimit):
				t.Fatal("the loss goes unnoticed")
			}
		})
	}
}

// A link that has ended must not keep anybody waiting for a connection.
func TestSessionEndsWithItsLink(t *testing.T) {
	t.Parallel()
	link := rabbitmq.NewLink(rabbitmq.Config{URL: "amqp://127.0.0.1:1/"}, t.Name(), zaptest.NewLogger(t), nil)
	stop := run(t, link.Run)
	ended := make(chan error, 1)
	go func() { _, err := link.Session(t.Context()); ended <- err }()
	stop()
	link.End()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, rabbitmq.ErrUnavailable)
	case <-time.After(waitLimit):
		t.Fatal("somebody waits for ever")
	}
}

// insertNow sends frames to clients with the next frame of the broker, at the latest a heartbeat.
func (p *proxy) insertNow(frames []byte) { p.set(func(p *proxy) { p.insert = frames }) }

// connectionClose is the frame with which a broker ends a connection.
func connectionClose(code uint16) []byte {
	payload := []byte{0, 10, 0, 50, byte(code >> 8), byte(code), byte(len("INTERNAL_ERROR"))}
	payload = append(payload, "INTERNAL_ERROR"...)
	return frameOf(append(payload, 0, 0, 0, 0))
}
