package isolation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
)

// tick of the simulation.
const tick = 50 * time.Millisecond

var errLost = errors.New("connection reset by peer")

// simulation is consumers, connections and a broker around a plan, without any of them.
type simulation struct {
	t      require.TestingT
	plan   *plan
	now    time.Time
	random func(n int) int

	consumers map[uuid.UUID]*simulated
	dying     map[place]time.Time // connections that a delivery has just broken
	failed    map[uuid.UUID]bool  // have been found, and are poisoned ever since
}

// place is a shared connection, or that of a group.
type place struct{ index, group int }

// simulated is one tenant with its consumer.
type simulated struct {
	index    int
	poisoned bool // each delivery breaks the connection
	busy     bool // messages wait whenever it is not consumed
	backlog  bool // messages wait for ever
	running  bool
	waits    bool // has asked for its place, and there is none yet
	at       place
	next     time.Time // when it asks for its place
	losses   int
}

func newSimulation(t require.TestingT, shared int, random func(n int) int) *simulation {
	return &simulation{
		t: t, plan: newPlan(defaultLimits(), shared), now: time.Unix(1_700_000_000, 0), random: random,
		consumers: make(map[uuid.UUID]*simulated), dying: make(map[place]time.Time), failed: make(map[uuid.UUID]bool),
	}
}

func tenant(n int) (id uuid.UUID) {
	binary.BigEndian.PutUint32(id[12:], uint32(n))
	id[0] = 1
	return id
}

func (s *simulation) start(n int) *simulated {
	c := &simulated{index: n % len(s.plan.shared), next: s.now}
	s.consumers[tenant(n)] = c
	return c
}

// sorted are the tenants in an order that does not depend on the map.
func (s *simulation) sorted() []uuid.UUID {
	return slices.SortedFunc(maps.Keys(s.consumers), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
}

func (s *simulation) run(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); s.now = s.soonest(end) {
		for at, when := range s.dying {
			if !s.now.Before(when) {
				s.cut(at)
			}
		}
		s.step()
		for _, id := range s.sorted() {
			s.ask(id, s.consumers[id])
		}
		s.check()
	}
}

// soonest is when something happens next, or end.
func (s *simulation) soonest(end time.Time) time.Time {
	next := end
	if d, due := s.plan.next(s.now); due && s.now.Add(d).Before(next) {
		next = s.now.Add(d)
	}
	for _, when := range s.dying {
		if when.Before(next) {
			next = when
		}
	}
	for _, c := range s.consumers {
		if !c.running && !c.waits && c.next.Before(next) {
			next = c.next
		}
	}
	if soon := s.now.Add(tick); next.Before(soon) {
		return soon
	}
	return next
}

// ask has a consumer ask for its place, and start there.
func (s *simulation) ask(id uuid.UUID, c *simulated) {
	if c.running || s.now.Before(c.next) {
		return
	}
	at := s.plan.acquire(id, c.index, func() { c.running, c.next = false, s.now.Add(tick) })
	if c.waits = at.wait; c.waits {
		return // until something has happened
	}
	c.running, c.at = true, place{c.index, at.group}
	if at.group != 0 {
		c.at.index = 0
		s.plan.began(id, at.group, s.now)
	}
	require.False(s.t, at.group == 0 && s.failed[id], "tenant %s shares a connection although its deliveries break it", id)
	if m := s.plan.members[id]; m != nil && m.stage == probed {
		require.Equal(s.t, 1, at.prefetch, "a probe counts as a delivery of one message")
		require.ErrorIs(s.t, at.fault, consumer.ErrIsolated, "a probe is no recovery")
	} else {
		require.NoError(s.t, at.fault)
	}
	if c.poisoned && s.dying[c.at].IsZero() {
		s.dying[c.at] = s.now.Add(time.Duration(s.random(4)) * tick)
	}
}

// cut is the loss of a connection.
func (s *simulation) cut(at place) {
	delete(s.dying, at)
	for _, c := range s.consumers {
		if c.running && c.at == at {
			c.running, c.waits, c.next = false, false, s.now.Add(tick)
			c.losses++
		}
	}
	if at.group == 0 {
		s.plan.lostShared(at.index, uuid.Nil, errLost, s.now)
		return
	}
	s.plan.lostGroup(at.group, uuid.Nil, errLost, s.now)
}

// step is what Run does.
func (s *simulation) step() {
	for _, split := range s.plan.judge(s.now) {
		ready := make(map[uuid.UUID]int64)
		for _, id := range split.tenants() {
			ready[id] = 0
			if c := s.consumers[id]; c != nil && (c.busy || c.poisoned) {
				ready[id] = 1
			}
		}
		s.plan.apply(split, ready, s.now)
	}
	for _, id := range s.plan.unseen(s.now) {
		if c := s.consumers[id]; c == nil || !c.backlog {
			s.plan.saw(id, s.now)
		}
	}
	for _, relocate := range s.plan.tick(s.now) {
		relocate()
	}
}

// check is what must be true at all times.
func (s *simulation) check() {
	require.LessOrEqual(s.t, len(s.plan.groups), s.plan.limits.connections)
	for id, g := range s.plan.groups {
		require.Equal(s.t, id, g.id)
		require.NotEmpty(s.t, g.members, "a connection for nobody")
	}
	for id, m := range s.plan.members {
		if m.group != nil {
			require.Same(s.t, m, m.group.members[id])
		}
		if m.pause == 0 {
			continue
		}
		require.True(s.t, m.group == nil || len(m.group.members) == 1, "tenant %s breaks connections, and shares one", id)
		if c := s.consumers[id]; c != nil && c.poisoned {
			s.failed[id] = true
		}
	}
}

// isolated are the tenants that are known to break connections.
func (s *simulation) isolated() (ids []uuid.UUID) {
	for id, m := range s.plan.members {
		if m.pause > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// A neighbour must not lose its connection more than a handful of times, however many share it: each loss counts as a delivery of
// what was unacknowledged.
func TestNeighboursLoseAHandfulOfConnections(t *testing.T) {
	for _, test := range []struct{ tenants, poisoned, busy, atMost int }{
		{50, 1, 0, 3}, {50, 1, 49, 4}, {50, 2, 49, 5}, {1000, 1, 0, 3}, {1000, 1, 999, 6}, {1000, 3, 500, 6}, {1000, 40, 960, 7},
	} {
		if testing.Short() && test.tenants > 50 {
			continue // NOT RUN with -short, by make test-long alone: a thousand tenants take a minute
		}
		t.Run(fmt.Sprintf("%d tenants, %d poisoned, %d others busy", test.tenants, test.poisoned, test.busy), func(t *testing.T) {
			s := newSimulation(t, 1, func(n int) int { return n / 2 })
			var want []uuid.UUID
			for i := range test.tenants {
				c := s.start(i)
				c.busy = i < test.busy
				if i >= test.tenants-test.poisoned {
					c.poisoned, want = true, append(want, tenant(i))
				}
			}
			s.run(5 * time.Minute)
			require.ElementsMatch(t, want, s.isolated())
			for id, c := range s.consumers {
				if c.poisoned {
					continue
				}
				require.LessOrEqual(t, c.losses, test.atMost, "tenant %s", id)
				require.True(t, c.running)
				require.Zero(t, c.at.group, "tenant %s is not back on its shared connection", id)
			}
			before := make(map[uuid.UUID]int)
			for id, c := range s.consumers {
				before[id] = c.losses
			}
			s.run(time.Hour)
			for id, c := range s.consumers {
				if !c.poisoned {
					require.Equal(t, before[id], c.losses, "tenant %s is disturbed again", id)
				} else {
					require.Less(t, c.losses, before[id]+12, "tenant %s is probed too often: its first message nears the delivery limit", id)
				}
			}
		})
	}
}

// Whatever happens in whatever order, in the end exactly those are set apart that break connections.
func TestPlanFindsExactlyWhoBreaksConnections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 40
		s := newSimulation(t, rapid.IntRange(1, 3).Draw(t, "connections"), func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "random") })
		for i := range rapid.IntRange(2, most).Draw(t, "tenants") {
			s.start(i).busy = rapid.Bool().Draw(t, "busy")
		}
		pick := func() (int, *simulated) {
			n := rapid.IntRange(0, most-1).Draw(t, "tenant")
			return n, s.consumers[tenant(n)]
		}
		t.Repeat(map[string]func(*rapid.T){
			"poison": func(*rapid.T) {
				if n, c := pick(); c != nil && !c.poisoned {
					c.poisoned = true
					if c.running {
						s.dying[c.at] = s.now
					}
					delete(s.failed, tenant(n))
				}
			},
			"cure": func(*rapid.T) {
				if n, c := pick(); c != nil {
					c.poisoned = false
					delete(s.failed, tenant(n))
				}
			},
			"suspend": func(*rapid.T) {
				if n, c := pick(); c != nil {
					delete(s.consumers, tenant(n))
					s.plan.ended(tenant(n))
				}
			},
			"resume": func(*rapid.T) {
				if n, c := pick(); c == nil {
					s.start(n).poisoned = s.failed[tenant(n)]
				}
			},
			"delete": func(*rapid.T) {
				n, _ := pick()
				delete(s.consumers, tenant(n))
				delete(s.failed, tenant(n))
				s.plan.forget(tenant(n))
			},
			"a network cuts one connection": func(*rapid.T) {
				if _, c := pick(); c != nil && c.running {
					s.cut(c.at)
				}
			},
			"the broker goes": func(*rapid.T) {
				s.plan.lostOther(s.now)
				for i := range s.plan.shared {
					s.cut(place{index: i})
					s.plan.unmade(i, 0, s.now)
				}
				for id := range s.plan.groups {
					s.cut(place{group: id})
				}
			},
			"a delivery cannot be read": func(*rapid.T) {
				if n, c := pick(); c != nil && c.running && c.at.group == 0 {
					at := c.at
					for _, other := range s.consumers {
						if other.running && other.at == at {
							other.running, other.next = false, s.now.Add(tick)
						}
					}
					s.plan.lostShared(at.index, tenant(n), errLost, s.now)
				}
			},
			"time passes": func(t *rapid.T) { s.run(time.Duration(rapid.IntRange(1, 200).Draw(t, "ticks")) * tick) },
		})
		s.run(45 * time.Minute)
		var want []uuid.UUID
		for id, c := range s.consumers {
			if c.poisoned {
				want = append(want, id)
				continue
			}
			require.True(t, c.running && c.at.group == 0, "tenant %s is harmless, and not back on its shared connection: %+v", id, s.plan.members[id])
		}
		require.ElementsMatch(t, want, slices.DeleteFunc(s.isolated(), func(id uuid.UUID) bool { return s.consumers[id] == nil }))
		for id := range s.failed {
			require.Contains(t, s.isolated(), id, "it was suspended, and forgotten")
		}
	})
}

// Many tenants whose deliveries broke connections are being consumed apart, with a backlog each. Harmless ones of another connection
// must not wait until these have caught up.
func TestTenantsThatFailedLeaveConnectionsToOthers(t *testing.T) {
	s := newSimulation(t, 2, func(int) int { return 0 })
	for i := range 80 {
		s.start(i).poisoned = i < 40 && i%2 == 0
	}
	s.run(2 * time.Minute)
	require.Len(t, s.isolated(), 20)
	for id, c := range s.consumers {
		if c.poisoned {
			c.poisoned, c.backlog = false, true
			delete(s.failed, id)
		}
	}
	failing := func() (n int) {
		for _, g := range s.plan.groups {
			if g.isFailing() {
				n++
			}
		}
		return n
	}
	for end := s.now.Add(2 * time.Minute); failing() < s.plan.limits.connections/2; {
		require.True(t, s.now.Before(end), "%d tenants are consumed apart", failing())
		s.run(time.Second)
	}
	s.run(20 * time.Second) // as many more as are let
	hostile := s.consumers[tenant(1)]
	hostile.poisoned = true
	s.dying[hostile.at] = s.now
	s.run(20 * time.Second)
	for id, c := range s.consumers {
		require.True(t, c.running || c.poisoned || c.index == 0, "tenant %s waits", id)
	}
	s.run(10 * time.Minute)
	require.Equal(t, []uuid.UUID{tenant(1)}, s.isolated())
}

// A broker that restarts, or a network that cuts everything, is nobody's fault.
func TestLossesThatOthersExplainBeginNothing(t *testing.T) {
	s := newSimulation(t, 2, func(int) int { return 0 })
	for i := range 20 {
		s.start(i)
	}
	for range 10 {
		s.run(5 * time.Second)
		s.cut(place{index: 0})
		s.cut(place{index: 1})
		s.run(4 * tick)
		s.plan.lostOther(s.now)
		s.run(5 * time.Second)
		s.cut(place{index: 0})
		s.run(2 * tick)
		s.plan.unmade(0, 0, s.now) // the broker was not there
		require.Empty(t, s.plan.members)
	}
	s.run(2 * time.Second)
	for id, c := range s.consumers {
		require.True(t, c.running, "tenant %s waits", id)
	}
}

// Nor is it while the cause of other losses is looked for. A network that cuts a single connection for once makes no culprit either.
func TestOneLossAloneIsNoProof(t *testing.T) {
	s := newSimulation(t, 1, func(int) int { return 0 })
	for i := range 4 {
		s.start(i).busy = true
	}
	s.run(time.Second)
	for range losses {
		s.cut(place{})
		s.run(2 * tick)
	}
	s.run(2 * time.Second)
	require.Len(t, s.plan.groups, 4, "one for each")
	for range 3 {
		for id := range s.plan.groups {
			s.cut(place{group: id})
		}
		s.run(4 * tick)
		s.plan.lostOther(s.now)
		s.run(2 * time.Second)
	}
	require.Len(t, s.plan.groups, 4)
	require.Empty(t, s.isolated())
	for id := range s.plan.groups {
		s.cut(place{group: id})
		break
	}
	s.run(2 * time.Second)
	require.Empty(t, s.isolated())
	s.run(3 * time.Minute)
	require.Empty(t, s.plan.members, "they share a connection again")
}

// A delivery that our reader could not read costs its neighbours one loss.
func TestADeliveryThatCannotBeReadNamesItsTenant(t *testing.T) {
	s := newSimulation(t, 1, func(int) int { return 0 })
	for i := range 100 {
		s.start(i)
	}
	s.run(time.Second)
	culprit := s.consumers[tenant(7)]
	for _, c := range s.consumers {
		c.running, c.next = false, s.now.Add(tick)
	}
	culprit.poisoned = true
	s.plan.lostShared(0, tenant(7), errLost, s.now)
	s.run(10 * time.Second)
	require.Equal(t, []uuid.UUID{tenant(7)}, s.isolated())
	for id, c := range s.consumers {
		if c != culprit {
			require.Zero(t, c.losses, "tenant %s", id)
		}
	}
}
