package consumer

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A probe of a queue that does not answer takes one of few places for 10 s, and the connection of the probes with it. Queues that
// stay like that must leave these to those of other tenants; and one that answers again has its consumer back soon the next time.
func TestAQueueThatDoesNotAnswerIsProbedSeldom(t *testing.T) {
	t.Parallel()
	const longest = time.Minute
	p := newPauses(longest)
	for range 10 {
		p.next(0, true)
	}
	for range 10 {
		require.GreaterOrEqual(t, p.next(0, true), longest/2)
	}
	require.Less(t, p.next(0, false), time.Second)
	require.Less(t, p.next(0, true), 2*time.Second, "nothing is left of the pauses before")
}
