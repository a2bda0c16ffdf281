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

// Ready gets an element when there is something to [Consumer.Drain]. Like that and [Consumer.Trim], it is for what
// [Start] has returned.
func (c *Consumer) Ready() <-chan struct{} { return c.inbox.ready }

// Drain returns what has been delivered since it was called the last time, in the order of the tags. What comes next is
// gathered in empty, which may be nil.
func (c *Consumer) Drain(empty []Delivery) []Delivery {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	taken := c.inbox.deliveries
	c.inbox.deliveries = empty
	return taken
}

// Waiting is how many deliveries have come and were not taken yet. Unlike the others it may be called from any goroutine.
func (c *Consumer) Waiting() int {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	return len(c.inbox.deliveries)
}

// Trim lets go of memory in which nothing waits.
func (c *Consumer) Trim() {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	if len(c.inbox.deliveries) == 0 {
		c.inbox.deliveries = nil
	}
}
