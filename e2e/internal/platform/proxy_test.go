package platform

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const waitLimit = 30 * time.Second

// echo is a server that sends back each line. It ends with the test.
func echo(t *testing.T) (address string) {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = connection.Close() }() // the client has done so before
				_, _ = io.Copy(connection, connection)
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		serving.Wait()
	})
	return listener.Addr().String()
}

// proxied is a platform that has proxies alone, before an echo for each server.
func proxied(t *testing.T) (*Platform, stack.Options) {
	t.Helper()
	services := &backing.Services{
		DatabaseURL: "postgres://operator:secret@" + echo(t) + "/mtm?sslmode=disable",
		RabbitMQURL: "amqp://operator:secret@" + echo(t) + "/", NATSURL: "nats://operator:secret@" + echo(t),
	}
	p := &Platform{}
	var opts stack.Options
	var err error
	p.Proxies, opts, err = startProxies(t.Context(), services)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close(context.WithoutCancel(t.Context()))) })
	require.Regexp(t, `^postgres://operator:secret@127\.0\.0\.1:\d+/mtm\?sslmode=disable$`, opts.DatabaseURL)
	require.NotEqual(t, services.DatabaseURL, opts.DatabaseURL)
	return p, opts
}

// pipe is a connection through a proxy.
type pipe struct {
	net.Conn
	lines *bufio.Reader
	asked int
}

func dial(t *testing.T, target string) (*pipe, error) {
	t.Helper()
	address, err := url.Parse(target)
	require.NoError(t, err)
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address.Host)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = connection.Close() }) // closed before in some tests
	return &pipe{Conn: connection, lines: bufio.NewReader(connection)}, nil
}

// ask sends a line and waits for it to come back. What comes back late from before is passed over.
func (p *pipe) ask(waitLimit time.Duration) error {
	if err := p.SetDeadline(time.Now().Add(waitLimit)); err != nil {
		return err
	}
	p.asked++
	sent := strconv.Itoa(p.asked) + "\n"
	if _, err := io.WriteString(p, sent); err != nil {
		return err
	}
	for {
		line, err := p.lines.ReadString('\n')
		if err != nil || line == sent {
			return err
		}
	}
}

func TestAConnectionIsDisturbedAndHealed(t *testing.T) {
	p, opts := proxied(t)
	for name, target := range map[backing.Name]string{
		backing.ServicePostgres: opts.DatabaseURL, backing.ServiceRabbitMQ: opts.RabbitMQURL, backing.ServiceNATS: opts.NATSURL,
	} {
		open, err := dial(t, target)
		require.NoError(t, err)
		require.NoError(t, open.ask(waitLimit))

		var slow net.Error
		require.NoError(t, p.Delay(t.Context(), name, time.Minute, 0))
		require.ErrorAs(t, open.ask(100*time.Millisecond), &slow)
		require.True(t, slow.Timeout(), "it takes its time")
		require.NoError(t, p.Heal(t.Context(), name))
		require.NoError(t, open.ask(waitLimit), "it is still open")
		require.Empty(t, p.Proxies[name].Toxics.GetToxicArray())

		require.NoError(t, p.Throttle(t.Context(), name, 1))
		require.NoError(t, open.ask(waitLimit))
		require.NoError(t, p.Heal(t.Context(), name))
		require.NoError(t, open.ask(waitLimit), "it is still open")

		require.NoError(t, p.HalfOpen(t.Context(), name))
		require.ErrorAs(t, open.ask(100*time.Millisecond), &slow)
		require.True(t, slow.Timeout(), "nobody says that it is broken")
		fresh, err := dial(t, target)
		require.NoError(t, err, "a new one can be opened")
		require.ErrorAs(t, fresh.ask(100*time.Millisecond), &slow)
		require.NoError(t, p.Heal(t.Context(), name))
		require.Error(t, open.ask(waitLimit), "what was swallowed is not passed over in silence")
		requireReached(t, target)

		cut, err := dial(t, target)
		require.NoError(t, err)
		require.NoError(t, cut.ask(waitLimit))
		require.NoError(t, p.Cut(t.Context(), name))
		require.Error(t, cut.ask(waitLimit))
		_, err = dial(t, target)
		require.Error(t, err)
		require.NoError(t, p.Heal(t.Context(), name))
		require.NoError(t, p.Heal(t.Context(), name), "healing what is well")
		requireReached(t, target)
	}
}

func requireReached(t *testing.T, target string) {
	t.Helper()
	connection, err := dial(t, target)
	require.NoError(t, err, "at the same address")
	require.NoError(t, connection.ask(waitLimit))
}
