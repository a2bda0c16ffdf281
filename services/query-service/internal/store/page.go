package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
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
// The first chunk holds an ordinary page as a whole; later ones grow only as long as rows turn out to be small.
const (
	firstChunk  = 32
	chunkGrowth = 8
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

// Page is a part of the reading order.
type Page struct {
	// Messages are in the order that was asked for, without a gap, within the limits of time.
	Messages []Message
	// More says that another message was there to follow when the page was read.
	More bool

	bytes int
}

// Page reads a page. It has fewer messages than the limit only where no further message is settled, or where it would
// exceed [PageBytes].
func (r *Reader) Page(ctx context.Context, query Query) (Page, error) {
	var page Page
	err := r.inTenant(ctx, query.Tenant, func(tx *gorm.DB) error {
		page = Page{Messages: make([]Message, 0, min(query.Limit, firstChunk))}
		span, err := seek(tx, query)
		if err != nil {
			return err
		}
		for chunk, left := firstChunk, query.Limit+1; left > 0; chunk *= chunkGrowth {
			rows := min(chunk, left)
			if full, err := r.read(tx, query, span, rows, &page); full || err != nil {
				return err
			}
			left -= rows
			span.advance(query.Order, page.Messages[len(page.Messages)-1].Position)
		}
		return nil
	})
	if err != nil {
		return Page{}, fmt.Errorf("read page: %w", err)
	}
	return page, nil
}

// read appends up to n messages of span to page. It reports true when the page is complete.
func (r *Reader) read(tx *gorm.DB, query Query, span span, n int, page *Page) (full bool, err error) {
	statement, args := pageSQL(query, span, n)
	rows, err := tx.Raw(statement, args...).Rows()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	got := 0
	for ; rows.Next(); got++ {
		message, err := scan(rows)
		if err != nil {
			return false, err
		}
		size := len(message.Payload) + MessageBytes
		if len(page.Messages) == query.Limit || (len(page.Messages) > 0 && page.bytes+size > r.pageBytes) {
			page.More = true
			return true, nil
		}
		page.Messages = append(page.Messages, message)
		page.bytes += size
	}
	return got < n, rows.Err()
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
func pageSQL(query Query, span span, n int) (statement string, args []any) {
	var sql strings.Builder
	sql.WriteString(`SELECT id, payload, created_at, epoch, xid, ord FROM messages WHERE tenant_id = ?`)
	args = append(args, query.Tenant)
	and := func(condition string, values ...any) {
		sql.WriteString(` AND ` + condition)
		args = append(args, values...)
	}
	if p := span.lower; p != nil {
		and(`(epoch, xid, ord) > (?, ?, ?)`, p.Epoch, p.Xid, p.Ord)
	}
	if p := span.upper; p != nil {
		and(`(epoch, xid, ord) < (?, ?, ?)`, p.Epoch, p.Xid, p.Ord)
	}
	if query.Order == Descending && span.upper != nil {
		and(`(` + beforeHorizon + `) IS TRUE`)
	} else {
		and(beforeHorizon)
	}
	if query.CreatedFrom != nil {
		and(`created_at >= ?`, microseconds(*query.CreatedFrom))
	}
	if query.CreatedBefore != nil {
		and(`created_at < ?`, microseconds(*query.CreatedBefore))
	}
	if query.Order == Descending {
		sql.WriteString(` ORDER BY epoch DESC, xid DESC, ord DESC LIMIT ?`)
	} else {
		sql.WriteString(` ORDER BY epoch, xid, ord LIMIT ?`)
	}
	return sql.String(), append(args, n)
}
