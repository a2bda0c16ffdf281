package store

import "cmp"

// Position is the place of a message in the reading order. No two messages of a tenant have the same.
type Position struct {
	Epoch int32
	Xid   uint64
	Ord   int32
}

// Compare is negative if p comes before other in ascending order, positive if after, and 0 if they are the same.
func (p Position) Compare(other Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, other.Epoch), cmp.Compare(p.Xid, other.Xid), cmp.Compare(p.Ord, other.Ord))
}

// Order is the direction in which the reading order is followed.
type Order int

// The two orders. Descending is the exact reverse of ascending.
const (
	Ascending Order = iota + 1
	Descending
)

// tighter is the later of two lower bounds or, descending, the earlier of two upper bounds; nil is no bound.
func (o Order) tighter(a, b *Position) *Position {
	if a == nil {
		return b
	}
	if b == nil || (a.Compare(*b) > 0) == (o == Ascending) {
		return a
	}
	return b
}
