package control

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A handler that is told the same again does needless work for each of thousands of tenants every 30 seconds; one that
// is not told of a change keeps a tenant in the wrong state.
func TestLedger(t *testing.T) {
	l := make(ledger)
	first, second := mark{revision: 1, created: 10}, mark{revision: 2, created: 20}
	require.True(t, l.note("a", first, false), "a new key is news")
	require.False(t, l.note("a", first, false), "the same write again is not")
	require.True(t, l.note("a", second, false), "another write is")
	require.True(t, l.note("a", mark{revision: 2, created: 30}, false), "the same revision in a recreated bucket is")
	require.True(t, l.note("a", mark{revision: 1, created: 40}, false), "a lower revision in a recreated bucket is")
	require.True(t, l.note("a", second, true), "a deletion of what is known is")
	require.False(t, l.note("a", second, true), "the same deletion again is not")
	require.False(t, l.note("b", first, true), "a deletion of what was never told is not")
	require.True(t, l.note("a", second, false), "what comes after a deletion is")

	l.note("c", first, false)
	require.ElementsMatch(t, []string{"c"}, l.missing(map[string]struct{}{"a": {}, "z": {}}))
	require.ElementsMatch(t, []string{"a", "c"}, l.missing(nil))
}
