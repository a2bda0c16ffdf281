package publish

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// trialChannels is how many tripped destinations can be tried at a time. One whose queue answers takes milliseconds; each that does
// not, 5 s of every 35.
const trialChannels = 8

// Publisher publishes over several channels of one [conn.Link]. It is safe for concurrent use.
//
// One queue that does not answer stops the confirmations of everything that shares a channel with it. When nothing has
// been confirmed on a channel for 5 s, what waits on it is answered with [conn.ErrUnavailable], a new channel takes its place,
// and with a link for trials the breakers of the destinations that were waited for trip: those are tried elsewhere, one message at a time,
// until one is confirmed. Those that fail are refused, with [conn.ErrUnanswered], and tried again every now and then.
type Publisher struct {
	pool *channelPool

	trialPool *channelPool  // nil without
	breakers  *breakers     // nil without a link for trials
	trials    chan struct{} // as many elements as trials are under way, trialChannels at most
}

// New returns a publisher that uses so many channels of link, at least one. It publishes while Run runs.
func New(link *conn.Link, channels int, log *zap.Logger) *Publisher {
	return &Publisher{pool: newChannelPool(link, max(channels, 1), confirmConfig{
		bound: maxUnconfirmed, stall: stallAfter, onStalled: func([]destination) {},
	}, log)}
}

// NewWithTrials is [New] for a publisher that tries destinations whose queue may not answer on channels of trials. The channels that such
// a queue blocks in the broker are left behind on trials, and now and then it is connected anew to be rid of them. It may serve
// several publishers, and nothing else.
func NewWithTrials(link, trials *conn.Link, channels int, log *zap.Logger) *Publisher {
	breakers := newBreakers(stallAfter, longestRefusal, log)
	return &Publisher{
		pool: newChannelPool(link, max(channels, 1), confirmConfig{
			bound: maxUnconfirmed, stall: stallAfter, onStalled: breakers.trip,
		}, log),
		trialPool: newChannelPool(trials, trialChannels, confirmConfig{
			bound: 1, // so that it is clear which destination stalls
			stall: stallAfter, onStalled: func([]destination) {},
		}, log),
		breakers: breakers,
		trials:   make(chan struct{}, trialChannels),
	}
}

// Run keeps the channels open until ctx ends. It then closes them, giving what is unconfirmed a second. Call it once.
func (p *Publisher) Run(ctx context.Context) error {
	var group errgroup.Group
	group.Go(func() error { return p.pool.run(ctx) })
	if p.trialPool != nil {
		group.Go(func() error { return p.trialPool.run(ctx) })
	}
	return group.Wait()
}

// Publish sends m and returns nil once the broker has taken responsibility for it. The errors are [conn.ErrUnavailable],
// [conn.ErrBlocked], [ErrUnroutable], [ErrRejected], [ErrUnconfirmed] when ctx ends, and [ErrInvalid], wrapped. When there is no connection it
// waits 2 s at most for one.
func (p *Publisher) Publish(ctx context.Context, m Message) error {
	if err := check(&m); err != nil {
		return err
	}
	for {
		if p.breakers.anyTripped() {
			if tried, err := p.try(ctx, &m); tried || err != nil {
				return err
			}
		}
		l, err := p.pool.get(ctx)
		if err != nil {
			return err
		}
		i, err := l.publish(ctx, &m)
		if errors.Is(err, errChannelGone) {
			continue // nothing was sent
		}
		if err == nil {
			err = l.wait(ctx, i)
		}
		return waiting(err)
	}
}

// try sends m over the link for trials if the breaker of its destination has tripped, and returns what became of it. It reports false if
// the destination is none, perhaps because another message has just cleared it, and with an error if it is refused; then
// nothing was sent.
func (p *Publisher) try(ctx context.Context, m *Message) (tried bool, err error) {
	s, err := p.breakers.admit(ctx, destination{m.Exchange, m.Key})
	if s == nil {
		return false, waiting(err)
	}
	select {
	case p.trials <- struct{}{}:
	case <-ctx.Done():
		p.breakers.record(s, ctx.Err())
		return false, waiting(ctx.Err())
	}
	result := make(chan error, 1) // the trial continues when its publisher has left
	conclude := func(err error) {
		<-p.trials
		p.breakers.record(s, err)
		result <- err
	}
	l, i, err := p.trialPool.send(ctx, m)
	switch {
	case err != nil:
		conclude(err)
	case !l.session.Spawn(func() { conclude(l.wait(context.WithoutCancel(ctx), i)) }):
		conclude(l.session.Err())
	}
	select {
	case err := <-result:
		return true, waiting(err)
	case <-ctx.Done():
		return true, waiting(ctx.Err())
	}
}

// PublishBatch sends ms in their order over one channel, without waiting for one confirmation before the next message,
// except where a breaker has tripped. The result has one element per message: nil or an error as of [Publisher.Publish].
func (p *Publisher) PublishBatch(ctx context.Context, ms []Message) []error {
	results := make([]error, len(ms))
	for sent := 0; sent < len(ms); {
		rest := ms[sent : sent+p.untripped(ms[sent:])]
		if len(rest) == 0 {
			results[sent] = p.Publish(ctx, ms[sent])
			sent++
			continue
		}
		l, err := p.pool.get(ctx)
		if err != nil {
			for ; sent < len(ms); sent++ {
				results[sent] = err
			}
			return results
		}
		sent += p.pipeline(ctx, l, rest, results[sent:])
	}
	return results
}

// untripped is how many of ms come before the first whose breaker has tripped.
func (p *Publisher) untripped(ms []Message) int {
	if !p.breakers.anyTripped() {
		return len(ms)
	}
	for i := range ms {
		if p.breakers.tripped(destination{ms[i].Exchange, ms[i].Key}) {
			return i
		}
	}
	return len(ms)
}

// pipeline sends as much of ms over l as possible and waits for what it has sent. It returns how many messages have got
// a result; the rest needs another channel.
func (p *Publisher) pipeline(ctx context.Context, l *confirmChannel, ms []Message, results []error) (handled int) {
	type flight struct{ message, entry int }
	flights := make([]flight, 0, min(len(ms), maxUnconfirmed))
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
			} else if !errors.Is(err, errChannelGone) {
				failed = waiting(err)
				err = failed
			}
		}
		if errors.Is(err, errChannelGone) {
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

// waiting gives the error of a context its meaning here.
func waiting(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return err
}
