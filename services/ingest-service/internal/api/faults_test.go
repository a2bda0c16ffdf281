package api

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// poll is how often something is looked at that is waited for.
const poll = 10 * time.Millisecond

// wire is what is between the service and the broker. It understands frames, so that it can keep whole ones back and put
// others in: an alarm of a broker cannot be made to order without stopping everyone who uses it.
type wire struct {
	listener net.Listener
	target   string
	work     sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // guarded by mu: both ends of each connection, the service's first
	mute  bool       // guarded by mu: what the broker says does not arrive
}

func newWire(t *testing.T, amqpURL string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(amqpURL)
	require.NoError(t, err)
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{listener: listener, target: u.Host}
	w.work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", w.target) //nolint:noctx // it is cut with the others
			if err != nil {
				_ = client.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, client, server)
			w.mu.Unlock()
			w.work.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
			w.work.Go(func() { w.down(client, server); _ = client.Close() })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		w.cut()
		w.work.Wait()
	})
	u.Host = listener.Addr().String()
	return w, u.String()
}

// down hands on what the broker says, frame by frame (AMQP 0-9-1, section 4.2.3).
func (w *wire) down(client io.Writer, server io.Reader) {
	for {
		frame := make([]byte, 7, 128)
		if _, err := io.ReadFull(server, frame); err != nil {
			return
		}
		frame = append(frame, make([]byte, binary.BigEndian.Uint32(frame[3:])+1)...)
		if _, err := io.ReadFull(server, frame[7:]); err != nil {
			return
		}
		w.mu.Lock()
		var err error
		if !w.mute {
			_, err = client.Write(frame)
		}
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// say tells the service a method of connection 0, as if it were the broker's.
func (w *wire) say(t *testing.T, method ...byte) {
	t.Helper()
	frame := append([]byte{1, 0, 0}, binary.BigEndian.AppendUint32(nil, uint32(len(method)))...)
	frame = append(append(frame, method...), 0xCE)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.conns[len(w.conns)-2].Write(frame)
	require.NoError(t, err)
}

func (w *wire) setMute(mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute = mute
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// faultyBroker is the API on a real broker, over a wire that can be tampered with.
func faultyBroker(t *testing.T, opts provision.QueueOptions) (*service, *conn.Link, *wire) {
	t.Helper()
	direct := backing.RabbitMQ(t).URL
	operator := conn.NewLink(conn.Config{URL: direct}, t.Name()+" operator", zap.NewNop(), nil)
	component.Run(t, operator.Run)
	opts.Type = amqp.QueueTypeClassic
	amqptest.Do(t, operator, func(ch *amqp.Channel) error {
		if err := provision.DeclareShared(ch, nil, amqp.QueueTypeClassic); err != nil {
			return err
		}
		return provision.DeclareTenant(ch, active.String(), opts)
	})
	w, tampered := newWire(t, direct)
	link := conn.NewLink(conn.Config{URL: tampered}, t.Name(), zap.NewNop(), nil)
	component.Run(t, link.Run)
	publisher := publish.New(link, 1, zap.NewNop())
	component.Run(t, publisher.Run)
	s := serve(t, publisher, nowhere, limits)
	require.Equal(t, http.StatusAccepted, s.publish(t, active, `{"payload":"before"}`).status)
	require.Len(t, drain(t, operator), 1)
	return s, operator, w
}

// Each way in which the broker does not take a message is a problem of its own, which the handler itself gives in time (the
// server's own answer at the deadline would be "timeout"). When the fault is over the same request succeeds, alone and as
// a batch; the message may then be in the queue twice, under one id, which is stored once.
func TestEachFaultOfTheBrokerIsAProblemOfItsOwn(t *testing.T) {
	t.Parallel()
	const body = `{"id":"` + someID + `","payload":1}`
	for name, c := range map[string]struct {
		opts          provision.QueueOptions
		code          string
		maybeAccepted bool
		sabotage      func(t *testing.T, s *service, operator *conn.Link, w *wire)
		// cut the connection once the message has reached the queue, while its request waits.
		cut    bool
		repair func(t *testing.T, operator *conn.Link, w *wire)
	}{
		"alarm": {
			code: "broker_blocked", maybeAccepted: true,
			sabotage: func(t *testing.T, s *service, _ *conn.Link, w *wire) {
				t.Helper()
				w.say(t, append([]byte{0, 10, 0, 60, 13}, "low on memory"...)...) // connection.blocked
				require.Eventually(t, func() bool { return s.publish(t, active, `{"payload":1}`).status != http.StatusAccepted }, waitLimit, poll)
			},
			repair: func(t *testing.T, _ *conn.Link, w *wire) {
				t.Helper()
				w.say(t, 0, 10, 0, 61) // connection.unblocked
			},
		},
		"full queue": {
			opts: provision.QueueOptions{MaxLengthBytes: 100}, code: "queue_full",
			sabotage: func(t *testing.T, s *service, _ *conn.Link, _ *wire) {
				t.Helper()
				require.Eventually(t, func() bool {
					var batch BatchResult
					s.publishBatch(t, active, strings.Repeat("{\"payload\":1}\n", 100)).into(t, http.StatusAccepted, &batch)
					return batch.Failed == 100
				}, waitLimit, poll)
			},
			repair: func(t *testing.T, operator *conn.Link, _ *wire) {
				t.Helper()
				drain(t, operator)
			},
		},
		"no queue": {
			code: "queue_missing",
			sabotage: func(t *testing.T, _ *service, operator *conn.Link, _ *wire) {
				t.Helper()
				amqptest.Do(t, operator, func(ch *amqp.Channel) error {
					_, err := provision.DeleteTenant(t.Context(), ch, active.String())
					return err
				})
			},
			repair: func(t *testing.T, operator *conn.Link, _ *wire) {
				t.Helper()
				amqptest.Do(t, operator, func(ch *amqp.Channel) error {
					return provision.DeclareTenant(ch, active.String(), provision.QueueOptions{Type: amqp.QueueTypeClassic})
				})
			},
		},
		"connection lost in mid-flight": {
			code: "broker_unavailable", maybeAccepted: true,
			sabotage: func(_ *testing.T, _ *service, _ *conn.Link, w *wire) { w.setMute(true) },
			cut:      true,
			repair:   func(_ *testing.T, _ *conn.Link, w *wire) { w.setMute(false) },
		},
		"never confirmed": {
			code: "confirm_timeout", maybeAccepted: true,
			sabotage: func(_ *testing.T, _ *service, _ *conn.Link, w *wire) { w.setMute(true) },
			repair: func(_ *testing.T, _ *conn.Link, w *wire) {
				w.cut() // what was kept back is lost
				w.setMute(false)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, operator, w := faultyBroker(t, c.opts)
			c.sabotage(t, s, operator, w)
			meanwhile, over := make(chan error, 1), make(chan struct{})
			go func() {
				if !c.cut {
					meanwhile <- nil
					return
				}
				meanwhile <- cutWhenQueued(t.Context(), over, operator, w)
			}()
			p := s.publish(t, active, body).problem(t, http.StatusServiceUnavailable, c.code)
			close(over)
			require.NoError(t, <-meanwhile)
			if c.maybeAccepted {
				require.Equal(t, someID, field(t, p, "id"), "it says under which id it is safe to repeat")
			} else {
				require.Contains(t, p.Detail, "not accepted")
			}
			if !c.cut {
				var batch BatchResult
				s.publishBatch(t, active, body+"\n"+`{"payload":`+"\n"+body).into(t, http.StatusAccepted, &batch)
				require.Equal(t, 3, batch.Failed)
				for i, code := range []string{c.code, "malformed_json", c.code} {
					require.Equal(t, code, batch.Results[i].Code)
				}
			}

			c.repair(t, operator, w)
			require.Eventually(t, func() bool { return s.publish(t, active, body).status == http.StatusAccepted }, waitLimit, poll)
			var batch BatchResult
			s.publishBatch(t, active, body).into(t, http.StatusAccepted, &batch)
			require.Equal(t, 1, batch.Accepted)
			times := 0
			for _, d := range drain(t, operator) {
				require.Equal(t, "1", string(d.Body))
				if d.MessageId == someID {
					times++
				}
			}
			require.GreaterOrEqual(t, times, 2, "what was accepted is there, each time under its id")
		})
	}
}

// cutWhenQueued cuts the connection as soon as there is a message in the active tenant's queue, of which the service has
// not heard.
func cutWhenQueued(ctx context.Context, over <-chan struct{}, operator *conn.Link, w *wire) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	session, err := operator.Session(ctx)
	if err != nil {
		return err
	}
	return session.Do(ctx, func(ch *amqp.Channel) error {
		for {
			q, err := ch.QueueDeclarePassive(contract.QueueName(active.String()), true, false, false, false, nil)
			if err != nil || q.Messages > 0 {
				w.cut()
				return err
			}
			select {
			case <-over:
				return errors.New("the request was answered before its message was queued")
			case <-time.After(poll):
			}
		}
	})
}
