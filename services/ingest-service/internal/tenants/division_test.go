package tenants_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
)

// division is a number of instances that divide the workers of tenants, and what looks at them.
type division struct {
	t     *testing.T
	hub   *hub
	specs []contract.TenantSpec
	nodes map[string]*node

	unwatch func() // ends what watches the totals; nil if nothing does
}

// divide starts instances in a bubble, and waits until they have divided the work.
func divide(t *testing.T, names ...string) *division {
	t.Helper()
	return divideOn(t, newHub(), names...)
}

func divideOn(t *testing.T, h *hub, names ...string) *division {
	t.Helper()
	d := &division{t: t, hub: h, specs: manyTenants(20), nodes: make(map[string]*node)}
	for _, name := range names {
		d.nodes[name] = d.hub.join(name, d.specs)
	}
	pass(5 * time.Second)
	d.complete()
	return d
}

// watched is divide, and has the totals watched from then on.
func watched(t *testing.T, names ...string) *division {
	t.Helper()
	d := divide(t, names...)
	ctx, cancel := context.WithCancel(context.Background())
	looking := make(chan struct{})
	go func() {
		defer close(looking)
		d.hub.watchTotals(ctx, d.specs)
	}()
	d.unwatch = func() {
		cancel()
		<-looking
	}
	return d
}

// end stops everything.
func (d *division) end() {
	d.t.Helper()
	if d.unwatch != nil {
		d.unwatch()
	}
	for _, n := range d.nodes {
		n.set(func() { n.cut = false })
		require.NoError(d.t, n.leave())
	}
}

// complete demands that every tenant has as many workers as it is to have, where they belong.
func (d *division) complete() {
	d.t.Helper()
	var alive []string
	for name, n := range d.nodes {
		if !n.frozen && !n.cut {
			alive = append(alive, name)
		}
	}
	for _, spec := range d.specs {
		id := uuid.MustParse(spec.TenantID)
		require.Equal(d.t, spec.Workers, d.hub.total(id), "tenant %s", id)
		for _, name := range alive {
			require.Equal(d.t, members.Share(id, spec.Workers, name, alive), d.nodes[name].has(id), "%s of tenant %s", name, id)
		}
	}
}

// With two instances a tenant of four workers had eight. An instance that joins gets its share from the others, one that leaves
// in order gives it back within seconds, and there are never more than a moment too many.
func TestInstancesJoinAndLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := watched(t, "a", "b")
		defer d.end()
		d.nodes["c"] = d.hub.join("c", d.specs)
		pass(5 * time.Second)
		d.complete()
		over, under := d.hub.lapses()
		require.LessOrEqual(t, over, 200*time.Millisecond, "while one joins")
		require.LessOrEqual(t, under, 200*time.Millisecond, "while one joins")

		require.NoError(t, d.nodes["a"].leave())
		pass(5 * time.Second)
		d.complete()
		over, under = d.hub.lapses()
		require.Zero(t, over, "while one leaves")
		require.LessOrEqual(t, under, 2*time.Second+200*time.Millisecond, "while one leaves")
		t.Logf("one leaves: fewer workers for %v", under)
	})
}

// A change of the number of workers is divided anew at once.
func TestResizeIsDivided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := divide(t, "a", "b", "c")
		defer d.end()
		for i := range d.specs {
			d.specs[i].Workers, d.specs[i].Generation = 7-d.specs[i].Workers, 2
		}
		for _, n := range d.nodes {
			for _, spec := range d.specs {
				n.channel.updates <- control.Entry[contract.TenantSpec]{Key: spec.TenantID, Value: spec}
			}
		}
		pass(time.Second)
		d.complete()
	})
}

// An instance that dies, or is frozen, is replaced when its heartbeat has run out; when it thaws it gets its share back. It has
// done nothing meanwhile, and what it holds beyond its share when it wakes up it gives up at once.
func TestInstanceIsFrozen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := watched(t, "a", "b", "c")
		defer d.end()
		frozen := d.nodes["b"]
		frozen.set(func() { frozen.frozen = true })
		pass(contract.HeartbeatTTL + 3*time.Second)
		d.complete()
		over, under := d.hub.lapses()
		require.Zero(t, over)
		require.LessOrEqual(t, under, contract.HeartbeatTTL+2*time.Second)

		pass(time.Minute)
		frozen.set(func() { frozen.frozen = false })
		pass(15 * time.Second)
		d.complete()
		over, _ = d.hub.lapses()
		require.LessOrEqual(t, over, contract.HeartbeatInterval+time.Second, "until it is heard again")
		t.Logf("one thaws: too many workers for %v", over)
	})
}

// An instance that alone is cut off from the control channel is replaced by the others, and finds out before: there are never
// two that consume where one is to.
func TestInstanceIsCutOff(t *testing.T) {
	t.Parallel()
	away := 10 * time.Minute
	if testing.Short() {
		away = 2 * time.Minute // four times as long as a heartbeat lives
	}
	synctest.Test(t, func(t *testing.T) {
		d := watched(t, "a", "b")
		defer d.end()
		lost := d.nodes["a"]
		lost.set(func() { lost.cut = true })
		pass(away)
		d.complete()
		for _, spec := range d.specs {
			require.Zero(t, lost.has(uuid.MustParse(spec.TenantID)))
		}
		over, under := d.hub.lapses()
		require.Zero(t, over)
		require.LessOrEqual(t, under, 12*time.Second, "from when it stands back to when it is replaced")
		t.Logf("one is cut off: fewer workers for %v", under)

		lost.set(func() { lost.cut = false })
		pass(5 * time.Second)
		d.complete()
		over, _ = d.hub.lapses()
		require.LessOrEqual(t, over, 200*time.Millisecond)
	})
}

// Without the database an instance that is cut off cannot know, and keeps its share: nothing can be stored then.
func TestInstanceIsCutOffFromBoth(t *testing.T) {
	t.Parallel()
	away := 10 * time.Minute
	if testing.Short() {
		away = 2 * time.Minute // four times as long as a heartbeat lives
	}
	synctest.Test(t, func(t *testing.T) {
		d := watched(t, "a", "b")
		defer d.end()
		lost := d.nodes["a"]
		before := make(map[string]int)
		for _, spec := range d.specs {
			before[spec.TenantID] = lost.has(uuid.MustParse(spec.TenantID))
		}
		lost.set(func() { lost.cut, lost.blind = true, true })
		pass(away)
		for _, spec := range d.specs {
			require.Equal(t, before[spec.TenantID], lost.has(uuid.MustParse(spec.TenantID)))
		}
		lost.set(func() { lost.blind = false })
		pass(30 * time.Second)
		d.complete()
	})
}

// While NATS is away, and when it comes back, every instance keeps its share: nobody can tell whether the others have gone.
func TestChannelIsAwayForAll(t *testing.T) {
	t.Parallel()
	away := 10 * time.Minute
	if testing.Short() {
		away = 2 * time.Minute // four times as long as a heartbeat lives
	}
	for name, wiped := range map[string]bool{"killed": false, "wiped": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := watched(t, "a", "b", "c")
				defer d.end()
				d.hub.mu.Lock()
				d.hub.down = true
				d.hub.mu.Unlock()
				pass(away)
				d.complete()
				d.hub.mu.Lock()
				d.hub.down = false
				if wiped {
					clear(d.hub.entries)
				}
				d.hub.mu.Unlock()
				pass(time.Minute)
				d.complete()
				over, under := d.hub.lapses()
				require.Zero(t, over)
				require.Zero(t, under)
			})
		})
	}
}

// A channel that loses its data while it runs changes nothing either.
func TestChannelIsWiped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := watched(t, "a", "b", "c")
		defer d.end()
		pass(20 * time.Second)
		d.hub.mu.Lock()
		clear(d.hub.entries)
		d.hub.mu.Unlock()
		pass(time.Minute)
		d.complete()
		over, under := d.hub.lapses()
		require.Zero(t, over)
		require.Zero(t, under)
	})
}

// Whatever happens to instances and channel, in whatever order: once it is over, every tenant has exactly the workers that were
// configured.
func TestDivisionAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		events := rapid.SliceOfN(rapid.SampledFrom([]string{"join", "leave", "freeze", "thaw", "cut", "heal", "down", "up", "wipe"}), 1, 8).Draw(rt, "events")
		pauses := rapid.SliceOfN(rapid.IntRange(0, 45), len(events), len(events)).Draw(rt, "pauses")
		picks := rapid.SliceOfN(rapid.IntRange(0, 99), len(events), len(events)).Draw(rt, "picks")
		synctest.Test(t, func(t *testing.T) {
			h := newHub()
			h.poll = 500 * time.Millisecond // nobody looks at moments
			d := divideOn(t, h, "n0", "n1")
			names, joined := []string{"n0", "n1"}, 2
			for i, event := range events {
				n := d.nodes[names[picks[i]%len(names)]]
				switch event {
				case "join":
					name := fmt.Sprintf("n%d", joined)
					joined++
					names = append(names, name)
					d.nodes[name] = d.hub.join(name, d.specs)
				case "freeze", "thaw":
					n.set(func() { n.frozen = event == "freeze" })
				case "cut", "heal":
					n.set(func() { n.cut = event == "cut" })
				case "down", "up":
					d.hub.mu.Lock()
					d.hub.down = event == "down"
					d.hub.mu.Unlock()
				case "wipe":
					d.hub.mu.Lock()
					clear(d.hub.entries)
					d.hub.mu.Unlock()
				case "leave":
					if len(names) > 1 {
						n.set(func() { n.frozen = false })
						require.NoError(t, n.leave())
						delete(d.nodes, n.name)
						names = append(names[:picks[i]%len(names)], names[picks[i]%len(names)+1:]...)
					}
				}
				pass(time.Duration(pauses[i]) * time.Second)
			}
			d.hub.mu.Lock()
			d.hub.down = false
			d.hub.mu.Unlock()
			for _, n := range d.nodes {
				n.set(func() { n.cut, n.frozen = false, false })
			}
			pass(2 * contract.HeartbeatTTL)
			d.complete()
			d.end()
		})
	})
}
