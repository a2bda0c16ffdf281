package rabbitmq

import (
	"encoding/binary"
	"slices"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Delivery is a message as [Consumption.Drain] returns it.
type Delivery struct {
	// Delivery has the properties, except the headers: these are in Properties alone, since what a producer can write into them
	// takes many times the memory once it is decoded.
	amqp.Delivery
	// Properties are all properties as they came.
	Properties Properties

	// original are those that the producer gave, once [Delivery.Unwrap] has found that Properties are the platform's.
	original Properties
}

// Properties are the properties of a message as on the wire: the flags and values of a content header (AMQP 0-9-1, section
// 4.2.6.1).
type Properties []byte

// Decode returns the properties as amqp091-go has them, except the headers, which it returns as they are: nil if there are none.
// The error is [ErrUnreadable].
func (p Properties) Decode() (amqp.Publishing, Table, error) {
	var d amqp.Delivery
	c := cursor{left: p}
	headers := c.properties(&d)
	if c.failed {
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
	c := cursor{left: p}
	flags := c.beforeHeaders()
	if flags&hasHeaders == 0 {
		return nil
	}
	return Table(c.long())
}

// HasPriority reports whether p has a priority, which may be 0.
func (p Properties) HasPriority() bool {
	return len(p) >= 2 && binary.BigEndian.Uint16(p)&hasPriority != 0
}

// beforeHeaders reads up to the headers.
func (c *cursor) beforeHeaders() (flags uint16) {
	flags = c.uint16()
	for _, flag := range []uint16{hasContentType, hasContentEncoding} {
		if flags&flag != 0 {
			c.short()
		}
	}
	return flags
}

// WithHeaders is p with other headers; with none if these are empty.
func (p Properties) WithHeaders(headers Table) Properties {
	c := cursor{left: p}
	flags := c.beforeHeaders()
	if c.failed {
		return p
	}
	before := p[2 : len(p)-len(c.left)]
	if flags&hasHeaders != 0 {
		c.long()
	}
	if c.failed {
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
	return append(changed, c.left...)
}

// WithExpiration is p with an expiration, unless it has one, or expiration is empty or over 255 bytes.
func (p Properties) WithExpiration(expiration string) Properties {
	c := cursor{left: p}
	flags := c.beforeHeaders()
	if flags&hasExpiration != 0 || expiration == "" || len(expiration) > maxShort {
		return p
	}
	if flags&hasHeaders != 0 {
		c.long()
	}
	for _, flag := range []uint16{hasDeliveryMode, hasPriority} {
		if flags&flag != 0 {
			c.uint8()
		}
	}
	for _, flag := range []uint16{hasCorrelationID, hasReplyTo} {
		if flags&flag != 0 {
			c.short()
		}
	}
	if c.failed {
		return p
	}
	at := len(p) - len(c.left)
	changed := slices.Insert(slices.Clone(p), at, append([]byte{byte(len(expiration))}, expiration...)...)
	binary.BigEndian.PutUint16(changed, flags|hasExpiration)
	return changed
}

// Original are the properties that the producer gave the message. Before [Delivery.Unwrap] they are those that it came with.
func (d *Delivery) Original() Properties {
	if d.original != nil {
		return d.original
	}
	return d.Properties
}

// Unwrap finds out which properties the producer gave a message that came through exchanges which only the platform publishes
// to: it takes off what [Republishing] has put around them, in a header and perhaps behind the body. Without that header, as
// earlier versions published, they are those that it came with, less what the platform and the broker have added. A producer can
// write the header, too, so Unwrap is for no other message. Whatever is in it, nothing but Body and what [Delivery.Original]
// returns change.
func (d *Delivery) Unwrap() {
	headers := d.Properties.Headers()
	f := headers.Lookup(contract.HeaderProperties)
	n, ok := f.Int()
	switch body := int64(len(d.Body)) - n; {
	case f.Kind == 'x':
		d.original = Properties(f.Value)
	case ok && n >= 0 && body >= 0:
		d.original, d.Body = Properties(d.Body[body:]), d.Body[:body:body]
	default:
		d.original = d.Properties.WithHeaders(headers.Without(added))
	}
}

// Undead has [Delivery.Original] return the properties of a message that the broker has dead-lettered as they were before: without
// x-death and the like, and with the expiration that the broker has taken away.
func (d *Delivery) Undead() {
	headers := d.Properties.Headers()
	d.original = d.Properties.WithHeaders(headers.Without(ofDeath))
	for death, err := range headers.Lookup("x-death").Elements() { // the last one is at the front
		if err == nil && death.Kind == 'F' {
			d.original = d.original.WithExpiration(Table(death.Value).Lookup("original-expiration").Text())
		}
		break
	}
}
