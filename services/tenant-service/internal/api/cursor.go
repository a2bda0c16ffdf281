package api

import (
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
	created, ok := cursor.Time(fields.CreatedAt)
	if !ok {
		return tenant.Position{}, cursor.Problem(cursor.NotGiven)
	}
	return tenant.Position{CreatedAt: created, ID: fields.ID}, nil
}
