package rabbitmq

import (
	"fmt"
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// maxShort is the longest short string of AMQP 0-9-1, in bytes (section 4.2.5.3). The library fails the whole
	// connection over a longer one.
	maxShort = 255
	// frameMax is the largest frame that both sides agree on by default, in bytes. All properties of a message must fit into
	// one, and the broker closes the connection over a larger one.
	frameMax = 128 << 10
	// headerSides is what a header frame has beside the properties: class, weight and size of the body.
	headerSides = frameSides + 2 + 2 + 8
	// deathGrowth is left of a frame for what the broker adds when a message is dead-lettered twice, from a retry tier and from a
	// tenant's queue: x-death, x-first-death-* and x-last-death-*, of about 500 bytes each time. A frame that has grown over
	// frame_max ends the connection of a client that reads it.
	deathGrowth = 2 << 10
	// maxProperties is how many bytes of properties are published at most.
	maxProperties = frameMax - headerSides - deathGrowth
	// maxInline is how many bytes of a producer's properties [Republishing] puts into a header. It leaves room for the other
	// properties, also where frame_max is half of its default.
	maxInline = 48 << 10
	// maxWrapped is how large a body may become by what it carries behind it, in bytes: the limit of a message in RabbitMQ 4
	// unless it is configured. 3.10 has 128 MiB.
	maxWrapped = 16 << 20
)

// check refuses what cannot be sent, before it costs everybody the connection.
func check(m *Message) error {
	p := &m.Publishing
	for _, s := range [...]struct{ name, value string }{{"exchange", m.Exchange}, {"routing key", m.Key}} {
		if len(s.value) > maxShort {
			return fmt.Errorf("%w: %s has %d bytes of at most %d", ErrInvalid, s.name, len(s.value), maxShort)
		}
	}
	texts := [...]struct{ name, value string }{
		{"message_id", p.MessageId},
		{"correlation_id", p.CorrelationId},
		{"content_type", p.ContentType},
		{"content_encoding", p.ContentEncoding},
		{"reply_to", p.ReplyTo},
		{"expiration", p.Expiration},
		{"type", p.Type},
		{"user_id", p.UserId},
		{"app_id", p.AppId},
	}
	for _, s := range texts {
		if len(s.value) > maxShort {
			return fmt.Errorf("%w: %s has %d bytes of at most %d", ErrInvalid, s.name, len(s.value), maxShort)
		}
	}
	if err := p.Headers.Validate(); err != nil {
		return fmt.Errorf("%w: headers: %w", ErrInvalid, err)
	}
	size, err := tableSize(p.Headers, 0)
	if err != nil {
		return fmt.Errorf("%w: headers: %w", ErrInvalid, err)
	}
	for _, s := range texts {
		size += 1 + len(s.value)
	}
	if size += flagsAndNumbers; size > maxProperties {
		return fmt.Errorf("%w: the properties have %d bytes of at most %d", ErrInvalid, size, maxProperties)
	}
	return nil
}

// flagsAndNumbers is the size of the properties that are not texts: flags, delivery mode, priority and timestamp.
const flagsAndNumbers = 2 + 1 + 1 + 8

// tableSize is the encoded size of t, which lies in so many others. The error says which of the limits of other clients it is
// beyond.
func tableSize(t amqp.Table, depth int) (size int, err error) {
	if err := container(len(t), depth); err != nil {
		return 0, err
	}
	size = 4
	for name, value := range t {
		if len(name) > maxShort {
			return 0, fmt.Errorf("a name has %d bytes of at most %d", len(name), maxShort)
		}
		n, err := fieldSize(value, depth)
		if err != nil {
			return 0, err
		}
		size += 1 + len(name) + n
	}
	return size, nil
}

func container(elements, depth int) error {
	if depth > maxFieldDepth {
		return fmt.Errorf("nested over %d levels", maxFieldDepth)
	}
	if elements > maxTableElements {
		return fmt.Errorf("%d elements of at most %d", elements, maxTableElements)
	}
	return nil
}

func fieldSize(value any, depth int) (size int, err error) {
	switch v := value.(type) {
	case string:
		return 5 + len(v), nil
	case []byte:
		return 5 + len(v), nil
	case amqp.Table:
		n, err := tableSize(v, depth+1)
		return 1 + n, err
	case []any:
		if err := container(len(v), depth+1); err != nil {
			return 0, err
		}
		size = 5
		for _, element := range v {
			n, err := fieldSize(element, depth+1)
			if err != nil {
				return 0, err
			}
			size += n
		}
		return size, nil
	case nil:
		return 1, nil
	case bool, int8, uint8:
		return 2, nil
	case int16, uint16:
		return 3, nil
	case int, int32, uint32, float32:
		return 5, nil
	case amqp.Decimal:
		return 6, nil
	default: // 64-bit numbers and times
		return 9, nil
	}
}

// Republishing is what the platform publishes of a delivery that it hands on, to a retry tier or as a dead letter: body,
// content type and encoding, correlation, reply-to, type, app id, timestamp and message id, persistent; and all properties of the
// producer as they came, in [contract.HeaderProperties] or behind the body, where [Delivery.Unwrap] finds them. In there they
// act on no broker and meet the limits of no client, whatever is in them:
//   - a user id is compared by the broker with the user of the connection, and closes the channel;
//   - with an expiration a message would be dropped that waits in a retry tier or for its recorder;
//   - CC and BCC would route it into other tenants' queues;
//   - from x-death the broker sees a cycle and drops the message, and from some forms of it it crashes.
//
// A message of 16 MiB and more loses headers over 48 KiB: with them it might be larger than what the broker takes, and could
// never leave its queue.
func Republishing(d Delivery) amqp.Publishing {
	p := amqp.Publishing{
		Headers: amqp.Table{}, Body: d.Body, DeliveryMode: amqp.Persistent,
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		CorrelationId: d.CorrelationId, ReplyTo: replyTo(d.ReplyTo), MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId,
	}
	original := d.Original()
	if len(original) > maxInline && len(original)+len(d.Body) > maxWrapped {
		original = original.WithHeaders(nil)
	}
	if len(original) <= maxInline {
		p.Headers[contract.HeaderProperties] = []byte(original)
		return p
	}
	p.Headers[contract.HeaderProperties] = int64(len(original))
	p.Body = slices.Concat(d.Body, original)
	return p
}

// Replaying is what of a producer's properties is published again with a message that is tried anew, as a message of the
// producer: all but
//   - expiration, user id, CC, BCC, x-death and the like, for the reasons that [Republishing] has;
//   - a delivery mode: it is persistent;
//   - headers that nest over 32 levels, have lists over 8,192 elements or cannot be read, which other clients could not read
//     either, and those that together do not fit into a frame of 128 KiB, the largest ones first.
//
// Of headers of one name the last one is published. The message gets another id; its body is the caller's.
func Replaying(original Properties, messageID string) amqp.Publishing {
	p, headers, err := original.Decode()
	if err != nil {
		return amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: messageID}
	}
	p.MessageId, p.DeliveryMode, p.Expiration, p.UserId, p.ReplyTo = messageID, amqp.Persistent, "", "", replyTo(p.ReplyTo)
	p.Headers = headers.Without(actsOnBroker).Decode()
	for check(&Message{Publishing: p}) != nil && len(p.Headers) > 0 {
		delete(p.Headers, largest(p.Headers))
	}
	if len(p.Headers) == 0 {
		p.Headers = nil
	}
	return p
}

// largest is the name of the field that takes the most bytes.
func largest(t amqp.Table) (name string) {
	most := 0
	for candidate, value := range t {
		size, err := fieldSize(value, 0)
		if size += len(candidate); err != nil || size > most {
			name, most = candidate, size
		}
	}
	return name
}

// replyTo is a reply-to that may be published again. With the name of the pseudo-queue for direct replies, which a client of
// AMQP 1.0 may have sent, the broker closes the channel of whoever does not consume from it.
func replyTo(s string) string {
	if s == "amq.rabbitmq.reply-to" {
		return ""
	}
	return s
}

// AddedHeader tells the headers that the platform and the queue of a tenant add to those of the producer.
func AddedHeader(name string) bool {
	return strings.HasPrefix(name, contract.HeaderPrefix) || counted(name)
}

// added tells the headers of a message that a platform of an earlier version has published, and the broker has dead-lettered.
func added(name string) bool {
	return strings.HasPrefix(name, contract.HeaderPrefix) || ofDeath(name)
}

// counted tells those in which a queue counts deliveries.
func counted(name string) bool { return name == "x-delivery-count" || name == "x-acquired-count" }

// ofDeath tells those that the broker adds when it dead-letters a message.
func ofDeath(name string) bool {
	return name == deathHeader || strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-")
}

// actsOnBroker tells those to which the broker, or the platform, gives a meaning of its own.
func actsOnBroker(name string) bool {
	switch name {
	case "CC", "BCC", "x-delay":
		return true
	}
	return counted(name) || added(name) || strings.HasPrefix(name, "x-opt-")
}
