package batch

import "golang.org/x/sync/semaphore"

// Slot is the right to write one batch now. All tenants share a limited number, which are given out in the order in
// which they were asked for. A batch is complete only once its slot is there: while the database has enough to do, every
// batch grows, and ten thousand tenants that trickle cost it as many statements as it can take, not as many as there are
// messages.
type Slot struct {
	slots *semaphore.Weighted // nil once it was freed
}

// Free gives the slot back; again, or on nil, it does nothing. It is for one goroutine at a time.
func (s *Slot) Free() {
	if s == nil || s.slots == nil {
		return
	}
	s.slots.Release(1)
	s.slots = nil
}
