package publish

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
)

// What can become of a publishing other than being confirmed, beside [conn.ErrUnavailable], [conn.ErrBlocked] and
// [conn.ErrUnanswered]. Test with errors.Is.
var (
	// ErrUnroutable: no queue is bound for the message; it was not accepted.
	ErrUnroutable = errors.New("message unroutable")
	// ErrRejected: a queue refused the message, as a rule because it is full; it was not accepted by all its queues.
	ErrRejected = errors.New("message rejected")
	// ErrUnconfirmed: the context ended before the confirmation came; its error is in the chain. The message may be
	// accepted.
	ErrUnconfirmed = errors.New("message unconfirmed")
	// ErrInvalid: the message cannot be sent over AMQP at all (a property over 255 bytes, headers over a frame). Sending
	// it would cost everyone the connection, so it was not tried.
	ErrInvalid = errors.New("message invalid for AMQP")
)

var (
	// errChannelGone: nothing was sent; another channel may take the message.
	errChannelGone = errors.New("channel gone")
	// errStalled: nothing has been confirmed on the channel for too long.
	errStalled = fmt.Errorf("%w: the broker has stopped confirming", conn.ErrUnavailable)
)

// missingExchange reports whether err is the channel exception for publishing to the exchange of that name. It closes
// the channel, for every message on it.
func missingExchange(err error, exchange string) bool {
	var refused *amqp.Error
	return errors.As(err, &refused) && refused.Code == amqp.NotFound &&
		strings.Contains(refused.Reason, "no exchange '"+exchange+"'")
}
