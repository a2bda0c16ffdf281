package batch

import (
	"container/heap"
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// MaxWeight is the largest weight of a tenant.
	MaxWeight = 100
	// messageCost and batchCost are what a message and a batch cost beside their bytes, in bytes. A backlog of 256 B, 1 KB and 16 KB messages
	// is stored at 20, 37 and 306 µs a message: 18 µs for each and 18 ns for a byte. A batch of one takes the database about 80 µs more than
	// its message does (docs/performance.md).
	messageCost, batchCost = 1 << 10, 4 << 10
	// slotCredit is how far a tenant may be behind, as a cost: one that was idle or slow does not get more of the past than this, a largest
	// batch of the default configuration. What is lost by it is the turn of one that needs a moment to ask again.
	slotCredit = 4 << 20
	// slotExpected is for how long a tenant is expected to ask for a slot: until others were given so much, as a cost.
	slotExpected = 16 << 20
)

// Slot is the right to write one batch now. All tenants share a limited number, see [fairQueue]. A batch is complete only once its slot
// is there: while the database has enough to do, every batch grows, and ten thousand tenants that trickle cost it as many statements as it
// can take, not as many as there are messages.
type Slot struct {
	queue *fairQueue // nil once it was freed
	flow  *Flow
	bulk  bool
}

// Assign gives the slot to a batch, and has the tenant pay for it. full says that the batch was ended by its size: there is more.
func (s *Slot) Assign(b *Batch, full bool) {
	b.Slot = s
	s.queue.charge(s.flow, batchCost+messageCost*int64(len(b.Deliveries))+b.Bytes, full)
}

// Free gives the slot back; again, or on nil, it does nothing. It is for one goroutine at a time.
func (s *Slot) Free() {
	if s == nil || s.queue == nil {
		return
	}
	s.queue.free(s)
	s.queue = nil
}

// Flow is one tenant among those that share slots, as fair queueing calls it: what it has been given, and what it is entitled to. The zero
// value is a tenant of weight 1 that has been given nothing. It belongs to one [Writer], and one goroutine at a time waits for its slots.
type Flow struct {
	weight  atomic.Int64
	workers atomic.Int64

	// Guarded by the mutex of the queue.
	start      int64         // the virtual time up to which it has been served
	seen       int64         // what had been given in all when it got or freed a slot last
	held, bulk int           // slots that it has; those among them for batches of a backlog
	backlog    bool          // its last batch was full
	contends   bool          // it has or waits for a slot for a batch of a backlog
	granted    chan struct{} // closed when the slot that it waits for is there; nil while it waits for none
	waitsBulk  bool          // what it waits for
	ticket     int64         // its place among those that wait with the same start
	index      int           // in the heap
}

// SetWeight sets the weight, 1 to [MaxWeight]; 0 is 1. It counts from the next batch on.
func (f *Flow) SetWeight(weight int64) { f.weight.Store(min(max(weight, 1), MaxWeight)) }

// SetWorkers says how many batches of the tenant may be written at a time.
func (f *Flow) SetWorkers(workers int) { f.workers.Store(int64(workers)) }

// price is what a cost is in virtual time: less for a tenant with more weight.
func (f *Flow) price(cost int64) int64 { return cost * MaxWeight / max(f.weight.Load(), 1) }

// fairQueue gives out slots by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each tenant has a virtual time, which each of
// its batches moves on by cost divided by weight; the next slot is for the one whose time is the earliest. So tenants that always have
// something to write write in proportion to their weights, whatever number of workers they have, and a tenant that seldom writes does not
// wait for those that always do. The cost of a batch is known once it has its slot, which start-time fair queueing, unlike others, can do
// with.
//
// Two things are different here. There are many slots, and a tenant may have several of them. And the slots are not what is scarce: it
// is the database, which is busy with fewer batches than there are slots. So full batches, those of backlogs, do not get all of them.
// While one tenant has a backlog, a quarter of the slots stays free for the others. While several have, they share a third of all
// slots, and there the weights count: a tenant that had more of it than another waits even if a slot is free, as long as the other one can
// be expected to ask for it, since a worker of it is just between two batches. That never keeps the last slot unused: the database does not
// rest.
type fairQueue struct {
	total  int // slots
	alone  int // for full batches, while one tenant has a backlog
	shared int // for full batches, while several have

	mu         sync.Mutex
	now        int64       // guarded by mu: the start of the tenant that was served last
	given      int64       // guarded by mu: the cost of all batches
	taken      int         // guarded by mu
	bulk       int         // guarded by mu: slots taken for full batches
	contenders int         // guarded by mu: tenants that have or wait for such a slot
	holders    []*Flow     // guarded by mu: those that have one
	waiting    [2]flowHeap // guarded by mu: for a slot for a batch that is not full, and for one that is
	tickets    int64       // guarded by mu
}

func newFairQueue(slots int) *fairQueue {
	return &fairQueue{total: slots, alone: slots - slots/4, shared: min(max(slots/3, 2), slots)}
}

// kind is the index of waiting.
func kind(bulk bool) int {
	if bulk {
		return 1
	}
	return 0
}

// try is a slot if there is one for f right now, else nil. It passes nobody: who waits is refused what f is given.
func (q *fairQueue) try(f *Flow, bulk bool) *Slot {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f.granted != nil {
		return nil // it waits for one
	}
	q.enter(f)
	if !q.admits(f, bulk) {
		return nil
	}
	q.grant(f, bulk)
	q.dispatch()
	return &Slot{queue: q, flow: f, bulk: bulk}
}

// wait waits for a slot until ctx ends; nil then.
func (q *fairQueue) wait(ctx context.Context, f *Flow, bulk bool) *Slot {
	granted := q.ask(f, bulk)
	select {
	case <-granted:
		return &Slot{queue: q, flow: f, bulk: bulk}
	case <-ctx.Done():
		q.abandon(f, bulk)
		return nil
	}
}

// ask has f wait for a slot; what it returns is closed once f has it.
func (q *fairQueue) ask(f *Flow, bulk bool) (granted <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.enter(f)
	ready := make(chan struct{})
	q.tickets++
	f.granted, f.waitsBulk, f.ticket = ready, bulk, q.tickets
	heap.Push(&q.waiting[kind(bulk)], f)
	q.count(f)
	q.dispatch()
	return ready
}

// abandon ends what ask began.
func (q *fairQueue) abandon(f *Flow, bulk bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if f.granted == nil { // at the same time
		q.release(f, bulk)
	} else {
		heap.Remove(&q.waiting[kind(bulk)], f.index)
		f.granted = nil
		q.count(f)
	}
	q.dispatch()
}

// charge has f pay for a batch.
func (q *fairQueue) charge(f *Flow, cost int64, backlog bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f.start += f.price(cost)
	q.given += cost
	f.backlog = backlog
	if f.granted != nil {
		heap.Fix(&q.waiting[kind(f.waitsBulk)], f.index)
	}
	q.dispatch()
}

func (q *fairQueue) free(s *Slot) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.release(s.flow, s.bulk)
	q.dispatch()
}

// enter brings a tenant that asks into the present. The caller holds mu, as for all that follow.
func (q *fairQueue) enter(f *Flow) { f.start = max(f.start, q.now-f.price(slotCredit)) }

// dispatch gives out what there is to those that wait.
func (q *fairQueue) dispatch() {
	for f := q.next(); f != nil; f = q.next() {
		heap.Remove(&q.waiting[kind(f.waitsBulk)], f.index)
		q.grant(f, f.waitsBulk)
		close(f.granted)
		f.granted = nil
	}
}

// next is who is to get a slot now, nil for nobody. Whoever is behind the first of a heap would be refused for the same reason.
func (q *fairQueue) next() (first *Flow) {
	for _, waiting := range q.waiting {
		if len(waiting) == 0 || !q.admits(waiting[0], waiting[0].waitsBulk) {
			continue
		}
		if first == nil || waiting[0].before(first) {
			first = waiting[0]
		}
	}
	return first
}

// admits reports whether f may have one more slot.
func (q *fairQueue) admits(f *Flow, bulk bool) bool {
	others := q.contenders
	if f.contends {
		others--
	}
	switch {
	case q.taken >= q.total:
		return false
	case !bulk:
		return true
	case others == 0:
		return q.bulk < q.alone
	default:
		return q.bulk < q.shared && !q.isAhead(f)
	}
}

// isAhead reports whether another tenant with a backlog was given less than f, and is about to ask for a slot. There is one only if it has
// a batch in the database.
func (q *fairQueue) isAhead(f *Flow) bool {
	return slices.ContainsFunc(q.holders, func(other *Flow) bool {
		return other.start < f.start && other.backlog && other.granted == nil &&
			int64(other.held) < other.workers.Load() && q.given-other.seen <= slotExpected
	})
}

func (q *fairQueue) grant(f *Flow, bulk bool) {
	q.now = max(q.now, f.start)
	f.seen = q.given
	q.taken++
	f.held++
	if bulk {
		if q.bulk++; f.bulk == 0 {
			q.holders = append(q.holders, f)
		}
		f.bulk++
	}
	q.count(f)
}

func (q *fairQueue) release(f *Flow, bulk bool) {
	f.seen = q.given
	q.taken--
	f.held--
	if bulk {
		q.bulk--
		if f.bulk--; f.bulk == 0 {
			i, last := slices.Index(q.holders, f), len(q.holders)-1
			q.holders[i], q.holders[last] = q.holders[last], nil
			q.holders = q.holders[:last]
		}
	}
	q.count(f)
}

// count notes whether f contends.
func (q *fairQueue) count(f *Flow) {
	contends := f.bulk > 0 || f.granted != nil && f.waitsBulk
	if contends == f.contends {
		return
	}
	f.contends = contends
	if contends {
		q.contenders++
	} else {
		q.contenders--
	}
}

// flowHeap has the one first whose turn is first.
type flowHeap []*Flow

// before reports whether f is to be served before other: it was served less, or has waited longer.
func (f *Flow) before(other *Flow) bool {
	return f.start < other.start || f.start == other.start && f.ticket < other.ticket
}

func (h flowHeap) Len() int           { return len(h) }
func (h flowHeap) Less(i, j int) bool { return h[i].before(h[j]) }

func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *flowHeap) Push(x any) {
	f := x.(*Flow) //nolint:errcheck,forcetypeassert // package heap gives back what it was given
	f.index = len(*h)
	*h = append(*h, f)
}

// Pop implements [heap.Interface].
func (h *flowHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return f
}
