package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPageEnds(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	f.place(t, tenant, series(400, 20))
	f.newEpoch(t)

	// The numbers around the sizes of the chunks in which a page is read.
	for _, limit := range []int{1, 2, firstChunk - 2, firstChunk - 1, firstChunk, firstChunk + 1, 399, 400, 401, 1000} {
		for _, order := range []Order{Ascending, Descending} {
			t.Run(fmt.Sprintf("limit %d order %d", limit, order), func(t *testing.T) {
				page := f.page(t, Query{Tenant: tenant, Order: order, Limit: limit})
				require.Len(t, page.Messages, min(limit, 400))
				require.Equal(t, limit < 400, page.More)
			})
		}
	}
}

// Without an end by size, a thousand of the largest messages would be a gigabyte in one answer.
func TestPageEndsBySize(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	const megabyte = 1 << 20
	f.place(t, tenant, series(20, megabyte))
	f.newEpoch(t)

	for range 2 { // as nobody knows yet what messages the tenant has, and as it is known
		page := f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: 1000})
		require.Len(t, page.Messages, 7, "eight of a megabyte, with what is around them, are more than 8 MiB")
		require.True(t, page.More)
		require.True(t, f.reader.heavy.has(tenant))
	}
	require.Len(t, f.walk(t, Query{Tenant: tenant, Order: Descending, Limit: 1000}), 20, "the walk meets them all")

	f.reader.pageBytes = 1000
	page := f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: 1000})
	require.Len(t, page.Messages, 1, "a message that is larger than a page is a page of its own")
	require.True(t, page.More)
	last := f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: 1000, After: &f.walk(t, Query{Tenant: tenant, Order: Ascending, Limit: 1000})[18].Position})
	require.Len(t, last.Messages, 1)
	require.False(t, last.More)
}

// A page that is read in small chunks is the same page.
func TestHeavyTenants(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	messages := series(400, 20)
	f.place(t, tenant, messages)
	f.newEpoch(t)
	for _, limit := range []int{1, firstHeavyChunk - 1, firstHeavyChunk, 143, 144, 145, 399, 400, 1000} {
		f.reader.heavy.set(tenant, true)
		page := f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: limit})
		require.Equal(t, identities(messages[:min(limit, 400)]), identities(page.Messages))
		require.Equal(t, limit < 400, page.More)
		require.Equal(t, limit >= 400, f.reader.heavy.has(tenant), "a page that its limit ended is not one of large messages")
	}

	other := tenant
	other[0]++
	f.reader.heavy.set(tenant, true)
	f.reader.heavy.set(other, false)
	require.True(t, f.reader.heavy.has(tenant))
	f.reader.heavy.set(other, true)
	require.True(t, f.reader.heavy.has(other))
	require.False(t, f.reader.heavy.has(tenant), "two that share a slot forget each other")
}

// A bug in what renders a page must not cost the connection for ever: some bad requests would leave none.
func TestPanicReturnsTheConnection(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	f.place(t, tenant, series(50, 20))
	f.newEpoch(t)
	for range f.pool.Config().MaxConns + 1 {
		require.PanicsWithValue(t, "bug", func() {
			_, _ = f.reader.Page(t.Context(), Query{Tenant: tenant, Order: Ascending, Limit: 10}, func(Message) { panic("bug") })
		})
	}
	require.Len(t, f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: 10}).Messages, 10)
}

func TestPageOfNothing(t *testing.T) {
	f := newFixture(t)
	for _, order := range []Order{Ascending, Descending} {
		for _, tenant := range []struct {
			name  string
			query Query
		}{
			{"an empty tenant", Query{Tenant: f.tenant(t), Order: order, Limit: 10}},
			{"no such tenant", Query{Order: order, Limit: 10}},
		} {
			page := f.page(t, tenant.query)
			require.Empty(t, page.Messages, tenant.name)
			require.False(t, page.More, tenant.name)
		}
	}
}

// Whatever the sizes, limits and ends of pages are, following them gives the list: no message lost or met again at the
// edge of a page, and descending is its exact reverse.
func TestPagesMakeUpTheList(t *testing.T) {
	f := newFixture(t)
	f.newEpoch(t)
	rapid.Check(t, func(r *rapid.T) {
		tenant := f.tenant(r)
		messages := make([]Message, 0, 400)
		for i, size := range rapid.SliceOfN(rapid.IntRange(3, 600), 0, 400).Draw(r, "sizes") {
			messages = append(messages, Message{
				ID: uuid.New(), Payload: []byte(text(size)), CreatedAt: time.Unix(int64(i), 0),
				Position: Position{Epoch: 1, Xid: 1000 + uint64(i/7)*13, Ord: int32(i % 7)},
			})
		}
		f.place(r, tenant, messages)
		f.reader.pageBytes = rapid.IntRange(300, 100_000).Draw(r, "bytes of a page")
		query := Query{Tenant: tenant, Order: Ascending, Limit: rapid.IntRange(1, 500).Draw(r, "limit")}

		require.Equal(r, identities(messages), identities(f.walk(r, query)))
		query.Order = Descending
		slices.Reverse(messages)
		require.Equal(r, identities(messages), identities(f.walk(r, query)))
	})
}

// identities is what a test compares lists by: the ids, in their order.
func identities(messages []Message) []string {
	ids := make([]string, 0, len(messages))
	for _, m := range messages {
		ids = append(ids, m.ID.String())
	}
	return ids
}

// BenchmarkPage reads the default page of a tenant.
func BenchmarkPage(b *testing.B) {
	f := newFixture(b)
	tenant := f.tenant(b)
	f.place(b, tenant, series(1000, 256))
	f.newEpoch(b)
	query := Query{Tenant: tenant, Order: Ascending, Limit: 100, After: &Position{Epoch: 1, Xid: 120}}
	b.ReportAllocs()
	for b.Loop() {
		messages := 0
		_, err := f.reader.Page(b.Context(), query, func(Message) { messages++ })
		require.NoError(b, err)
		require.Equal(b, query.Limit, messages)
	}
}

func TestTighter(t *testing.T) {
	low, high := &Position{Epoch: 1, Xid: 900, Ord: 2}, &Position{Epoch: 2, Xid: 5}
	for _, c := range []struct {
		order      Order
		a, b, want *Position
	}{
		{Ascending, nil, nil, nil},
		{Ascending, low, nil, low},
		{Ascending, nil, low, low},
		{Ascending, low, high, high},
		{Ascending, high, low, high},
		{Descending, low, high, low},
		{Descending, high, low, low},
		{Descending, nil, high, high},
	} {
		require.Equal(t, c.want, c.order.tighter(c.a, c.b), "%+v", c)
	}
}
