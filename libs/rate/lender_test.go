package rate

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Whoever asks, however much and how often, and however the limit changes: in no window is more lent than comes in, what the bucket
// holds, and one message; and an ask that gets anything gets what its message needs.
func TestLenderAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tenant, now := uuid.New(), time.Unix(1_800_000_000, 0)
		limit := rapid.Int64Range(1, 5000).Draw(rt, "limit")
		const largest = 1000
		l := &lender{
			self: "a", instances: func() []string { return []string{"a", "b", "c"} }, owner: first,
			limits:  func(uuid.UUID) Amounts { return Amounts{Bytes: limit} },
			largest: Amounts{Messages: 1, Bytes: largest}, buckets: make(map[place]*account),
		}
		l.sweep(now)
		type loan struct {
			at     time.Time
			tokens int64
		}
		var loans []loan
		most := limit // the highest limit so far
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(400*time.Millisecond)).Draw(rt, "elapsed")))
			if rapid.IntRange(0, 9).Draw(rt, "change") == 0 {
				limit = rapid.Int64Range(1, 5000).Draw(rt, "limit")
				most = max(most, limit)
			}
			need := rapid.Int64Range(1, largest).Draw(rt, "need")
			want := rapid.Int64Range(0, 10_000).Draw(rt, "want")
			from := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "from")
			g := l.lend(now, from, []ask{{tenant, Bytes, need, want}})[0]
			require.Equal(rt, lent, g.status)
			require.LessOrEqual(rt, g.tokens, max(need, want))
			if g.tokens == 0 {
				require.Positive(rt, g.wait, "somebody who gets nothing is told when to come back")
			} else {
				require.GreaterOrEqual(rt, g.tokens, need)
			}
			loans = append(loans, loan{now, g.tokens})
		}
		for i, from := range loans {
			sum := int64(0)
			for _, to := range loans[i:] {
				sum += to.tokens
				income := newFlow(most, 1).depth()/fraction + int64(float64(most)*to.at.Sub(from.at).Seconds()) + 1
				require.LessOrEqual(rt, sum, income+largest, "within %v", to.at.Sub(from.at))
			}
		}
	})
}
