// Package republish hands messages on: to a retry tier, as a dead letter, or as a replay of one. What the producer gave travels inside
// of what the platform publishes, byte by byte, where it acts on no broker and meets the limits of no client: [Publishing] wraps it,
// [Unwrap] finds it again, and [Replay] publishes it anew.
package republish

import (
	"slices"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const (
	// maxInline is how many bytes of a producer's properties [Publishing] puts into a header. It leaves room for the other
	// properties, also where frame_max is half of its default.
	maxInline = 48 << 10
	// maxWrapped is how large a body may become by what it carries behind it, in bytes: the limit of a message in RabbitMQ 4
	// unless it is configured. 3.10 has 128 MiB.
	maxWrapped = 16 << 20
	// deathHeader is what the broker writes where it dead-letters a message.
	deathHeader = "x-death"
)

// Publishing is what the platform publishes of a delivery that it hands on, to a retry tier or as a dead letter: body,
// content type and encoding, correlation, reply-to, type, app id, timestamp and message id, persistent; and all properties of the
// producer as they came, in [contract.HeaderProperties] or behind the body, where [Unwrap] finds them. In there they
// act on no broker and meet the limits of no client, whatever is in them:
//   - a user id is compared by the broker with the user of the connection, and closes the channel;
//   - with an expiration a message would be dropped that waits in a retry tier or for its recorder;
//   - CC and BCC would route it into other tenants' queues;
//   - from x-death the broker sees a cycle and drops the message, and from some forms of it it crashes.
//
// A message of 16 MiB and more loses headers over 48 KiB: with them it might be larger than what the broker takes, and could
// never leave its queue.
func Publishing(d consume.Delivery) amqp.Publishing {
	p := amqp.Publishing{
		Headers: amqp.Table{}, Body: d.Body, DeliveryMode: amqp.Persistent,
		ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		CorrelationId: d.CorrelationId, ReplyTo: replyTo(d.ReplyTo), MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId,
	}
	original := Original(&d)
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

// Original are the properties that the producer gave the message. Before [Unwrap] they are those that it came with.
func Original(d *consume.Delivery) header.Properties {
	if d.Original != nil {
		return d.Original
	}
	return d.Properties
}

// Unwrap finds out which properties the producer gave a message that came through exchanges which only the platform publishes
// to: it takes off what [Publishing] has put around them, in a header and perhaps behind the body. Without that header, as
// earlier versions published, they are those that it came with, less what the platform and the broker have added. A producer can
// write the header, too, so Unwrap is for no other message. Whatever is in it, nothing but Body and what [Original]
// returns change.
func Unwrap(d *consume.Delivery) {
	headers := d.Properties.Headers()
	f := headers.Lookup(contract.HeaderProperties)
	n, ok := f.Int()
	switch body := int64(len(d.Body)) - n; {
	case f.Kind == 'x':
		d.Original = header.Properties(f.Value)
	case ok && n >= 0 && body >= 0:
		d.Original, d.Body = header.Properties(d.Body[body:]), d.Body[:body:body]
	default:
		d.Original = d.Properties.WithHeaders(headers.Without(addedBefore))
	}
}

// Undead has [Original] return the properties of a message that the broker has dead-lettered as they were before: without
// x-death and the like, and with the expiration that the broker has taken away.
func Undead(d *consume.Delivery) {
	headers := d.Properties.Headers()
	d.Original = d.Properties.WithHeaders(headers.Without(ofDeath))
	for death, err := range headers.Lookup(deathHeader).Elements() { // the last one is at the front
		if err == nil && death.Kind == 'F' {
			d.Original = d.Original.WithExpiration(header.Table(death.Value).Lookup("original-expiration").Text())
		}
		break
	}
}

// Replay is what of a producer's properties is published again with a message that is tried anew, as a message of the
// producer: all but
//   - expiration, user id, CC, BCC, x-death and the like, for the reasons that [Publishing] has;
//   - a delivery mode: it is persistent;
//   - headers that nest over 32 levels, have lists over 8,192 elements or cannot be read, which other clients could not read
//     either, and those that together do not fit into a frame of 128 KiB, the largest ones first.
//
// Of headers of one name the last one is published. The message gets another id; its body is the caller's.
func Replay(original header.Properties, messageID string) amqp.Publishing {
	p, headers, err := original.Decode()
	if err != nil {
		return amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: messageID}
	}
	p.MessageId, p.DeliveryMode, p.Expiration, p.UserId, p.ReplyTo = messageID, amqp.Persistent, "", "", replyTo(p.ReplyTo)
	p.Headers = headers.Without(actsOnBroker).Decode()
	publish.Fit(&p)
	return p
}

// replyTo is a reply-to that may be published again. With the name of the pseudo-queue for direct replies, which a client of
// AMQP 1.0 may have sent, the broker closes the channel of a publisher that does not consume from it.
func replyTo(s string) string {
	if s == "amq.rabbitmq.reply-to" {
		return ""
	}
	return s
}

// Added tells the headers that the platform and the queue of a tenant add to those of the producer.
func Added(name string) bool {
	return strings.HasPrefix(name, contract.HeaderPrefix) || counted(name)
}

// addedBefore tells the headers of a message that a platform of an earlier version has published, and the broker has dead-lettered.
func addedBefore(name string) bool {
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
	return counted(name) || addedBefore(name) || strings.HasPrefix(name, "x-opt-")
}
