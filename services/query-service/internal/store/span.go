package store

import (
	"math"
	"strings"

	"gorm.io/gorm"
)

// The horizon. As sub-selects its parts are evaluated once a statement rather than once a row, in the snapshot of the
// statement.
const (
	horizonXid = `(SELECT pg_snapshot_xmin(pg_current_snapshot()))`
	// tighterXid and tighterOrd are the earlier one of a position in the newest epoch and the horizon.
	tighterXid = `(SELECT least(?::xid8, pg_snapshot_xmin(pg_current_snapshot())))`
	tighterOrd = `(SELECT CASE WHEN ?::xid8 < pg_snapshot_xmin(pg_current_snapshot()) THEN ?::integer ELSE -2147483648 END)`
)

// What retention has removed of a tenant is everything up to a position. Until vacuum has been there the index still has entries for it,
// which a scan from the beginning would pass one by one, so every scan begins or ends at that position. It is read by the statement
// itself: what is kept and what was removed are of one snapshot. As sub-selects, as the horizon.
const (
	// removedCTE is that position, before all others where nothing was removed.
	removedCTE = `removed AS MATERIALIZED (SELECT coalesce(r.epoch, 0) AS epoch, coalesce(r.xid, '0') AS xid, coalesce(r.ord, 0) AS ord
		FROM (SELECT) AS always LEFT JOIN retention_positions AS r ON r.tenant_id = ?)`
	// startCTE is the later one of it and a position.
	startCTE = `start AS MATERIALIZED (SELECT CASE WHEN later THEN epoch ELSE ?::integer END AS epoch, CASE WHEN later THEN xid ELSE ?::xid8 END AS xid,
		CASE WHEN later THEN ord ELSE ?::integer END AS ord FROM (SELECT *, (epoch, xid, ord) > (?::integer, ?::xid8, ?::integer) AS later FROM removed) AS r)`
	start = `((SELECT epoch FROM start), (SELECT xid FROM start), (SELECT ord FROM start))`
	// startInEpoch is the start within an epoch, which is named three times.
	startInEpoch = `((SELECT CASE WHEN epoch > ? THEN '18446744073709551615' WHEN epoch = ? THEN xid ELSE '0' END FROM start),
		(SELECT CASE epoch WHEN ? THEN ord ELSE 0 END FROM start))`
	// removedXid, within an epoch that is named twice, and removedEpoch are where a descending scan ends. What it passes all the same, the
	// removed messages of one transaction, and those of an epoch before the one that it began in, is not worth another part.
	removedXid   = `(SELECT CASE WHEN epoch > ? THEN '18446744073709551615' WHEN epoch = ? THEN xid ELSE '0' END FROM removed)`
	removedEpoch = `(SELECT epoch FROM removed)`
)

// span is a part of the reading order; neither end belongs to it, nil is no bound.
type span struct{ lower, upper *Position }

// advance moves the end at which order begins.
func (s *span) advance(order Order, to Position) {
	if order == Descending {
		s.upper = &to
	} else {
		s.lower = &to
	}
}

// condition is one of a statement, with its arguments.
type condition struct {
	sql  string
	args []any
}

func where(sql string, args ...any) condition { return condition{sql: sql, args: args} }

// part is a piece of the reading order that an index scan both begins and ends at: what all of its conditions hold for.
type part []condition

// parts cuts what of s is below the horizon into parts that follow each other in order. newest is the current epoch.
//
// PostgreSQL begins a scan of an index at a row comparison as a whole, but ends it at the first member alone: no other
// member is marked as required (nbtutils.c of versions 15 to 18), so "(epoch, xid) < (1, 900)" reads on to the end of epoch
// 1. And of several conditions on the side where a scan begins it may take any, and read what lies between them. In
// either case a reader would pay for what others have written and not committed yet. So a row comparison stands only on the side
// where the scan begins, a single one, and the scan ends at plain comparisons, one epoch and one transaction at a time.
func (s span) parts(order Order, newest int32) []part {
	if s.upper != nil && s.upper.Epoch > newest {
		s.upper = nil // the horizon comes before it
	}
	if order == Descending {
		return s.descending(newest)
	}
	return s.ascending(newest)
}

func (s span) ascending(newest int32) (parts []part) {
	lower, upper, epoch := s.lower, s.upper, newest
	if upper != nil {
		epoch = upper.Epoch
	}
	switch {
	case lower != nil && lower.Epoch > epoch:
		return nil
	case lower == nil || lower.Epoch < epoch:
		parts = append(parts, part{where("(epoch, xid, ord) > " + start), where("epoch < ?", epoch)})
	case upper != nil && lower.Xid >= upper.Xid:
		return inTransaction(*lower, *upper, newest)
	}
	last := part{where("epoch = ?", epoch), where("(xid, ord) > "+startInEpoch, epoch, epoch, epoch)}
	if epoch == newest {
		last = append(last, where("xid < "+horizonXid))
	}
	if upper == nil {
		return append(parts, last)
	}
	last = append(last, where("xid < ?", upper.Xid))
	return append(append(parts, last), inTransaction(Position{Epoch: epoch, Xid: upper.Xid, Ord: math.MinInt32}, *upper, newest)...)
}

func (s span) descending(newest int32) (parts []part) {
	lower, upper, epoch := s.lower, s.upper, newest
	if upper != nil {
		epoch = upper.Epoch
	}
	switch {
	case lower == nil:
		return []part{
			{where("epoch = ?", epoch), below("", upper, newest), where("xid >= "+removedXid, epoch, epoch)},
			{where("epoch < ?", epoch), where("epoch >= " + removedEpoch)},
		}
	case lower.Epoch > epoch:
		return nil
	case lower.Epoch < epoch:
		parts = append(parts, part{below("epoch, ", upper, newest, epoch), where("epoch > ?", lower.Epoch)})
		parts = append(parts, part{where("epoch = ?", lower.Epoch), where("xid > ?", lower.Xid)})
	case upper != nil && lower.Xid >= upper.Xid:
		return inTransaction(*lower, *upper, newest)
	default:
		parts = append(parts, part{where("epoch = ?", epoch), below("", upper, newest), where("xid > ?", lower.Xid)})
	}
	return append(parts, inTransaction(*lower, Position{Epoch: lower.Epoch, Xid: lower.Xid, Ord: math.MaxInt32}, newest)...)
}

// below is the one condition under which a descending scan begins: at upper or, in the newest epoch, at the horizon if that
// comes first. prefix names what the comparison has before (xid, ord), prefixArgs its values.
func below(prefix string, upper *Position, newest int32, prefixArgs ...any) condition {
	values := strings.Repeat("?, ", len(prefixArgs))
	switch {
	case upper == nil:
		return where("("+prefix+"xid) < ("+values+horizonXid+")", prefixArgs...)
	case upper.Epoch == newest:
		return where("("+prefix+"xid, ord) < ("+values+tighterXid+", "+tighterOrd+")", append(prefixArgs, upper.Xid, upper.Xid, upper.Ord)...)
	default:
		return where("("+prefix+"xid, ord) < ("+values+"?, ?)", append(prefixArgs, upper.Xid, upper.Ord)...)
	}
}

// inTransaction is what lies between two messages of one transaction, or nothing if they are not of one, or not in order.
func inTransaction(lower, upper Position, newest int32) []part {
	if lower.Epoch != upper.Epoch || lower.Xid != upper.Xid || lower.Ord >= upper.Ord {
		return nil
	}
	p := part{where("epoch = ?", lower.Epoch), where("xid = ?", lower.Xid), where("ord > ?", lower.Ord), where("ord < ?", upper.Ord)}
	if lower.Epoch == newest {
		p = append(p, where("xid < "+horizonXid))
	}
	return []part{p}
}

// pageSQL is the statement that reads the first n messages of s in the order of query, and ahead of them a row that has
// the position up to which all was removed.
func pageSQL(db *gorm.DB, query Query, s span, newest int32, n int) (statement string, args []any) {
	db = db.Session(&gorm.Session{DryRun: true, NewDB: true})
	with, args := removedCTE, []any{query.Tenant}
	if query.Order == Ascending {
		var from Position
		if s.lower != nil {
			from = *s.lower
		}
		with += `, ` + startCTE
		args = append(args, from.Epoch, from.Xid, from.Ord, from.Epoch, from.Xid, from.Ord)
	}
	parts := s.parts(query.Order, newest)
	if len(parts) == 0 {
		parts = []part{{where("false")}}
	}
	// PostgreSQL appends the parts one after the other, none before it is needed. readChunk checks that.
	for _, p := range parts {
		args = append(args, partSQL(db, query, p, n))
	}
	rows := `(?)`
	if len(parts) > 1 {
		rows = `(` + rows + strings.Repeat(` UNION ALL (?)`, len(parts)-1) + ` LIMIT ?)`
		args = append(args, n)
	}
	made := db.Raw(`WITH `+with+` SELECT NULL::uuid, NULL::jsonb, NULL::text, NULL::text, NULL::jsonb, NULL::timestamptz, epoch, xid, ord FROM removed UNION ALL `+rows, args...).
		Find(&[]map[string]any{}).Statement
	return made.SQL.String(), made.Vars
}

// partSQL reads the first n messages of p.
func partSQL(db *gorm.DB, query Query, p part, n int) *gorm.DB {
	tx := db.Table("messages").Select("id, payload, type, key, attributes, created_at, epoch, xid, ord").Where("tenant_id = ?", query.Tenant)
	for _, c := range p {
		tx = tx.Where(c.sql, c.args...)
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
	return tx.Limit(n)
}
