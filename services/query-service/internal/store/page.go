package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"gorm.io/gorm"
)

// PageBytes ends a page, unless it holds a single message: no page is larger, so that what one request may cost in
// memory and time is bounded whatever the limit and the messages are.
const PageBytes = 8 << 20

// MessageBytes is more than a message takes in the answer beside its payload: names, ids, the time and punctuation, and
// its share of what surrounds all messages.
const MessageBytes = 256

// A page is read in chunks of rows, since the size of a row is not known before PostgreSQL has sent it: asking for all
// rows of a page at once would make it send a gigabyte of the largest messages, of which a page takes eight megabytes.
// The first chunk holds an ordinary page as a whole, in one round trip, unless the tenant is known for large messages;
// later ones grow only as long as rows turn out to be small.
const (
	firstChunk      = 128
	firstHeavyChunk = 16
	chunkGrowth     = 8
)

// Query asks for a page.
type Query struct {
	Tenant uuid.UUID
	Order  Order
	// After is the message behind which the page begins, in Order. Nil begins at the start of Order.
	After *Position
	// CreatedFrom and CreatedBefore limit the page to messages created at CreatedFrom or later, and before
	// CreatedBefore. Nil is no limit.
	CreatedFrom, CreatedBefore *time.Time
	// Limit is how many messages the page may have, at least 1.
	Limit int
}

// Page is a part of the reading order: what it says of its messages when they have been read.
type Page struct {
	// Last is the place of the last message; nil if there is none.
	Last *Position
	// More says that another message was there to follow when the page was read.
	More bool
}

// Page reads a page and calls each with its messages, in the order that was asked for, without a gap, within the limits
// of time. The payload of a message belongs to the driver: it is good until each returns. After an error what each was
// given is no page.
//
// A page has fewer messages than the limit only where no further message is settled, or where it would exceed
// [PageBytes].
func (r *Reader) Page(ctx context.Context, query Query, each func(Message)) (Page, error) {
	span, err := r.seek(ctx, query)
	if err != nil {
		return Page{}, fmt.Errorf("read page: %w", err)
	}
	p := pageReader{query: query, span: span, maxBytes: r.pageBytes, each: each}
	chunk := firstChunk
	if r.heavy.has(query.Tenant) {
		chunk = firstHeavyChunk
	}
	err = r.onConnection(ctx, func(db *gorm.DB, connection *pgx.Conn) error { return p.read(ctx, db, connection, chunk) })
	if err != nil {
		return Page{}, fmt.Errorf("read page: %w", err)
	}
	if p.more {
		r.heavy.set(query.Tenant, p.messages < query.Limit)
	}
	page := Page{More: p.more}
	if p.messages > 0 {
		page.Last = &p.last
	}
	return page, nil
}

// pageReader reads one page.
type pageReader struct {
	query    Query
	span     span // what is still to be read
	maxBytes int
	each     func(Message)

	more            bool
	last            Position // of the last message on the page
	messages, bytes int      // on the page
}

// read reads the page on connection, beginning with a chunk of so many rows.
func (p *pageReader) read(ctx context.Context, db *gorm.DB, connection *pgx.Conn, chunk int) error {
	// One row more than the page may have tells whether there is one.
	for left := p.query.Limit + 1; left > 0; chunk *= chunkGrowth {
		n := min(chunk, left)
		full, err := p.readChunk(ctx, db, connection, n)
		if full || err != nil {
			return err
		}
		left -= n
		p.span.advance(p.query.Order, p.last)
	}
	return nil
}

// readChunk reads up to n rows. It reports true when the page is complete.
//
// This is where most of the time of the service goes, so GORM makes the statement and pgx runs it: the whole transaction
// is one round trip, and rows are looked at where they were received, without database/sql's copies of each value.
func (p *pageReader) readChunk(ctx context.Context, db *gorm.DB, connection *pgx.Conn, n int) (full bool, err error) {
	got := 0
	statement, args := pageSQL(db, p.query, p.span, n)
	defer func(began time.Time) {
		db.Logger.Trace(ctx, began, func() (string, int64) { return statement, int64(got) }, err)
	}(time.Now())
	batch := bound(p.query.Tenant)
	batch.Queue(statement, args...).Query(func(rows pgx.Rows) error {
		var m Message
		into := []any{(*[16]byte)(&m.ID), (*pgtype.DriverBytes)(&m.Payload), &m.CreatedAt, &m.Position.Epoch, &m.Position.Xid, &m.Position.Ord}
		for ; rows.Next(); got++ {
			if err := rows.Scan(into...); err != nil {
				return err
			}
			if full = !p.add(m); full {
				return nil
			}
		}
		full = got < n
		return nil
	})
	err = connection.SendBatch(ctx, batch).Close()
	return full, err
}

// add puts a message on the page, unless it is full: then the message is the one that tells that there are more.
func (p *pageReader) add(m Message) bool {
	size := len(m.Payload) + MessageBytes
	if p.messages == p.query.Limit || (p.messages > 0 && p.bytes+size > p.maxBytes) {
		p.more = true
		return false
	}
	m.CreatedAt = m.CreatedAt.UTC()
	p.each(m)
	p.last = m.Position
	p.messages++
	p.bytes += size
	return true
}

// The horizon. As sub-selects its two parts are evaluated once a statement rather than once a row, in the snapshot of
// the statement. It is an index condition.
const beforeHorizon = `(epoch, xid) < ((SELECT reading_epoch()), (SELECT pg_snapshot_xmin(pg_current_snapshot())))`

// pageSQL is the statement that reads the first n messages of span in the order of query.
//
// Of several conditions on one side of the index, PostgreSQL begins the scan at the one that it meets first, not at the
// tightest, and reads everything between the two. So there is at most one on the side where the scan begins: where
// another one is there, the horizon becomes a mere filter, as IS TRUE keeps it out of the index condition. A position
// that comes from a page lies before the horizon already, so the filter has next to nothing to do.
func pageSQL(db *gorm.DB, query Query, span span, n int) (statement string, args []any) {
	tx := db.Session(&gorm.Session{DryRun: true, NewDB: true}).Table("messages").
		Select("id, payload, created_at, epoch, xid, ord").Where("tenant_id = ?", query.Tenant)
	if p := span.lower; p != nil {
		tx = tx.Where("(epoch, xid, ord) > (?, ?, ?)", p.Epoch, p.Xid, p.Ord)
	}
	if p := span.upper; p != nil {
		tx = tx.Where("(epoch, xid, ord) < (?, ?, ?)", p.Epoch, p.Xid, p.Ord)
	}
	if query.Order == Descending && span.upper != nil {
		tx = tx.Where("(" + beforeHorizon + ") IS TRUE")
	} else {
		tx = tx.Where(beforeHorizon)
	}
	if query.CreatedFrom != nil {
		tx = tx.Where("created_at >= ?", microseconds(*query.CreatedFrom))
	}
	if query.CreatedBefore != nil {
		tx = tx.Where("created_at < ?", microseconds(*query.CreatedBefore))
	}
	if query.Order == Descending {
		tx = tx.Order("epoch DESC, xid DESC, ord DESC")
	} else {
		tx = tx.Order("epoch, xid, ord")
	}
	made := tx.Limit(n).Find(&[]map[string]any{}).Statement
	return made.SQL.String(), made.Vars
}
