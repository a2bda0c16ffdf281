package fault

import (
	"context"
	"slices"
	"sync"
	"time"
)

// gate lets events in that may be in force beside those that are, and remembers when each of them was. An event that is
// due waits here for a server that an earlier one has not given back yet, and for the platform to have recovered from the
// last fault of the same kind.
type gate struct {
	events []Event

	mu sync.Mutex
	// changed is closed and replaced whenever something below changes.
	changed chan struct{}
	// waiting and inForce are events by their places in the list; healing are those that are over but not recovered from.
	waiting, inForce, healing []int
	times                     []span
}

// span is when an event was in force; the end is zero while it is.
type span struct{ begin, end time.Time }

func newGate(events []Event) *gate {
	return &gate{events: events, changed: make(chan struct{}), times: make([]span, len(events))}
}

// enter returns when event n may begin, which it has then done.
func (g *gate) enter(ctx context.Context, n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, n)
	for !g.may(n) {
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-changed:
		}
		g.mu.Lock()
		if err := ctx.Err(); err != nil {
			g.waiting = without(g.waiting, n)
			g.change()
			return err
		}
	}
	g.waiting = without(g.waiting, n)
	g.inForce = append(g.inForce, n)
	g.times[n].begin = time.Now()
	g.change()
	return nil
}

// may reports whether event n may begin now. It does not overtake one that it would keep waiting.
func (g *gate) may(n int) bool {
	event := g.events[n]
	hinders := func(other int) bool { return other != n && conflict(event, g.events[other]) }
	same := func(other int) bool { return sameKind(event.Kind, g.events[other].Kind) }
	earlier := slices.DeleteFunc(slices.Clone(g.waiting), func(other int) bool { return other >= n })
	return len(g.inForce) < atOnce && !slices.ContainsFunc(g.inForce, hinders) && !slices.ContainsFunc(earlier, hinders) &&
		!slices.ContainsFunc(g.inForce, same) && !slices.ContainsFunc(g.healing, same)
}

// sameKind reports whether a fault has to wait until the platform has recovered from the other. The two of NATS are one in
// this: what is measured after them is the same.
func sameKind(a, b Kind) bool { return a == b || a.concernsNATS() && b.concernsNATS() }

// over says that event n is not in force any more, and returns when it was.
func (g *gate) over(n int) span {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.times[n].end = time.Now()
	g.inForce = without(g.inForce, n)
	g.healing = append(g.healing, n)
	g.change()
	return g.times[n]
}

// healed says that the platform has recovered from event n, or that nobody waits for that any more.
func (g *gate) healed(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.healing = without(g.healing, n)
	g.change()
}

// quiet is how much of the time since then no event was in force, other than n, that would explain why something does
// not work.
func (g *gate) quiet(n int, since time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	var busy []span
	for other, at := range g.times {
		if other == n || at.begin.IsZero() || !g.events[other].breaks() {
			continue
		}
		if at.end.IsZero() {
			at.end = now
		}
		busy = append(busy, at)
	}
	return uncovered(since, now, busy)
}

// uncovered is how much of the time from begin to end lies in none of the spans.
func uncovered(begin, end time.Time, spans []span) time.Duration {
	slices.SortFunc(spans, func(a, b span) int { return a.begin.Compare(b.begin) })
	left := time.Duration(0)
	at := begin
	for _, s := range spans {
		if s.begin.After(end) {
			break
		}
		if s.begin.After(at) {
			left += s.begin.Sub(at)
		}
		if s.end.After(at) {
			at = s.end
		}
	}
	if end.After(at) {
		left += end.Sub(at)
	}
	return left
}

func (g *gate) change() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func without(list []int, n int) []int {
	return slices.DeleteFunc(list, func(other int) bool { return other == n })
}
