package rabbitmq

import (
	"context"
	"fmt"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// consumeLimit is how long a queue may take to answer a consumer. RabbitMQ itself waits 30 to 65 s for a quorum
	// queue without a leader (seen with 3.10 and 4.0); then it closes the connection.
	consumeLimit = 10 * time.Second
	// maxProbes is how many queues are probed at a time. One that answers takes milliseconds; each that does not, 10 s.
	maxProbes = 4
)

// Consumption is one consumer on a channel of its own, so that its delivery tags run 1, 2, 3, … without gaps.
type Consumption struct {
	// Deliveries is closed when the consumer, its channel or the session has ended. The library buffers what is not
	// taken from it: up to prefetch. Nothing comes from it where there is an inbox.
	Deliveries <-chan amqp.Delivery

	inbox   *inbox // nil without
	session *Session
	channel *amqp.Channel
	queue   string
	tag     string
}

// Consume opens a channel and consumes queue with manual acknowledgement, at most prefetch deliveries unacknowledged. It is to be
// compared with [Session.ConsumeBatches]: the library reads the deliveries, and closes the connection over headers that a producer
// may send. It returns when ctx ends, and with [ErrUnanswered] after 10 s; a consumer that starts later is closed again. The broker's
// refusal (a queue that does not exist: code 404) is an *amqp.Error in the chain.
func (s *Session) Consume(ctx context.Context, queue, tag string, prefetch int) (*Consumption, error) {
	return s.consume(ctx, queue, tag, prefetch, nil)
}

// ConsumeBatches is as [Session.Consume], for whatever producers send, and by the thousand: deliveries come by
// [Consumption.Drain], many at a time, and cost a fraction of the time. The consumer's tag begins with name.
func (s *Session) ConsumeBatches(ctx context.Context, queue, name string, prefetch int) (*Consumption, error) {
	// What the broker sends before it has heard of the end of a consumer must not be taken for the next one's, whose tags
	// of deliveries begin anew.
	tag := name + "-" + strconv.FormatUint(s.consumers.Add(1), 10)
	if s.library {
		return s.consumeByLibrary(ctx, queue, tag, prefetch)
	}
	inbox := s.stream.reader.open(tag)
	c, err := s.consume(ctx, queue, tag, prefetch, inbox)
	if err != nil {
		s.stream.reader.discard(tag) // the consumer may yet start, and is ended then
	}
	return c, err
}

func (s *Session) consume(ctx context.Context, queue, tag string, prefetch int, inbox *inbox) (*Consumption, error) {
	if err := ctx.Err(); err != nil {
		s.stream.reader.close(tag)
		return nil, fmt.Errorf("consume %s: %w", queue, err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	type started struct {
		consumption *Consumption
		err         error
	}
	answer := make(chan started) // unbuffered: who has left does not get the consumer
	start := func() {
		channel, err := s.open()
		if err != nil {
			s.stream.reader.close(tag)
			select {
			case answer <- started{nil, err}:
			case <-ctx.Done():
			}
			return
		}
		// From here on it is the queue that has to answer. That it does not is no reason to take the connection from all others.
		limit := time.AfterFunc(s.consumeLimit, func() { end(ErrUnanswered) })
		defer limit.Stop()
		if ctx.Err() != nil {
			s.closeConsumer(channel, tag)
			return
		}
		c := &Consumption{inbox: inbox, session: s, channel: channel, queue: queue, tag: tag}
		// The prefetch counts for consumers that start after it; without it the client's buffer has no bound.
		err = channel.Qos(prefetch, 0, false)
		if err == nil {
			c.Deliveries, err = channel.Consume(queue, tag, false, false, false, false, nil)
		}
		select {
		case answer <- started{c, err}:
			if err == nil {
				return
			}
		case <-ctx.Done():
			if err == nil { // too late for anybody to want it
				_ = c.Stop() // it fails when the channel is gone
				c.Release()
				return
			}
		}
		s.closeConsumer(channel, tag)
	}
	if !s.spawn(start) {
		return nil, s.Err()
	}
	select {
	case a := <-answer:
		if a.err != nil {
			return nil, fmt.Errorf("consume %s: %w", queue, a.err)
		}
		return a.consumption, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("consume %s: %w", queue, context.Cause(ctx))
	}
}

// Probe finds out whether the broker answers a consumer of queue, on the connection that is there for it: see
// [Link.WithProbeLink]. The error is as of [Session.Consume]; nothing is taken from the queue. Without a link for that it
// says nothing, and returns nil.
func (l *Link) Probe(ctx context.Context, queue string) error {
	if l.probeLink == nil {
		return nil
	}
	select {
	case l.probeLink.probes <- struct{}{}:
		defer func() { <-l.probeLink.probes }()
	case <-ctx.Done():
		return fmt.Errorf("probe %s: %w", queue, ctx.Err())
	}
	session, err := l.probeLink.Session(ctx)
	if err != nil {
		return err
	}
	const prefetch = 1 // 0 would be without limit
	consumption, err := session.ConsumeBatches(ctx, queue, "probe", prefetch)
	if err != nil {
		return err
	}
	defer consumption.Release()
	return consumption.Stop()
}

// Ready gets an element when there is something to [Consumption.Drain]. Like that and [Consumption.Trim], it is for what
// [Session.ConsumeBatches] has returned.
func (c *Consumption) Ready() <-chan struct{} { return c.inbox.ready }

// Drain returns what has been delivered since it was called the last time, in the order of the tags. What comes next is
// gathered in empty, which may be nil.
func (c *Consumption) Drain(empty []Delivery) []Delivery { return c.inbox.drain(empty) }

// Waiting is how many deliveries have come and were not taken yet. Unlike the others it may be called from any goroutine.
func (c *Consumption) Waiting() int { return c.inbox.waiting() }

// Trim lets go of memory in which nothing waits.
func (c *Consumption) Trim() { c.inbox.trim() }

// Ack acknowledges tag, and everything before it if multiple. It fails once the channel is gone; then the broker
// delivers again what was not acknowledged.
func (c *Consumption) Ack(tag uint64, multiple bool) error {
	return c.channel.Ack(tag, multiple)
}

// Return gives tag and everything before it that is not acknowledged back to the queue, as [Consumption.Release] does with
// all.
func (c *Consumption) Return(tag uint64) error {
	return c.channel.Nack(tag, true, true)
}

// Depth is how many messages wait in the queue, without those that were delivered and are not acknowledged.
func (c *Consumption) Depth(ctx context.Context) (int64, error) {
	answer := make(chan int64, 1) // the request goes on when ctx ends first
	err := c.session.Do(ctx, func(ch *amqp.Channel) error {
		queue, err := ch.QueueDeclarePassive(c.queue, true, false, false, false, nil)
		answer <- int64(queue.Messages)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("depth of %s: %w", c.queue, err)
	}
	return <-answer, nil
}

// Stop ends the intake: the broker delivers nothing more, and what nobody has taken yet goes back to the queue with
// [Consumption.Release]. What was taken can still be acknowledged. It does not wait for the broker.
func (c *Consumption) Stop() error {
	return c.channel.Cancel(c.tag, true)
}

// Release gives everything that was delivered and is not acknowledged back to the queue, and closes the channel. Giving
// back this way, unlike closing alone, does not count towards the delivery limit of a quorum queue. Call it after
// [Consumption.Stop].
func (c *Consumption) Release() {
	if c.inbox != nil {
		c.session.stream.reader.discard(c.tag)
	}
	const everything = 0 // the tag that stands for all unacknowledged messages of the channel (AMQP 0-9-1, basic.nack)
	// It fails when the channel is gone, and with it everything has been given back.
	_ = c.channel.Nack(everything, true, true)
	if !c.session.spawn(func() { c.session.closeConsumer(c.channel, c.tag) }) {
		return // the session is over, and the channel with it
	}
}

// closeConsumer closes the channel of a consumer. Nothing can come for it afterwards.
func (s *Session) closeConsumer(ch *amqp.Channel, tag string) {
	s.closeChannel(ch, rpcTimeout)
	s.stream.reader.close(tag)
}

// Done is closed when the session is over.
func (c *Consumption) Done() <-chan struct{} { return c.session.Done() }
