package api

import (
	"hash/fnv"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// cursorFields are the position of the last tenant of a page; all zero at the start of the list, which has a cursor, too.
type cursorFields struct {
	CreatedAt int64 // see [cursor.Micros]
	ID        uuid.UUID
}

func cursorFormat() cursor.Format[cursorFields] {
	return cursor.Format[cursorFields]{Version: 1, Unchecked: true}
}

func encodeCursor(p tenant.Position) string {
	return cursorFormat().Encode(cursorFields{CreatedAt: cursor.Micros(p.CreatedAt), ID: p.ID})
}

// decodeCursor reads what encodeCursor has written. Anything else is 400 bad_cursor.
func decodeCursor(text string) (tenant.Position, error) {
	fields, err := cursorFormat().Decode(text)
	if err != nil {
		return tenant.Position{}, err
	}
	return position(fields.CreatedAt, fields.ID)
}

func position(micros int64, id uuid.UUID) (tenant.Position, error) {
	created, ok := cursor.Time(micros)
	if !ok {
		return tenant.Position{}, cursor.Problem(cursor.NotGiven)
	}
	return tenant.Position{CreatedAt: created, ID: id}, nil
}

// filteredFields are the cursor of a list with a filter, to which it belongs.
type filteredFields struct {
	CreatedAt int64
	ID        uuid.UUID
	Filter    uint64 // a hash
}

func filteredFormat() cursor.Format[filteredFields] { return cursor.Format[filteredFields]{Version: 2} }

// encodeFiltered is encodeCursor for a list with a filter, which may be none.
func encodeFiltered(p tenant.Position, filter tenant.Filter) string {
	if filter == (tenant.Filter{}) {
		return encodeCursor(p)
	}
	return filteredFormat().Encode(filteredFields{CreatedAt: cursor.Micros(p.CreatedAt), ID: p.ID, Filter: hash(filter)})
}

// decodeFiltered reads what encodeFiltered has written for the same filter. Anything else is 400 bad_cursor.
func decodeFiltered(text string, filter tenant.Filter) (tenant.Position, error) {
	if filter == (tenant.Filter{}) {
		return decodeCursor(text)
	}
	fields, err := filteredFormat().Decode(text)
	if err != nil {
		return tenant.Position{}, err
	}
	if fields.Filter != hash(filter) {
		return tenant.Position{}, cursor.Problem("the cursor is one of a list with another filter")
	}
	return position(fields.CreatedAt, fields.ID)
}

func hash(filter tenant.Filter) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(string(filter.State) + "\x00" + filter.ID.String() + filter.Name)) // never fails
	return h.Sum64()
}
