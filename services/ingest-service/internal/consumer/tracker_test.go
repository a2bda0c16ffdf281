package consumer

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// trackerModel knows of each single tag whether it is finished and acknowledged, and looks at nothing else.
type trackerModel struct {
	last     uint64
	finished map[uint64]time.Time
	acked    map[uint64]bool
}

func (m *trackerModel) ack(t *rapid.T, tag uint64) {
	_, finished := m.finished[tag]
	require.True(t, finished, "tag %d is acknowledged before it is finished", tag)
	require.False(t, m.acked[tag], "tag %d is acknowledged twice", tag)
	m.acked[tag] = true
}

// multiple is one ack that stands for all tags up to one. Those that were acknowledged singly are no longer there
// for the broker, but the tag that is named has to be: for one that it does not know it closes the channel (406).
func (m *trackerModel) multiple(t *rapid.T, tag uint64) {
	require.False(t, m.acked[tag], "the tag %d that is named was acknowledged before", tag)
	for each := uint64(1); each <= tag; each++ {
		if !m.acked[each] {
			m.ack(t, each)
		}
	}
}

// prefix is the last tag before the first unfinished one.
func (m *trackerModel) prefix() uint64 {
	for tag := uint64(1); tag <= m.last; tag++ {
		if _, finished := m.finished[tag]; !finished {
			return tag - 1
		}
	}
	return m.last
}

// waiting are the tags that are finished, not acknowledged, and have been so since a time or longer.
func (m *trackerModel) waiting(since time.Time) map[uint64]bool {
	tags := make(map[uint64]bool)
	for tag, at := range m.finished {
		if !m.acked[tag] && !at.After(since) {
			tags[tag] = true
		}
	}
	return tags
}

// An ack that covers a message which is not stored loses it; one that never comes has it delivered for ever. Spans are
// opened and finished in any order, and acks taken at any time.
func TestTrackerAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const holeLimit = time.Second
		var (
			tracker tracker
			open    []*span
			now     = time.Unix(0, 0)
			model   = trackerModel{finished: map[uint64]time.Time{}, acked: map[uint64]bool{}}
		)
		finish := func(i int) {
			tracker.finish(open[i], now)
			for tag := open[i].first; tag <= open[i].last; tag++ {
				model.finished[tag] = now
			}
			open = slices.Delete(open, i, i+1)
		}
		takePrefix := func(t *rapid.T) {
			tag, ok := tracker.prefix()
			if ok {
				model.multiple(t, tag)
			}
			for tag := uint64(1); tag <= model.prefix(); tag++ {
				require.True(t, model.acked[tag], "tag %d is in the finished prefix and not acknowledged", tag)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				size := rapid.Uint64Range(1, 5).Draw(t, "size")
				open = append(open, tracker.open(model.last+1, model.last+size))
				model.last += size
			},
			"finish": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing is open")
				}
				finish(rapid.IntRange(0, len(open)-1).Draw(t, "span"))
			},
			"prefix": takePrefix,
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*holeLimit)).Draw(t, "time")))
			},
			"beyond": func(t *rapid.T) {
				due := model.waiting(now.Add(-holeLimit))
				for _, span := range tracker.beyond(now, holeLimit) {
					for tag := span.first; tag <= span.last; tag++ {
						require.True(t, due[tag], "tag %d is not due", tag)
						delete(due, tag)
						model.ack(t, tag)
					}
				}
				require.Empty(t, due, "these wait for longer than the limit")
			},
			"": func(t *rapid.T) {
				require.Equal(t, model.last-uint64(len(model.finished)), unfinished(&tracker))
				since, waiting := tracker.waiting()
				held := model.waiting(now)
				require.Equal(t, len(held) > 0, waiting)
				for tag := range held {
					require.False(t, model.finished[tag].Before(since), "tag %d waits for longer", tag)
				}
				if waiting {
					require.NotEmpty(t, model.waiting(since), "nothing waits since then")
				}
			},
		})
		for len(open) > 0 {
			finish(0)
		}
		takePrefix(t)
		require.Len(t, model.acked, int(model.last), "everything is acknowledged in the end")
		_, waiting := tracker.waiting()
		require.False(t, waiting)
		_, more := tracker.prefix()
		require.False(t, more)
		require.Empty(t, tracker.beyond(now.Add(time.Hour), holeLimit))
		require.Zero(t, unfinished(&tracker))
	})
}

// At the end of a channel each delivery is acknowledged or given back, as its span is finished or not, with as few frames as
// there are changes from one to the other. A broker is played here that takes "multiple" as RabbitMQ does.
func TestRestAgainstABroker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tracker tracker
		unacked, finished := map[uint64]bool{}, map[uint64]bool{}
		tag, now := uint64(0), time.Unix(0, 0)
		var open []*span
		changes, before := 0, false
		for i := range rapid.IntRange(0, 12).Draw(t, "spans") {
			size := rapid.Uint64Range(1, 4).Draw(t, "size")
			open = append(open, tracker.open(tag+1, tag+size))
			done := rapid.Bool().Draw(t, "done")
			for range size {
				tag++
				unacked[tag], finished[tag] = true, done
			}
			if done {
				tracker.finish(open[i], now)
			}
			if i == 0 || done != before {
				changes++
			}
			before = done
		}
		if last, ok := tracker.prefix(); ok {
			for known := range last {
				delete(unacked, known+1)
			}
		}
		if rapid.Bool().Draw(t, "holes are passed") {
			for _, span := range tracker.beyond(now, 0) {
				for known := span.first; known <= span.last; known++ {
					delete(unacked, known)
				}
			}
		}
		runs := tracker.rest()
		require.LessOrEqual(t, len(runs), changes)
		for _, run := range runs {
			require.True(t, unacked[run.last], "a tag that the broker does not know closes the channel")
			for known := uint64(1); known <= run.last; known++ {
				if unacked[known] {
					require.Equal(t, finished[known], run.finished, "tag %d", known)
					delete(unacked, known)
				}
			}
		}
		require.Empty(t, unacked)
	})
}

// unfinished is how many tags have not been finished.
func unfinished(t *tracker) (tags uint64) {
	for _, span := range t.spans {
		if !span.finished {
			tags += span.last - span.first + 1
		}
	}
	return tags
}
