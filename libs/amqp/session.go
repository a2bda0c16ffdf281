package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// rpcTimeout is how long the broker may take to answer a request before the connection is given up. Declaring a
	// quorum queue on a busy cluster takes seconds.
	rpcTimeout = 30 * time.Second
	// maxClosing is how many channels of a connection may wait for the broker to close them. It is far below the 2,047 that
	// a connection has, and reached in hours, if at all.
	maxClosing = 64
	// closeTimeout is how long a connection that is closed in order may take for it.
	closeTimeout = 3 * time.Second
)

// Session is one connection of a [Link], from the handshake to its loss. Channels of a session die with it, and an
// acknowledgement on a channel of an old session fails; the broker delivers those messages again.
type Session struct {
	conn   *amqp.Connection
	stream *stream
	done   chan struct{}

	consumeLimit time.Duration // of the link
	library      bool          // amqp091-go reads all deliveries, see [ReaderLibrary]

	mu      sync.Mutex
	err     error         // guarded by mu: why the session is over
	over    bool          // guarded by mu
	reason  string        // guarded by mu: the alarm of the broker
	blocked chan struct{} // guarded by mu: closed while the broker is blocked, else open

	consumers atomic.Uint64 // how many have had an inbox

	closing atomic.Int32 // channels that wait for the broker to close them

	work sync.WaitGroup // goroutines that wait for an answer of the broker; none is added once over is set
}

func newSession(conn *amqp.Connection, s *stream, l *Link) *Session {
	return &Session{
		conn: conn, stream: s, done: make(chan struct{}), blocked: make(chan struct{}), consumeLimit: l.consumeLimit,
		library: l.cfg.Reader == ReaderLibrary,
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

// blocking is closed as soon as the broker is blocked. A new channel takes its place when it no longer is.
func (s *Session) blocking() <-chan struct{} {
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
	answer := make(chan opened) // unbuffered: who has left does not get the channel
	open := func() {
		ch, err := s.open()
		select {
		case answer <- opened{ch, err}:
		case <-ctx.Done():
			if err == nil {
				s.closeChannel(ch, rpcTimeout)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open channel: %w", err)
	}
	if !s.spawn(open) {
		return nil, s.Err()
	}
	select {
	case a := <-answer:
		return a.ch, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("open channel: %w", ctx.Err())
	}
}

// open opens a channel, however long that takes.
func (s *Session) open() (*amqp.Channel, error) {
	stop := s.giveUpAfter(rpcTimeout, "channel.open")
	defer stop()
	ch, err := s.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open channel: %w: %w", ErrUnavailable, err)
	}
	return ch, nil
}

// Do runs fn on a channel of its own and closes it afterwards: for declarations and the like, whose requests in
// amqp091-go know no deadline. When ctx ends first, Do returns and fn goes on by itself, at most until its requests
// have taken 30 s together; then the session is given up, which ends them.
func (s *Session) Do(ctx context.Context, fn func(ch *amqp.Channel) error) error {
	ch, err := s.Channel(ctx)
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	run := func() {
		stop := s.giveUpAfter(rpcTimeout, "request")
		answer <- fn(ch)
		stop()
		s.closeChannel(ch, rpcTimeout)
	}
	if !s.spawn(run) {
		return s.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Publish sends m on a channel of its own and returns nil once the broker has taken responsibility for it. It is for single, large
// messages, whose confirmation may take longer than a [Publisher] waits for any; the time limit is that of ctx. The errors are as of
// [Publisher.Publish].
func (s *Session) Publish(ctx context.Context, m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	ch, err := s.Channel(ctx)
	if err != nil {
		return err
	}
	defer s.spawn(func() { s.closeChannel(ch, rpcTimeout) })
	returned := ch.NotifyReturn(make(chan amqp.Return, 1))
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	stop := s.giveUpAfter(rpcTimeout, "confirm.select")
	err = ch.Confirm(false)
	stop()
	if err != nil {
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnavailable, err)
	}
	confirmation, err := ch.PublishWithDeferredConfirmWithContext(ctx, m.Exchange, m.Key, true, false, m.Publishing)
	if err != nil {
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnavailable, err)
	}
	select {
	case <-confirmation.Done():
	case <-ctx.Done():
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnconfirmed, ctx.Err())
	}
	switch {
	case !confirmation.Acked() && ch.IsClosed(): // that gives up the confirmation, too
		var cause error = amqp.ErrClosed
		if reason := <-closed; reason != nil {
			cause = reason
		}
		if missingExchange(cause, m.Exchange) {
			return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnroutable, cause)
		}
		return fmt.Errorf("publish to %s: %w: %w", m.Exchange, ErrUnavailable, cause)
	case !confirmation.Acked():
		return fmt.Errorf("publish to %s: %w", m.Exchange, ErrRejected)
	}
	select {
	case r := <-returned: // it comes before the confirmation
		return fmt.Errorf("publish to %s: %w: %s", m.Exchange, ErrUnroutable, r.ReplyText)
	default:
		return nil
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
	consumer, read := s.stream.reader.failure()
	written := s.stream.failure()
	// A socket that was closed from this side says nothing of what the broker did.
	silent := errors.Is(read, os.ErrDeadlineExceeded) ||
		errors.Is(read, net.ErrClosed) && (errors.Is(written, net.ErrClosed) || errors.Is(written, os.ErrDeadlineExceeded))
	return &LostError{Cause: reason, Explained: silent, Consumer: consumer}
}

// closeChannel closes ch, giving the session up if that takes longer than limit.
func (s *Session) closeChannel(ch *amqp.Channel, limit time.Duration) {
	stop := s.giveUpAfter(limit, "channel.close")
	defer stop()
	// It fails only when the channel or the connection is already gone.
	_ = ch.Close()
}

// closeLater closes ch as soon as the broker gets around to it, however long that takes: a channel whose process waits for a
// queue does not answer, which must not cost the session. When too many have piled up it does: the broker ends them with
// their connection.
func (s *Session) closeLater(ch *amqp.Channel) {
	if n := s.closing.Add(1); n > maxClosing {
		s.giveUp(fmt.Errorf("%w: %d channels are stuck", ErrUnavailable, n))
		return
	}
	s.spawn(func() {
		defer s.closing.Add(-1)
		// It fails only when the channel or the connection is already gone.
		_ = ch.Close()
	})
}

// giveUpAfter ends the session unless stop is called in time.
func (s *Session) giveUpAfter(d time.Duration, what string) (stop func()) {
	timer := time.AfterFunc(d, func() { s.giveUp(fmt.Errorf("%w: no answer to %s in %v", ErrUnavailable, what, d)) })
	return func() { timer.Stop() }
}

// giveUp ends the session without waiting for the broker.
func (s *Session) giveUp(err error) {
	s.fail(err)
	s.stream.abort()
}

// spawn runs fn in a goroutine that [Session.end] waits for. It reports false if the session is over.
func (s *Session) spawn(fn func()) bool {
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
	timer := time.AfterFunc(closeTimeout, s.stream.abort)
	defer timer.Stop()
	if err := s.conn.CloseDeadline(time.Now().Add(closeTimeout)); err != nil && !errors.Is(err, amqp.ErrClosed) {
		s.stream.abort()
	}
	s.work.Wait()
	<-s.stream.done
}
