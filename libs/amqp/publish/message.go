package publish

import (
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
)

const (
	// frameMax is the largest frame that both sides agree on by default, in bytes. All properties of a message must fit into
	// one, and the broker closes the connection over a larger one.
	frameMax = 128 << 10
	// headerSides is what a header frame has beside the properties: what surrounds any payload (type, channel, size and end), and
	// class, weight and size of the body.
	headerSides = 1 + 2 + 4 + 1 + 2 + 2 + 8
	// deathGrowth is left of a frame for what the broker adds when a message is dead-lettered twice: x-death, x-first-death-* and
	// x-last-death-*, of about 500 bytes each time. A frame that has grown over frame_max ends the connection of a client that
	// reads it.
	deathGrowth = 2 << 10
	// maxProperties is how many bytes of properties are published at most.
	maxProperties = frameMax - headerSides - deathGrowth
)

// Message is one publishing. It is always mandatory and confirmed.
type Message struct {
	Exchange, Key string
	// Publishing is sent as it is. Its MessageId makes it possible to tell which of several messages to one key the
	// broker has returned; without one, all unconfirmed ones to that key count as returned.
	Publishing amqp.Publishing
}

// destination is where a message goes.
type destination struct{ exchange, key string }

// check refuses what cannot be sent, before it costs everybody the connection. The library fails the connection over a short string of
// more than 255 bytes.
func check(m *Message) error {
	p := &m.Publishing
	for _, s := range [...]struct{ name, value string }{{"exchange", m.Exchange}, {"routing key", m.Key}} {
		if len(s.value) > header.MaxShort {
			return fmt.Errorf("%w: %s has %d bytes of at most %d", ErrInvalid, s.name, len(s.value), header.MaxShort)
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
		if len(s.value) > header.MaxShort {
			return fmt.Errorf("%w: %s has %d bytes of at most %d", ErrInvalid, s.name, len(s.value), header.MaxShort)
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
		if len(name) > header.MaxShort {
			return 0, fmt.Errorf("a name has %d bytes of at most %d", len(name), header.MaxShort)
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
	if depth > header.MaxDepth {
		return fmt.Errorf("nested over %d levels", header.MaxDepth)
	}
	if elements > header.MaxElements {
		return fmt.Errorf("%d elements of at most %d", elements, header.MaxElements)
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

// Fit leaves out headers of p, the largest ones first, until p can be published.
func Fit(p *amqp.Publishing) {
	for check(&Message{Publishing: *p}) != nil && len(p.Headers) > 0 {
		delete(p.Headers, largest(p.Headers))
	}
	if len(p.Headers) == 0 {
		p.Headers = nil
	}
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
