package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
)

// disorder is how far created_at may step back along the reading order: no longer than a writing transaction waits
// between its begin and its first write, which the limits on statements and idle transactions bound.
const disorder = postgres.MaxStatementTimeout

// seek finds the part of the reading order in which all messages of query are.
func (r *Reader) seek(ctx context.Context, query Query) (s span, err error) {
	if query.CreatedFrom != nil || query.CreatedBefore != nil {
		err = r.inTenant(ctx, query.Tenant, func(tx *gorm.DB) error {
			s, err = between(tx, query)
			return err
		})
	}
	if query.Order == Descending {
		s.upper = Descending.tighter(s.upper, query.After)
	} else {
		s.lower = Ascending.tighter(s.lower, query.After)
	}
	return s, err
}

// between finds the part of the reading order that lies within the limits of time. There is no index on created_at; what
// is left in that part and outside the limits is messages of about a minute at either end, which the exact condition of
// the page statement sorts out.
func between(tx *gorm.DB, query Query) (s span, err error) {
	if from := query.CreatedFrom; from != nil {
		if s.lower, _, err = position(tx, query, from.Add(-disorder)); err != nil {
			return span{}, err
		}
	}
	if before := query.CreatedBefore; before != nil {
		if _, s.upper, err = position(tx, query, before.Add(disorder)); err != nil {
			return span{}, err
		}
	}
	return s, nil
}

const positionSQL = `SELECT below_epoch, below_xid, below_ord, above_epoch, above_xid, above_ord FROM message_position($1, $2)`

// position is where the messages of a tenant pass a time: a message created before it and, almost next to that, one
// created at it or later; nil where there is none. See the migration for what makes them safe to skip to.
func position(tx *gorm.DB, query Query, at time.Time) (below, above *Position, err error) {
	var b, a nullPosition
	err = tx.Raw(positionSQL, query.Tenant, microseconds(at)).Row().
		Scan(&b.epoch, &b.xid, &b.ord, &a.epoch, &a.xid, &a.ord)
	if err != nil {
		return nil, nil, fmt.Errorf("seek %s: %w", at.Format(time.RFC3339Nano), err)
	}
	return b.position(), a.position(), nil
}

type nullPosition struct {
	epoch sql.NullInt32
	xid   sql.Null[uint64]
	ord   sql.NullInt32
}

func (n nullPosition) position() *Position {
	if !n.epoch.Valid {
		return nil
	}
	return &Position{Epoch: n.epoch.Int32, Xid: n.xid.V, Ord: n.ord.Int32}
}

// microseconds rounds t up to what PostgreSQL can tell apart. created_at has whole microseconds, so comparing with the
// rounded time answers "at t or later" and "before t" as for t itself; pgx would round down.
func microseconds(t time.Time) time.Time {
	if rounded := t.Truncate(time.Microsecond); rounded.Before(t) {
		return rounded.Add(time.Microsecond)
	}
	return t
}
