package publish

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

const (
	// maxUnconfirmed is how many messages of a channel may be unconfirmed. With a confirm latency of 5 to 25 ms of a quorum
	// queue it allows more than a broker takes over one channel, and the library's cost of a confirm that stands for
	// several (it scans all unconfirmed ones) stays small.
	maxUnconfirmed = 512
	// blockedGrace is how long a message that is already on its way waits for its confirmation after the broker has
	// said that it is blocked. What was accepted just before is confirmed within it.
	blockedGrace = 250 * time.Millisecond
	// retireGrace is how long a channel that is being replaced waits for what is unconfirmed on it.
	retireGrace = time.Second
	// stallAfter is how long nothing may be confirmed on a channel before it is given up as stalled. It is far above the
	// seconds that a quorum queue takes at its slowest, and low enough to leave a request time for its answer.
	stallAfter = 5 * time.Second
	// looks is how often a channel looks after its confirmations in that time: every 250 ms.
	looks = 20
	// slowLooks is after how many looks without a confirmation a channel gets no new messages if another one can take them.
	slowLooks = 2
	// flowCredit is how many messages the broker takes at least from a connection for a channel whose process does not
	// take them on (credit_flow of RabbitMQ: 400, given back in portions of 200). After that it reads nothing at all from
	// the connection.
	flowCredit = 200
)

// confirmChannel is one channel in confirm mode with its unconfirmed messages.
//
// Which message a basic.return means is not in the protocol. RabbitMQ sends it before the confirmation of the same
// message, and one goroutine of the library hands both on; so when a confirmation is seen, a return of that message is
// already in returns, if there is one. The return is matched by exchange, routing key and message id against all that
// is unconfirmed. If several unconfirmed messages are the same in these three, all of them count as returned: an
// accepted one may be called unroutable (its publisher repeats it, under the same id), never the other way round.
//
// The process behind a channel in the broker waits for the queue that it publishes to. One queue that does not answer,
// such as a quorum queue without a leader, thus stops the confirmations of all others on the channel; the goroutine of the channel looks out for that.
type confirmChannel struct {
	cfg     confirmConfig
	session *conn.Session
	ch      *amqp.Channel
	returns <-chan amqp.Return
	closed  <-chan *amqp.Error

	free          chan int      // indexes of unused entries, which bounds what is unconfirmed; bound of them
	detached      chan int      // entries whose publisher has left; bound of them
	detachedCount atomic.Int64  // how many entries are detached
	retire        chan struct{} // one element: asks the goroutine of the channel to replace it
	gone          chan struct{} // closed when the channel takes no more messages
	stalled       chan struct{} // closed when nobody waits for confirmations of the channel any more

	quiet int         // owned by run: looks since something was confirmed
	slow  atomic.Bool // nothing has been confirmed for a while, although something should

	mu       sync.Mutex
	entries  []entry // guarded by mu; bound of them
	resolved uint64  // guarded by mu: how many entries have been resolved
	known    uint64  // guarded by mu: resolved at the last look
	cause    error   // guarded by mu, as a rule set before gone is closed: the exception that closed the channel
}

// confirmConfig is what differs between channels.
type confirmConfig struct {
	bound     int                 // how many messages may be unconfirmed
	stall     time.Duration       // see stallAfter
	onStalled func([]destination) // is told where the messages went that kept the channel from confirming; one of them is at fault
}

// entry is one unconfirmed message.
type entry struct {
	exchange, key, id string
	confirmation      *amqp.DeferredConfirmation // nil when the entry is unused
	returned          string                     // why the broker returned the message, or empty
	seen              bool                       // a look has found it confirmed
}

// openConfirmChannel opens a channel on s and puts it into confirm mode.
func openConfirmChannel(ctx context.Context, s *conn.Session, cfg confirmConfig) (*confirmChannel, error) {
	ch, err := s.Channel(ctx)
	if err != nil {
		return nil, err
	}
	l := &confirmChannel{
		cfg: cfg, session: s, ch: ch, entries: make([]entry, cfg.bound),
		// A message returns at most once and keeps its entry until that was seen, so the library never waits here. It
		// would drop a return after 5 s of waiting, and with it the news that the message is lost.
		returns:  ch.NotifyReturn(make(chan amqp.Return, cfg.bound)),
		closed:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		free:     make(chan int, cfg.bound),
		detached: make(chan int, cfg.bound),
		retire:   make(chan struct{}, 1),
		gone:     make(chan struct{}),
		stalled:  make(chan struct{}),
	}
	for i := range cfg.bound {
		l.free <- i
	}
	stop := s.GiveUpAfter(conn.RequestTimeout, "confirm.select")
	defer stop()
	if err := ch.Confirm(false); err != nil {
		return nil, fmt.Errorf("confirm.select: %w: %w", conn.ErrUnavailable, err)
	}
	return l, nil
}

// run owns the channel until its channel is closed, it is stalled or to be replaced, or ctx ends. It resolves what publishers
// have left, so that nobody else ever waits for a confirmation that may not come.
func (l *confirmChannel) run(ctx context.Context) error {
	look := time.NewTicker(l.cfg.stall / looks)
	defer look.Stop()
	held := -1 // the detached entry whose confirmation is waited for
	for {
		next, confirmed := l.detached, (<-chan struct{})(nil)
		if held >= 0 {
			next, confirmed = nil, l.confirmation(held).Done()
		}
		select {
		case held = <-next:
		case <-confirmed:
			l.resolve(held) // its publisher has left; nobody wants to know
			l.detachedCount.Add(-1)
			held = -1
		case reason := <-l.closed:
			return l.die(reason)
		case <-look.C:
			if l.look(); l.quiet >= looks {
				stuck := l.reportStalled() // first, so that a caller that tries again at once knows
				close(l.gone)
				l.giveUpStalled(stuck)
				return errStalled
			}
		case <-l.retire:
			l.look()
			if l.drain() {
				stuck := l.reportStalled()
				if l.look(); l.quiet == 0 {
					stuck = 0 // the rest was confirmed
				}
				l.giveUpStalled(stuck)
			}
			return nil
		case <-ctx.Done():
			if l.drain() {
				l.session.CloseChannel(l.ch, conn.CloseTimeout)
			}
			return nil
		}
	}
}

// look notices whether confirmations come. It counts looks instead of measuring time, so that a pause of this process is
// not taken for one of the broker.
func (l *confirmChannel) look() {
	waiting, moved := l.survey()
	if _, blocked := l.session.Blocked(); blocked || moved || !waiting {
		l.quiet = 0
	} else {
		l.quiet++
	}
	l.slow.Store(l.quiet >= slowLooks)
}

// survey reports whether something is unconfirmed, and whether something was confirmed since the last time.
func (l *confirmChannel) survey() (waiting, moved bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	moved = l.resolved != l.known
	l.known = l.resolved
	for i := range l.entries {
		e := &l.entries[i]
		switch {
		case e.confirmation == nil || e.seen:
		case e.confirmed():
			e.seen, moved = true, true // detached, so that it may be resolved late
		default:
			waiting = true
		}
	}
	return waiting, moved
}

// reportStalled trips the breaker of whatever has not been confirmed, and returns how many messages these are. One of their destinations
// is the cause; which one cannot be told, since confirmations that are merely late stay away as well.
func (l *confirmChannel) reportStalled() (unconfirmed int) {
	var all []destination
	l.mu.Lock()
	for i := range l.entries {
		if e := &l.entries[i]; e.confirmation != nil && !e.confirmed() {
			all = append(all, destination{e.exchange, e.key})
		}
	}
	l.mu.Unlock()
	l.cfg.onStalled(all)
	return len(all)
}

// giveUpStalled ends everybody's wait for confirmations that do not come. stuck is how many messages the broker may not have taken
// on.
func (l *confirmChannel) giveUpStalled(stuck int) {
	close(l.stalled)
	if stuck > flowCredit {
		l.session.GiveUp(fmt.Errorf("%w: %d messages are stuck in one channel", conn.ErrUnavailable, stuck))
		return
	}
	l.session.CloseLater(l.ch)
}

// die ends a channel whose channel was closed by the broker or with its connection.
func (l *confirmChannel) die(reason *amqp.Error) error {
	defer close(l.gone)
	if reason == nil {
		return fmt.Errorf("%w: channel closed", conn.ErrUnavailable)
	}
	l.setCause(reason)
	return fmt.Errorf("%w: channel closed: %w", conn.ErrUnavailable, reason)
}

// setCause keeps why the channel was closed, for those whose messages went down with it.
func (l *confirmChannel) setCause(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cause = reason
}

// drain takes no more messages and gives those on the way a moment. It reports whether the channel is still to be closed.
func (l *confirmChannel) drain() bool {
	close(l.gone)
	if _, blocked := l.session.Blocked(); blocked {
		return false // nothing would be answered; the channel goes with the connection
	}
	grace := time.NewTimer(retireGrace)
	defer grace.Stop()
	for left := l.cfg.bound - int(l.detachedCount.Load()); left > 0; left-- {
		select {
		case <-l.free:
		case reason := <-l.closed:
			if reason != nil {
				l.setCause(reason)
			}
			return false
		case <-grace.C:
			left = 0
		}
	}
	return true
}

// publish takes an entry and hands m to the connection. It waits for a free entry and for room in the connection's
// buffer, never for the network. After an error nothing was sent.
func (l *confirmChannel) publish(ctx context.Context, m *Message) (int, error) {
	if _, blocked := l.session.Blocked(); blocked {
		return 0, l.blockedError()
	}
	if l.over() {
		return 0, errChannelGone
	}
	i, err := l.acquire(ctx)
	if err != nil {
		return 0, err
	}
	for {
		full, err := l.write(i, m)
		if full != nil {
			err = l.waitFor(ctx, full)
		}
		if err != nil {
			l.free <- i
			return 0, err
		}
		if full == nil {
			return i, nil
		}
	}
}

// acquire waits for a free entry.
func (l *confirmChannel) acquire(ctx context.Context) (int, error) {
	select {
	case i := <-l.free:
		return i, nil
	default: // As a rule there is one: Blocking takes a lock.
	}
	select {
	case i := <-l.free:
		return i, nil
	case <-l.session.Blocking():
		return 0, l.blockedError()
	case <-l.gone:
		return 0, errChannelGone
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// waitFor waits for c while there is a point in it.
func (l *confirmChannel) waitFor(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-l.session.Blocking():
		return l.blockedError()
	case <-l.gone:
		return errChannelGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write hands m to the library under entry i, or returns a channel to wait for if the connection has enough to write.
func (l *confirmChannel) write(i int, m *Message) (full <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full := l.session.Room(); full != nil {
		return full, nil
	}
	confirmation, err := l.ch.PublishWithDeferredConfirm(m.Exchange, m.Key, true, false, m.Publishing)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errChannelGone, err)
	}
	l.entries[i] = entry{exchange: m.Exchange, key: m.Key, id: m.Publishing.MessageId, confirmation: confirmation}
	return nil, nil
}

// wait waits for the confirmation of entry i and gives the entry back. When the context ends first, the channel is stalled or
// the broker is blocked, the entry is left to the goroutine of the channel.
func (l *confirmChannel) wait(ctx context.Context, i int) error {
	confirmed := l.confirmation(i).Done()
	var err error
	select {
	case <-confirmed:
		return l.outcome(l.resolve(i))
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.stalled:
		err = errStalled
	case <-l.session.Blocking():
		select {
		case <-confirmed:
		case <-ctx.Done():
		case <-time.After(blockedGrace):
		}
		err = l.blockedError()
	}
	select {
	case <-confirmed: // at the same time as the other event
		return l.outcome(l.resolve(i))
	default:
		l.detach(i)
		return err
	}
}

// detach leaves entry i to the goroutine of the channel. When half of a channel is taken by confirmations that do not come,
// while others do, the channel is replaced: it must not stop everyone else.
func (l *confirmChannel) detach(i int) {
	n := l.detachedCount.Add(1)
	l.detached <- i
	if _, blocked := l.session.Blocked(); n > maxUnconfirmed/2 && !blocked {
		select {
		case l.retire <- struct{}{}:
		default: // already asked
		}
	}
}

func (l *confirmChannel) confirmation(i int) *amqp.DeferredConfirmation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[i].confirmation
}

// resolve frees entry i, whose confirmation is there, and returns what it held.
func (l *confirmChannel) resolve(i int) entry {
	l.mu.Lock()
	l.matchReturns()
	l.resolved++
	e := l.entries[i]
	l.entries[i] = entry{}
	l.mu.Unlock()
	l.free <- i
	return e
}

// matchReturns marks what the broker has returned. The caller holds mu.
func (l *confirmChannel) matchReturns() {
	for {
		select {
		case r, open := <-l.returns:
			if !open {
				return
			}
			for i := range l.entries {
				e := &l.entries[i]
				if e.confirmation != nil && e.returned == "" && e.id == r.MessageId && e.key == r.RoutingKey && e.exchange == r.Exchange {
					e.returned = fmt.Sprintf("%s (exchange %s, key %s)", r.ReplyText, r.Exchange, r.RoutingKey)
				}
			}
		default:
			return
		}
	}
}

// outcome says what became of a message.
func (l *confirmChannel) outcome(e entry) error {
	switch {
	case e.returned != "":
		return fmt.Errorf("%w: %s", ErrUnroutable, e.returned)
	case e.confirmation.Acked():
		return nil
	case !l.ch.IsClosed():
		return ErrRejected
	}
	// The library marks a channel as closed, tells why, and only then gives up its confirmations: run is about to know.
	<-l.gone
	l.mu.Lock()
	cause := l.cause
	l.mu.Unlock()
	if cause == nil {
		return fmt.Errorf("%w: channel closed before the confirmation", conn.ErrUnavailable)
	}
	if missingExchange(cause, e.exchange) {
		return fmt.Errorf("%w: %w", ErrUnroutable, cause)
	}
	return fmt.Errorf("%w: channel closed before the confirmation: %w", conn.ErrUnavailable, cause)
}

func (l *confirmChannel) blockedError() error {
	reason, _ := l.session.Blocked()
	return fmt.Errorf("%w: %s", conn.ErrBlocked, reason)
}

// over reports whether the channel takes no more messages.
func (l *confirmChannel) over() bool {
	select {
	case <-l.gone:
		return true
	default:
		return l.ch.IsClosed()
	}
}

// confirmed reports whether the broker has answered.
func (e *entry) confirmed() bool {
	select {
	case <-e.confirmation.Done():
		return true
	default:
		return false
	}
}
