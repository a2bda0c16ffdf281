package traffic

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Every count of the verdict is a count of such a set.
func TestBitset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.Uint32Range(0, 300))
		one, other := numbers.Draw(t, "one"), numbers.Draw(t, "other")
		var a, b bitset
		for i, n := range one {
			require.Equal(t, !slices.Contains(one[:i], n), a.add(n))
		}
		for _, n := range other {
			b.add(n)
		}
		left := a.minus(&b)
		var members []uint32
		left.each(func(n uint32) { members = append(members, n) })
		want := slices.DeleteFunc(slices.Clone(one), func(n uint32) bool { return slices.Contains(other, n) })
		slices.Sort(want)
		want = slices.Compact(want)
		require.Equal(t, len(want), int(left.count))
		require.True(t, slices.Equal(want, members), "%v and %v", want, members)
		for n := range uint32(310) {
			require.Equal(t, slices.Contains(one, n), a.has(n))
		}
	})
}
