package api

import (
	"math"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// cursorFields are where a reader is in the list of a tenant: behind a message, or at the start of an order.
type cursorFields struct {
	Order    byte           // 1 ascending, 2 descending
	Behind   bool           // a message; else at the start
	Tenant   uuid.UUID      // whose list it is
	Position store.Position // of the message; all zero at the start
}

func cursorFormat() cursor.Format[cursorFields] { return cursor.Format[cursorFields]{Version: 1} }

// encodeCursor makes the cursor behind a message or, with nil, at the start of order.
func encodeCursor(tenant uuid.UUID, order store.Order, behind *store.Position) string {
	fields := cursorFields{Order: byte(order), Tenant: tenant}
	if behind != nil {
		fields.Behind, fields.Position = true, *behind
	}
	return cursorFormat().Encode(fields)
}

// decodeCursor takes exactly what encodeCursor has made for tenant and order; anything else is 400 bad_cursor.
func decodeCursor(text string, tenant uuid.UUID, order store.Order) (*store.Position, error) {
	fields, err := cursorFormat().Decode(text)
	switch {
	case err != nil:
		return nil, err
	case fields.Tenant != tenant:
		return nil, cursor.Problem("the cursor belongs to another tenant")
	case store.Order(fields.Order) != order:
		return nil, cursor.Problem("the cursor belongs to the other order")
	case fields.Behind && fields.Position.Xid <= math.MaxInt64: // as far as database/sql can carry one
		return &fields.Position, nil
	case !fields.Behind && fields.Position == store.Position{}:
		return nil, nil // no position and no error: the start
	}
	return nil, cursor.Problem(cursor.NotGiven)
}
