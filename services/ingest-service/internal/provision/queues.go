package provision

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// deliveryLimit of a tenant's queue: after so many deliveries the broker parks a message. Crashes of a consumer count,
// too, so it is high. RabbitMQ 3.10 has no limit unless one is set, 4.0 has 20.
const deliveryLimit = 1000

// recorderDeliveryLimit is that of the queues which the recorder of dead letters consumes, for all tenants; beyond it the broker puts a
// message into quarantine. What ends the connection of the recorder at each delivery gets there within seconds. Others come near
// it only if twenty connections are lost in a row while they are held, and are not lost either. RabbitMQ 4 has the same number by default.
const recorderDeliveryLimit = 20

// noDeliveryLimit is for queues that have nowhere to put a message that was delivered too often: the broker drops it
// there. It is the largest number that every version takes.
const noDeliveryLimit = math.MaxInt32

// QueueOptions are the arguments of tenants' queues.
type QueueOptions struct {
	// Type is [amqp.QueueTypeQuorum] (the default) or [amqp.QueueTypeClassic].
	Type string
	// MaxLengthBytes is how many bytes of messages a queue holds before it refuses more. 0 means without limit. It is
	// soft: what is on the way when the limit is reached still gets in.
	MaxLengthBytes int64
	// Raised, if there is one, tells how many bytes a tenant wants its queue to hold, 0 for no wish: a new queue with a higher wish than
	// MaxLengthBytes has that as its argument, since nothing can raise an argument later. Not of an unlimited queue.
	Raised func(tenant string) int64
	// Screened says that producers reach the queue through the screen alone, see [DeclareScreen].
	Screened bool
}

// DeclareShared declares the exchanges and queues that all tenants share (see package contract), with one retry tier for
// each of delays. The tiers' queues have queueType; those of dead letters and parked messages are always quorum queues.
// A queue that exists with other arguments is [ErrQueueMismatch]; the channel is closed after any error.
func DeclareShared(ch *amqp.Channel, delays []time.Duration, queueType string) error {
	return declareShared(ch, delays, queueType, quarantining())
}

// DeclareSharedUnlimited is [DeclareShared] for an installation whose queues of dead letters and parked messages were made before
// there was a quarantine. Arguments of a queue cannot be changed; a policy does the same (see the runbook).
func DeclareSharedUnlimited(ch *amqp.Channel, delays []time.Duration, queueType string) error {
	return declareShared(ch, delays, queueType, unlimited())
}

// quarantining are the arguments of a queue from which the broker puts into quarantine what was delivered too often.
func quarantining() amqp.Table {
	args := amqp.Table{
		amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int32(recorderDeliveryLimit), "x-dead-letter-exchange": contract.QuarantineExchange,
	}
	atLeastOnce(args)
	return args
}

func unlimited() amqp.Table {
	return amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum, "x-delivery-limit": int32(noDeliveryLimit)}
}

func declareShared(ch *amqp.Channel, delays []time.Duration, queueType string, recorded amqp.Table) error {
	for _, x := range []struct {
		name, kind string
		args       amqp.Table
	}{
		{contract.QuarantineExchange, amqp.ExchangeFanout, nil},
		{contract.ParkingExchange, amqp.ExchangeFanout, nil},
		{contract.DeadLettersExchange, amqp.ExchangeFanout, nil},
		{contract.LargeDeadLettersExchange, amqp.ExchangeFanout, nil},
		{contract.TenantsExchange, amqp.ExchangeTopic, nil},
		{contract.MessagesExchange, amqp.ExchangeTopic, nil},
		{contract.RetryReturnExchange, amqp.ExchangeTopic, amqp.Table{"alternate-exchange": contract.ParkingExchange}},
	} {
		if err := ch.ExchangeDeclare(x.name, x.kind, true, false, false, false, x.args); err != nil {
			return declareError("exchange", x.name, err)
		}
	}
	for _, q := range []struct {
		name, exchange string
		args           amqp.Table
	}{
		// A look at it through the management API counts as a delivery.
		{contract.QuarantineQueue, contract.QuarantineExchange, unlimited()},
		{contract.DeadLettersQueue, contract.DeadLettersExchange, recorded},
		{contract.ParkingQueue, contract.ParkingExchange, recorded},
		{contract.LargeDeadLettersQueue, contract.LargeDeadLettersExchange, quarantining()}, // younger than the quarantine
	} {
		if err := declareBound(ch, q.name, q.args, binding{q.exchange, ""}); err != nil {
			return err
		}
	}
	for _, delay := range delays {
		if err := declareTier(ch, delay, queueType); err != nil {
			return err
		}
	}
	return nil
}

// declareTier declares the exchange and the queue that hold messages back for delay. A message is published there under
// its tenant's key, keeps it through the fanout exchange, and returns under it when it expires.
func declareTier(ch *amqp.Channel, delay time.Duration, queueType string) error {
	name := contract.RetryTierName(delay)
	if err := ch.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
		return declareError("exchange", name, err)
	}
	args := amqp.Table{
		amqp.QueueTypeArg:        queueTypeOr(queueType),
		amqp.QueueMessageTTLArg:  delay.Milliseconds(),
		"x-dead-letter-exchange": contract.RetryReturnExchange,
	}
	atLeastOnce(args)
	return declareBound(ch, name, args, binding{name, ""})
}

// DeclareTenant declares a tenant's queue and its bindings. It is idempotent. A queue that exists with other arguments
// is [ErrQueueMismatch]: with [BindTenant], on a new channel, it can be used as it is.
func DeclareTenant(ch *amqp.Channel, tenantID string, opts QueueOptions) error {
	if err := DeclareTenantQueue(ch, tenantID, opts); err != nil {
		return err
	}
	return BindTenant(ch, tenantID, opts.Screened)
}

// DeclareTenantQueue is [DeclareTenant] without the bindings: nothing gets into a queue that is new.
func DeclareTenantQueue(ch *amqp.Channel, tenantID string, opts QueueOptions) error {
	args := amqp.Table{
		amqp.QueueTypeArg:           queueTypeOr(opts.Type),
		"x-dead-letter-exchange":    contract.ParkingExchange,
		"x-dead-letter-routing-key": contract.ParkingRoutingKey,
		amqp.QueueOverflowArg:       amqp.QueueOverflowRejectPublish,
	}
	if args[amqp.QueueTypeArg] == amqp.QueueTypeQuorum {
		args["x-delivery-limit"] = int32(deliveryLimit)
	}
	atLeastOnce(args)
	if limit := opts.MaxLengthBytes; limit > 0 {
		if opts.Raised != nil {
			limit = max(limit, opts.Raised(tenantID))
		}
		args[amqp.QueueMaxLenBytesArg] = limit
	}
	return declareQueue(ch, contract.QueueName(tenantID), args)
}

// BindTenant binds a tenant's queue, whatever its arguments, and takes the way past the screen from producers if it is to be
// screened. It is idempotent. There is a way for producers at any moment of it, and a publish that finds two gives the queue one
// copy. A screen that was not declared is an error.
func BindTenant(ch *amqp.Channel, tenantID string, screened bool) error {
	queue := contract.QueueName(tenantID)
	past := binding{contract.MessagesExchange, tenantID}
	bindings := []binding{{contract.TenantsExchange, tenantID}, {contract.RetryReturnExchange, tenantID}}
	if !screened {
		bindings = append(bindings, past)
	}
	if err := bind(ch, queue, bindings...); err != nil || !screened {
		return err
	}
	// Once more, since somebody may have deleted the screen: no way is taken away before the other one is there.
	if err := bindScreen(ch); err != nil {
		return err
	}
	if err := ch.QueueUnbind(queue, past.key, past.exchange, nil); err != nil {
		return fmt.Errorf("unbind queue %s from %s: %w", queue, past.exchange, err)
	}
	return nil
}

const (
	// flushPause is how long nothing may be added to a queue that is to be deleted, flushLimit how long it is waited for at most.
	flushPause = 100 * time.Millisecond
	flushLimit = 2 * time.Second
)

// DeleteTenant deletes a tenant's queue with everything in it and returns how many messages these were. A queue that
// does not exist is fine; the channel may be closed then.
//
// Nothing is routed to the queue any more before it goes, and what was on its way has arrived: with a quorum queue RabbitMQ 3.10
// forgets the confirmations that it owes, and a channel that waits for one confirms nothing else, whatever tenant that is of.
func DeleteTenant(ctx context.Context, ch *amqp.Channel, tenantID string) (messages int, err error) {
	if err := DeleteTenantExchange(ch, tenantID); err != nil {
		return 0, err
	}
	name := contract.QueueName(tenantID)
	for _, exchange := range []string{contract.MessagesExchange, contract.TenantsExchange, contract.RetryReturnExchange} {
		if err := ch.QueueUnbind(name, tenantID, exchange, nil); err != nil {
			return 0, fmt.Errorf("unbind queue %s from %s: %w", name, exchange, err)
		}
	}
	if exists, err := flushed(ctx, ch, name); err != nil || !exists {
		return 0, err
	}
	messages, err = ch.QueueDelete(name, false, false, false)
	if err != nil {
		return 0, fmt.Errorf("delete queue %s: %w", name, err)
	}
	return messages, nil
}

// flushed waits until nothing more is added to a queue that is bound to nothing. It reports whether there is such a queue.
func flushed(ctx context.Context, ch *amqp.Channel, name string) (exists bool, err error) {
	tick := time.NewTicker(flushPause)
	defer tick.Stop()
	last := -1
	for range flushLimit / flushPause {
		queue, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		if refused, ok := errors.AsType[*amqp.Error](err); ok && refused.Code == amqp.NotFound {
			return false, nil
		}
		switch {
		case err != nil:
			return false, fmt.Errorf("look at queue %s: %w", name, err)
		case queue.Messages == last:
			return true, nil
		}
		last = queue.Messages
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
	return true, nil
}

func queueTypeOr(queueType string) string {
	if queueType == "" {
		return amqp.QueueTypeQuorum
	}
	return queueType
}

// atLeastOnce has a quorum queue keep a dead-lettered message until its target has confirmed it. The strategy needs
// reject-publish; without it the broker takes the argument and silently dead-letters at most once.
func atLeastOnce(args amqp.Table) {
	if args[amqp.QueueTypeArg] != amqp.QueueTypeQuorum {
		return
	}
	args["x-dead-letter-strategy"] = "at-least-once"
	args[amqp.QueueOverflowArg] = amqp.QueueOverflowRejectPublish
}
