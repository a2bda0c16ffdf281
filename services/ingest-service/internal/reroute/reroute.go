// Package reroute publishes the platform's own messages into tenants' queues, those of the HTTP API and replays, and by another exchange
// where a queue is not bound as it should be.
//
// They go to the exchange that leads to the queues, past the screen for producers, since nothing of them is a producer's but
// the payload. A tenant's queue may not be bound there although the tenant is known: it was made by a version that did not have
// the exchange and has not been verified yet, somebody has removed the binding, or the broker has not carried it to
// every node (Khepri, RabbitMQ 4). Then the message takes the producers' way, and the tenant is verified.
package reroute

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// Broker publishes with confirms; [publish.Publisher] is one.
type Broker interface {
	Publish(ctx context.Context, m publish.Message) error
	PublishBatch(ctx context.Context, ms []publish.Message) []error
}

// Publisher publishes to [contract.TenantsExchange]. It is safe for concurrent use.
type Publisher struct {
	broker Broker
	verify func(tenant uuid.UUID)
}

// New returns a publisher over broker. It calls verify, which must not wait, with a tenant whose queue was not found: its
// queue and its bindings are to be verified.
func New(broker Broker, verify func(tenant uuid.UUID)) *Publisher {
	return &Publisher{broker: broker, verify: verify}
}

// Publish publishes m, with the errors of [publish.Publisher.Publish]. After [publish.ErrUnroutable] it is worth another try in
// a second or two, if the tenant exists.
func (p *Publisher) Publish(ctx context.Context, m publish.Message) error {
	err := p.broker.Publish(ctx, m)
	if !p.misses(&m, err) {
		return err
	}
	m.Exchange = contract.MessagesExchange
	return p.broker.Publish(ctx, m)
}

// PublishBatch publishes ms as [publish.Publisher.PublishBatch] does. Those that take the other way come after the rest.
func (p *Publisher) PublishBatch(ctx context.Context, ms []publish.Message) []error {
	errs := p.broker.PublishBatch(ctx, ms)
	var again []publish.Message
	var place []int // again[k] is ms[place[k]]
	for i, err := range errs {
		if p.misses(&ms[i], err) {
			m := ms[i]
			m.Exchange = contract.MessagesExchange
			again, place = append(again, m), append(place, i)
		}
	}
	if len(again) > 0 {
		for k, err := range p.broker.PublishBatch(ctx, again) {
			errs[place[k]] = err
		}
	}
	return errs
}

// misses reports whether a message has not found its queue, and has the tenant verified then.
func (p *Publisher) misses(m *publish.Message, err error) bool {
	if m.Exchange != contract.TenantsExchange || !errors.Is(err, publish.ErrUnroutable) {
		return false
	}
	if tenant, err := uuid.Parse(m.Key); err == nil {
		p.verify(tenant)
	}
	return true
}
