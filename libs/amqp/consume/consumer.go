// Package consume consumes queues: each [Consumer] has a channel of its own, whose deliveries come many at a time, and acknowledges
// the longest prefix that is finished with one acknowledgement. Which reader brings the deliveries, wire or library, is up to the
// configuration of the connection (rabbitmq.reader).
//
// A queue that does not answer, such as a quorum queue without a leader, costs everything on the connection of its consumer; a
// [Prober] finds out about it on another one.
package consume

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// answerLimit is how long a queue may take to answer a consumer. RabbitMQ itself waits 30 to 65 s for a quorum
// queue without a leader (seen with 3.10 and 4.0); then it closes the connection.
const answerLimit = 10 * time.Second

// Consumer is one consumer on a channel of its own, so that its delivery tags run 1, 2, 3, … without gaps.
type Consumer struct {
	// Deliveries has the deliveries of a consumer that [Plain] has returned, and is closed when the consumer, its channel or the
	// session has ended. The library buffers what is not received from it: up to prefetch. It is nil after [Start].
	Deliveries <-chan amqp.Delivery

	ended   <-chan amqp.Delivery // see Ended; nil after Plain
	inbox   *inbox               // nil without
	reader  reader
	session *conn.Session
	channel *amqp.Channel
	queue   string
	tag     string
}

// Start opens a channel and consumes queue with manual acknowledgement, at most prefetch deliveries unacknowledged, for whatever
// producers send, and by the thousand: deliveries come by [Consumer.Drain], many at a time. The consumer's tag begins with name. It
// returns when ctx ends, and with [conn.ErrUnanswered] after 10 s; a consumer that starts later is closed again. The broker's refusal
// (a queue that does not exist: code 404) is an *amqp.Error in the chain.
func Start(ctx context.Context, session *conn.Session, queue, name string, prefetch int) (*Consumer, error) {
	return start(ctx, session, queue, name, prefetch, answerLimit)
}

func start(ctx context.Context, session *conn.Session, queue, name string, prefetch int, limit time.Duration) (*Consumer, error) {
	c := &Consumer{inbox: newInbox(), reader: readerOf(session), session: session, queue: queue, tag: session.ConsumerTag(name)}
	c.reader.open(c.tag, c.inbox)
	deliveries, err := c.basicConsume(ctx, prefetch, limit)
	if err != nil {
		c.reader.discard(c.tag) // the consumer may yet start, and is ended then
		return nil, err
	}
	if c.ended, err = c.reader.started(c.inbox, deliveries); err != nil {
		c.reader.discard(c.tag)
		return nil, err
	}
	return c, nil
}

// Plain is [Start] as the library does it: one delivery at a time comes by [Consumer.Deliveries], under this very tag, and the
// connection is closed over headers that a producer may send.
func Plain(ctx context.Context, session *conn.Session, queue, tag string, prefetch int) (*Consumer, error) {
	return plain(ctx, session, queue, tag, prefetch, answerLimit)
}

func plain(ctx context.Context, session *conn.Session, queue, tag string, prefetch int, limit time.Duration) (*Consumer, error) {
	c := &Consumer{reader: libraryReader{session}, session: session, queue: queue, tag: tag}
	deliveries, err := c.basicConsume(ctx, prefetch, limit)
	if err != nil {
		return nil, err
	}
	c.Deliveries = deliveries
	return c, nil
}

// basicConsume opens the channel, sets its prefetch and sends basic.consume. It returns what the library delivers, a channel that is
// closed when the consumer has ended. A consumer must not be used if that fails: it may yet start then, and is ended.
func (c *Consumer) basicConsume(ctx context.Context, prefetch int, limit time.Duration) (<-chan amqp.Delivery, error) {
	if err := ctx.Err(); err != nil {
		c.reader.close(c.tag)
		return nil, fmt.Errorf("consume %s: %w", c.queue, err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var deliveries <-chan amqp.Delivery
	answer := make(chan error) // unbuffered: a caller that has left does not get the consumer
	run := func() {
		channel, err := c.session.OpenChannel()
		if err != nil {
			c.reader.close(c.tag)
			select {
			case answer <- err:
			case <-ctx.Done():
			}
			return
		}
		c.channel = channel
		// From here on it is the queue that has to answer. That it does not is no reason to take the connection from all others.
		timer := time.AfterFunc(limit, func() { end(conn.ErrUnanswered) })
		defer timer.Stop()
		if ctx.Err() != nil {
			c.closeChannel()
			return
		}
		// The prefetch counts for consumers that start after it; without it the client's buffer has no bound.
		err = channel.Qos(prefetch, 0, false)
		if err == nil {
			deliveries, err = channel.Consume(c.queue, c.tag, false, false, false, false, nil)
		}
		select {
		case answer <- err:
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
		c.closeChannel()
	}
	if !c.session.Spawn(run) {
		return nil, c.session.Err()
	}
	select {
	case err := <-answer:
		if err != nil {
			return nil, fmt.Errorf("consume %s: %w", c.queue, err)
		}
		return deliveries, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("consume %s: %w", c.queue, context.Cause(ctx))
	}
}

// Ack acknowledges tag, and everything before it if multiple. It fails once the channel is gone; then the broker
// delivers again what was not acknowledged.
func (c *Consumer) Ack(tag uint64, multiple bool) error {
	return c.channel.Ack(tag, multiple)
}

// Return gives tag and everything before it that is not acknowledged back to the queue, as [Consumer.Release] does with
// all.
func (c *Consumer) Return(tag uint64) error {
	return c.channel.Nack(tag, true, true)
}

// Depth is how many messages wait in the queue, without those that were delivered and are not acknowledged.
func (c *Consumer) Depth(ctx context.Context) (int64, error) {
	answer := make(chan int64, 1) // the request continues when ctx ends first
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

// Stop ends the deliveries: the broker delivers nothing more, and what nobody has taken yet goes back to the queue with
// [Consumer.Release]. What was taken can still be acknowledged. It does not wait for the broker.
func (c *Consumer) Stop() error {
	return c.channel.Cancel(c.tag, true)
}

// Release gives everything that was delivered and is not acknowledged back to the queue, and closes the channel. Giving
// back this way, unlike closing alone, does not count towards the delivery limit of a quorum queue. Call it after
// [Consumer.Stop].
func (c *Consumer) Release() {
	c.reader.discard(c.tag)
	const everything = 0 // the tag that stands for all unacknowledged messages of the channel (AMQP 0-9-1, basic.nack)
	// It fails when the channel is gone, and with it everything has been given back.
	_ = c.channel.Nack(everything, true, true)
	c.session.Spawn(c.closeChannel) // unless the session is over, and the channel with it
}

// closeChannel closes the channel of the consumer. Nothing can come for it afterwards.
func (c *Consumer) closeChannel() {
	c.session.CloseChannel(c.channel, conn.RequestTimeout)
	c.reader.close(c.tag)
}

// Ended is closed when the consumer, its channel or the session has ended; nothing comes from it. Like [Consumer.Ready] and
// [Consumer.Drain], it is for what [Start] has returned.
func (c *Consumer) Ended() <-chan amqp.Delivery { return c.ended }

// Done is closed when the session is over.
func (c *Consumer) Done() <-chan struct{} { return c.session.Done() }
