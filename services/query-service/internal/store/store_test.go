package store

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a fresh, migrated database with a reader as the service has it and the operator's way in beside it.
type fixture struct {
	reader   *Reader
	pool     *pgxpool.Pool // the reader's
	operator *pgxpool.Pool
}

func newFixture(tb testing.TB) *fixture {
	tb.Helper()
	url := backing.Postgres(tb)
	cfg := postgres.DefaultConfig()
	cfg.URL = url
	pool, err := postgres.Open(tb.Context(), cfg, postgres.RoleQuery)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	db, closer, err := postgres.Gorm(pool, zap.NewNop())
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, closer.Close()) })
	config, err := pgxpool.ParseConfig(url)
	require.NoError(tb, err)
	config.MaxConns = 20
	operator, err := pgxpool.NewWithConfig(tb.Context(), config)
	require.NoError(tb, err)
	tb.Cleanup(operator.Close)
	return &fixture{reader: New(db), pool: pool, operator: operator}
}

func (f *fixture) exec(t require.TestingT, sql string, args ...any) {
	_, err := f.operator.Exec(context.Background(), sql, args...)
	require.NoError(t, err)
}

// tenant makes a tenant with a partition.
func (f *fixture) tenant(t require.TestingT) uuid.UUID {
	tenant := uuid.New()
	f.exec(t, `SELECT tenant_attach($1)`, tenant)
	return tenant
}

// executor is a pool or a transaction.
type executor interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// store writes a message as ingest-service does: its place is that of the current transaction.
func store(ctx context.Context, db executor, tenant uuid.UUID, ord int, payload string) (uuid.UUID, error) {
	var id uuid.UUID
	err := db.QueryRow(ctx, `INSERT INTO messages (tenant_id, id, payload, ord) VALUES ($1, gen_random_uuid(), $2, $3) RETURNING id`,
		tenant, payload, ord).Scan(&id)
	return id, err
}

// place writes messages at places and times of the test's choice.
func (f *fixture) place(t require.TestingT, tenant uuid.UUID, messages []Message) {
	rows := make([][]any, 0, len(messages))
	for _, m := range messages {
		rows = append(rows, []any{tenant, m.ID, m.Payload, m.CreatedAt, m.Position.Epoch, m.Position.Xid, m.Position.Ord})
	}
	_, err := f.operator.CopyFrom(context.Background(), pgx.Identifier{"messages"},
		[]string{"tenant_id", "id", "payload", "created_at", "epoch", "xid", "ord"}, pgx.CopyFromRows(rows))
	require.NoError(t, err)
}

// begin opens a transaction that does not outlive the test, even if that fails.
func (f *fixture) begin(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := f.operator.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := tx.Rollback(context.Background()); !errors.Is(err, pgx.ErrTxClosed) {
			require.NoError(t, err)
		}
	})
	return tx
}

const newEpochSQL = `INSERT INTO reading_epochs (epoch, system_identifier, timeline)
	SELECT epoch + 1, system_identifier, timeline FROM reading_epochs ORDER BY epoch DESC LIMIT 1`

// newEpoch begins one, as a restore would: whatever is in an earlier one lies before the horizon.
func (f *fixture) newEpoch(t require.TestingT) { f.exec(t, newEpochSQL) }

// awaitHorizon waits until everything committed before is shown: transactions of other tests of the cluster hold it back, too.
func (f *fixture) awaitHorizon(t *testing.T) {
	t.Helper()
	var begun uint64
	require.NoError(t, f.operator.QueryRow(t.Context(), `SELECT pg_snapshot_xmax(pg_current_snapshot())`).Scan(&begun))
	require.Eventually(t, func() bool {
		var passed bool
		err := f.operator.QueryRow(t.Context(), `SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1`, begun).Scan(&passed)
		return err == nil && passed
	}, time.Minute, 2*time.Millisecond)
}

// page is a page with its messages.
type page struct {
	Page
	Messages []Message
}

func (f *fixture) page(t require.TestingT, query Query) page {
	var p page
	var err error
	p.Page, err = f.reader.Page(context.Background(), query, func(m Message) {
		m.Payload = bytes.Clone(m.Payload)
		p.Messages = append(p.Messages, m)
	})
	require.NoError(t, err)
	return p
}

// walk follows the pages of query to the end.
func (f *fixture) walk(t require.TestingT, query Query) []Message {
	var all []Message
	for {
		page := f.page(t, query)
		all = append(all, page.Messages...)
		if !page.More {
			return all
		}
		require.NotEmpty(t, page.Messages, "a page that promises more must lead on")
		query.After = &page.Messages[len(page.Messages)-1].Position
	}
}

// series makes n messages of the first epoch, in their reading order, with payloads of size bytes.
func series(n, size int) []Message {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	messages := make([]Message, n)
	for i := range messages {
		messages[i] = Message{
			ID: uuid.New(), Payload: []byte(text(size)), CreatedAt: begin.Add(time.Duration(i) * time.Second),
			Position: Position{Epoch: 1, Xid: uint64(100 + i/10), Ord: int32(i % 10)},
		}
	}
	return messages
}

// text is a JSON string of size bytes, quotes included.
func text(size int) string { return `"` + strings.Repeat("x", size-2) + `"` }

func TestMessage(t *testing.T) {
	f := newFixture(t)
	tenant, other := f.tenant(t), f.tenant(t)
	payload := `{"html": "<b>&</b>", "number": 12345678901234567890.10, "text": "é\u0001"}`
	id, err := store(t.Context(), f.operator, tenant, 0, payload)
	require.NoError(t, err)

	message, err := f.reader.Message(t.Context(), tenant, id)
	require.NoError(t, err)
	require.Equal(t, id, message.ID)
	require.JSONEq(t, payload, string(message.Payload))
	require.Contains(t, string(message.Payload), "12345678901234567890.10", "a number keeps every digit")
	require.Equal(t, time.UTC, message.CreatedAt.Location())
	require.WithinDuration(t, time.Now(), message.CreatedAt, time.Minute)

	_, err = f.reader.Message(t.Context(), other, id)
	require.ErrorIs(t, err, ErrNotStored, "another tenant's message does not exist")
	_, err = f.reader.Message(t.Context(), tenant, uuid.New())
	require.ErrorIs(t, err, ErrNotStored)
	_, err = f.reader.Message(t.Context(), uuid.New(), id)
	require.ErrorIs(t, err, ErrNotStored, "a tenant without a partition has no messages")
}

// A forgotten condition, or a wrong one, must not show a tenant what belongs to another.
func TestRowSecurityHoldsWithoutTheCondition(t *testing.T) {
	f := newFixture(t)
	mine, theirs := f.tenant(t), f.tenant(t)
	f.place(t, mine, series(3, 10))
	f.place(t, theirs, series(5, 10))

	count := func(condition string, args ...any) (n int, err error) {
		err = f.reader.inTenant(t.Context(), mine, func(tx *gorm.DB) error {
			return tx.Raw(`SELECT count(*) FROM messages `+condition, args...).Row().Scan(&n)
		})
		return n, err
	}
	n, err := count(``)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	n, err = count(`WHERE tenant_id = ?`, theirs)
	require.NoError(t, err)
	require.Zero(t, n)

	require.NoError(t, f.pool.QueryRow(t.Context(), `SELECT count(*) FROM messages`).Scan(&n))
	require.Zero(t, n, "without a tenant nothing is shown, not even what the last transaction on this connection saw")

	err = f.reader.inTenant(t.Context(), mine, func(tx *gorm.DB) error {
		below, above, err := position(tx, Query{Tenant: theirs}, time.Now())
		require.Nil(t, below)
		require.Nil(t, above)
		return err
	})
	require.NoError(t, err, "the search for a time is under row security as well")
}

// A batch is a transaction of its own: tenant and read-only hold until its end, whichever that is, and no longer.
func TestBatchIsBound(t *testing.T) {
	f := newFixture(t)
	mine, theirs := f.tenant(t), f.tenant(t)
	f.place(t, mine, series(3, 10))
	f.place(t, theirs, series(5, 10))
	require.NoError(t, f.reader.onConnection(t.Context(), func(_ *gorm.DB, connection *pgx.Conn) error {
		requireUnbound := func() {
			require.Equal(t, byte('I'), connection.PgConn().TxStatus(), "no transaction is left open")
			var n int
			var readOnly string
			require.NoError(t, connection.QueryRow(t.Context(), `SELECT count(*), current_setting('transaction_read_only') FROM messages`).Scan(&n, &readOnly))
			require.Zero(t, n)
			require.Equal(t, "off", readOnly)
		}
		batch, n := bound(mine), 0
		batch.Queue(`SELECT count(*) FROM messages`).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		require.NoError(t, connection.SendBatch(t.Context(), batch).Close())
		require.Equal(t, 3, n)
		requireUnbound()

		batch = bound(mine)
		batch.Queue(`CREATE TEMP TABLE scratch (n integer)`)
		require.ErrorContains(t, connection.SendBatch(t.Context(), batch).Close(), "read-only transaction")
		requireUnbound()
		return nil
	}))
}

func TestReaderCannotWrite(t *testing.T) {
	f := newFixture(t)
	tenant := f.tenant(t)
	err := f.reader.inTenant(t.Context(), tenant, func(tx *gorm.DB) error {
		return tx.Exec(`CREATE TEMP TABLE scratch (n integer)`).Error
	})
	require.ErrorContains(t, err, "read-only transaction")
	for _, sql := range []string{`DELETE FROM messages`, `UPDATE messages SET ord = 0`, `TRUNCATE messages`, `SELECT tenant_attach(gen_random_uuid())`} {
		_, err := f.pool.Exec(t.Context(), sql)
		require.ErrorContains(t, err, "permission denied", sql)
	}
}
