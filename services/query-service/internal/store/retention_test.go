package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
)

// remove removes the messages of tenant up to a position, as retention does.
func (f *fixture) remove(t require.TestingT, tenant uuid.UUID, last Position) {
	f.exec(t, `DELETE FROM messages WHERE tenant_id = $1 AND (epoch, xid, ord) <= ($2, $3, $4)`, tenant, last.Epoch, last.Xid, last.Ord)
	f.exec(t, `INSERT INTO retention_positions VALUES ($1, $2, $3, $4)
		ON CONFLICT (tenant_id) DO UPDATE SET epoch = excluded.epoch, xid = excluded.xid, ord = excluded.ord`, tenant, last.Epoch, last.Xid, last.Ord)
}

// A reader whose messages were removed before it came back is told, once; one that has read them, or that never wanted them, is not.
func TestGap(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	messages := series(30, 10) // a second apart
	f.place(t, tenant, messages)
	f.newEpoch(t)
	const removed = 14 // the last one of them, in the middle of a transaction
	f.remove(t, tenant, messages[removed].Position)
	at := func(i int) *time.Time { return &messages[i].CreatedAt }
	behind := func(i int) *Position { return &messages[i].Position }
	long := messages[removed].CreatedAt.Add(-time.Hour)

	for name, c := range map[string]struct {
		query Query
		gap   bool
		first int // the first message of the page; 0: none
	}{
		"a first page":                             {Query{}, false, 15},
		"behind what was removed":                  {Query{After: behind(20), Resumed: true}, false, 21},
		"behind the last one that was removed":     {Query{After: behind(removed), Resumed: true}, false, 15},
		"before it":                                {Query{After: behind(removed - 1), Resumed: true}, true, 15},
		"long before it":                           {Query{After: behind(0), Resumed: true}, true, 15},
		"from the start, where the list was empty": {Query{Resumed: true}, true, 15},
		"only what came later":                     {Query{After: behind(3), Resumed: true, CreatedFrom: at(29)}, true, 29},
		"until the last that is kept":              {Query{After: behind(3), Resumed: true, CreatedBefore: at(16)}, true, 15},
		"all of it was removed":                    {Query{After: behind(3), Resumed: true, CreatedBefore: at(10)}, true, 0},
		"descending, a first page":                 {Query{Order: Descending}, false, 29},
		"descending, behind what was removed":      {Query{Order: Descending, After: behind(20), Resumed: true}, false, 19},
		"descending, the oldest that is kept":      {Query{Order: Descending, After: behind(15), Resumed: true}, false, 0},
		"descending, among what was removed":       {Query{Order: Descending, After: behind(10), Resumed: true}, true, 0},
		"descending, the last that was removed":    {Query{Order: Descending, After: behind(removed), Resumed: true}, true, 0},
		"descending, from the start":               {Query{Order: Descending, Resumed: true}, false, 29},
		"descending, from a time on":               {Query{Order: Descending, After: behind(10), Resumed: true, CreatedFrom: at(29)}, true, 0},
		"descending, until long ago":               {Query{Order: Descending, Resumed: true, CreatedBefore: &long}, false, 0},
	} {
		query := c.query
		query.Tenant, query.Limit = tenant, 3
		if query.Order == 0 {
			query.Order = Ascending
		}
		page := f.page(t, query)
		require.Equal(t, c.gap, page.Gap, name)
		if c.first == 0 {
			require.Empty(t, page.Messages, name)
			require.False(t, page.More, name)
			continue
		}
		require.Equal(t, messages[c.first].ID, page.Messages[0].ID, name)
		if query.Order == Ascending {
			query.After, query.Resumed = page.Last, true
			require.False(t, f.page(t, query).Gap, "%s: it is told once", name)
		}
	}
}

// What lies before a limit of time was not to be read, so its removal is no gap. Times are told apart where they are further apart than
// the begin of a transaction and its first write.
func TestGapOutsideTheTimes(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	messages := series(30, 10)
	for i := range messages {
		messages[i].CreatedAt = messages[i].CreatedAt.Add(time.Duration(i) * time.Hour)
	}
	f.place(t, tenant, messages)
	f.newEpoch(t)
	f.remove(t, tenant, messages[14].Position)
	for _, c := range []struct {
		from int
		gap  bool
	}{{10, true}, {15, true}, {17, false}, {29, false}} {
		for _, order := range []Order{Ascending, Descending} {
			query := Query{Tenant: tenant, Order: order, Limit: 30, After: &messages[5].Position, Resumed: true, CreatedFrom: &messages[c.from].CreatedAt}
			page := f.page(t, query)
			require.Equal(t, c.gap, page.Gap, "from message %d on, order %d", c.from, order)
			if order == Ascending {
				require.Len(t, page.Messages, min(30-c.from, 15))
			}
		}
	}
}

// A reader that finds nothing is told once as well: its cursor moves behind what was removed, also where it had none.
func TestGapBeforeNothing(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	messages := series(10, 10)
	f.place(t, tenant, messages)
	f.newEpoch(t)
	last := messages[9].Position
	f.remove(t, tenant, last)
	for _, after := range []*Position{nil, &messages[4].Position} {
		query := Query{Tenant: tenant, Order: Ascending, Limit: 5, After: after, Resumed: after != nil}
		page := f.page(t, query)
		require.Empty(t, page.Messages)
		require.False(t, page.More)
		require.Equal(t, after != nil, page.Gap)
		require.Equal(t, &last, page.Last)
		query.After, query.Resumed = page.Last, true
		page = f.page(t, query)
		require.False(t, page.Gap)
		require.Nil(t, page.Last, "it is there already")
	}
	page := f.page(t, Query{Tenant: tenant, Order: Descending, Limit: 5})
	require.Nil(t, page.Last, "the next one in descending order is older still")
	id, err := store(t.Context(), f.operator, tenant, 0, `"new"`)
	require.NoError(t, err)
	f.awaitHorizon(t)
	page = f.page(t, Query{Tenant: tenant, Order: Ascending, Limit: 5, After: &last, Resumed: true})
	require.Equal(t, []string{id.String()}, identities(page.Messages))
	require.False(t, page.Gap)
}

// A page of several chunks is of several snapshots. One in front of which messages are removed meanwhile ends before these, so that the
// gap is told where it is.
func TestGapInsideAPage(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	messages := series(100, 10)
	f.place(t, tenant, messages)
	f.newEpoch(t)
	f.reader.heavy.set(tenant, true)
	for _, c := range []struct {
		order   Order
		removed int
		want    int // messages of the page
		gap     bool
	}{
		{Ascending, firstHeavyChunk - 1, 50, false},
		{Ascending, firstHeavyChunk, firstHeavyChunk, true},
		{Ascending, 60, firstHeavyChunk, true},
		{Descending, 90, firstHeavyChunk, true}, // all that was to follow
		{Descending, 70, 29, false},
	} {
		f.exec(t, `DELETE FROM messages WHERE tenant_id = $1`, tenant)
		f.exec(t, `DELETE FROM retention_positions WHERE tenant_id = $1`, tenant)
		f.place(t, tenant, messages)
		f.reader.heavy.set(tenant, true)
		var met []Message
		query := Query{Tenant: tenant, Order: c.order, Limit: 50}
		page, err := f.reader.Page(t.Context(), query, func(m Message) {
			if met = append(met, Message{ID: m.ID, Position: m.Position}); len(met) == firstHeavyChunk {
				f.remove(t, tenant, messages[c.removed].Position)
			}
		})
		require.NoError(t, err)
		require.Len(t, met, c.want, "%+v", c)
		require.False(t, page.Gap, "%+v", c)
		require.Equal(t, c.order == Ascending, page.More, "%+v", c)
		query.After, query.Resumed = page.Last, true
		next := f.page(t, query)
		require.Equal(t, c.gap, next.Gap, "%+v", c)
		if c.order == Ascending {
			require.Equal(t, messages[max(c.removed+1, c.want)].ID, next.Messages[0].ID)
		}
	}
}

// Index entries of messages that retention has removed stay until the next vacuum. Whoever reads from the beginning, or to the
// end in descending order, must not pass a hundred thousand of them.
func TestRemovedMessagesDoNotMakeReadingDear(t *testing.T) {
	l := newLibrary(t)
	l.exec(t, fmt.Sprintf(`ALTER TABLE messages_%s SET (autovacuum_enabled = off)`, strings.ReplaceAll(l.tenant.String(), "-", "")))
	// Until nothing is left of the first epoch, and little of the second.
	const kept = 5
	removed := l.below[libraryRows-kept-1].Position
	l.remove(t, l.tenant, removed)
	l.below = l.below[libraryRows-kept:]
	l.exec(t, `ANALYZE messages`)
	// What a connection does for the first time reads hundreds of pages of catalogs: let it be with another tenant's messages.
	empty := &library{fixture: l.fixture, tenant: l.fixture.tenant(t)}
	for _, order := range []Order{Ascending, Descending} {
		empty.cost(t, Query{Tenant: empty.tenant, Order: order, Limit: 100, CreatedFrom: libraryTime(1), CreatedBefore: libraryTime(2)})
	}

	cheap := func() {
		for at, after := range map[string]*Position{
			"start": nil, "long before": {Epoch: 1, Xid: 120, Ord: 7}, "before": {Epoch: 2, Xid: 210, Ord: 7}, "the last that was removed": &removed,
			"behind the last but one": &l.below[kept-2].Position, "the end": &l.below[kept-1].Position,
		} {
			for when, bounds := range map[string][2]*time.Time{
				"all": {}, "after": {libraryTime(libraryEnd - 1), nil}, "after what was removed": {libraryTime(120), nil},
				"before": {nil, libraryTime(1e7)}, "an hour of what was removed": {libraryTime(200), libraryTime(260)},
			} {
				for _, order := range []Order{Ascending, Descending} {
					name := fmt.Sprintf("%s, %s, %d", at, when, order)
					query := Query{Tenant: l.tenant, Order: order, After: after, CreatedFrom: bounds[0], CreatedBefore: bounds[1], Limit: 100}
					for _, buffers := range l.cost(t, query) { // first: whoever meets a dead entry marks it
						require.LessOrEqual(t, buffers, maxBuffers, name)
					}
					require.Equal(t, identities(l.expect(query)), identities(l.page(t, query).Messages), name)
				}
			}
		}
	}
	cheap()

	// What it would be without the position.
	l.exec(t, `DELETE FROM retention_positions`)
	query := Query{Tenant: l.tenant, Order: Ascending, Limit: 100}
	require.Greater(t, l.cost(t, query)[0], 2*maxBuffers, "this test has nothing to hold if no dead entries are there")
}

// The position of retention is read under row security: that of another tenant moves nobody's pages.
func TestPositionOfAnotherTenant(t *testing.T) {
	f := newFixture(t)
	mine, theirs := f.tenant(t), f.tenant(t)
	messages := series(3, 10)
	f.place(t, mine, messages)
	f.newEpoch(t)
	f.remove(t, theirs, Position{Epoch: 1, Xid: 1 << 40})
	require.Len(t, f.page(t, Query{Tenant: mine, Order: Ascending, Limit: 10, Resumed: true}).Messages, 3)
	require.NoError(t, f.reader.inTenant(t.Context(), mine, func(tx *gorm.DB) error {
		var n int
		require.NoError(t, tx.Raw(`SELECT count(*) FROM retention_positions`).Row().Scan(&n))
		require.Zero(t, n)
		return nil
	}))
	_, err := f.pool.Exec(t.Context(), `DELETE FROM retention_positions`)
	require.ErrorContains(t, err, "permission denied")
}

// asTenant runs a statement with one row as the database's owner, in a transaction of tenant.
func (f *fixture) asTenant(ctx context.Context, tenant uuid.UUID, into []any, sql string, args ...any) error {
	return pgx.BeginFunc(ctx, f.operator, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('app.tenant_id', $1, true)`, tenant.String()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, sql, args...).Scan(into...)
	})
}
