package batch_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An ack that covers a message which is not stored loses it; one that never comes has it delivered for ever. The
// tracker is held against a model that knows of each single tag whether it is finished and whether it was acknowledged.
func TestTrackerAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const holeLimit = time.Second
		var (
			tracker  batch.Tracker
			open     []*batch.Span
			last     uint64
			now      = time.Unix(0, 0)
			finished = map[uint64]bool{}
			acked    = map[uint64]bool{}
		)
		ack := func(tag uint64) {
			require.True(t, finished[tag], "tag %d is acknowledged before it is finished", tag)
			require.False(t, acked[tag], "tag %d is acknowledged twice", tag)
			acked[tag] = true
		}
		takePrefix := func() {
			tag, ok := tracker.Prefix()
			if !ok {
				return
			}
			for each := uint64(1); each <= tag; each++ {
				if !acked[each] {
					ack(each)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				size := rapid.Uint64Range(1, 5).Draw(t, "size")
				open = append(open, tracker.Open(last+1, last+size))
				last += size
			},
			"finish": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing is open")
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "span")
				tracker.Finish(open[i], now)
				for tag := open[i].First; tag <= open[i].Last; tag++ {
					finished[tag] = true
				}
				open = append(open[:i], open[i+1:]...)
				takePrefix()
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*holeLimit)).Draw(t, "time")))
				for _, span := range tracker.Beyond(now, holeLimit) {
					for tag := span.First; tag <= span.Last; tag++ {
						ack(tag)
					}
				}
			},
			"": func(t *rapid.T) {
				unfinished := uint64(0)
				hole := false
				for tag := uint64(1); tag <= last; tag++ {
					if !finished[tag] {
						unfinished++
						hole = true
						continue
					}
					if !hole {
						require.True(t, acked[tag], "tag %d is in the finished prefix and not acknowledged", tag)
					}
				}
				require.Equal(t, unfinished, tracker.Unfinished())
			},
		})
		for _, span := range open {
			tracker.Finish(span, now)
			for tag := span.First; tag <= span.Last; tag++ {
				finished[tag] = true
			}
		}
		takePrefix()
		require.Len(t, acked, int(last), "everything is acknowledged in the end")
		_, waiting := tracker.Waiting()
		require.False(t, waiting)
	})
}
