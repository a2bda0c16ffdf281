package header

import (
	"encoding/binary"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"
)

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

// ReadProperties reads the properties of a content header into d, except the headers, which it returns as they are. The texts in d
// are those of another message before: one that is the same costs no memory.
func (c *Cursor) ReadProperties(d *amqp.Delivery) (headers Table) {
	flags := c.Uint16()
	text := func(flag uint16, to *string) {
		if flags&flag == 0 {
			*to = ""
			return
		}
		*to = Same(*to, c.Short())
	}
	text(hasContentType, &d.ContentType)
	text(hasContentEncoding, &d.ContentEncoding)
	if flags&hasHeaders != 0 {
		headers = Table(c.Long())
	}
	if flags&hasDeliveryMode != 0 {
		d.DeliveryMode = c.Uint8()
	}
	if flags&hasPriority != 0 {
		d.Priority = c.Uint8()
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
		c.Short()
	}
	return headers
}

// Same is b as a string: before, if that is the same, which costs no memory.
func Same(before string, b []byte) string {
	if string(b) == before {
		return before
	}
	return string(b)
}

// Properties are the properties of a message as on the wire: the flags and values of a content header (AMQP 0-9-1, section
// 4.2.6.1).
type Properties []byte

// Decode returns the properties as amqp091-go has them, except the headers, which it returns as they are: nil if there are none.
// The error is [ErrUnreadable].
func (p Properties) Decode() (amqp.Publishing, Table, error) {
	var d amqp.Delivery
	c := Cursor{Left: p}
	headers := c.ReadProperties(&d)
	if c.Failed {
		return amqp.Publishing{}, nil, ErrUnreadable
	}
	return amqp.Publishing{
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, DeliveryMode: d.DeliveryMode, Priority: d.Priority,
		CorrelationId: d.CorrelationId, ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, UserId: d.UserId, AppId: d.AppId,
	}, headers, nil
}

// Headers are the headers as they are; nil if there are none, or they cannot be read.
func (p Properties) Headers() Table {
	c := Cursor{Left: p}
	flags := c.beforeHeaders()
	if flags&hasHeaders == 0 {
		return nil
	}
	return Table(c.Long())
}

// HasPriority reports whether p has a priority, which may be 0.
func (p Properties) HasPriority() bool {
	return len(p) >= 2 && binary.BigEndian.Uint16(p)&hasPriority != 0
}

// beforeHeaders reads up to the headers.
func (c *Cursor) beforeHeaders() (flags uint16) {
	flags = c.Uint16()
	for _, flag := range []uint16{hasContentType, hasContentEncoding} {
		if flags&flag != 0 {
			c.Short()
		}
	}
	return flags
}

// WithHeaders is p with other headers; with none if these are empty.
func (p Properties) WithHeaders(headers Table) Properties {
	c := Cursor{Left: p}
	flags := c.beforeHeaders()
	if c.Failed {
		return p
	}
	before := p[2 : len(p)-len(c.Left)]
	if flags&hasHeaders != 0 {
		c.Long()
	}
	if c.Failed {
		return p
	}
	flags &^= hasHeaders
	if len(headers) > 0 {
		flags |= hasHeaders
	}
	changed := append(binary.BigEndian.AppendUint16(make(Properties, 0, len(p)+len(headers)+4), flags), before...)
	if len(headers) > 0 {
		changed = append(binary.BigEndian.AppendUint32(changed, uint32(len(headers))), headers...)
	}
	return append(changed, c.Left...)
}

// WithExpiration is p with an expiration, unless it has one, or expiration is empty or over 255 bytes.
func (p Properties) WithExpiration(expiration string) Properties {
	c := Cursor{Left: p}
	flags := c.beforeHeaders()
	if flags&hasExpiration != 0 || expiration == "" || len(expiration) > MaxShort {
		return p
	}
	if flags&hasHeaders != 0 {
		c.Long()
	}
	for _, flag := range []uint16{hasDeliveryMode, hasPriority} {
		if flags&flag != 0 {
			c.Uint8()
		}
	}
	for _, flag := range []uint16{hasCorrelationID, hasReplyTo} {
		if flags&flag != 0 {
			c.Short()
		}
	}
	if c.Failed {
		return p
	}
	at := len(p) - len(c.Left)
	changed := slices.Insert(slices.Clone(p), at, append([]byte{byte(len(expiration))}, expiration...)...)
	binary.BigEndian.PutUint16(changed, flags|hasExpiration)
	return changed
}
