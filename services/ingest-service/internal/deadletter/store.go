package deadletter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// ErrNotFound says that a tenant has no such dead letter.
var ErrNotFound = errors.New("no such dead letter")

// Filter narrows the dead letters of a tenant. Its zero value does not.
type Filter struct {
	// Reason of the dead letters, or empty.
	Reason contract.Reason
	// After and Before bound the time of the first failure: at After or later, and before Before. Zero is no bound.
	After, Before time.Time
}

// Position is a place in the list of a tenant's dead letters, which is ordered by the time of the first failure and the id.
// The zero value is before all of them.
type Position struct {
	FirstFailedAt time.Time
	ID            uuid.UUID
}

// Page is a run of dead letters.
type Page struct {
	Entries []Entry
	// More dead letters follow.
	More bool
}

// Limits of a page.
type Limits struct {
	// Entries is how many a page has at most.
	Entries int
	// Payload is how many bytes of each payload are read. A longer one is left out as a whole.
	Payload int
	// Bytes ends a page once its payloads and headers have as many, these counted as they are when they are shown. It has one
	// dead letter at least.
	Bytes int64
}

// Store keeps dead letters in PostgreSQL. It is safe for concurrent use. Every method sees and changes the dead letters of
// one tenant alone, which row-level security holds it to.
type Store struct {
	pool    *pgxpool.Pool
	timeout time.Duration
}

// NewStore returns a store on pool, which has to act as [postgres.RoleIngest]. No operation takes longer than timeout, but for
// [Store.Record].
func NewStore(pool *pgxpool.Pool, timeout time.Duration) *Store {
	return &Store{pool: pool, timeout: timeout}
}

// inTenant runs fn in a transaction of one tenant.
func (s *Store) inTenant(ctx context.Context, tenant uuid.UUID, what string, fn func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := postgres.InTenant(ctx, s.pool, tenant, func(tx pgx.Tx) error { return fn(ctx, tx) })
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// recordSQL adds dead letters of one tenant, unless it is retired. A dead letter that is there already is the same one: it keeps
// its content and the time of its first failure.
const recordSQL = `
INSERT INTO dead_letters AS d (tenant_id, id, message_id, original_message_id, payload, content_type, properties, headers,
                               reason, error, attempts, first_failed_at, last_failed_at)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::bytea[], $8::jsonb[], $9::text[],
                         $10::text[], $11::integer[], $12::timestamptz[], $13::timestamptz[])
WHERE NOT tenant_retired($1)
ON CONFLICT (tenant_id, id) DO UPDATE SET
    version = d.version + 1, error = excluded.error, last_failed_at = excluded.last_failed_at,
    attempts = greatest(d.attempts, excluded.attempts),
    properties = coalesce(d.properties, excluded.properties)
RETURNING version = 1`

// countSQL counts dead letters for the usage of their tenant, which has to be that of the transaction.
const countSQL = `SELECT usage_dead_letters($1, $2)`

// lockSQL keeps a tenant from being retired during the transaction (tenant_drop takes the same lock), so that no dead letter
// is left of a tenant that has gone.
const lockSQL = `SELECT pg_advisory_xact_lock_shared(hashtextextended($1::text, 0))`

const (
	// perMiB is how much longer a MiB of dead letters may take to be recorded.
	perMiB = 250 * time.Millisecond
	// longestRecord is how long a large dead letter may take. The reading order relies on no writing transaction being older than
	// [postgres.MaxStatementTimeout].
	longestRecord = 25 * time.Second
)

// limit is how long dead letters may take to be recorded.
func (s *Store) limit(entries []Entry) time.Duration {
	size := 0
	for i := range entries {
		size += entries[i].size()
	}
	return max(s.timeout, min(s.timeout+time.Duration(size>>20)*perMiB, longestRecord))
}

// Ping commits a write of some bytes: the database answers, may be written to, and makes what is written durable.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if _, err := s.pool.Exec(ctx, `SELECT pg_logical_emit_message(true, 'ping', '')`); err != nil {
		return fmt.Errorf("write to the database: %w", err)
	}
	return nil
}

// Record commits dead letters, of any tenants, in one transaction. It returns how many it has discarded because their
// tenant is retired. A MiB of them may take 250 ms longer than other operations, and all of them 25 s.
func (s *Store) Record(ctx context.Context, entries []Entry) (discarded int, err error) {
	limit := s.limit(entries)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	batch := &pgx.Batch{}
	if limit > s.timeout { // statement_timeout is for what is usual
		batch.Queue(`SELECT set_config('statement_timeout', $1, true)`, strconv.FormatInt(limit.Milliseconds(), 10))
	}
	added := make(map[uuid.UUID]int64) // by tenant, without those that were there already
	for _, group := range byTenant(entries) {
		tenant, columns := group[0].TenantID, newColumns(group)
		batch.Queue(postgres.SetTenant, tenant.String())
		batch.Queue(lockSQL, tenant.String())
		batch.Queue(recordSQL, columns.arguments(tenant)...).Query(func(rows pgx.Rows) error {
			var first bool
			tag, err := pgx.ForEachRow(rows, []any{&first}, func() error {
				if first {
					added[tenant]++
				}
				return nil
			})
			discarded += len(group) - int(tag.RowsAffected())
			return err
		})
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		return countAdded(ctx, tx, added)
	})
	if err != nil {
		return 0, fmt.Errorf("record %d dead letters: %w", len(entries), err)
	}
	return discarded, nil
}

// countAdded counts the dead letters that a transaction has added, at its end, since it locks the hour of each tenant; in the same order
// of tenants as every other.
func countAdded(ctx context.Context, tx pgx.Tx, added map[uuid.UUID]int64) error {
	counts := &pgx.Batch{}
	for _, tenant := range slices.SortedFunc(maps.Keys(added), func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }) {
		counts.Queue(postgres.SetTenant, tenant.String())
		counts.Queue(countSQL, tenant, added[tenant])
	}
	if counts.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, counts).Close()
}

// byTenant groups dead letters by tenant, always in the same order of tenants. Of a dead letter that occurs twice, which one
// INSERT could not take, the last one is kept.
func byTenant(entries []Entry) [][]Entry {
	type key struct{ tenant, id uuid.UUID }
	place := make(map[key]int, len(entries))
	var unique []Entry
	for _, l := range entries {
		k := key{l.TenantID, l.ID}
		if at, twice := place[k]; twice {
			unique[at] = l
			continue
		}
		place[k] = len(unique)
		unique = append(unique, l)
	}
	slices.SortStableFunc(unique, func(a, b Entry) int { return slices.Compare(a.TenantID[:], b.TenantID[:]) })
	var groups [][]Entry
	for len(unique) > 0 {
		n := 1
		for n < len(unique) && unique[n].TenantID == unique[0].TenantID {
			n++
		}
		groups, unique = append(groups, unique[:n]), unique[n:]
	}
	return groups
}

// columns are dead letters, transposed.
type columns struct {
	ids, messageIDs                           []*uuid.UUID
	originals, types, headers, reasons, texts []string
	payloads, properties                      [][]byte
	attempts                                  []int32
	first, last                               []time.Time
}

func newColumns(entries []Entry) *columns {
	c := &columns{}
	for i := range entries {
		l := &entries[i]
		c.ids, c.messageIDs = append(c.ids, &l.ID), append(c.messageIDs, l.MessageID)
		c.originals, c.types = append(c.originals, l.OriginalMessageID), append(c.types, l.ContentType)
		c.headers = append(c.headers, string(l.Headers))
		c.reasons, c.texts = append(c.reasons, string(l.Reason)), append(c.texts, l.Error)
		c.payloads, c.properties = append(c.payloads, l.Payload), append(c.properties, l.Properties)
		c.attempts = append(c.attempts, int32(min(l.Attempts, math.MaxInt32)))
		c.first, c.last = append(c.first, l.FirstFailedAt), append(c.last, l.LastFailedAt)
	}
	return c
}

func (c *columns) arguments(tenant uuid.UUID) []any {
	return []any{
		tenant, c.ids, c.messageIDs, c.originals, c.payloads, c.types, c.properties, c.headers, c.reasons, c.texts, c.attempts, c.first, c.last,
	}
}

// where is the condition of filter and position, with its arguments, of which the first is the tenant.
func where(tenant uuid.UUID, filter Filter, after Position) (string, []any) {
	conditions, arguments := []string{"tenant_id = $1"}, []any{tenant}
	add := func(condition string, values ...any) {
		for _, value := range values {
			arguments = append(arguments, value)
			condition = strings.Replace(condition, "?", fmt.Sprintf("$%d", len(arguments)), 1)
		}
		conditions = append(conditions, condition)
	}
	if filter.Reason != "" {
		add("reason = ?", string(filter.Reason))
	}
	if !filter.After.IsZero() {
		add("first_failed_at >= ?", filter.After)
	}
	if !filter.Before.IsZero() {
		add("first_failed_at < ?", filter.Before)
	}
	if after != (Position{}) {
		add("(first_failed_at, id) > (?, ?)", after.FirstFailedAt, after.ID)
	}
	return strings.Join(conditions, " AND "), arguments
}

// List returns the dead letters of tenant behind a position.
func (s *Store) List(ctx context.Context, tenant uuid.UUID, filter Filter, after Position, limits Limits) (Page, error) {
	var page Page
	condition, arguments := where(tenant, filter, after)
	// Sizes first: the length of a payload is known without reading it.
	sizes := fmt.Sprintf(`SELECT id, octet_length(payload), coalesce(%d * octet_length(properties)::bigint, octet_length(headers::text) - 2)
		FROM dead_letters WHERE %s ORDER BY first_failed_at, id LIMIT %d`, headerGrowth, condition, limits.Entries+1)
	err := s.inTenant(ctx, tenant, "list dead letters", func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sizes, arguments...)
		if err != nil {
			return err
		}
		var ids []uuid.UUID
		var id uuid.UUID
		var size, headers, total int64
		_, err = pgx.ForEachRow(rows, []any{&id, &size, &headers}, func() error {
			if size > int64(limits.Payload) {
				size = 0
			}
			total += size + headers
			if page.More = page.More || len(ids) == limits.Entries || (len(ids) > 0 && total > limits.Bytes); !page.More {
				ids = append(ids, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		rows, err = tx.Query(ctx, selectSQL+` WHERE tenant_id = $1 AND id = ANY($2) ORDER BY first_failed_at, id`, tenant, ids, limits.Payload)
		if err != nil {
			return err
		}
		page.Entries, err = pgx.CollectRows(rows, scanEntry)
		return err
	})
	return page, err
}

// selectSQL reads whole dead letters; $3 is the longest payload that is read.
const selectSQL = `
SELECT tenant_id, id, message_id, original_message_id, CASE WHEN octet_length(payload) <= $3::integer THEN payload END,
       octet_length(payload), content_type, properties, headers, reason, error, attempts, version, first_failed_at, last_failed_at
FROM dead_letters`

func scanEntry(row pgx.CollectableRow) (Entry, error) {
	var l Entry
	err := row.Scan(&l.TenantID, &l.ID, &l.MessageID, &l.OriginalMessageID, &l.Payload, &l.PayloadSize, &l.ContentType,
		(*[]byte)(&l.Properties), &l.Headers, &l.Reason, &l.Error, &l.Attempts, &l.Version, &l.FirstFailedAt, &l.LastFailedAt)
	l.FirstFailedAt, l.LastFailedAt = l.FirstFailedAt.UTC(), l.LastFailedAt.UTC()
	return l, err
}

// Find returns a dead letter with its payload, unless that is longer than maxPayload: then Payload is nil. The error is
// [ErrNotFound] if there is no such dead letter.
func (s *Store) Find(ctx context.Context, tenant, id uuid.UUID, maxPayload int) (Entry, error) {
	var entry Entry
	err := s.inTenant(ctx, tenant, "read a dead letter", func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectSQL+` WHERE tenant_id = $1 AND id = $2`, tenant, id, maxPayload)
		if err != nil {
			return err
		}
		entry, err = pgx.CollectExactlyOneRow(rows, scanEntry)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		return err
	})
	return entry, err
}

// Count returns how many dead letters of tenant pass filter.
func (s *Store) Count(ctx context.Context, tenant uuid.UUID, filter Filter) (count int64, err error) {
	condition, arguments := where(tenant, filter, Position{})
	err = s.inTenant(ctx, tenant, "count dead letters", func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT count(*) FROM dead_letters WHERE `+condition, arguments...).Scan(&count)
	})
	return count, err
}

// Drop removes a dead letter, as by asked for it. The error is [ErrNotFound] if there is no such dead letter.
func (s *Store) Drop(ctx context.Context, tenant, id uuid.UUID, by audit.Origin) error {
	return s.inTenant(ctx, tenant, "drop a dead letter", func(ctx context.Context, tx pgx.Tx) error {
		entry := Entry{ID: id, TenantID: tenant}
		err := tx.QueryRow(ctx, `DELETE FROM dead_letters WHERE tenant_id = $1 AND id = $2 RETURNING message_id, reason, attempts`, tenant, id).
			Scan(&entry.MessageID, &entry.Reason, &entry.Attempts)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return writeEvent(ctx, tx, dropEvent(by, &entry))
	})
}

// dropChunk keeps a transaction that drops many dead letters short: an open one holds back all readers.
const dropChunk = 1000

// DropAll removes the dead letters of tenant that pass filter, as by asked for it, and returns how many these were, also when it
// returns an error: what was dropped until then is gone.
func (s *Store) DropAll(ctx context.Context, tenant uuid.UUID, filter Filter, by audit.Origin) (dropped int64, err error) {
	condition, arguments := where(tenant, filter, Position{})
	sql := fmt.Sprintf(`DELETE FROM dead_letters WHERE tenant_id = $1 AND id IN
		(SELECT id FROM dead_letters WHERE %s ORDER BY first_failed_at, id LIMIT %d)`, condition, dropChunk)
	for {
		var n int64
		err := s.inTenant(ctx, tenant, "drop dead letters", func(ctx context.Context, tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, sql, arguments...)
			if n = tag.RowsAffected(); err != nil || n == 0 {
				return err
			}
			return writeEvent(ctx, tx, dropStepEvent(by, tenant, filter, n))
		})
		if err != nil {
			return dropped, err
		}
		if dropped += n; n < dropChunk {
			return dropped, nil
		}
	}
}

// stored returns which of ids are messages that are stored.
func (s *Store) stored(ctx context.Context, tenant uuid.UUID, ids []uuid.UUID) (map[uuid.UUID]bool, error) {
	found := make(map[uuid.UUID]bool)
	err := s.inTenant(ctx, tenant, "look for stored messages", func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id FROM messages WHERE tenant_id = $1 AND id = ANY($2)`, tenant, ids)
		if err != nil {
			return err
		}
		var id uuid.UUID
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error { found[id] = true; return nil })
		return err
	})
	return found, err
}

// remove deletes those of dead letters that are still the version given, and writes the event that event makes of their number.
func (s *Store) remove(ctx context.Context, tenant uuid.UUID, entries []Entry, event func(removed int64) audit.Event) error {
	ids, versions := make([]uuid.UUID, len(entries)), make([]int64, len(entries))
	for i := range entries {
		ids[i], versions[i] = entries[i].ID, entries[i].Version
	}
	return s.inTenant(ctx, tenant, "remove replayed dead letters", func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `DELETE FROM dead_letters d USING unnest($2::uuid[], $3::bigint[]) AS replayed (id, version)
			WHERE d.tenant_id = $1 AND d.id = replayed.id AND d.version = replayed.version`, tenant, ids, versions)
		if err != nil {
			return err
		}
		return writeEvent(ctx, tx, event(tag.RowsAffected()))
	})
}

// Stat is the state of one tenant's dead letters.
type Stat struct {
	TenantID uuid.UUID
	Count    int64
	Oldest   time.Time
}

// Stats returns the state of every tenant that has dead letters.
func (s *Store) Stats(ctx context.Context) ([]Stat, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT tenant_id, letters, oldest FROM dead_letter_stats()`)
	if err != nil {
		return nil, fmt.Errorf("read dead letter stats: %w", err)
	}
	stats, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (stat Stat, err error) {
		err = row.Scan(&stat.TenantID, &stat.Count, &stat.Oldest)
		return stat, err
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letter stats: %w", err)
	}
	return stats, nil
}
