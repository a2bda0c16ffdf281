package batch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
)

// slotModel is a queue with what its users know of it.
type slotModel struct {
	q     *fairQueue
	flows []*Flow
	held  []*Slot
	waits map[*Flow]waitingFor
}

type waitingFor struct {
	granted <-chan struct{}
	bulk    bool
}

func newSlotModel(t *rapid.T) *slotModel {
	m := &slotModel{q: newFairQueue(rapid.IntRange(1, 16).Draw(t, "slots")), waits: map[*Flow]waitingFor{}}
	for range rapid.IntRange(1, 6).Draw(t, "flows") {
		f := new(Flow)
		f.SetWeight(rapid.Int64Range(0, MaxWeight).Draw(t, "weight"))
		f.SetWorkers(rapid.SampledFrom([]int{0, 1, 3, 64}).Draw(t, "workers"))
		m.flows = append(m.flows, f)
	}
	return m
}

func (m *slotModel) ask(t *rapid.T) {
	f, bulk := rapid.SampledFrom(m.flows).Draw(t, "flow"), rapid.Bool().Draw(t, "full")
	if slot := m.q.try(f, bulk); slot != nil {
		if _, waits := m.waits[f]; waits {
			t.Fatal("one that waits has got another slot")
		}
		m.pay(t, slot)
		return
	}
	if _, waits := m.waits[f]; !waits {
		m.waits[f] = waitingFor{m.q.ask(f, bulk), bulk}
	}
}

func (m *slotModel) pay(t *rapid.T, slot *Slot) {
	m.held = append(m.held, slot)
	if rapid.Bool().Draw(t, "writes") {
		b := &Batch{Bytes: rapid.Int64Range(0, 8<<20).Draw(t, "bytes"), Deliveries: make([]consume.Delivery, 1)}
		slot.Assign(b, rapid.Bool().Draw(t, "ended by size"))
	}
}

func (m *slotModel) free(t *rapid.T) {
	if len(m.held) == 0 {
		t.Skip("nothing is held")
	}
	i := rapid.IntRange(0, len(m.held)-1).Draw(t, "slot")
	m.held[i].Free()
	m.held[i].Free() // once is enough
	m.held = slices.Delete(m.held, i, i+1)
}

func (m *slotModel) giveUp(t *rapid.T) {
	f := rapid.SampledFrom(m.flows).Draw(t, "flow")
	if w, waits := m.waits[f]; waits {
		m.q.abandon(f, w.bulk)
		delete(m.waits, f)
	}
}

func (m *slotModel) configure(t *rapid.T) {
	f := rapid.SampledFrom(m.flows).Draw(t, "flow")
	f.SetWeight(rapid.Int64Range(1, MaxWeight).Draw(t, "weight"))
	f.SetWorkers(rapid.IntRange(1, 64).Draw(t, "workers"))
}

// harvest takes the slots that were given out, and checks that their turn had come.
func (m *slotModel) harvest(t *rapid.T) {
	for again := true; again; { // to pay lets others in
		again = false
		for _, f := range m.flows {
			w, waits := m.waits[f]
			if !waits || !isClosed(w.granted) {
				continue
			}
			for other, kept := range m.waits {
				if !isClosed(kept.granted) && kept.bulk == w.bulk && other.start < f.start {
					t.Fatalf("served at %d before one at %d", f.start, other.start)
				}
			}
			again = true
			delete(m.waits, f)
			m.pay(t, &Slot{queue: m.q, flow: f, bulk: w.bulk})
		}
	}
}

// check holds the queue to what it promises: no slot is lost or given twice, and none is kept back without a reason.
func (m *slotModel) check(t *rapid.T) {
	m.harvest(t)
	bulk, contenders := 0, map[*Flow]bool{}
	for _, slot := range m.held {
		if slot.bulk {
			bulk++
			contenders[slot.flow] = true
		}
	}
	for f, w := range m.waits {
		if w.bulk {
			contenders[f] = true
		}
	}
	require.Equal(t, [3]int{len(m.held), bulk, len(contenders)}, [3]int{m.q.taken, m.q.bulk, m.q.contenders})
	require.LessOrEqual(t, m.q.taken, m.q.total)
	require.LessOrEqual(t, bulk, m.q.alone)
	for _, w := range m.waits {
		switch {
		case m.q.taken == m.q.total:
		case !w.bulk:
			t.Fatal("a slot is free, and one that has no backlog waits")
		case len(contenders) == 1:
			require.Equal(t, m.q.alone, bulk, "one alone waits for no other")
		default:
			require.Positive(t, bulk, "the database rests, and there is a backlog")
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Whatever is asked for, given back and given up, and in which order: no slot is lost, none is given twice, the one that was served least is
// served first, and the database does not rest while somebody waits.
func TestSlotsAgainstAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newSlotModel(t)
		t.Repeat(map[string]func(*rapid.T){
			"ask": m.ask, "free": m.free, "give up": m.giveUp, "configure": m.configure, "": m.check,
		})
		for len(m.held) > 0 || len(m.waits) > 0 { // whoever waits is served in the end
			if len(m.held) == 0 {
				t.Fatalf("%d wait, and nobody has a slot", len(m.waits))
			}
			m.held[0].Free()
			m.held = m.held[1:]
			m.check(t)
		}
		require.Zero(t, m.q.taken)
	})
}

// database is a simulation of a server that is busy: its capacity is divided among the batches that are being written.
type database struct {
	q       *fairQueue
	tenants []*floodingTenant
	writing []*writing
}

// floodingTenant always has a full batch.
type floodingTenant struct {
	flow    Flow
	workers int
	cost    func() int64 // of the next batch, without what every batch costs
	busy    int
	granted <-chan struct{}
	served  int64 // as a cost
	most    int64 // the largest batch
}

type writing struct {
	slot *Slot
	of   *floodingTenant
	left float64
}

func newDatabase(slots int, tenants ...*floodingTenant) *database {
	d := &database{q: newFairQueue(slots), tenants: tenants}
	for _, f := range tenants {
		f.flow.SetWorkers(f.workers)
	}
	return d
}

// ask has a tenant do what a collector does: begin as many batches as it may, and wait for a slot for one more.
func (d *database) ask(f *floodingTenant) {
	d.collect(f)
	for f.granted == nil && f.busy < f.workers {
		slot := d.q.try(&f.flow, true)
		if slot == nil {
			f.granted = d.q.ask(&f.flow, true)
			return
		}
		d.begin(f, slot)
	}
}

// collect begins the batch for which a slot was waited for, if it is there.
func (d *database) collect(f *floodingTenant) {
	if f.granted != nil && isClosed(f.granted) {
		f.granted = nil
		d.begin(f, &Slot{queue: d.q, flow: &f.flow, bulk: true})
	}
}

func (d *database) begin(f *floodingTenant, slot *Slot) {
	b := &Batch{Bytes: f.cost()}
	before := f.flow.start
	slot.Assign(b, true)
	cost := b.Bytes + batchCost
	f.served += cost
	f.most = max(f.most, cost)
	f.busy++
	if f.flow.start <= before {
		panic("a batch was free of charge")
	}
	d.writing = append(d.writing, &writing{slot, f, float64(cost)})
}

// beginTogether has all tenants ask at the same time: slots are given out once all of them wait.
func (d *database) beginTogether() {
	other, taken := new(Flow), []*Slot{}
	for slot := d.q.try(other, false); slot != nil; slot = d.q.try(other, false) {
		taken = append(taken, slot)
	}
	for _, f := range d.tenants {
		d.ask(f)
	}
	for _, slot := range taken {
		slot.Free()
	}
	for _, f := range d.tenants {
		d.collect(f)
	}
	for _, f := range d.tenants {
		d.ask(f)
	}
}

// step has the next batch end. Its tenant asks again after all others: a collector needs a moment, and they wait already.
func (d *database) step() {
	next := slices.MinFunc(d.writing, func(a, b *writing) int {
		if a.left < b.left {
			return -1
		}
		return 1
	})
	for _, w := range d.writing {
		w.left -= next.left
	}
	d.writing = slices.DeleteFunc(d.writing, func(w *writing) bool { return w == next })
	next.slot.Free()
	next.of.busy--
	for _, f := range d.tenants {
		if f != next.of {
			d.ask(f)
		}
	}
	d.ask(next.of)
	for _, f := range d.tenants { // what it was expected to take and did not
		d.ask(f)
	}
}

// Tenants that always have something to write write in proportion to their weights, whatever the size of their batches: at any time the
// difference is less than a batch of each of them, and one that was begun so that the database did not rest. So the one with the least
// weight waits no longer than the others need for their part of what its own batch is, and for these.
func TestSlotsAreSharedByWeight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		slots := rapid.IntRange(1, 24).Draw(t, "slots")
		tenants := make([]*floodingTenant, rapid.IntRange(2, 6).Draw(t, "tenants"))
		for i := range tenants {
			largest := rapid.Int64Range(1, 4<<20).Draw(t, "largest batch")
			tenants[i] = &floodingTenant{workers: 64, cost: func() int64 { return 1 + random.Int64N(largest) }}
			tenants[i].flow.SetWeight(rapid.Int64Range(1, MaxWeight).Draw(t, "weight"))
		}
		d := newDatabase(slots, tenants...)
		d.beginTogether()
		const steps = 300
		for range steps {
			d.step()
			for _, a := range tenants {
				for _, b := range tenants {
					ahead := a.flow.price(a.served) - b.flow.price(b.served)
					const rounding = steps // of each price
					if ahead > 2*a.flow.price(a.most)+b.flow.price(b.most)+rounding {
						t.Fatalf("weight %d is ahead of weight %d by %d, with batches of %d and %d", a.flow.weight.Load(), b.flow.weight.Load(), ahead, a.most, b.most)
					}
				}
			}
		}
	})
}

// With the workers that tenants have by default, fewer than there are slots, and with a moment between two batches of a tenant, the
// weights count as well; and 64 workers are worth no more than three.
func TestWeightCountsWhateverTheWorkers(t *testing.T) {
	t.Parallel()
	const batchBytes = 500 << 10
	type tenant struct {
		weight  int64
		workers int
	}
	for name, tenants := range map[string][]tenant{
		"1 to 3":                                    {{1, 3}, {3, 3}},
		"equal, 64 workers beside 3":                {{1, 64}, {1, 3}},
		"1 to 3, the light one has 64 workers":      {{1, 64}, {3, 3}},
		"equal, five tenants, one has 64 workers":   {{1, 64}, {1, 3}, {1, 3}, {1, 3}, {1, 3}},
		"1 to 2 to 4, five tenants, 8 workers":      {{1, 8}, {2, 8}, {2, 8}, {4, 8}, {4, 8}},
		"the least weight beside three of the most": {{1, 64}, {100, 64}, {100, 64}, {100, 64}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 2))
			var flooding []*floodingTenant
			var weights, served int64
			for _, one := range tenants {
				f := &floodingTenant{workers: one.workers, cost: func() int64 { return batchBytes + random.Int64N(batchBytes/10) }}
				f.flow.SetWeight(one.weight)
				flooding = append(flooding, f)
				weights += one.weight
			}
			d := newDatabase(12, flooding...)
			d.beginTogether()
			for range 6000 {
				d.step()
			}
			for _, f := range flooding {
				served += f.served
			}
			for i, f := range flooding {
				share, fair := float64(f.served)/float64(served), float64(tenants[i].weight)/float64(weights)
				require.InEpsilon(t, fair, share, 0.1, "tenant %d", i)
			}
		})
	}
}

// A flood does not have all slots: whoever comes with a message finds one, and whoever comes with a backlog has its part of them as soon as
// what is being written has been.
func TestAFloodLeavesSlots(t *testing.T) {
	t.Parallel()
	for slots, want := range map[int]struct{ alone, together int }{1: {1, 1}, 3: {3, 2}, 12: {9, 4}, 48: {36, 16}} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			t.Parallel()
			full := func() int64 { return 500 << 10 }
			flood, other := &floodingTenant{workers: 64, cost: full}, &floodingTenant{workers: 64, cost: full}
			d := newDatabase(slots, flood, other)
			d.ask(flood)
			require.Equal(t, want.alone, flood.busy)
			if slots > 3 {
				message := d.q.try(new(Flow), false)
				require.NotNil(t, message)
				message.Free()
			}
			d.ask(other)
			for range 1000 {
				d.step()
			}
			require.Equal(t, want.together, flood.busy+other.busy)
		})
	}
}

// What a tenant did not use is not saved up: one that was idle for an hour is first, and for one batch, not for an hour.
func TestIdlenessIsNotSavedUp(t *testing.T) {
	t.Parallel()
	full := func() int64 { return slotCredit - batchCost }
	idle, busy := &floodingTenant{workers: 64, cost: full}, &floodingTenant{workers: 64, cost: full}
	d := newDatabase(12, busy, idle)
	d.tenants = d.tenants[:1]
	d.ask(busy)
	for range 10_000 {
		d.step()
	}
	d.tenants = append(d.tenants, idle)
	before := busy.served
	d.ask(idle)
	for range 1000 {
		d.step()
	}
	since := busy.served - before
	require.InEpsilon(t, since, idle.served, 0.1)
	require.Less(t, idle.served-since, int64(3*slotCredit))
}

// A batch costs one allocation for its slot, as it did before there were weights.
func TestASlotCostsOneAllocation(t *testing.T) {
	q, f, b := newFairQueue(12), new(Flow), &Batch{Bytes: 1 << 10}
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		slot := q.try(f, true)
		slot.Assign(b, true)
		slot.Free()
	}), 1.0)
}

func BenchmarkSlot(b *testing.B) {
	q, f, written := newFairQueue(12), new(Flow), &Batch{Bytes: 1 << 10}
	b.ReportAllocs()
	for b.Loop() {
		slot := q.try(f, true)
		slot.Assign(written, true)
		slot.Free()
	}
}
