package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/wire"
)

const (
	// RequestTimeout is how long the broker may take to answer a request before the connection is given up. Declaring a
	// quorum queue on a busy cluster takes seconds.
	RequestTimeout = 30 * time.Second
	// MaxClosing is how many channels of a connection may wait for the broker to close them. It is far below the 2,047 that
	// a connection has, and reached in hours, if at all.
	MaxClosing = 64
	// CloseTimeout is how long a connection that is closed in order may take for it.
	CloseTimeout = 3 * time.Second
)

// Session is one connection of a [Link], from the handshake to its loss. Channels of a session die with it, and an
// acknowledgement on a channel of an old session fails; the broker delivers those messages again.
type Session struct {
	conn   *amqp.Connection
	stream *stream
	done   chan struct{}

	reader string // [Config.Reader]

	mu      sync.Mutex
	err     error         // guarded by mu: why the session is over
	over    bool          // guarded by mu
	reason  string        // guarded by mu: the alarm of the broker
	blocked chan struct{} // guarded by mu: closed while the broker is blocked, else open

	consumers atomic.Uint64 // how many tags were given

	closing atomic.Int32 // channels that wait for the broker to close them

	work sync.WaitGroup // goroutines that wait for an answer of the broker; none is added once over is set
}

func newSession(conn *amqp.Connection, s *stream, reader string) *Session {
	return &Session{
		conn: conn, stream: s, done: make(chan struct{}), blocked: make(chan struct{}), reader: reader,
	}
}

// Done is closed when the connection is lost or closed.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session is over; nil while it is not. It wraps [ErrUnavailable].
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Version is the version of the broker, as it told when the connection was made; empty if that was no text.
func (s *Session) Version() string {
	version, _ := s.conn.Properties["version"].(string)
	return version
}

// Wire is what reads the frames of the connection; nil if the library reads deliveries, too ([ReaderLibrary]).
func (s *Session) Wire() *wire.Reader {
	if s.reader == ReaderLibrary {
		return nil
	}
	return s.stream.reader
}

// ConsumerTag returns a tag that no other consumer of this session has had: name and a number. What the broker sends before it has
// received the end of a consumer must not be taken for the next one's, whose tags of deliveries begin anew.
func (s *Session) ConsumerTag(name string) string {
	return name + "-" + strconv.FormatUint(s.consumers.Add(1), 10)
}

// Room returns nil if the connection takes another message at once, else a channel that is closed when it is worth asking again.
func (s *Session) Room() <-chan struct{} { return s.stream.ready() }

// Blocked reports whether the broker refuses publishings on this connection because of an alarm, and which. RabbitMQ
// tells it only to connections that have published since the alarm began.
func (s *Session) Blocked() (reason string, blocked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.blocked:
		return s.reason, true
	default:
		return "", false
	}
}

// Blocking is closed as soon as the broker is blocked. A new channel takes its place when it no longer is.
func (s *Session) Blocking() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked
}

func (s *Session) setBlocked(b amqp.Blocking) {
	s.mu.Lock()
	defer s.mu.Unlock()
	already := false
	select {
	case <-s.blocked:
		already = true
	default:
	}
	s.reason = b.Reason
	switch {
	case b.Active && !already:
		close(s.blocked)
	case !b.Active && already:
		s.blocked = make(chan struct{})
	}
}

// Channel opens a channel. It returns when ctx ends; a channel that opens later is closed again. A broker that does not
// answer at all for 30 s costs the session. Errors other than that of ctx wrap [ErrUnavailable].
func (s *Session) Channel(ctx context.Context) (*amqp.Channel, error) {
	type opened struct {
		ch  *amqp.Channel
		err error
	}
	answer := make(chan opened) // unbuffered: a caller that has left does not get the channel
	open := func() {
		ch, err := s.OpenChannel()
		select {
		case answer <- opened{ch, err}:
		case <-ctx.Done():
			if err == nil {
				s.CloseChannel(ch, RequestTimeout)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if !s.Spawn(open) {
		return nil, s.Err()
	}
	select {
	case a := <-answer:
		return a.ch, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("open channel: %w", ctx.Err())
	}
}

// OpenChannel is [Session.Channel] for a goroutine of [Session.Spawn]: it opens a channel, however long that takes.
func (s *Session) OpenChannel() (*amqp.Channel, error) {
	stop := s.GiveUpAfter(RequestTimeout, "channel.open")
	defer stop()
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w: %w", ErrUnavailable, err)
	}
	return ch, nil
}

// Do runs fn on a channel of its own and closes it afterwards: for declarations and the like, whose requests in
// amqp091-go know no deadline. When ctx ends first, Do returns and fn continues, at most until its requests
// have taken 30 s together; then the session is given up, which ends them.
func (s *Session) Do(ctx context.Context, fn func(ch *amqp.Channel) error) error {
	ch, err := s.Channel(ctx)
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	run := func() {
		stop := s.GiveUpAfter(RequestTimeout, "request")
		answer <- fn(ch)
		stop()
		s.CloseChannel(ch, RequestTimeout)
	}
	if !s.Spawn(run) {
		return s.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost says why the connection was lost, for which the library has given reason: nil if it was closed in order.
func (s *Session) lost(reason *amqp.Error) error {
	if reason == nil {
		return fmt.Errorf("%w: connection closed", ErrUnavailable)
	}
	if reason.Server {
		return &LostError{Cause: reason, Explained: reason.Code == amqp.ConnectionForced}
	}
	consumer, read := s.stream.reader.Failure()
	written := s.stream.failure()
	// A socket that was closed from this side says nothing of what the broker did.
	silent := errors.Is(read, os.ErrDeadlineExceeded) ||
		errors.Is(read, net.ErrClosed) && (errors.Is(written, net.ErrClosed) || errors.Is(written, os.ErrDeadlineExceeded))
	return &LostError{Cause: reason, Explained: silent, Consumer: consumer}
}

// CloseChannel closes ch, giving the session up if that takes longer than limit.
func (s *Session) CloseChannel(ch *amqp.Channel, limit time.Duration) {
	stop := s.GiveUpAfter(limit, "channel.close")
	defer stop()
	// It fails only when the channel or the connection is already gone.
	_ = ch.Close()
}

// CloseLater closes ch as soon as the broker gets around to it, however long that takes: a channel whose process waits for a
// queue does not answer, which must not cost the session. When too many have piled up it does: the broker ends them with
// their connection.
func (s *Session) CloseLater(ch *amqp.Channel) {
	if n := s.closing.Add(1); n > MaxClosing {
		s.GiveUp(fmt.Errorf("%w: %d channels are stuck", ErrUnavailable, n))
		return
	}
	s.Spawn(func() {
		defer s.closing.Add(-1)
		// It fails only when the channel or the connection is already gone.
		_ = ch.Close()
	})
}

// GiveUpAfter ends the session unless stop is called in time.
func (s *Session) GiveUpAfter(d time.Duration, what string) (stop func()) {
	timer := time.AfterFunc(d, func() { s.GiveUp(fmt.Errorf("%w: no answer to %s in %v", ErrUnavailable, what, d)) })
	return func() { timer.Stop() }
}

// GiveUp ends the session without waiting for the broker.
func (s *Session) GiveUp(err error) {
	s.fail(err)
	s.stream.abort()
}

// Spawn runs fn in a goroutine that the end of the session waits for. It reports false if the session is over.
func (s *Session) Spawn(fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.work.Go(fn)
	return true
}

// fail records why the session ends; the first reason counts.
func (s *Session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// end closes the connection, if it is not closed yet, and waits for all that is left of the session. The owner of the
// link calls it once.
func (s *Session) end(cause error) {
	s.fail(cause)
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	close(s.done)

	// The deadline of CloseDeadline alone does not hold: every heartbeat of a broker that is alive but blocked moves it.
	timer := time.AfterFunc(CloseTimeout, s.stream.abort)
	defer timer.Stop()
	if err := s.conn.CloseDeadline(time.Now().Add(CloseTimeout)); err != nil && !errors.Is(err, amqp.ErrClosed) {
		s.stream.abort()
	}
	s.work.Wait()
	<-s.stream.done
}
