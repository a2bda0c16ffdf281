package rate

import "github.com/srireskianita/multi-tenant-messaging/libs/contract"

// Kind is what a limit counts. The numbers travel between instances of different versions: none is ever given another meaning.
type Kind uint8

// The kinds of limits.
const (
	// Messages are messages that are published.
	Messages Kind = 0
	// Bytes are the bytes of their payloads and envelopes.
	Bytes Kind = 1

	kinds = 2
)

// Amounts has a number of tokens for each kind: what a message costs, or how many tokens a second are allowed. Zero costs nothing,
// and limits nothing.
type Amounts [kinds]int64

// Publishing are the limits per second of what a tenant publishes. A negative one, which the registry does not let pass, is none.
func Publishing(limits contract.Limits) Amounts {
	return Amounts{Messages: max(limits.PublishRate, 0), Bytes: max(limits.PublishBytes, 0)}
}

// IsZero reports whether there is no limit, or no cost.
func (a Amounts) IsZero() bool { return a == Amounts{} }

func (a Amounts) plus(b Amounts) Amounts {
	for k := range a {
		a[k] += b[k]
	}
	return a
}

// sum is what all costs come to.
func sum(costs []Amounts) (total Amounts) {
	for _, cost := range costs {
		total = total.plus(cost)
	}
	return total
}
