package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
	"pgregory.net/rapid"
)

// longestWait is how long a transaction may wait between its begin and its first write: as the limits on statements and
// idle transactions have it, not as the code under test believes.
const longestWait = 30 * time.Second

// history draws messages as writers leave them: in the reading order, with times that step back by up to the longest
// wait between the begin of a transaction and its first write, with gaps in time and in xids, over several epochs.
func history(r *rapid.T) []Message {
	clock := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	at := Position{Epoch: 1, Xid: 700}
	var messages []Message
	for range rapid.IntRange(0, 60).Draw(r, "transactions") {
		switch rapid.IntRange(0, 9).Draw(r, "gap") {
		case 0:
			clock = clock.Add(time.Duration(rapid.IntRange(0, 30*24*3600).Draw(r, "quiet seconds")) * time.Second)
		case 1:
			at.Xid += rapid.Uint64Range(1, 1<<33).Draw(r, "other tenants' transactions")
		case 2:
			at.Epoch += rapid.Int32Range(1, 3).Draw(r, "restores")
			at.Xid = rapid.Uint64Range(700, 5000).Draw(r, "xid after a restore")
		default:
			clock = clock.Add(time.Duration(rapid.IntRange(0, 2_000_000).Draw(r, "microseconds")) * time.Microsecond)
		}
		at.Xid++
		waited := rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 5 * time.Second, longestWait}).Draw(r, "wait")
		for ord := range rapid.Int32Range(1, 4).Draw(r, "messages") {
			at.Ord = ord
			messages = append(messages, Message{ID: uuid.New(), Payload: []byte(`0`), CreatedAt: clock.Add(-waited), Position: at})
		}
	}
	return messages
}

// moment draws a time on, near or far from those of messages, down to the nanosecond; sometimes none.
func moment(r *rapid.T, name string, messages []Message) *time.Time {
	if len(messages) == 0 || rapid.IntRange(0, 5).Draw(r, name+" is given") == 0 {
		return nil
	}
	near := rapid.SampledFrom(messages).Draw(r, name).CreatedAt
	spread := rapid.SampledFrom([]time.Duration{0, 1, time.Microsecond, time.Second, time.Minute, 24 * time.Hour}).Draw(r, name+" spread")
	at := near.Add(time.Duration(rapid.Int64Range(-int64(spread), int64(spread)).Draw(r, name+" offset")))
	return &at
}

// A bound in time must give exactly the messages that a scan of all of them would, in both orders.
func TestTimeBoundsAgainstAScan(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO reading_epochs (epoch, system_identifier, timeline) VALUES (1000, 0, 0)`) // all lie before the horizon
	rapid.Check(t, func(r *rapid.T) {
		tenant, messages := f.tenant(r), history(r)
		f.place(r, tenant, messages)
		for range 5 {
			query := Query{
				Tenant: tenant, Order: Ascending, Limit: rapid.IntRange(20, 200).Draw(r, "limit"),
				CreatedFrom: moment(r, "from", messages), CreatedBefore: moment(r, "before", messages),
			}
			want := slices.DeleteFunc(slices.Clone(messages), func(m Message) bool {
				return (query.CreatedFrom != nil && m.CreatedAt.Before(*query.CreatedFrom)) ||
					(query.CreatedBefore != nil && !m.CreatedAt.Before(*query.CreatedBefore))
			})
			require.Equal(r, identities(want), identities(f.walk(r, query)))
			slices.Reverse(want)
			query.Order = Descending
			require.Equal(r, identities(want), identities(f.walk(r, query)))
		}
	})
}

// The search must come close: the messages that it leaves between its two answers are the ones that are read in vain.
func TestPositionComesClose(t *testing.T) {
	f := newFixture(t)
	f.exec(t, `INSERT INTO reading_epochs (epoch, system_identifier, timeline) VALUES (1000, 0, 0)`) // all lie before the horizon
	rapid.Check(t, func(r *rapid.T) {
		tenant, messages := f.tenant(r), history(r)
		f.place(r, tenant, messages)
		var at time.Time
		if drawn := moment(r, "at", messages); drawn != nil {
			at = *drawn
		}
		var below, above *Position
		err := f.reader.inTenant(context.Background(), tenant, func(tx *gorm.DB) (err error) {
			below, above, err = position(tx, Query{Tenant: tenant}, at)
			return err
		})
		require.NoError(r, err)

		index := func(p *Position) int {
			return slices.IndexFunc(messages, func(m Message) bool { return m.Position == *p })
		}
		low, high := -1, len(messages)
		if below != nil {
			low = index(below)
			require.NotEqual(r, -1, low)
			require.True(r, messages[low].CreatedAt.Before(microseconds(at)))
		}
		if above != nil {
			high = index(above)
			require.NotEqual(r, -1, high)
			require.False(r, messages[high].CreatedAt.Before(microseconds(at)))
		}
		require.Less(r, low, high)
		sameTransaction := func(a, b int) bool {
			return a >= 0 && b < len(messages) && messages[a].Position.Xid == messages[b].Position.Xid && messages[a].Position.Epoch == messages[b].Position.Epoch
		}
		for low+1 < high && (sameTransaction(low, low+1) || sameTransaction(high-1, high)) {
			if sameTransaction(low, low+1) {
				low++
			} else {
				high--
			}
		}
		require.True(r, low+1 >= high || messages[high].CreatedAt.Sub(messages[low].CreatedAt) <= time.Second,
			"%d messages lie between", high-low-1)
	})
}

func TestMicroseconds(t *testing.T) {
	whole := time.Date(2026, 5, 4, 3, 2, 1, 987_654_000, time.UTC)
	require.Equal(t, whole, microseconds(whole))
	require.Equal(t, whole.Add(time.Microsecond), microseconds(whole.Add(1)))
	require.Equal(t, whole, microseconds(whole.Add(-1)))
	before := time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)
	require.Equal(t, 1000, microseconds(before).Nanosecond())
}
