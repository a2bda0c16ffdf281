package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// All claims together stay within the limit, as those above the average have to give way: a tenant with large messages
// must not use up what the others need.
func TestBudget(t *testing.T) {
	t.Parallel()
	const limit = 1000
	b := NewBudget(limit)
	large, small, third := new(Consumer), new(Consumer), new(Consumer)
	require.True(t, b.claim(large, limit), "alone, all of it")
	require.False(t, b.claim(large, limit+1))
	require.True(t, b.claim(large, 900))
	require.True(t, b.claim(small, 100), "exactly the limit")
	require.True(t, b.claim(small, 400), "above the limit together, and not above the average")
	require.False(t, b.claim(large, 900), "the consumer with the most gives way")
	require.True(t, b.claim(large, 600))
	require.False(t, b.claim(large, 601))
	require.True(t, b.claim(third, 0))
	require.False(t, b.claim(third, 334))
	b.release(small)
	require.True(t, b.claim(third, 400))
	b.release(large)
	b.release(third)
	b.release(third)
	require.True(t, b.claim(small, limit), "what was released counts no more")
}
