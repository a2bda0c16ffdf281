// Package auditlog reads the audit events of all services, and removes those that are old.
//
// Events are read in the order in which their transactions were given their ids, and only below the oldest transaction that is still
// open (see ADR 4), so that a reader who follows the list meets every event exactly once, however late it is committed. An open
// writing transaction anywhere in the cluster holds the list back, as it does messages.
package auditlog

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// timeout bounds an operation, also where the server is frozen and answers nothing.
const timeout = 16 * time.Second

// skew is how far the times of two events may be in the other order than the events. An event has the time at which its transaction
// began, and its place from when that first wrote; no transaction of a service takes longer in between.
const skew = 30 * time.Second

// Position is the place of an event in the reading order. The zero value is before all of them.
type Position struct {
	Epoch int32
	Xid   uint64
	ID    uuid.UUID
}

// Recorded is an event as it was written.
type Recorded struct {
	Position Position
	// TenantID is nil where no single tenant is concerned.
	TenantID *uuid.UUID
	// At is when the transaction of the change began.
	At     time.Time
	Origin audit.Origin
	Action audit.Action
	Target string
	// Before and After are JSON objects, or nil.
	Before, After json.RawMessage
}

// Filter narrows the list. Its zero value does not.
type Filter struct {
	// TenantID is whose events, or uuid.Nil.
	TenantID uuid.UUID
	// Action of the events, or empty.
	Action audit.Action
	// Since and Until bound the time: at Since or later, and before Until. Zero is no bound.
	Since, Until time.Time
}

// Log is the audit log. It is safe for concurrent use.
type Log struct {
	pool *pgxpool.Pool
	log  *zap.Logger
}

// New makes a Log on pool, whose connections act as the role of tenant-service.
func New(pool *pgxpool.Pool, log *zap.Logger) *Log { return &Log{pool: pool, log: log} }

// Page returns up to limit events behind after that pass filter, and whether there are more. It gives up after 16 seconds, or when ctx
// ends; a database that cannot be reached is [tenant.ErrUnavailable].
func (l *Log) Page(ctx context.Context, filter Filter, after Position, limit int) (page []Recorded, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	window, err := l.window(ctx, filter, after)
	if err == nil {
		page, err = l.read(ctx, filter, window, limit+1)
	}
	if err != nil {
		return nil, false, wrap("read audit events", err)
	}
	if more = len(page) > limit; more {
		page = page[:limit]
	}
	return page, more, nil
}

// window is the part of the reading order that a page comes from.
type window struct {
	epoch  int32     // the current one
	after  Position  // behind it
	before *Position // and before that; nil: up to the horizon
}

// last is the last epoch of the window.
func (w window) last() int32 {
	if w.before != nil {
		return min(w.epoch, w.before.Epoch)
	}
	return w.epoch
}

// window narrows what is behind after to where events of the times of filter can be. It begins a new epoch if the cluster has changed:
// by the old one, events from before that would lie behind a horizon that is lower now.
func (l *Log) window(ctx context.Context, filter Filter, after Position) (window, error) {
	w := window{after: after}
	var batch pgx.Batch
	batch.Queue(`SELECT advance_reading_epoch()`).QueryRow(func(row pgx.Row) error { return row.Scan(&w.epoch) })
	const edge = `SELECT epoch, xid, id FROM audit_events WHERE `
	if after == (Position{}) && !filter.Since.IsZero() { // a cursor is behind that already
		batch.Queue(edge+`at < $1 ORDER BY at DESC LIMIT 1`, filter.Since.Add(-skew)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := rows.Scan(&w.after.Epoch, &w.after.Xid, &w.after.ID); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	}
	if !filter.Until.IsZero() {
		batch.Queue(edge+`at >= $1 ORDER BY at LIMIT 1`, filter.Until.Add(skew)).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				w.before = &Position{}
				if err := rows.Scan(&w.before.Epoch, &w.before.Xid, &w.before.ID); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	}
	err := l.pool.SendBatch(ctx, &batch).Close()
	return w, err
}

// read returns up to n events of a window.
func (l *Log) read(ctx context.Context, filter Filter, w window, n int) (events []Recorded, err error) {
	for epoch := max(w.after.Epoch, firstEpoch); epoch <= w.last() && len(events) < n; epoch++ {
		sql, arguments := statement(filter, w, epoch, n-len(events))
		rows, err := l.pool.Query(ctx, sql, arguments...)
		if err != nil {
			return nil, err
		}
		if events, err = pgx.AppendRows(events, rows, scan); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// firstEpoch is the one that the database began with. Few follow: one for each restore or promotion.
const firstEpoch = 1

// statement reads up to n events of a window that are of one epoch: PostgreSQL estimates a row comparison by its first member alone, and
// would take nearly all events for none, and the wrong index, if that were the epoch.
func statement(filter Filter, w window, epoch int32, n int) (sql string, arguments []any) {
	var conditions []string
	// Each # of a condition is one of values.
	where := func(condition string, values ...any) {
		for _, value := range values {
			arguments = append(arguments, value)
			condition = strings.Replace(condition, "#", "$"+strconv.Itoa(len(arguments)), 1)
		}
		conditions = append(conditions, condition)
	}
	where(`epoch = #`, epoch)
	if epoch == w.after.Epoch {
		where(`(xid, id) > (#, #)`, w.after.Xid, w.after.ID)
	}
	if epoch == w.epoch {
		where(`xid < pg_snapshot_xmin(pg_current_snapshot())`)
	}
	if w.before != nil && epoch == w.before.Epoch {
		where(`(xid, id) < (#, #)`, w.before.Xid, w.before.ID)
	}
	if filter.TenantID != uuid.Nil {
		where(`tenant_id = #`, filter.TenantID)
	}
	if filter.Action != "" {
		where(`action = #`, string(filter.Action))
	}
	if !filter.Since.IsZero() {
		where(`at >= #`, filter.Since)
	}
	if !filter.Until.IsZero() {
		where(`at < #`, filter.Until)
	}
	return `SELECT epoch, xid, id, tenant_id, at, actor, token_id, action, target, before, after, request_id
		FROM audit_events WHERE ` + strings.Join(conditions, ` AND `) + ` ORDER BY epoch, xid, id LIMIT ` + strconv.Itoa(n), arguments
}

func scan(row pgx.CollectableRow) (e Recorded, err error) {
	err = row.Scan(&e.Position.Epoch, &e.Position.Xid, &e.Position.ID, &e.TenantID, &e.At, &e.Origin.Actor, &e.Origin.TokenID,
		&e.Action, &e.Target, &e.Before, &e.After, &e.Origin.RequestID)
	e.At = e.At.UTC()
	return e, err
}

// wrap names the operation and tells apart what may succeed later.
func wrap(operation string, err error) error {
	if sqlstate.IsTemporary(err) {
		return fmt.Errorf("%s: %w: %w", operation, tenant.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}
