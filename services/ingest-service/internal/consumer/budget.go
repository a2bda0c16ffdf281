package consumer

import "sync"

// Budget limits the memory that unacknowledged deliveries take in this process. The broker limits them by number alone
// (RabbitMQ ignores a prefetch in bytes), and they wait for the consumer unseen; so a consumer with a backlog claims
// what its prefetch may hold at the size of its messages, and lowers its prefetch when the claims exceed the budget.
type Budget struct {
	limit int64

	mu     sync.Mutex
	claims map[*Consumer]int64 // guarded by mu
	total  int64               // guarded by mu
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int64) *Budget {
	return &Budget{limit: limit, claims: make(map[*Consumer]int64)}
}

// claim notes that c may hold so many bytes and reports whether that is all right. It is not if all claims together
// exceed the budget and that of c is above the average: the consumer with the most gives way first.
func (b *Budget) claim(c *Consumer, bytes int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total += bytes - b.claims[c]
	b.claims[c] = bytes
	return b.total <= b.limit || bytes <= b.limit/int64(len(b.claims))
}

// release ends the claim of c.
func (b *Budget) release(c *Consumer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= b.claims[c]
	delete(b.claims, c)
}
