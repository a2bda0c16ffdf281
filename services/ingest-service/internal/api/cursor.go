package api

import (
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// cursorKind says what a cursor belongs to.
type cursorKind byte

const (
	cursorOfList   cursorKind = 1
	cursorOfReplay cursorKind = 2
)

// deadLetterCursor is a place in the list of a tenant's dead letters.
type deadLetterCursor struct {
	kind     cursorKind
	tenant   uuid.UUID
	began    time.Time           // of a replay, else zero: dead letters of later failures are left out
	position deadletter.Position // of the dead letter behind which it is; zero at the start
}

// cursorFields are a deadLetterCursor as its text has it. Times are [cursor.Micros].
type cursorFields struct {
	Kind                 cursorKind
	Tenant               uuid.UUID
	Began, FirstFailedAt int64
	ID                   uuid.UUID
}

func cursorFormat() cursor.Format[cursorFields] { return cursor.Format[cursorFields]{Version: 1} }

func (c deadLetterCursor) encode() string {
	return cursorFormat().Encode(cursorFields{
		Kind: c.kind, Tenant: c.tenant, Began: cursor.Micros(c.began),
		FirstFailedAt: cursor.Micros(c.position.FirstFailedAt), ID: c.position.ID,
	})
}

// decodeCursor takes exactly what was encoded for tenant and kind; anything else is 400 bad_cursor.
func decodeCursor(text string, tenant uuid.UUID, kind cursorKind) (deadLetterCursor, error) {
	fields, err := cursorFormat().Decode(text)
	began, possible := cursor.Time(fields.Began)
	failed, alsoPossible := cursor.Time(fields.FirstFailedAt)
	switch {
	case err != nil:
		return deadLetterCursor{}, err
	case fields.Tenant != tenant:
		return deadLetterCursor{}, cursor.Problem("the cursor belongs to another tenant")
	case fields.Kind != kind:
		return deadLetterCursor{}, cursor.Problem("the cursor belongs to another request")
	case !possible || !alsoPossible || (kind == cursorOfReplay) == began.IsZero():
		return deadLetterCursor{}, cursor.Problem(cursor.NotGiven)
	}
	return deadLetterCursor{
		kind: kind, tenant: tenant, began: began, position: deadletter.Position{FirstFailedAt: failed, ID: fields.ID},
	}, nil
}
