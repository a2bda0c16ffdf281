package rabbitmq

import (
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
)

// inbox is where the deliveries of one consumer wait for it. The broker keeps it within the consumer's prefetch.
type inbox struct {
	// discards says that nobody wants what comes.
	discards bool
	ready    chan struct{} // one element: a wake-up that is already on its way is enough

	mu         sync.Mutex
	deliveries []Delivery // guarded by mu

	// last has the texts of the delivery that came last; owned by the reader. They hardly ever change.
	last amqp.Delivery
	// touched says that something has come since the last wake-up; owned by the reader.
	touched bool
}

func newInbox() *inbox { return &inbox{ready: make(chan struct{}, 1)} }

// wake tells the consumer that something has come.
func (b *inbox) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

func (b *inbox) put(d Delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries = append(b.deliveries, d)
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
