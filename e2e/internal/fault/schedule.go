package fault

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// FullRun is the shortest run that has room for every kind twice.
	FullRun = 90 * time.Second
	// atOnce is how many faults are in force at a time, at most.
	atOnce = 2
	// gap follows every fault before something else disturbs the same server or the place of it is taken.
	gap = 300 * time.Millisecond
	// leadTime is left at the start, for tenants that have only just been created: see queueAge.
	leadTime = queueAge
	// tail is left at the end, so that the last fault is recovered from before the load ends.
	tail = 5 * time.Second
	// packings is how many orders of a round are tried; one in a few fits.
	packings = 500
)

// Schedule is what happens in a run: a function of duration and seed alone, in the order of time.
//
// A run of [FullRun] or longer has every kind at least twice; a longer one has a round of all kinds, newly shuffled, every
// 90 s. A shorter run has what there is room for, see [Missing]. At most two faults are in force at a time, never two that
// concern the same server or service. The last one ends [tail] before the end of the run.
//
// How long a server takes to start again is an assumption; an [Injector] on a slower machine runs late.
func Schedule(duration time.Duration, seed int64) []Event {
	rng := rand.New(rand.NewPCG(uint64(seed), 0)) //nolint:gosec // it has to be repeatable, not secret
	rounds := 1
	if duration >= FullRun {
		rounds = max(2, int(duration/FullRun))
	}
	begin := min(leadTime, duration/6)
	window := (duration - begin - min(tail, duration/6)) / time.Duration(rounds)
	first := rng.IntN(3) // of the servers that faults of the network are put before
	var events []Event
	for round := range rounds {
		for _, event := range packRound(rng, window, first+round) {
			event.At += begin + time.Duration(round)*window
			events = append(events, event)
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int { return int(a.At - b.At) })
	return events
}

// Missing are the kinds that occur less than twice in events.
func Missing(events []Event) []Kind {
	return slices.DeleteFunc(Kinds(), func(kind Kind) bool {
		count := 0
		for _, event := range events {
			if event.Kind == kind {
				count++
			}
		}
		return count >= 2
	})
}

// packRound is one event of each kind within a window, or of as many kinds as there is room for.
func packRound(rng *rand.Rand, window time.Duration, firstServer int) []Event {
	// A round takes some 40 s when it is packed; with more than that there is room for longer faults.
	roomy := window > 60*time.Second
	var best []slot
	for range packings {
		if packed := pack(draw(rng, roomy, firstServer), window); len(packed) > len(best) {
			best = packed
		}
		if len(best) == len(Kinds()) {
			break
		}
	}
	return spread(best, window)
}

// slot is an event with what packing has to know of it.
type slot struct {
	Event
	occupies        time.Duration
	disturbs, needs resource
}

func (s slot) ends() time.Duration { return s.At + s.occupies }

func (s slot) conflicts(o slot) bool {
	return conflicting(s.disturbs, s.needs, o.disturbs, o.needs)
}

// draw is one event of each kind in a random order, the long ones first: there is always a place left for short ones.
func draw(rng *rand.Rand, roomy bool, firstServer int) []slot {
	var slots []slot
	for _, row := range table() {
		longest := row.most
		if roomy {
			longest = max(row.most, row.long)
		}
		event := Event{Kind: row.kind, Lasts: row.least}
		if span := longest - row.least; span > 0 {
			event.Lasts += time.Duration(rng.Int64N(int64(span))).Truncate(10 * time.Millisecond)
		}
		if i := slices.Index(Networks(), row.kind); i >= 0 {
			event.Param = int64(firstServer+i) % 3
		}
		slots = append(slots, slot{Event: event, occupies: event.occupies(), disturbs: event.disturbs(), needs: row.needs})
	}
	rng.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
	const long = 5 * time.Second
	slices.SortStableFunc(slots, func(a, b slot) int {
		switch {
		case a.occupies > long && b.occupies <= long:
			return -1
		case a.occupies <= long && b.occupies > long:
			return 1
		default:
			return 0
		}
	})
	return slots
}

// occupies is how long an event is expected to have its place: it is brought about, kept up, undone, and left behind.
func (e Event) occupies() time.Duration { return e.Lasts + traitsOf(e.Kind).work + gap }

// pack gives each event the earliest place within the window that does not collide with those before it. Events for which
// there is none are left out.
func pack(slots []slot, window time.Duration) []slot {
	var placed []slot
	starts := []time.Duration{0}
	for _, s := range slots {
		for _, at := range starts { // in order: a place is free from the start or from the end of another
			if s.At = at; s.ends() <= window && fits(s, placed) {
				placed = append(placed, s)
				i, _ := slices.BinarySearch(starts, s.ends())
				starts = slices.Insert(starts, i, s.ends())
				break
			}
		}
	}
	return placed
}

// fits reports whether an event may be in force beside those that are placed already.
func fits(s slot, placed []slot) bool {
	var beside []slot
	for _, other := range placed {
		if other.At < s.ends() && s.At < other.ends() {
			if s.conflicts(other) {
				return false
			}
			beside = append(beside, other)
		}
	}
	// How many are in force rises only where one begins.
	for _, one := range append(beside, s) {
		at, count := max(one.At, s.At), 1
		for _, other := range beside {
			if other.At <= at && at < other.ends() {
				count++
			}
		}
		if count > atOnce {
			return false
		}
	}
	return true
}

// spread moves events apart until the last one ends with the window. What did not overlap still does not: all beginnings
// are moved by the same factor, and the faults get no longer.
func spread(slots []slot, window time.Duration) []Event {
	factor := 2.5 // more would leave nothing at all going on for long
	for _, s := range slots {
		if s.At > 0 {
			factor = min(factor, float64(window-s.occupies)/float64(s.At))
		}
	}
	events := make([]Event, 0, len(slots))
	for _, s := range slots {
		s.At = time.Duration(float64(s.At) * max(factor, 1)).Truncate(time.Millisecond)
		events = append(events, s.Event)
	}
	return events
}
