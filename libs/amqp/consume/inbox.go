package consume

import (
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
)

// Delivery is a message as [Consumer.Drain] returns it.
type Delivery struct {
	// Delivery has the properties, except the headers: these are in Properties alone, since what a producer can write into them
	// takes many times the memory once it is decoded.
	amqp.Delivery
	// Properties are all properties as they came.
	Properties header.Properties
	// Original is for code that republishes messages and knows which properties a message had before. A delivery comes without.
	Original header.Properties
}

// inbox is where the deliveries of one consumer wait for it: the [wire.Sink] of either reader. The broker keeps it within the
// consumer's prefetch.
type inbox struct {
	ready chan struct{} // one element: a wake-up that is already on its way is enough

	mu         sync.Mutex
	deliveries []Delivery // guarded by mu
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// Wake tells the consumer that something has come.
func (b *inbox) Wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Put adds a delivery.
func (b *inbox) Put(d amqp.Delivery, properties header.Properties) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries = append(b.deliveries, Delivery{Delivery: d, Properties: properties})
}

// drain exchanges what has come for empty.
func (b *inbox) drain(empty []Delivery) []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.deliveries
	b.deliveries = empty
	return taken
}

func (b *inbox) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.deliveries)
}

func (b *inbox) trim() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.deliveries) == 0 {
		b.deliveries = nil
	}
}
