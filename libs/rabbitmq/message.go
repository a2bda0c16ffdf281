package rabbitmq

import (
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// maxShort is the longest short string of AMQP 0-9-1, in bytes (section 4.2.5.3). The library fails the whole
	// connection over a longer one.
	maxShort = 255
	// maxHeaders is how many bytes of headers a message may have. All properties must fit into one frame, 128 KiB by
	// default on both sides; the broker closes the connection over a larger one.
	maxHeaders = 100 << 10
	// keptHeaders is how many bytes of a delivery's headers [Republishing] keeps, so that those which are added later
	// fit, too.
	keptHeaders = 64 << 10
)

// check refuses what cannot be sent, before it costs everybody the connection.
func check(m *Message) error {
	p := &m.Publishing
	for _, s := range []struct{ name, value string }{
		{"exchange", m.Exchange},
		{"routing key", m.Key},
		{"message_id", p.MessageId},
		{"correlation_id", p.CorrelationId},
		{"content_type", p.ContentType},
		{"content_encoding", p.ContentEncoding},
		{"reply_to", p.ReplyTo},
		{"expiration", p.Expiration},
		{"type", p.Type},
		{"user_id", p.UserId},
		{"app_id", p.AppId},
	} {
		if len(s.value) > maxShort {
			return fmt.Errorf("%w: %s has %d bytes of at most %d", ErrInvalid, s.name, len(s.value), maxShort)
		}
	}
	if len(p.Headers) == 0 {
		return nil
	}
	if err := p.Headers.Validate(); err != nil {
		return fmt.Errorf("%w: headers: %w", ErrInvalid, err)
	}
	n, longest := tableSize(p.Headers)
	if n > maxHeaders {
		return fmt.Errorf("%w: headers have %d bytes of at most %d", ErrInvalid, n, maxHeaders)
	}
	if longest > maxShort {
		return fmt.Errorf("%w: a header name has %d bytes of at most %d", ErrInvalid, longest, maxShort)
	}
	return nil
}

// tableSize is an upper bound of the encoded size of t, and the length of its longest name.
func tableSize(t amqp.Table) (size, longestName int) {
	size = 4
	for name, value := range t {
		n, longest := fieldSize(value)
		size += 1 + len(name) + n
		longestName = max(longestName, len(name), longest)
	}
	return size, longestName
}

func fieldSize(value any) (size, longestName int) {
	switch v := value.(type) {
	case string:
		return 5 + len(v), 0
	case []byte:
		return 5 + len(v), 0
	case amqp.Table:
		n, longest := tableSize(v)
		return 1 + n, longest
	case []any:
		size = 5
		for _, element := range v {
			n, longest := fieldSize(element)
			size += n
			longestName = max(longestName, longest)
		}
		return size, longestName
	default:
		return 9, 0 // the widest of the others: a 64-bit number and its type
	}
}

// Republishing is what of a delivery may be published again: body, content type and encoding, correlation, reply-to,
// type, app id, timestamp and message id, persistent. Left out is what would act on the broker a second time:
//   - the user id, which the broker compares with the user of the connection, closing the channel;
//   - the expiration, with which a message waiting in a retry tier or for its recorder would be dropped;
//   - CC and BCC, which would route it into other tenants' queues;
//   - x-death and the like, from which the broker would see a cycle and drop the message, and the delivery counts.
//
// Headers that exceed 64 KiB together are left out as a whole: with them the message might not fit into a frame, and
// could never leave its queue.
func Republishing(d amqp.Delivery) amqp.Publishing {
	headers := make(amqp.Table, len(d.Headers))
	for name, value := range d.Headers {
		if !brokerHeader(name) {
			headers[name] = value
		}
	}
	if n, longest := tableSize(headers); n > keptHeaders || longest > maxShort {
		headers = amqp.Table{}
	}
	return amqp.Publishing{
		Headers: headers, Body: d.Body, DeliveryMode: amqp.Persistent,
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId,
	}
}

// brokerHeader reports whether the broker gives the header a meaning of its own.
func brokerHeader(name string) bool {
	switch name {
	case "CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count", "x-delay":
		return true
	}
	return strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-") ||
		strings.HasPrefix(name, "x-opt-")
}
