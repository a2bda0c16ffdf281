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

// errMalformed says that the broker has sent what is not AMQP. The connection cannot be trusted any more.
var errMalformed = errors.New("malformed AMQP frame")

// cursor reads values one after the other. What it returns after it has met its end is nothing worth; failed says so.
type cursor struct {
	left   []byte
	failed bool
}

// bytes is the next n bytes, which are not copied.
func (c *cursor) bytes(n int) []byte {
	if n < 0 || n > len(c.left) {
		c.left, c.failed = nil, true
		return nil
	}
	taken := c.left[:n:n]
	c.left = c.left[n:]
	return taken
}

func (c *cursor) uint8() uint8 {
	if b := c.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if b := c.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if b := c.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) short() []byte { return c.bytes(int(c.uint8())) }

func (c *cursor) long() []byte {
	n := c.uint32()
	if n > math.MaxInt32 {
		c.left, c.failed = nil, true
		return nil
	}
	return c.bytes(int(n))
}

func (c *cursor) time() time.Time {
	return time.Unix(int64(c.uint64()), 0)
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

// properties reads the properties of a content header into d, except the headers, which it returns as they are. The texts in d
// are those of another message before: one that is the same costs no memory.
func (c *cursor) properties(d *amqp.Delivery) (headers Table) {
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
		headers = Table(c.long())
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
	return headers
}

// same is b as a string: before, if that is the same, which costs no memory.
func same(before string, b []byte) string {
	if string(b) == before {
		return before
	}
	return string(b)
}
