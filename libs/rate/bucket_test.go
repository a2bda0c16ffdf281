package rate

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A limit that drifts by rounding is another limit after a day. Against exact arithmetic: what a bucket holds is what has come in, but
// for less than one fraction of a token at each look.
func TestBucketAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		f := newFlow(rapid.Int64Range(1, 1<<33).Draw(rt, "limit"), rapid.Int64Range(1, 64).Draw(rt, "parts"))
		now := time.Unix(1_800_000_000, 0)
		b := bucket{at: now}
		exact, depth := new(big.Rat), big.NewRat(f.depth(), 1)
		looks := int64(0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			elapsed := rapid.OneOf(rapid.Int64Range(0, 1e6), rapid.Int64Range(0, 1e9), rapid.Int64Range(-1e9, 1e17)).Draw(rt, "elapsed")
			now = now.Add(time.Duration(elapsed))
			b.fill(now, f)
			looks++
			if elapsed > 0 {
				exact.Add(exact, new(big.Rat).Mul(big.NewRat(f.perSecond, f.parts), big.NewRat(elapsed, 1)))
			} else {
				now = now.Add(time.Duration(-elapsed))
			}
			if exact.Cmp(depth) > 0 {
				exact.Set(depth)
			}
			got := big.NewRat(b.level, 1)
			if got.Cmp(exact) > 0 || new(big.Rat).Sub(exact, got).Cmp(big.NewRat(looks, 1)) > 0 {
				rt.Fatalf("%s fractions instead of %s", got.FloatString(3), exact.FloatString(3))
			}
			take := rapid.Int64Range(0, b.tokens()).Draw(rt, "take")
			if b.tokens() > 0 && rapid.Bool().Draw(rt, "debt") {
				take += rapid.Int64Range(0, 1<<27).Draw(rt, "more")
			}
			b.remove(take)
			exact.Sub(exact, new(big.Rat).Mul(big.NewRat(take, 1), big.NewRat(fraction, 1)))

			// What until says is enough, and not too much.
			if wait := b.until(f); wait < maxWait {
				later := b
				later.fill(now.Add(wait), f)
				require.Positive(rt, later.tokens())
				if wait > 0 {
					later = b
					later.fill(now.Add(wait-1), f)
					require.Zero(rt, later.tokens())
				}
			}
		}
	})
}

// The burst that a limit allows is a quarter of a second, and never less than a message.
func TestDepth(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]int64{1: 1, 3: 1, 8: 2, 1000: 250, 1 << 62: maxRate / 4} {
		b := bucket{}
		f := newFlow(limit, 1)
		b.fill(time.Unix(1_800_000_000, 0), f)
		require.Equal(t, want, b.tokens(), "%d a second", limit)
	}
}
