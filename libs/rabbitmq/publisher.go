package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	// connectGrace is how long a publishing waits for a connection: a reconnect is bridged, an outage is reported soon.
	connectGrace = 2 * time.Second
	// reopenDelay keeps a channel that the broker closes at once from being opened in a loop.
	reopenDelay = 100 * time.Millisecond
)

// Message is one publishing. It is always mandatory and confirmed.
type Message struct {
	Exchange, Key string
	// Publishing is sent as it is. Its MessageId makes it possible to tell which of several messages to one key the
	// broker has returned; without one, all unconfirmed ones to that key count as returned.
	Publishing amqp.Publishing
}

// Publisher publishes over several channels of one [Link]. It is safe for concurrent use.
type Publisher struct {
	link *Link
	log  *zap.Logger

	lanes []atomic.Pointer[lane] // nil where no channel is open; written by the goroutines of Run
	turn  atomic.Uint32          // round-robin

	mu      sync.Mutex
	changed chan struct{} // guarded by mu: closed when a lane was opened
	stopped chan struct{} // closed when Run has ended
}

// NewPublisher returns a publisher that uses so many channels of link, at least one. It publishes while Run runs.
func NewPublisher(link *Link, channels int, log *zap.Logger) *Publisher {
	return &Publisher{
		link: link, log: log, lanes: make([]atomic.Pointer[lane], max(channels, 1)),
		changed: make(chan struct{}), stopped: make(chan struct{}),
	}
}

// Run keeps the channels open until ctx ends. It then closes them, giving what is unconfirmed a second. Call it once.
func (p *Publisher) Run(ctx context.Context) error {
	defer close(p.stopped)
	var group errgroup.Group
	for i := range p.lanes {
		group.Go(func() error {
			p.keep(ctx, i)
			return nil
		})
	}
	return group.Wait()
}

// keep has lane i open until ctx ends.
func (p *Publisher) keep(ctx context.Context, i int) {
	for ctx.Err() == nil {
		opened := time.Now()
		err := p.hold(ctx, i)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Info("publishing channel lost", zap.Int("channel", i), zap.Error(err))
		}
		if time.Since(opened) < reopenDelay {
			select {
			case <-ctx.Done():
			case <-time.After(reopenDelay):
			}
		}
	}
}

// hold opens lane i and returns when it is over.
func (p *Publisher) hold(ctx context.Context, i int) error {
	session, err := p.link.Session(ctx)
	if err != nil {
		return err
	}
	l, err := openLane(ctx, session)
	if err != nil {
		return err
	}
	p.lanes[i].Store(l)
	p.announce()
	defer p.lanes[i].Store(nil)
	return l.run(ctx)
}

// announce wakes who waits for a lane.
func (p *Publisher) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Publish sends m and returns nil once the broker has taken responsibility for it. The errors are [ErrUnavailable],
// [ErrBlocked], [ErrUnroutable], [ErrRejected], [ErrUnconfirmed] when ctx ends, and [ErrInvalid], wrapped. When there is no connection it
// waits 2 s at most for one.
func (p *Publisher) Publish(ctx context.Context, m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	for {
		l, err := p.lane(ctx)
		if err != nil {
			return err
		}
		i, err := l.publish(ctx, &m)
		if errors.Is(err, errLaneGone) {
			continue // nothing was sent
		}
		if err == nil {
			err = l.wait(ctx, i)
		}
		return waiting(err)
	}
}

// PublishBatch sends ms in their order over one channel, without waiting for one confirmation before the next message.
// The result has one element per message: nil or an error as of [Publisher.Publish].
func (p *Publisher) PublishBatch(ctx context.Context, ms []Message) []error {
	results := make([]error, len(ms))
	for sent := 0; sent < len(ms); {
		l, err := p.lane(ctx)
		if err != nil {
			for ; sent < len(ms); sent++ {
				results[sent] = err
			}
			return results
		}
		sent += p.pipeline(ctx, l, ms[sent:], results[sent:])
	}
	return results
}

// pipeline sends as much of ms over l as possible and waits for what it has sent. It returns how many messages have got
// a result; the rest needs another lane.
func (p *Publisher) pipeline(ctx context.Context, l *lane, ms []Message, results []error) (handled int) {
	type flight struct{ message, entry int }
	flights := make([]flight, 0, min(len(ms), laneBound))
	landed := 0
	land := func() {
		f := flights[landed]
		landed++
		results[f.message] = waiting(l.wait(ctx, f.entry))
	}
	var failed error // what holds for the rest, too
	for handled < len(ms) {
		m := &ms[handled]
		err := failed
		if err == nil {
			err = check(m)
		}
		if err == nil {
			// Entries are freed by those who hold them: waiting for one while holding others could wait for ever.
			for len(l.free) == 0 && landed < len(flights) {
				land()
			}
			var i int
			if i, err = l.publish(ctx, m); err == nil {
				flights = append(flights, flight{handled, i})
			} else if !errors.Is(err, errLaneGone) {
				failed = waiting(err)
				err = failed
			}
		}
		if errors.Is(err, errLaneGone) {
			break
		}
		results[handled] = err
		handled++
	}
	for landed < len(flights) {
		land()
	}
	return handled
}

// lane picks a channel: the next one in turn that has room, else the next one.
func (p *Publisher) lane(ctx context.Context) (*lane, error) {
	var grace <-chan time.Time
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if l := p.pick(); l != nil {
			return l, nil
		}
		if grace == nil {
			timer := time.NewTimer(connectGrace)
			defer timer.Stop()
			grace = timer.C
		}
		select {
		case <-changed:
		case <-grace:
			return nil, p.unavailable()
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", p.unavailable(), ctx.Err())
		case <-p.stopped:
			return nil, fmt.Errorf("%w: publisher stopped", ErrUnavailable)
		}
	}
}

func (p *Publisher) pick() *lane {
	var open *lane
	turn := int(p.turn.Add(1))
	for i := range p.lanes {
		l := p.lanes[(turn+i)%len(p.lanes)].Load()
		if l == nil || l.over() {
			continue
		}
		if len(l.free) > 0 {
			return l
		}
		if open == nil {
			open = l
		}
	}
	return open
}

// unavailable says why there is no channel.
func (p *Publisher) unavailable() error {
	session, _, cause := p.link.state()
	if session == nil && cause != nil {
		if errors.Is(cause, ErrUnavailable) {
			return cause
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, cause)
	}
	return fmt.Errorf("%w: no open channel", ErrUnavailable)
}

// waiting gives the error of a context its meaning here.
func waiting(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return err
}
