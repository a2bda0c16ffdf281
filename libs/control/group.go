package control

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Timing of a group.
const (
	// announceInterval is how often a member announces itself.
	announceInterval = time.Second
	// memberGone is how long after its last announcement a member counts as gone. Three may be lost.
	memberGone = 4 * announceInterval
	// maxMembers bounds what announcements can make a process remember.
	maxMembers = 1000
)

// Group are the processes that announce themselves on a subject of plain NATS, once a second. No bucket keeps anything of it: what is lost
// is said again.
//
// A member counts as gone when nothing came from it for four seconds in which this process received its own announcements. So one that
// is cut off keeps the members that it knew of last.
type Group struct {
	conn    *Conn
	subject string
	self    string
	join    chan struct{} // capacity 1: somebody has come who may not know this process

	mu      sync.Mutex
	others  map[string]time.Time // guarded by mu: when each was received last
	own     time.Time            // guarded by mu: when an announcement of its own came back last, zero before the first
	since   time.Time            // guarded by mu: since when these come without a gap
	current []string             // guarded by mu: the members in order, never changed in place; empty before the first own announcement
}

// NewGroup returns a group of which self is a member once Run is called. The name is a part of a subject.
func NewGroup(conn *Conn, subject, self string) *Group {
	return &Group{conn: conn, subject: subject, self: self, join: make(chan struct{}, 1), others: make(map[string]time.Time)}
}

// Members are those that this process knows of, itself included, in order; none as long as it knows of nobody. The slice is never
// changed.
func (g *Group) Members() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.current
}

// Run announces this process until ctx ends.
func (g *Group) Run(ctx context.Context) error {
	stop, err := g.conn.Serve(g.subject, func(name []byte) []byte {
		g.receive(string(name), time.Now())
		return nil
	})
	if err != nil {
		return err
	}
	defer stop()
	ticks := time.NewTicker(announceInterval)
	defer ticks.Stop()
	for {
		connected := g.conn.NextConnect()
		_ = g.conn.Publish(g.subject, []byte(g.self)) // without a connection: the next one
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		case <-g.join:
		case <-connected:
		}
	}
}

// receive takes in an announcement.
func (g *Group) receive(name string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, known := g.others[name]
	switch {
	case name == g.self:
		if now.Sub(g.own) > memberGone/2 {
			g.since = now
		}
		g.own = now
		for other, last := range g.others {
			if now.Sub(last) > memberGone && now.Sub(g.since) > memberGone {
				delete(g.others, other)
			}
		}
	case known:
		g.others[name] = now
		return
	case len(g.others) == maxMembers || name == "":
		return
	default:
		g.others[name] = now
		select {
		case g.join <- struct{}{}:
		default:
		}
	}
	g.conclude()
}

// conclude determines the members. The caller holds the lock.
func (g *Group) conclude() {
	if g.own.IsZero() {
		return
	}
	current := []string{g.self}
	for other := range g.others {
		current = append(current, other)
	}
	slices.Sort(current)
	if !slices.Equal(current, g.current) {
		g.current = current
	}
}
