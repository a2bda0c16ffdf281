package provision

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Modes of the screen: rabbitmq.screen in the configuration.
const (
	// ScreenAuto has a screen in front of brokers that need it: those below [screenless].
	ScreenAuto = "auto"
	ScreenOn   = "on"
	ScreenOff  = "off"
)

const (
	// screenless is the first major version whose dead-lettering bears whatever a producer writes into x-death. Before, an
	// entry that the broker would not write itself ends the one supervisor of all at-least-once dead-lettering of the node,
	// or is taken for a cycle and never leaves (rabbitmq-server#767, #216, #161). 3.13 keeps deaths apart, too, but not those
	// of messages that were stored by an older version (mc_compat).
	screenless = 4
	// deathHeader is what the broker writes where it dead-letters a message. A producer has no use for it.
	deathHeader = "x-death"
	// refusingQueues is how many queues that refuse are tried. A classic queue cannot be declared while its node is down.
	refusingQueues = 5
)

// Screened reports whether producers are to publish through a screen, by the mode of the configuration and the version of the broker.
// No mode is [ScreenAuto]; a version that cannot be read counts as an old one.
func Screened(mode, version string) bool {
	switch mode {
	case ScreenOn:
		return true
	case ScreenOff:
		return false
	}
	first, _, _ := strings.Cut(version, ".")
	major, err := strconv.Atoi(first)
	return err != nil || major < screenless
}

// DeclareScreen puts the screen between producers and tenants' queues, or opens it. [DeclareShared] comes before, and
// [BindTenant] of each tenant after it. It is idempotent, and messages have a way at any moment of it.
//
// What has a header x-death is led to a queue without room, and the broker refuses it (basic.nack): it looks at the limit of a
// classic queue before anything else, so that nothing gets in, nothing can expire there and nothing is lost in silence.
// The way there is the binding of an exchange, which is known in the whole cluster: bindings of a classic queue vanish
// with its node, and what matches no binding of the screen passes.
//
// An open screen lets everything pass, and tenants' queues are bound past it. It is left where it is: a tenant that is not bound
// yet is reached through it.
func DeclareScreen(ctx context.Context, session *conn.Session, closed bool) error {
	err := session.Do(ctx, func(ch *amqp.Channel) error {
		passed := amqp.Table{"alternate-exchange": contract.TenantsExchange}
		if err := ch.ExchangeDeclare(contract.ScreenExchange, amqp.ExchangeHeaders, true, false, false, false, passed); err != nil {
			return declareError("exchange", contract.ScreenExchange, err)
		}
		if err := ch.ExchangeDeclare(contract.RefusedExchange, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			return declareError("exchange", contract.RefusedExchange, err)
		}
		if closed {
			return nil
		}
		if err := ch.ExchangeUnbind(contract.RefusedExchange, "", contract.ScreenExchange, false, hasDeath()); err != nil {
			return fmt.Errorf("open the screen: %w", err)
		}
		return nil
	})
	if err != nil || !closed {
		return err
	}
	if err := declareRefusing(ctx, session); err != nil {
		return err
	}
	return session.Do(ctx, func(ch *amqp.Channel) error {
		if err := ch.ExchangeBind(contract.RefusedExchange, "", contract.ScreenExchange, false, hasDeath()); err != nil {
			return fmt.Errorf("close the screen: %w", err)
		}
		return bindScreen(ch)
	})
}

// hasDeath are the arguments of a binding that matches every message with [deathHeader].
func hasDeath() amqp.Table {
	return amqp.Table{"x-match": "any-with-x", deathHeader: nil} // nil: any value, since the header is there
}

// bindScreen leads what producers publish to the screen.
func bindScreen(ch *amqp.Channel) error {
	if err := ch.ExchangeBind(contract.ScreenExchange, "#", contract.MessagesExchange, false, nil); err != nil {
		return fmt.Errorf("put the screen in front of the tenants: %w", err)
	}
	return nil
}

// declareRefusing declares a queue that refuses every publish, on a node that is there.
func declareRefusing(ctx context.Context, session *conn.Session) error {
	args := amqp.Table{
		amqp.QueueTypeArg: amqp.QueueTypeClassic, amqp.QueueMaxLenArg: int32(0), amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish,
	}
	var err error
	for n := range refusingQueues {
		name := contract.RefusedQueue(n)
		err = session.Do(ctx, func(ch *amqp.Channel) error {
			return declareBound(ch, name, args, binding{contract.RefusedExchange, ""})
		})
		if refused, ok := errors.AsType[*amqp.Error](err); !ok || refused.Code != amqp.NotFound {
			return err // but for 404: the node of the queue is down
		}
	}
	return err
}
