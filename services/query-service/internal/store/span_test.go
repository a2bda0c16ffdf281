package store

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
	"pgregory.net/rapid"
)

// aboveHorizon is above the horizon of any cluster.
const aboveHorizon = 1 << 50

// drawPosition draws a position on, between or beyond messages of a few epochs; sometimes none.
func drawPosition(r *rapid.T, name string) *Position {
	if rapid.IntRange(0, 3).Draw(r, name+" is given") == 0 {
		return nil
	}
	return &Position{
		Epoch: rapid.Int32Range(0, 5).Draw(r, name+" epoch"),
		Xid:   rapid.SampledFrom([]uint64{0, 100, 101, 102, 103, aboveHorizon, aboveHorizon + 1}).Draw(r, name+" xid"),
		Ord:   rapid.Int32Range(-1, 4).Draw(r, name+" ord"),
	}
}

// Whatever part of the reading order a page is read from, however often it is cut into pieces for that, and wherever retention has
// got to, it has each message of the part that is kept and below the horizon once and in order, and no other.
func TestPartsAgainstAScan(t *testing.T) {
	f := newFixture(t)
	f.newEpoch(t)
	f.newEpoch(t) // the third
	rapid.Check(t, func(r *rapid.T) {
		tenant := f.tenant(r)
		places := rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) Position {
			return Position{
				Epoch: rapid.Int32Range(0, 4).Draw(r, "epoch"),
				Xid:   rapid.SampledFrom([]uint64{100, 101, 102, aboveHorizon, aboveHorizon + 1}).Draw(r, "xid"),
				Ord:   rapid.Int32Range(0, 3).Draw(r, "ord"),
			}
		}), 0, 60, rapid.ID[Position]).Draw(r, "places")
		slices.SortFunc(places, Position.Compare)
		messages := make([]Message, 0, len(places))
		for _, p := range places {
			messages = append(messages, Message{ID: uuid.New(), Payload: []byte(`1`), CreatedAt: time.Unix(0, 0), Position: p})
		}
		f.place(r, tenant, messages)
		if len(messages) > 0 && rapid.Bool().Draw(r, "retention") {
			n := rapid.IntRange(1, len(messages)).Draw(r, "removed")
			f.remove(r, tenant, messages[n-1].Position)
			messages = messages[n:]
		}

		for range 8 {
			s := span{lower: drawPosition(r, "lower"), upper: drawPosition(r, "upper")}
			order := rapid.SampledFrom([]Order{Ascending, Descending}).Draw(r, "order")
			// What a reader knows of epochs may be out of date.
			known := rapid.SampledFrom([]int32{1, 2, 3, 3, 3, 4}).Draw(r, "newest epoch that is known")
			want := slices.DeleteFunc(slices.Clone(messages), func(m Message) bool {
				return s.lower != nil && m.Position.Compare(*s.lower) <= 0 || s.upper != nil && m.Position.Compare(*s.upper) >= 0 ||
					cmp.Or(cmp.Compare(m.Position.Epoch, 3), cmp.Compare(m.Position.Xid, aboveHorizon)) >= 0
			})
			if order == Descending {
				slices.Reverse(want)
			}
			var met []Message
			p := pageReader{query: Query{Tenant: tenant, Order: order, Limit: 100}, span: s, newest: known, maxBytes: PageBytes, each: func(m Message) {
				met = append(met, m)
			}}
			chunk := rapid.IntRange(1, 5).Draw(r, "chunk")
			require.NoError(r, f.reader.onConnection(context.Background(), func(db *gorm.DB, connection *pgx.Conn) error {
				return p.read(context.Background(), db, connection, chunk)
			}))
			require.Equal(r, identities(want), identities(met))
			require.EqualValues(r, 3, p.newest)
		}
	})
}

// A bound of time may lie inside a transaction that is above the horizon. Nothing of it may be read yet: a reader that had met it would
// miss what transactions before it have still to commit.
func TestBoundsInsideATransactionAboveTheHorizon(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	var messages []Message
	for _, xid := range []uint64{100, aboveHorizon} {
		for ord := range int32(4) {
			messages = append(messages, Message{
				ID: uuid.New(), Payload: []byte(`1`), CreatedAt: time.Unix(0, 0), Position: Position{Epoch: 1, Xid: xid, Ord: ord},
			})
		}
	}
	f.place(t, tenant, messages)
	upper := &Position{Epoch: 1, Xid: aboveHorizon, Ord: 3}
	for _, order := range []Order{Ascending, Descending} {
		for _, c := range []struct {
			lower *Position
			want  int
		}{{nil, 4}, {&Position{Epoch: 1, Xid: 100, Ord: 1}, 2}, {&Position{Epoch: 1, Xid: aboveHorizon, Ord: 0}, 0}} {
			met := 0
			p := pageReader{
				query: Query{Tenant: tenant, Order: order, Limit: 100}, span: span{lower: c.lower, upper: upper}, newest: 1, maxBytes: PageBytes,
				each: func(m Message) {
					require.EqualValues(t, 100, m.Position.Xid)
					met++
				},
			}
			require.NoError(t, f.reader.onConnection(t.Context(), func(db *gorm.DB, connection *pgx.Conn) error {
				return p.read(t.Context(), db, connection, firstChunk)
			}))
			require.Equal(t, c.want, met)
			require.EqualValues(t, 1, p.newest)
		}
	}
}

// A new epoch is found by the page that is read next, in whatever epoch the reader was: no message is passed, and what is new
// comes first in descending order.
func TestPageFindsANewEpoch(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	old := series(30, 10)
	f.place(t, tenant, old)
	f.newEpoch(t)
	require.Len(t, f.walk(t, Query{Tenant: tenant, Order: Ascending, Limit: 7}), 30)
	f.newEpoch(t)
	fresh := series(5, 10)
	for i := range fresh {
		fresh[i].Position.Epoch = 2
	}
	f.place(t, tenant, fresh)

	reader := New(f.reader.db)
	reader.newest.Store(2)
	f.reader = reader
	behind := Query{Tenant: tenant, Order: Ascending, Limit: 7, After: &old[29].Position}
	require.Equal(t, identities(fresh), identities(f.page(t, behind).Messages))
	f.reader.newest.Store(2)
	require.Equal(t, fresh[4].ID, f.page(t, Query{Tenant: tenant, Order: Descending, Limit: 1}).Messages[0].ID)
}
