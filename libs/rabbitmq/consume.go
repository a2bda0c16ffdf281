package rabbitmq

import (
	"context"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Consumption is one consumer on a channel of its own, so that its delivery tags run 1, 2, 3, … without gaps.
type Consumption struct {
	// Deliveries is closed when the consumer, its channel or the session has ended. The library buffers what is not
	// taken from it: up to prefetch.
	Deliveries <-chan amqp.Delivery

	session *Session
	channel *amqp.Channel
	queue   string
	tag     string
}

// Consume opens a channel and consumes queue with manual acknowledgement, at most prefetch deliveries unacknowledged.
// It returns when ctx ends; a consumer that starts later is closed again. The broker's refusal (a queue that does not
// exist: code 404) is an *amqp.Error in the chain.
func (s *Session) Consume(ctx context.Context, queue, tag string, prefetch int) (*Consumption, error) {
	channel, err := s.Channel(ctx)
	if err != nil {
		return nil, err
	}
	type started struct {
		deliveries <-chan amqp.Delivery
		err        error
	}
	answer := make(chan started) // unbuffered: who has left does not get the consumer
	start := func() {
		stop := s.giveUpAfter(rpcTimeout, "basic.consume")
		// The prefetch counts for consumers that start after it; without it the client's buffer has no bound.
		err := channel.Qos(prefetch, 0, false)
		var deliveries <-chan amqp.Delivery
		if err == nil {
			deliveries, err = channel.Consume(queue, tag, false, false, false, false, nil)
		}
		stop()
		select {
		case answer <- started{deliveries, err}:
			if err == nil {
				return
			}
		case <-ctx.Done():
		}
		s.closeChannel(channel, rpcTimeout)
	}
	if !s.spawn(start) {
		return nil, s.Err()
	}
	select {
	case a := <-answer:
		if a.err != nil {
			return nil, fmt.Errorf("consume %s: %w", queue, a.err)
		}
		return &Consumption{Deliveries: a.deliveries, session: s, channel: channel, queue: queue, tag: tag}, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("consume %s: %w", queue, ctx.Err())
	}
}

// Ack acknowledges tag, and everything before it if multiple. It fails once the channel is gone; then the broker
// delivers again what was not acknowledged.
func (c *Consumption) Ack(tag uint64, multiple bool) error {
	return c.channel.Ack(tag, multiple)
}

// Depth is how many messages wait in the queue, without those that were delivered and are not acknowledged.
func (c *Consumption) Depth(ctx context.Context) (messages int64, err error) {
	err = c.session.Do(ctx, func(ch *amqp.Channel) error {
		queue, err := ch.QueueDeclarePassive(c.queue, true, false, false, false, nil)
		messages = int64(queue.Messages)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("depth of %s: %w", c.queue, err)
	}
	return messages, nil
}

// Stop ends the intake: nothing more is delivered, what the library has buffered is dropped. What was taken can still
// be acknowledged. It does not wait for the broker.
func (c *Consumption) Stop() error {
	return c.channel.Cancel(c.tag, true)
}

// Release gives everything that was delivered and is not acknowledged back to the queue, and closes the channel. Giving
// back this way, unlike closing alone, does not count towards the delivery limit of a quorum queue. Call it after
// [Consumption.Stop].
func (c *Consumption) Release() {
	const everything = 0 // the tag that stands for all unacknowledged messages of the channel (AMQP 0-9-1, basic.nack)
	// It fails when the channel is gone, and with it everything has been given back.
	_ = c.channel.Nack(everything, true, true)
	if !c.session.spawn(func() { c.session.closeChannel(c.channel, rpcTimeout) }) {
		return // the session is over, and the channel with it
	}
}

// Done is closed when the session is over.
func (c *Consumption) Done() <-chan struct{} { return c.session.Done() }
