package fault

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTimeUnderOtherFaultsDoesNotCount(t *testing.T) {
	begin := time.Now()
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	for name, test := range map[string]struct {
		spans []span
		want  int
	}{
		"nothing else":            {nil, 10},
		"one within":              {[]span{{at(2), at(5)}}, 7},
		"two that overlap":        {[]span{{at(4), at(6)}, {at(2), at(5)}}, 6},
		"one inside another":      {[]span{{at(2), at(8)}, {at(3), at(4)}}, 4},
		"one from before":         {[]span{{at(-5), at(3)}}, 7},
		"one that continues":      {[]span{{at(7), at(20)}}, 7},
		"one before, one after":   {[]span{{at(-5), at(-1)}, {at(11), at(12)}}, 10},
		"one that covers it all":  {[]span{{at(-1), at(11)}}, 0},
		"one after a longer one":  {[]span{{at(0), at(6)}, {at(8), at(9)}}, 3},
		"one that touches others": {[]span{{at(1), at(2)}, {at(2), at(3)}}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, time.Duration(test.want)*time.Second, uncovered(begin, at(10), test.spans))
		})
	}
}

func TestTheGate(t *testing.T) {
	// Two faults at a time, none beside one that it conflicts with, none before its kind has been recovered from.
	synctest.Test(t, func(t *testing.T) {
		events := []Event{
			{Kind: FreezePostgres},
			{Kind: KillRabbitMQ},
			{Kind: StopPostgresImmediate},
			{Kind: TerminateBackends},
			{Kind: KillNATS},
			{Kind: KillRabbitMQ},
			{Kind: WipeNATS},
			{Kind: TermIngestService},
		}
		g := newGate(events)
		entered := make(map[int]bool)
		for n := range events {
			go func() {
				err := g.enter(t.Context(), n)
				g.mu.Lock()
				defer g.mu.Unlock()
				entered[n] = err == nil
			}()
			synctest.Wait() // they come in this order
		}
		in := func() (now []int) {
			g.mu.Lock()
			defer g.mu.Unlock()
			for n := range events {
				if entered[n] {
					now = append(now, n)
				}
			}
			return now
		}
		require.Equal(t, []int{0, 1}, in(), "two at a time")
		end := func(n int) {
			g.over(n)
			synctest.Wait()
		}
		heal := func(n int) {
			g.healed(n)
			synctest.Wait()
		}

		end(1)
		require.Equal(t, []int{0, 1, 4}, in(), "NATS may go, another one of PostgreSQL may not, RabbitMQ has not recovered")
		end(4)
		require.Equal(t, []int{0, 1, 4}, in(), "NATS has not recovered")
		heal(1)
		require.Equal(t, []int{0, 1, 4, 5}, in(), "RabbitMQ goes again; the others wait for PostgreSQL")
		heal(4)
		require.Equal(t, []int{0, 1, 4, 5}, in(), "two at a time")
		end(5)
		require.Equal(t, []int{0, 1, 4, 5, 6}, in())
		end(6)
		end(0)
		require.Equal(t, []int{0, 1, 2, 4, 5, 6}, in(), "the one that came first; the later ones do not overtake it")
		end(2)
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6}, in())
		end(3)
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7}, in())
	})
}

func TestWhoeverWaitsAtTheGateMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate([]Event{{Kind: FreezePostgres}, {Kind: TermIngestService}, {Kind: KillIngestService}})
		require.NoError(t, g.enter(t.Context(), 0))
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- g.enter(ctx, 1) }()
		synctest.Wait()
		admitted := make(chan error, 1)
		go func() { admitted <- g.enter(t.Context(), 2) }()
		synctest.Wait()
		require.Empty(t, admitted, "the other one concerns the same service and was first")
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		require.NoError(t, <-admitted)

		// Both that are in force continue; each of them would explain why something else does not work.
		since := time.Now()
		<-time.After(3 * time.Second) // in the time of the bubble
		require.Zero(t, g.quiet(1, since))
		g.over(0)
		<-time.After(2 * time.Second)
		require.Zero(t, g.quiet(0, since), "the other one is still in force")
		require.Equal(t, 2*time.Second, g.quiet(2, since), "since the other one is over")
		g.over(2)
		<-time.After(time.Second)
		require.Equal(t, time.Second, g.quiet(0, since))
	})
}
