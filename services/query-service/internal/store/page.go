package store

import (
	"context"
	"errors"
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

// size is how many bytes a message takes on a page at most. Each byte of type and key may need a backslash before it.
func (m *Message) size() int {
	return MessageBytes + len(m.Payload) + 2*len(m.Type) + 2*len(m.Key) + len(m.Attributes)
}

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
	// Resumed says that the reader has been at After before, be it the start: that messages behind it were removed since is a gap.
	Resumed bool
	// CreatedFrom and CreatedBefore limit the page to messages created at CreatedFrom or later, and before
	// CreatedBefore. Nil is no limit.
	CreatedFrom, CreatedBefore *time.Time
	// Limit is how many messages the page may have, at least 1.
	Limit int
}

// Page is a part of the reading order: what it says of its messages when they have been read.
type Page struct {
	// Last is the place of the last message. On an ascending page without messages it is that of the last one that was removed, if that
	// lies behind After, so that a reader is told of a gap once. Else it is nil.
	Last *Position
	// More says that another message was there to follow when the page was read.
	More bool
	// Gap says that retention has removed messages that the reader was still to be given: ascending, those between After and
	// the first one of the page; descending, all that were to follow After. With limits of time some of them may have lain
	// outside these. A message that was erased by its id is no gap.
	Gap bool
}

// Page reads a page and calls each with its messages, in the order that was asked for, without a gap, within the limits
// of time. The payload of a message belongs to the driver: it is good until each returns. After an error what each was
// given is no page.
//
// A page has fewer messages than the limit only where no further message lies before the horizon, where it would exceed
// [PageBytes], or where what follows was removed while it was read.
func (r *Reader) Page(ctx context.Context, query Query, each func(Message)) (Page, error) {
	span, err := r.seek(ctx, query)
	if err != nil {
		return Page{}, fmt.Errorf("read page: %w", err)
	}
	p := pageReader{query: query, span: span, newest: r.newest.Load(), maxBytes: r.pageBytes, each: each}
	chunk := firstChunk
	if r.heavy.has(query.Tenant) {
		chunk = firstHeavyChunk
	}
	err = r.onConnection(ctx, func(db *gorm.DB, connection *pgx.Conn) error { return p.read(ctx, db, connection, chunk) })
	if err != nil {
		return Page{}, fmt.Errorf("read page: %w", err)
	}
	r.newest.Store(p.newest)
	if p.more {
		r.heavy.set(query.Tenant, p.messages < query.Limit)
	}
	page := Page{More: p.more, Gap: p.gap}
	switch {
	case p.messages > 0:
		page.Last = &p.last
	case query.Order == Ascending && p.removed != Position{} && (query.After == nil || query.After.Compare(p.removed) < 0):
		page.Last = &p.removed
	}
	return page, nil
}

// pageReader reads one page.
type pageReader struct {
	query    Query
	span     span  // what is still to be read
	newest   int32 // the current epoch, as far as it is known
	maxBytes int
	each     func(Message)

	more            bool
	removed         Position // up to which all was removed when the first messages were read; zero: nothing was
	gap             bool
	last            Position // of the last message on the page
	messages, bytes int      // on the page
}

// errDisorder says that PostgreSQL gave the parts of a page in another order than the one they were written in.
var errDisorder = errors.New("the messages of the page came out of order")

// read reads the page on connection, beginning with a chunk of so many rows.
func (p *pageReader) read(ctx context.Context, db *gorm.DB, connection *pgx.Conn, chunk int) error {
	// One row more than the page may have tells whether there is one.
	for left := p.query.Limit + 1; left > 0; {
		n, newest := min(chunk, left), p.newest
		full, err := p.readChunk(ctx, db, connection, n)
		if full || err != nil {
			return err
		}
		if p.newest != newest { // nothing was read
			continue
		}
		left -= n
		chunk *= chunkGrowth
		p.span.advance(p.query.Order, p.last)
	}
	return nil
}

// readChunk reads up to n rows. It reports true when the page is complete. If another epoch than newest has become the
// current one it reads nothing and changes newest.
//
// This is where most of the time of the service goes, so GORM makes the statement and pgx runs it: the whole transaction
// is one round trip, and rows are looked at where they were received, without database/sql's copies of each value.
func (p *pageReader) readChunk(ctx context.Context, db *gorm.DB, connection *pgx.Conn, n int) (full bool, err error) {
	got := 0
	statement, args := pageSQL(db, p.query, p.span, p.newest, n)
	defer func(began time.Time) {
		db.Logger.Trace(ctx, began, func() (string, int64) { return statement, int64(got) }, err)
	}(time.Now())
	var batch pgx.Batch
	current := p.newest
	batch.Queue(bindAndAsk, p.query.Tenant.String()).QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, nil, &current) })
	batch.Queue(statement, args...).Query(func(rows pgx.Rows) error {
		if current != p.newest {
			p.newest = current
			return nil
		}
		if full, err = p.readRemoved(rows); full || err != nil {
			return err
		}
		var m Message
		into := []any{
			(*[16]byte)(&m.ID), (*pgtype.DriverBytes)(&m.Payload), (*pgtype.DriverBytes)(&m.Type),
			(*pgtype.DriverBytes)(&m.Key), (*pgtype.DriverBytes)(&m.Attributes), &m.CreatedAt, &m.Position.Epoch, &m.Position.Xid, &m.Position.Ord,
		}
		for ; rows.Next(); got++ {
			if err := rows.Scan(into...); err != nil {
				return err
			}
			if p.messages > 0 && (m.Position.Compare(p.last) > 0) != (p.query.Order == Ascending) {
				return errDisorder
			}
			if full = !p.add(m); full {
				return nil
			}
		}
		full = got < n
		return nil
	})
	err = connection.SendBatch(ctx, &batch).Close()
	return full, err
}

// readRemoved reads the row ahead of the messages, up to which all is removed that the page does not have yet. It reports true if the
// page ends before them: what follows its messages was removed since these were read, and the page that begins there has to tell.
func (p *pageReader) readRemoved(rows pgx.Rows) (over bool, err error) {
	var removed Position
	if !rows.Next() {
		return false, rows.Err()
	}
	if rows.RawValues()[0] != nil {
		return false, errDisorder
	}
	if err := rows.Scan(nil, nil, nil, nil, nil, nil, &removed.Epoch, &removed.Xid, &removed.Ord); err != nil {
		return false, err
	}
	if p.messages == 0 {
		p.removed, p.gap = removed, p.query.isGap(p.span, removed)
		return false, nil
	}
	if p.query.Order == Ascending && p.last.Compare(removed) < 0 {
		p.more = true
		return true, nil
	}
	return false, nil
}

// isGap reports whether messages that the reader was still to be given are among the removed ones, which are all up to a position. s is
// the part of the reading order in which the messages of the query are, now.
func (q Query) isGap(s span, removed Position) bool {
	switch {
	case !q.Resumed || removed == Position{}:
		return false
	case q.Order == Descending: // nothing is left of what was to follow, unless the limits of time have left it out anyway
		return q.After != nil && q.After.Compare(removed) <= 0 && (s.lower == nil || s.lower.Compare(removed) <= 0)
	default:
		return s.lower == nil || s.lower.Compare(removed) < 0
	}
}

// add puts a message on the page, unless it is full: then the message is the one that tells that there are more.
func (p *pageReader) add(m Message) bool {
	size := m.size()
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
