package queuelimit_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/queuelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// drawID draws ids of all kinds: random ones, some that begin likewise, and counted ones.
func drawID(rt *rapid.T) (id uuid.UUID) {
	switch rapid.IntRange(0, 2).Draw(rt, "kind of id") {
	case 0:
		return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
	case 1:
		copy(id[:], rapid.SliceOfN(rapid.SampledFrom([]byte{0x10, 0x11}), 7, 7).Draw(rt, "beginning"))
	}
	binary.BigEndian.PutUint16(id[14:], rapid.Uint16Range(0, 50).Draw(rt, "number"))
	return id
}

func drawLimit(rt *rapid.T, name string) int64 {
	return rapid.OneOf(rapid.Just[int64](0), rapid.Int64Range(1, 3), rapid.Int64Range(1, 1<<50)).Draw(rt, name)
}

// No tenant's queue holds more than its limit, none that has no limit is limited, and each has exactly one policy that says so, whatever
// the others have, in as many policies as a broker can bear.
func TestPlanAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		wanted := make(map[uuid.UUID]queuelimit.Limits)
		plans := make([]queuelimit.Limits, rapid.IntRange(1, 60).Draw(rt, "different limits"))
		for i := range plans {
			plans[i] = queuelimit.Limits{Messages: drawLimit(rt, "messages"), Bytes: drawLimit(rt, "bytes")}
		}
		for range rapid.IntRange(0, 80).Draw(rt, "tenants") {
			wanted[drawID(rt)] = rapid.SampledFrom(plans).Draw(rt, "limits")
		}
		policies, level := queuelimit.Policies(wanted, nil)
		distinct := make(map[queuelimit.Limits]bool)
		for id, limits := range wanted {
			distinct[limits] = true
			got, refuses, sure := queuelimit.Effective(policies, id)
			require.True(rt, refuses && sure, "%s: %+v", id, policies)
			if level == 0 {
				require.Equal(rt, limits, got)
			}
			for _, pair := range [][2]int64{{limits.Messages, got.Messages}, {limits.Bytes, got.Bytes}} {
				require.LessOrEqual(rt, pair[1], pair[0])
				require.Equal(rt, pair[0] == 0, pair[1] == 0)
			}
		}
		require.LessOrEqual(rt, len(policies), queuelimit.MaxCombinations)
		if len(distinct) <= queuelimit.MaxCombinations {
			require.Zero(rt, level)
		}

		again, _ := queuelimit.Policies(wanted, policies)
		require.Equal(rt, policies, again, "what is there already is to stay")
		if len(wanted) == 0 {
			require.Empty(rt, policies)
		}
	})
}

// A tenant that comes, goes or changes costs the broker one or two policies, however many there are: each takes time for every queue.
func TestChangesAreFewPolicies(t *testing.T) {
	t.Parallel()
	wanted := make(map[uuid.UUID]queuelimit.Limits)
	for i := range 5000 {
		wanted[uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i))] = queuelimit.Limits{Messages: int64(i % 5), Bytes: 1 << 20}
	}
	before, level := queuelimit.Policies(wanted, nil)
	require.Zero(t, level)
	require.Len(t, before, 1+4*4, "one for all, and four for each of the others")
	for _, p := range before {
		require.Less(t, len(p.Text()), 2*queuelimit.MaxNamed*14, "as long as so many ids")
	}
	changed := func(change func(map[uuid.UUID]queuelimit.Limits)) (n int) {
		next := maps.Clone(wanted)
		change(next)
		after, _ := queuelimit.Policies(next, before)
		for name, p := range after {
			if old, known := before[name]; !known || old.Text() != p.Text() {
				n++
			}
		}
		for name := range before {
			if _, still := after[name]; !still {
				n++
			}
		}
		return n
	}
	one := uuid.NewSHA1(uuid.NameSpaceOID, []byte("3"))
	require.Equal(t, 1, changed(func(w map[uuid.UUID]queuelimit.Limits) { delete(w, one) }))
	require.Equal(t, 1, changed(func(w map[uuid.UUID]queuelimit.Limits) { w[uuid.New()] = queuelimit.Limits{Messages: 7} }))
	require.Equal(t, 2, changed(func(w map[uuid.UUID]queuelimit.Limits) { w[one] = queuelimit.Limits{Messages: 7} }))
	require.Zero(t, changed(func(w map[uuid.UUID]queuelimit.Limits) {
		w[uuid.New()] = queuelimit.Limits{Messages: 0, Bytes: 1 << 20}
	}))
	require.LessOrEqual(t, changed(func(w map[uuid.UUID]queuelimit.Limits) {
		for range 20 { // those of the policy for all are not the most common ones any more
			w[uuid.New()] = queuelimit.Limits{Messages: 4, Bytes: 1 << 20}
		}
	}), 4, "the policy for all stays: every queue would change with it")
}

// A limit that has to be rounded is never exceeded and never lifted, and no more is lost than the documentation says.
func TestRoundDown(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		limit := drawLimit(rt, "limit")
		level := rapid.IntRange(0, queuelimit.LastLevel).Draw(rt, "level")
		got := queuelimit.RoundDown(limit, level)
		require.LessOrEqual(rt, got, limit)
		require.Equal(rt, limit == 0, got == 0)
		require.Equal(rt, got, queuelimit.RoundDown(got, level), "a step")
		switch level {
		case 0:
			require.Equal(rt, limit, got)
		case 1, 2, 3:
			require.GreaterOrEqual(rt, float64(got), float64(limit)*(1-1/float64(int(16)>>level)))
		case queuelimit.LastLevel:
			require.LessOrEqual(rt, got, int64(1))
		}
		if limit > 1 {
			require.LessOrEqual(rt, queuelimit.RoundDown(limit-1, level), got, "in the order of what was asked for")
		}
	})
}
