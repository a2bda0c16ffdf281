package provision

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrQueueMismatch says that a queue exists with other arguments than the wanted ones. The channel is closed; the queue can
// still be used as it is, see [BindTenant].
var ErrQueueMismatch = errors.New("queue exists with other arguments")

// declareError gives err of declaring the entity name its type. The broker has closed the channel by then.
func declareError(what, name string, err error) error {
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.PreconditionFailed && what == "queue" {
		return fmt.Errorf("declare queue %s: %w: %s", name, ErrQueueMismatch, refused.Reason)
	}
	return fmt.Errorf("declare %s %s: %w", what, name, err)
}

type binding struct{ exchange, key string }

func declareBound(ch *amqp.Channel, queue string, args amqp.Table, bindings ...binding) error {
	if err := declareQueue(ch, queue, args); err != nil {
		return err
	}
	return bind(ch, queue, bindings...)
}

func declareQueue(ch *amqp.Channel, queue string, args amqp.Table) error {
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		return declareError("queue", queue, err)
	}
	return nil
}

func bind(ch *amqp.Channel, queue string, bindings ...binding) error {
	for _, b := range bindings {
		if err := ch.QueueBind(queue, b.key, b.exchange, false, nil); err != nil {
			return fmt.Errorf("bind queue %s to %s: %w", queue, b.exchange, err)
		}
	}
	return nil
}
