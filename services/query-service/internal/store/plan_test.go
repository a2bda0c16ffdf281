package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"gorm.io/gorm"
)

// plan is a node of EXPLAIN (FORMAT JSON).
type plan struct {
	NodeType  string `json:"Node Type"`
	IndexCond string `json:"Index Cond"`
	Relation  string `json:"Relation Name"`
	Removed   int    `json:"Rows Removed by Filter"`
	Hit       int    `json:"Shared Hit Blocks"`
	Read      int    `json:"Shared Read Blocks"`
	Plans     []plan `json:"Plans"`
}

func (p plan) each(visit func(plan)) {
	visit(p)
	for _, child := range p.Plans {
		child.each(visit)
	}
}

func explain(t *testing.T, db executor, statement string, args ...any) plan {
	t.Helper()
	var text string
	require.NoError(t, db.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+statement, args...).Scan(&text))
	return parsePlan(t, text)
}

// explainGorm explains in a transaction of GORM.
func explainGorm(t *testing.T, tx *gorm.DB, statement string, args ...any) plan {
	t.Helper()
	var text string
	require.NoError(t, tx.Raw(`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+statement, args...).Row().Scan(&text))
	return parsePlan(t, text)
}

func parsePlan(t *testing.T, text string) plan {
	t.Helper()
	var explained []struct {
		Plan plan `json:"Plan"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &explained))
	return explained[0].Plan
}

// A page costs the same at any depth, in both orders and within bounds of time, and with hundreds of other tenants: no
// plan may read, sort or lock more than one tenant's few rows. 200,000 messages, and 300 tenants beside this one.
func TestPlans(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	for range 300 {
		f.tenant(t)
	}
	// Ten messages a transaction, every third transaction of the cluster, rates that change, and a day without any.
	f.exec(t, `INSERT INTO messages (tenant_id, id, payload, created_at, epoch, xid, ord)
		SELECT $1, gen_random_uuid(), '{"event": "order.created"}', '2026-01-01'::timestamptz
			+ make_interval(secs => i / 10 * 12 + 600 * sin(i / 20000.0) + i / 100000 * 86400 - i % 17), 1, (700 + i / 10 * 3)::text::xid8, i % 10
		FROM generate_series(0, 199999) AS i`, tenant)
	f.exec(t, `ANALYZE messages`)
	f.newEpoch(t)
	hours := func(n int) *time.Time {
		at := time.Date(2026, 1, 1, n, 0, 0, 0, time.UTC)
		return &at
	}

	for _, order := range []Order{Ascending, Descending} {
		for name, query := range map[string]Query{
			"start":        {},
			"deep":         {After: &Position{Epoch: 1, Xid: 40_000, Ord: 4}},
			"deeper":       {After: &Position{Epoch: 1, Xid: 12_000, Ord: 9}},
			"after":        {CreatedFrom: hours(80)},
			"before":       {CreatedBefore: hours(20)},
			"hour":         {CreatedFrom: hours(26), CreatedBefore: hours(27)},
			"days, deeper": {CreatedFrom: hours(10), CreatedBefore: hours(60), After: &Position{Epoch: 1, Xid: 30_000}},
		} {
			query.Tenant, query.Order, query.Limit = tenant, order, 100
			t.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(name, " ", ""), order), func(t *testing.T) {
				err := f.reader.onConnection(t.Context(), func(db *gorm.DB, connection *pgx.Conn) error {
					f.requireGoodPlan(t, db, connection, query)
					return nil
				})
				require.NoError(t, err)
			})
		}
	}
}

func (f *fixture) requireGoodPlan(t *testing.T, db *gorm.DB, connection *pgx.Conn, query Query) {
	t.Helper()
	span, err := f.reader.seek(t.Context(), query)
	require.NoError(t, err)
	// In a transaction of the test, so that all that is locked stays locked to the end.
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
			t.Logf("search for a time: %d buffers", root.Hit+root.Read)
			require.Less(t, root.Hit+root.Read, 150, "buffers of the search for a time")
		}
	}

	statement, args := pageSQL(db, query, span, 2, query.Limit+1)
	// More often than the five times after which PostgreSQL would turn to a generic plan.
	for range 8 {
		p := pageReader{query: query, span: span, newest: 2, maxBytes: PageBytes, each: func(Message) {}}
		_, err := p.readChunk(t.Context(), db, connection, query.Limit+1)
		require.NoError(t, err)
		require.NotZero(t, p.messages)
	}
	var locks int
	require.NoError(t, tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
		AND locktype = 'relation' AND relation::regclass::text NOT LIKE 'pg\_%'`).Scan(&locks))
	// The table, the hash partition and the tenant's, each with two indexes (PostgreSQL 17 locks those of parents, too),
	// the epochs, and the position of retention. A generic plan takes hundreds.
	require.LessOrEqual(t, locks, 14, "relation locks")

	root, partitions := explain(t, tx, statement, args...), map[string]bool{}
	root.each(func(node plan) {
		if node.Relation == "retention_positions" { // a row for each tenant, and none yet
			return
		}
		require.NotContains(t, node.NodeType, "Sort")
		require.NotContains(t, node.NodeType, "Seq Scan")
		require.NotContains(t, node.NodeType, "Bitmap")
		if node.NodeType == "Index Scan" {
			partitions[node.Relation] = true
			require.Contains(t, node.IndexCond, "tenant_id")
			t.Logf("page: %d rows removed, %d buffers", node.Removed, root.Hit+root.Read)
		}
	})
	require.Len(t, partitions, 1, "one partition is read")
	require.Less(t, root.Hit+root.Read, 60, "buffers of a page of 100")
}

// Row-level security keeps a message from other tenants, and it alone would still plan and lock the partitions of all of
// them: at ten thousand tenants a request for one message would be as slow as ten thousand.
func TestOneMessageLocksOnePartition(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	for range 100 {
		f.tenant(t)
	}
	id, err := store(t.Context(), f.operator, tenant, 0, `1`)
	require.NoError(t, err)
	require.NoError(t, f.reader.inTenant(t.Context(), tenant, func(tx *gorm.DB) error {
		for range 8 { // more often than the five times after which PostgreSQL would turn to a generic plan
			_, err := scanMessage(tx, tenant, id)
			require.NoError(t, err)
		}
		var locks int
		require.NoError(t, tx.Raw(`SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()
			AND locktype = 'relation' AND relation::regclass::text NOT LIKE 'pg\_%'`).Row().Scan(&locks))
		require.LessOrEqual(t, locks, 12, "relation locks, as for a page")
		return nil
	}))
}
