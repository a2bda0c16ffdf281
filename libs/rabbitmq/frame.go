package rabbitmq

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The parts of AMQP 0-9-1 that a delivery is made of: section 4.2.3 of the specification has the frames, 4.2.5.5 the field
// tables, 4.2.6 the content, and the RabbitMQ errata the types of fields.
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE

	// frameStart is the length of type, channel and size; frameSides of all that surrounds a payload.
	frameStart = 1 + 2 + 4
	frameSides = frameStart + 1

	// basicDeliver are class and method of basic.deliver.
	basicDeliver = 60<<16 | 60
	classBasic   = 60
)

// Limits of what is read of the headers of a message, as amqp091-go has them: a few bytes must not become much memory.
const (
	maxFieldDepth    = 32
	maxTableElements = 8192
)

// errMalformed says that the broker has sent what is not AMQP. The connection cannot be trusted any more.
var errMalformed = errors.New("malformed AMQP frame")

// cursor reads values one after the other. What it returns after it has met its end is nothing worth; failed says so.
type cursor struct {
	left   []byte
	failed bool
}

// take is the next n bytes, which are not copied.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.left) {
		c.left, c.failed = nil, true
		return nil
	}
	taken := c.left[:n:n]
	c.left = c.left[n:]
	return taken
}

func (c *cursor) uint8() uint8 {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) short() []byte { return c.take(int(c.uint8())) }

func (c *cursor) long() []byte {
	n := c.uint32()
	if n > math.MaxInt32 {
		c.left, c.failed = nil, true
		return nil
	}
	return c.take(int(n))
}

func (c *cursor) time() time.Time {
	return time.Unix(int64(c.uint64()), 0)
}

// table reads a field table; depth is how many surround it. A producer may have written anything into it, so what is beyond
// the limits or cannot be read is left out: it must not cost the connection, which belongs to many tenants. amqp091-go gives
// the connection up, and the same message ends the next one.
func (c *cursor) table(depth int) amqp.Table {
	table := amqp.Table{}
	c.elements(depth, func(inner *cursor) {
		name := string(inner.short())
		if value := inner.field(depth); !inner.failed {
			table[name] = value
		}
	})
	return table
}

func (c *cursor) array(depth int) []any {
	var array []any
	c.elements(depth, func(inner *cursor) {
		if value := inner.field(depth); !inner.failed {
			array = append(array, value)
		}
	})
	return array
}

// elements calls read for each element of a table or an array, as far as they can be read.
func (c *cursor) elements(depth int, read func(inner *cursor)) {
	inner := cursor{left: c.long()}
	if depth > maxFieldDepth {
		return
	}
	for n := 0; n < maxTableElements && len(inner.left) > 0 && !inner.failed; n++ {
		read(&inner)
	}
}

// field reads a value with its type, as the Go type that amqp091-go has for it.
func (c *cursor) field(depth int) any {
	switch c.uint8() {
	case 't':
		return c.uint8() != 0
	case 'b':
		return int8(c.uint8())
	case 'B':
		return c.uint8()
	case 's':
		return int16(c.uint16())
	case 'u':
		return c.uint16()
	case 'I':
		return int32(c.uint32())
	case 'i':
		return c.uint32()
	case 'l':
		return int64(c.uint64())
	case 'f':
		return math.Float32frombits(c.uint32())
	case 'd':
		return math.Float64frombits(c.uint64())
	case 'D':
		return amqp.Decimal{Scale: c.uint8(), Value: int32(c.uint32())}
	case 'S':
		return string(c.long())
	case 'x':
		return append([]byte{}, c.long()...)
	case 'T':
		return c.time()
	case 'A':
		return c.array(depth + 1)
	case 'F':
		return c.table(depth + 1)
	case 'V':
		return nil
	}
	c.left, c.failed = nil, true
	return nil
}

// The flags of the properties in a content header, in the order in which the properties follow.
const (
	hasContentType = 1 << (15 - iota)
	hasContentEncoding
	hasHeaders
	hasDeliveryMode
	hasPriority
	hasCorrelationID
	hasReplyTo
	hasExpiration
	hasMessageID
	hasTimestamp
	hasType
	hasUserID
	hasAppID
	hasClusterID // deprecated, and nothing of a delivery
)

// properties reads the properties of a content header into d, whose texts are those of another message before: one that is
// the same costs no memory.
func (c *cursor) properties(d *amqp.Delivery) {
	flags := c.uint16()
	text := func(flag uint16, to *string) {
		if flags&flag == 0 {
			*to = ""
			return
		}
		*to = same(*to, c.short())
	}
	text(hasContentType, &d.ContentType)
	text(hasContentEncoding, &d.ContentEncoding)
	if flags&hasHeaders != 0 {
		d.Headers = c.table(0)
	}
	if flags&hasDeliveryMode != 0 {
		d.DeliveryMode = c.uint8()
	}
	if flags&hasPriority != 0 {
		d.Priority = c.uint8()
	}
	text(hasCorrelationID, &d.CorrelationId)
	text(hasReplyTo, &d.ReplyTo)
	text(hasExpiration, &d.Expiration)
	text(hasMessageID, &d.MessageId)
	if flags&hasTimestamp != 0 {
		d.Timestamp = c.time()
	}
	text(hasType, &d.Type)
	text(hasUserID, &d.UserId)
	text(hasAppID, &d.AppId)
	if flags&hasClusterID != 0 {
		c.short()
	}
}

// same is b as a string: before, if that is the same, which costs no memory.
func same(before string, b []byte) string {
	if string(b) == before {
		return before
	}
	return string(b)
}
