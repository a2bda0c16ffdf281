package rabbitmq

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// What can become of a publishing other than being confirmed, and of consuming. Test with errors.Is.
var (
	// ErrUnavailable: there is no connection, or it was lost before the confirmation came. In the second case the
	// message may have been accepted.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrBlocked: the broker has an alarm (memory, disk) and takes no messages. A message that was already on its way
	// may be accepted when the alarm is over.
	ErrBlocked = errors.New("broker blocked")
	// ErrUnroutable: no queue is bound for the message; it was not accepted.
	ErrUnroutable = errors.New("message unroutable")
	// ErrRejected: a queue refused the message, as a rule because it is full; it was not accepted by all its queues.
	ErrRejected = errors.New("message rejected")
	// ErrUnconfirmed: the context ended before the confirmation came; its error is in the chain. The message may be
	// accepted.
	ErrUnconfirmed = errors.New("message unconfirmed")
	// ErrUnanswered: the queue does not answer, although the broker does, as a quorum queue without a leader. For a
	// publishing it comes with ErrUnavailable.
	ErrUnanswered = errors.New("queue does not answer")
	// ErrInvalid: the message cannot be sent over AMQP at all (a property over 255 bytes, headers over a frame). Sending
	// it would cost everyone the connection, so it was not tried.
	ErrInvalid = errors.New("message invalid for AMQP")
)

// LostError says why a connection that was up is gone. It wraps [ErrUnavailable] and the cause.
type LostError struct {
	Cause error
	// Explained says that no delivery can be the cause: the broker shuts down or was told to close the connection (code 320,
	// CONNECTION_FORCED), has been silent for longer than its heartbeats allow, or reads nothing any more.
	Explained bool
	// Consumer is the tag of the consumer whose delivery could not be read; empty if the cause is another one. Tags are the names
	// that were given to [Session.ConsumeBatches], and a number.
	Consumer string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("%v: connection lost: %v", ErrUnavailable, e.Cause)
}

// Unwrap is for errors.Is and errors.As.
func (e *LostError) Unwrap() []error { return []error{ErrUnavailable, e.Cause} }

// ErrQueueMismatch says that a queue exists with other arguments than the wanted ones. The channel is closed; the queue can
// still be used as it is, see [BindTenant].
var ErrQueueMismatch = errors.New("queue exists with other arguments")

// topologyError gives err of declaring the entity name its type. The broker has closed the channel by then.
func topologyError(what, name string, err error) error {
	var refused *amqp.Error
	if errors.As(err, &refused) && refused.Code == amqp.PreconditionFailed && what == "queue" {
		return fmt.Errorf("declare queue %s: %w: %s", name, ErrQueueMismatch, refused.Reason)
	}
	return fmt.Errorf("declare %s %s: %w", what, name, err)
}

// missingExchange reports whether err is the channel exception for publishing to the exchange of that name. It closes
// the channel, for every message on it.
func missingExchange(err error, exchange string) bool {
	var refused *amqp.Error
	return errors.As(err, &refused) && refused.Code == amqp.NotFound &&
		strings.Contains(refused.Reason, "no exchange '"+exchange+"'")
}
