package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
)

// maxBuffers is what a page of 100 and the search for a time before it may read each, whatever the tenant has.
const maxBuffers = 80

// library is a tenant with 100,000 messages below the horizon, of two epochs, 200 a transaction and one transaction a minute.
type library struct {
	*fixture
	tenant uuid.UUID
	below  []Message // in ascending order
}

const (
	libraryRows = 100_000
	libraryEnd  = libraryRows / 200 // minutes
)

func libraryTime(minutes float64) *time.Time {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(minutes * float64(time.Minute)))
	return &at
}

func newLibrary(t *testing.T) *library {
	t.Helper()
	l := &library{fixture: newFixture(t)}
	l.tenant = l.fixture.tenant(t)
	l.newEpoch(t)
	// Ids of transactions that are over in any cluster: 100 to 399 in the first epoch, 100 to 299 in the second.
	l.exec(t, `INSERT INTO messages (tenant_id, id, payload, created_at, epoch, xid, ord)
		SELECT $1, gen_random_uuid(), '{"event": "order.created"}', '2026-01-01 00:00:00+00'::timestamptz + make_interval(mins => i / 200),
			1 + i / 60000, (100 + (i / 200) % 300)::text::xid8, i % 200
		FROM generate_series(0, $2::integer - 1) AS i`, l.tenant, libraryRows)
	rows, err := l.operator.Query(t.Context(), `SELECT id, created_at, epoch, xid, ord FROM messages WHERE tenant_id = $1 ORDER BY epoch, xid, ord`, l.tenant)
	require.NoError(t, err)
	l.below, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m Message, err error) {
		err = row.Scan(&m.ID, &m.CreatedAt, &m.Position.Epoch, &m.Position.Xid, &m.Position.Ord)
		return m, err
	})
	require.NoError(t, err)
	require.Len(t, l.below, libraryRows)
	return l
}

// expect is the page that query has to give, by looking at every message below the horizon.
func (l *library) expect(query Query) (want []Message) {
	for i := range l.below {
		m := &l.below[i]
		if query.Order == Descending {
			m = &l.below[len(l.below)-1-i]
		}
		if (query.After == nil || m.Position != *query.After && (m.Position.Compare(*query.After) > 0) == (query.Order == Ascending)) &&
			(query.CreatedFrom == nil || !m.CreatedAt.Before(*query.CreatedFrom)) &&
			(query.CreatedBefore == nil || m.CreatedAt.Before(*query.CreatedBefore)) {
			want = append(want, *m)
		}
		if len(want) == query.Limit {
			break
		}
	}
	return want
}

// cost is how many buffers each statement of a page reads.
func (l *library) cost(t *testing.T, query Query) (costs []int) {
	t.Helper()
	span, err := l.reader.seek(t.Context(), query)
	require.NoError(t, err)
	newest := l.reader.newest.Load()
	require.NoError(t, l.reader.onConnection(t.Context(), func(db *gorm.DB, connection *pgx.Conn) error {
		tx, err := connection.Begin(t.Context())
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback(context.Background())) }()
		require.NoError(t, tx.SendBatch(t.Context(), bound(query.Tenant)).Close())
		for _, at := range []*time.Time{query.CreatedFrom, query.CreatedBefore} {
			if at != nil {
				// Once before: whatever a connection does for the first time reads hundreds of pages of catalogs.
				_, err = tx.Exec(t.Context(), positionSQL, query.Tenant, *at)
				require.NoError(t, err)
				root := explain(t, tx, positionSQL, query.Tenant, *at)
				costs = append(costs, root.Hit+root.Read)
			}
		}
		statement, args := pageSQL(db, query, span, newest, query.Limit+1)
		root := explain(t, tx, statement, args...)
		costs = append(costs, root.Hit+root.Read)
		return nil
	}))
	return costs
}

// requireCheap reads a page of each shape that there is, or of every share-th, holds it against what it has to be, and counts its
// buffers.
func (l *library) requireCheap(t *testing.T, share int) {
	t.Helper()
	cursors := map[string]*Position{
		"start":               nil,
		"deep":                &l.below[30_123].Position,
		"the end of an epoch": &l.below[59_999].Position,
		"behind an epoch":     &l.below[60_000].Position,
		"shortly before":      &l.below[libraryRows-40].Position,
		"the end":             &l.below[libraryRows-1].Position,
		"the beginning":       &l.below[0].Position,
		"shortly behind":      &l.below[40].Position,
		"above the horizon":   {Epoch: 2, Xid: 1 << 62},
		"no such epoch":       {Epoch: 7, Xid: 3},
	}
	times := map[string][2]*time.Time{
		"all":                 {},
		"after":               {libraryTime(120.5), nil},
		"after, at the end":   {libraryTime(libraryEnd - 1), nil},
		"after the end":       {libraryTime(libraryEnd + 1), nil},
		"after all of them":   {libraryTime(1e7), nil},
		"before":              {nil, libraryTime(400)},
		"before, at the end":  {nil, libraryTime(libraryEnd - 0.5)},
		"before, at an epoch": {nil, libraryTime(300)},
		"before the first":    {nil, libraryTime(-1)},
		"before, all of them": {nil, libraryTime(1e7)},
		"an hour":             {libraryTime(200), libraryTime(260)},
		"an hour of epochs":   {libraryTime(270), libraryTime(330)},
		"an instant":          {libraryTime(200), libraryTime(200)},
		"the last hour":       {libraryTime(libraryEnd - 60), libraryTime(1e7)},
	}
	most, shapes := 0, 0
	defer func() { t.Logf("a statement reads %d buffers at most", most) }()
	for at, after := range cursors {
		for when, bounds := range times {
			for _, order := range []Order{Ascending, Descending} {
				if shapes++; shapes%share != 0 { // others each time, as maps have no order
					continue
				}
				name := fmt.Sprintf("%s, %s, %d", at, when, order)
				query := Query{Tenant: l.tenant, Order: order, After: after, CreatedFrom: bounds[0], CreatedBefore: bounds[1], Limit: 100}
				require.Equal(t, identities(l.expect(query)), identities(l.page(t, query).Messages), name)
				for _, buffers := range l.cost(t, query) {
					most = max(most, buffers)
					require.LessOrEqual(t, buffers, maxBuffers, name)
				}
			}
		}
	}
}

// A transaction that has a hundred thousand messages written and not committed, or a writer that commits that many while another transaction is open,
// must not make anybody's pages dear: not the full ones, and not the last and the empty ones, which have nothing that
// stops them but the bounds themselves.
func TestOpenTransactionsDoNotMakeReadingDear(t *testing.T) {
	share := 1
	if testing.Short() {
		share = 5 // 280 shapes, three times, are half a minute
	}
	l := newLibrary(t)
	l.requireCheap(t, share) // as after a restore: without any statistics
	l.exec(t, `ANALYZE messages`)
	l.requireCheap(t, share)

	open := l.begin(t)
	const write = `INSERT INTO messages (tenant_id, id, payload, created_at, ord)
		SELECT $1, gen_random_uuid(), '{"event": "order.created"}', $2::timestamptz + $3 * interval '1 millisecond' * i, i FROM generate_series(1, $4::integer) AS i`
	_, err := open.Exec(t.Context(), write, l.tenant, libraryTime(libraryEnd), 0, 100_000)
	require.NoError(t, err)
	for range 10 { // as others do meanwhile
		l.exec(t, write, l.tenant, libraryTime(libraryEnd), 1, 10_000)
	}
	l.requireCheap(t, share)

	id, err := store(t.Context(), l.operator, l.tenant, 0, `"by its id"`)
	require.NoError(t, err)
	require.NoError(t, l.reader.inTenant(t.Context(), l.tenant, func(tx *gorm.DB) error {
		root := explainGorm(t, tx, messageSQL, l.tenant, id)
		require.LessOrEqual(t, root.Hit+root.Read, 10, "a message by its id")
		return nil
	}))
}

// A tenant that has nothing below the horizon has nothing to be found, and finding that costs as little.
func TestOpenTransactionsOfANewTenant(t *testing.T) {
	l := &library{fixture: newFixture(t)}
	l.tenant = l.fixture.tenant(t)
	open := l.begin(t)
	const write = `INSERT INTO messages (tenant_id, id, payload, ord) SELECT $1, gen_random_uuid(), '1', i FROM generate_series(1, 100000) AS i`
	_, err := open.Exec(t.Context(), write, l.tenant)
	require.NoError(t, err)
	l.exec(t, write, l.tenant)
	for _, order := range []Order{Ascending, Descending} {
		for _, bounds := range [][2]*time.Time{{}, {libraryTime(0), nil}, {nil, libraryTime(1e7)}, {libraryTime(0), libraryTime(1e7)}} {
			query := Query{Tenant: l.tenant, Order: order, CreatedFrom: bounds[0], CreatedBefore: bounds[1], Limit: 100}
			require.Empty(t, l.page(t, query).Messages)
			for _, buffers := range l.cost(t, query) {
				require.LessOrEqual(t, buffers, maxBuffers)
			}
		}
	}
}

// An import writes messages of many times in one transaction. A time inside it is found as well.
func TestTimesInsideATransaction(t *testing.T) {
	l := &library{fixture: newFixture(t)}
	l.tenant = l.fixture.tenant(t)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l.exec(t, `INSERT INTO messages (tenant_id, id, payload, created_at, xid, ord)
		SELECT $1, gen_random_uuid(), '1', $2::timestamptz + i * interval '1 second', '100', i FROM generate_series(0, 99999) AS i`, l.tenant, begin)
	for _, order := range []Order{Ascending, Descending} {
		from, before := begin.Add(50_000*time.Second), begin.Add(50_060*time.Second)
		query := Query{Tenant: l.tenant, Order: order, CreatedFrom: &from, CreatedBefore: &before, Limit: 100}
		messages := l.page(t, query).Messages
		require.Len(t, messages, 60)
		for _, m := range messages {
			require.False(t, m.CreatedAt.Before(from) || !m.CreatedAt.Before(before))
		}
		for _, buffers := range l.cost(t, query) {
			require.LessOrEqual(t, buffers, maxBuffers)
		}
	}
}
