package fault

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	pg "github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// force is how long an event is in force if everything takes as long as expected.
func (e Event) force() time.Duration { return e.occupies() - gap }

func TestASchedule(t *testing.T) {
	// A run that leaves out a fault proves nothing about it; one that puts two faults on one server proves nothing about
	// either of them.
	rapid.Check(t, func(t *rapid.T) {
		duration := rapid.OneOf(rapid.Just(FullRun), rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.Int64Range(int64(5*time.Second), int64(4*time.Minute)).Draw(t, "ns"))
		})).Draw(t, "duration")
		requireSchedule(t, duration, rapid.Int64().Draw(t, "seed"))
	})
	requireSchedule(t, 30*time.Minute, 42)
}

func requireSchedule(t require.TestingT, duration time.Duration, seed int64) {
	events := Schedule(duration, seed)
	require.Equal(t, events, Schedule(duration, seed), "the same seed is the same schedule")
	require.NotEmpty(t, events)
	require.True(t, slices.IsSortedFunc(events, func(a, b Event) int { return int(a.At - b.At) }))
	if duration >= FullRun {
		require.Empty(t, Missing(events))
	}

	var last time.Duration
	hit := map[backing.Name]int{}
	for n, event := range events {
		require.GreaterOrEqual(t, event.At, time.Duration(0))
		require.GreaterOrEqual(t, event.Lasts, traitsOf(event.Kind).least)
		last = max(last, event.At+event.force())
		if slices.Contains(Networks(), event.Kind) {
			hit[event.server()]++
		}
		if event.Kind == FreezePostgres {
			require.GreaterOrEqual(t, event.Lasts, FreezeLasts)
		}
		together := 1
		for m, other := range events {
			if m == n || event.At < other.At || event.At >= other.At+other.force() {
				continue
			}
			together++
			require.False(t, conflict(event, other), "%s at %s during %s at %s", event, event.At, other, other.At)
			require.NotEqual(t, event.Kind, other.Kind)
		}
		require.LessOrEqual(t, together, atOnce)
	}
	require.LessOrEqual(t, last, duration-min(tail, duration/6), "there is time to recover from the last one")
	if duration >= FullRun {
		for _, name := range backing.Names() {
			require.GreaterOrEqual(t, hit[name], 2, "the network before %s", name)
		}
	}
}

func TestOtherSeedsAreOtherSchedules(t *testing.T) {
	require.NotEqual(t, Schedule(FullRun, 1), Schedule(FullRun, 2))
}

func TestAShortRunSaysWhatItLeavesOut(t *testing.T) {
	require.Equal(t, Kinds(), Missing(nil))
	require.NotEmpty(t, Missing(Schedule(20*time.Second, 7)))
}

func TestAFreezeIsLongerThanEveryTimeout(t *testing.T) {
	// A shorter one would be waited for, and nothing would have to be done again.
	defaults := pg.DefaultConfig()
	require.Greater(t, FreezeLasts, defaults.StatementTimeout+2*time.Second)
	require.Greater(t, FreezeLasts, defaults.ConnectTimeout+2*time.Second)
}

func TestFaultsThatHideEachOtherConflict(t *testing.T) {
	network := func(kind Kind, name backing.Name) Event {
		return Event{Kind: kind, Param: int64(slices.Index(backing.Names(), name))}
	}
	for name, test := range map[string]struct {
		a, b Event
		want bool
	}{
		"one server":                       {Event{Kind: KillNATS}, Event{Kind: WipeNATS}, true},
		"one service":                      {Event{Kind: KillIngestService}, Event{Kind: TermIngestService}, true},
		"two services":                     {Event{Kind: KillIngestService}, Event{Kind: KillQueryService}, false},
		"a server and the way to it":       {Event{Kind: FreezePostgres}, network(Cut, backing.ServicePostgres), true},
		"a server and another's way":       {Event{Kind: FreezePostgres}, network(Cut, backing.ServiceRabbitMQ), false},
		"ways to two servers":              {network(Latency, backing.ServiceNATS), network(Cut, backing.ServiceRabbitMQ), false},
		"an orderly end without database":  {Event{Kind: TermIngestService}, Event{Kind: FreezePostgres}, true},
		"a crash without database":         {Event{Kind: KillIngestService}, Event{Kind: FreezePostgres}, false},
		"an orderly end without its queue": {network(HalfOpen, backing.ServiceRabbitMQ), Event{Kind: TermIngestService}, true},
		"tenants without control channel":  {Event{Kind: TenantChurn}, Event{Kind: WipeNATS}, false},
		"two things that tenants do":       {Event{Kind: TenantChurn}, Event{Kind: ResizeStorm}, true},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.want, conflict(test.a, test.b))
			require.Equal(t, test.want, conflict(test.b, test.a))
		})
	}
}

// What cuts a service off from a server excuses that it learns something late; nothing else does.
func TestCutsOff(t *testing.T) {
	of := func(name backing.Name) (kinds []Kind) {
		for _, kind := range Kinds() {
			if e := (Event{Kind: kind, Param: int64(slices.Index(backing.Names(), name))}); e.CutsOff(name) {
				kinds = append(kinds, kind)
			}
		}
		return kinds
	}
	require.Equal(t, []Kind{StopPostgresImmediate, FreezePostgres, TerminateBackends, Latency, Bandwidth, HalfOpen, Cut}, of(backing.ServicePostgres))
	require.Equal(t, []Kind{KillNATS, WipeNATS, ChannelDisagrees, Latency, Bandwidth, HalfOpen, Cut}, of(backing.ServiceNATS))
	require.False(t, Event{Kind: Cut, Param: int64(slices.Index(backing.Names(), backing.ServiceNATS))}.CutsOff(backing.ServicePostgres))
}
