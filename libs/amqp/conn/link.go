package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

const (
	shortestRedial = 100 * time.Millisecond
	longestRedial  = 5 * time.Second
	// stable is how long a session must have lived for the next dial to start over with the shortest delay. A broker
	// that accepts and closes at once is thus not hammered.
	stable = 5 * time.Second
	// maxMissed is how many heartbeats of the broker may be missing, as in amqp091-go.
	maxMissed = 3
)

// Link keeps one connection to the broker alive.
type Link struct {
	cfg    Config
	name   string
	log    *zap.Logger
	report func(error)

	longestPause time.Duration // between two dials

	mu      sync.Mutex
	session *Session      // guarded by mu: the living session, or nil
	err     error         // guarded by mu: why there is none
	changed chan struct{} // guarded by mu: closed when session or ended changes
	ended   bool          // guarded by mu: see End
}

// NewLink returns a link that connects once [Link.Run] is called. The broker shows name among its connections. report
// is called from Run with nil when the connection is up, with an error when it is lost ([LostError], or another one if it was
// given up for lack of an answer), cannot be made or is blocked.
func NewLink(cfg Config, name string, log *zap.Logger, report func(error)) *Link {
	if report == nil {
		report = func(error) {}
	}
	return &Link{
		cfg: cfg.withDefaults(), name: name, log: log.With(zap.String("link", name)), report: report,
		changed: make(chan struct{}), err: errors.New("not connected yet"), longestPause: longestRedial,
	}
}

// WithRedial sets the longest pause between two dials, 5 s without it, and returns l. It is for a link that is lost to what it is
// delivered, and has to come back for the next one. Call it before l is used.
func (l *Link) WithRedial(longest time.Duration) *Link {
	l.longestPause = longest
	return l
}

// Run connects, and connects again for ever, until ctx ends; then it closes the connection in order, within 3 s. It
// returns an error only for an URL that can never work.
func (l *Link) Run(ctx context.Context) error {
	if _, err := amqp.ParseURI(l.cfg.URL); err != nil {
		return fmt.Errorf("rabbitmq.url: %w", withoutURL(err))
	}
	pauses := retry.Backoff(shortestRedial, l.longestPause)
	for {
		started := time.Now()
		err := l.hold(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is the way to stop a link
		}
		l.log.Warn("no connection to the broker", zap.Error(err))
		if time.Since(started) > stable {
			pauses.Reset()
		}
		if retry.Sleep(ctx, pauses.NextBackOff()) != nil {
			return nil //nolint:nilerr // the end of ctx is the way to stop a link
		}
	}
}

// Session returns the living session, waiting for one until ctx ends, or the link does ([Link.End]). The error wraps
// [ErrUnavailable], that of ctx and why there is no connection.
func (l *Link) Session(ctx context.Context) (*Session, error) {
	for {
		session, changed, cause := l.state()
		switch {
		case session != nil:
			return session, nil
		case errors.Is(cause, errEnded):
			return nil, cause
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w (%w)", ErrUnavailable, cause, ctx.Err())
		}
	}
}

// Err says why there is no living session; nil while there is one.
func (l *Link) Err() error {
	session, _, cause := l.state()
	if session != nil {
		return nil
	}
	return cause
}

func (l *Link) state() (session *Session, changed <-chan struct{}, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil, l.changed, errEnded
	}
	return l.session, l.changed, l.err
}

// errEnded says that there is no connection and will be none.
var errEnded = fmt.Errorf("%w: the link has ended", ErrUnavailable)

// End ends all waits for a session. It is for a link that is not run any more.
func (l *Link) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Link) set(s *Session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s == nil && l.session == nil {
		l.err = err
		return
	}
	l.session, l.err = s, err
	close(l.changed)
	l.changed = make(chan struct{})
}

// hold dials and stays until the connection is lost or ctx ends. It reports and returns why. That a connection is lost is
// reported before anybody who uses it can know.
func (l *Link) hold(ctx context.Context) error {
	session, err := l.dial(ctx)
	if err != nil {
		l.set(nil, err)
		if ctx.Err() == nil {
			l.report(err)
		}
		return err
	}
	// One element: the library sends at most one error and then closes the channel.
	lost := session.conn.NotifyClose(make(chan *amqp.Error, 1))
	// A few elements, so that a flapping alarm never makes the library wait (it drops what waits over 5 s).
	alarms := session.conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	l.set(session, nil)
	l.report(nil)
	l.log.Info("connected to the broker")
	for {
		select {
		case <-ctx.Done():
			l.set(nil, ctx.Err())
			session.end(fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err()))
			return ctx.Err()
		case reason := <-lost:
			session.fail(session.lost(reason))
			err := session.Err()
			l.set(nil, err)
			l.report(err)
			session.end(err)
			return err
		case alarm, open := <-alarms:
			if !open {
				alarms = nil // the connection is closing; lost says why
				continue
			}
			l.alarm(session, alarm)
		}
	}
}

func (l *Link) alarm(session *Session, alarm amqp.Blocking) {
	session.setBlocked(alarm)
	if alarm.Active {
		l.log.Warn("the broker is blocked", zap.String("reason", alarm.Reason))
		l.report(fmt.Errorf("%w: %s", ErrBlocked, alarm.Reason))
		return
	}
	l.log.Info("the broker is no longer blocked")
	l.report(nil)
}

// dial makes one attempt, within the connect timeout and ctx.
func (l *Link) dial(ctx context.Context) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.ConnectTimeout)
	defer cancel()
	var s *stream
	stop := func() bool { return true }
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(l.name)
	address, secured, err := secure(l.cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: connect: %w", ErrUnavailable, err)
	}
	conn, err := amqp.DialConfig(address, amqp.Config{
		Heartbeat:  l.cfg.Heartbeat,
		Locale:     "en_US",
		Properties: properties,
		Dial: func(network, addr string) (net.Conn, error) {
			var dialer net.Dialer
			raw, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			inside, err := encrypt(ctx, raw, secured)
			if err != nil {
				return nil, err
			}
			s = newStream(inside, raw)
			// The handshake of AMQP knows no context: cutting the socket is what ends it.
			stop = context.AfterFunc(ctx, s.abort)
			return s, nil
		},
	})
	stop()
	if err != nil {
		if s != nil {
			s.abort()
			<-s.done
		}
		return nil, fmt.Errorf("%w: connect: %w", ErrUnavailable, withoutURL(err))
	}
	// The library begins to watch for silence with the first frame that comes from here on.
	if silence := maxMissed * conn.Config.Heartbeat; silence > 0 {
		_ = s.SetReadDeadline(time.Now().Add(silence)) // it fails on a socket that is closed, which reading tells
	}
	return newSession(conn, s, l.cfg.Reader), nil
}
