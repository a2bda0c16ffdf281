package httpapi

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"math"
	"net/http"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// A cursor is where a reader is in the list of a tenant: behind a message, or at the start of an order. Clients keep it
// as long as they like and do not look inside. It is the base64url of 39 bytes, big endian:
//
//	0     version, 1
//	1     order: 1 ascending, 2 descending
//	2     0 at the start of the order, all of the position is 0 then; 1 behind a message
//	3     tenant (16 bytes)
//	19    epoch (4), xid (8) and ord (4) of the message
//	35    CRC-32C of all before
//
// The checksum finds what was cut, mistyped or mixed up. It is no signature, and none is needed: which tenant is read
// follows from the token, so whoever makes up a cursor only loses his own place.
const (
	cursorVersion  = 1
	cursorBytes    = 39
	cursorChecksum = 35

	cursorAtStart = 0
	cursorBehind  = 1
)

// encodeCursor makes the cursor behind a message or, with nil, at the start of order. The text has nothing that needs
// escaping in a URL or in JSON.
func encodeCursor(tenant uuid.UUID, order store.Order, behind *store.Position) string {
	raw := make([]byte, 0, cursorBytes)
	raw = append(raw, cursorVersion, byte(order))
	var p store.Position
	if behind == nil {
		raw = append(raw, cursorAtStart)
	} else {
		raw, p = append(raw, cursorBehind), *behind
	}
	raw = append(raw, tenant[:]...)
	raw = binary.BigEndian.AppendUint32(raw, uint32(p.Epoch))
	raw = binary.BigEndian.AppendUint64(raw, p.Xid)
	raw = binary.BigEndian.AppendUint32(raw, uint32(p.Ord))
	raw = binary.BigEndian.AppendUint32(raw, checksum(raw))
	return base64.RawURLEncoding.EncodeToString(raw)
}

// decodeCursor takes exactly what encodeCursor has made for tenant and order; anything else is 400 bad_cursor.
func decodeCursor(text string, tenant uuid.UUID, order store.Order) (*store.Position, error) {
	// The decoder skips line breaks, so the length is checked on both sides.
	if len(text) != base64.RawURLEncoding.EncodedLen(cursorBytes) {
		return nil, badCursor("the cursor is not one that was given")
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion || binary.BigEndian.Uint32(raw[cursorChecksum:]) != checksum(raw[:cursorChecksum]) {
		return nil, badCursor("the cursor is not one that was given")
	}
	if uuid.UUID(raw[3:19]) != tenant {
		return nil, badCursor("the cursor belongs to another tenant")
	}
	if store.Order(raw[1]) != order {
		return nil, badCursor("the cursor belongs to the other order")
	}
	p := store.Position{
		Epoch: int32(binary.BigEndian.Uint32(raw[19:])),
		Xid:   binary.BigEndian.Uint64(raw[23:]),
		Ord:   int32(binary.BigEndian.Uint32(raw[31:])),
	}
	switch {
	case raw[2] == cursorAtStart && p == store.Position{}:
		return nil, nil // no position and no error: the start
	case raw[2] == cursorBehind && p.Xid <= math.MaxInt64: // as far as database/sql can carry one
		return &p, nil
	default:
		return nil, badCursor("the cursor is not one that was given")
	}
}

func checksum(raw []byte) uint32 { return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)) }

func badCursor(detail string) error {
	return problem.New(http.StatusBadRequest, "bad_cursor", detail).
		WithField("cursor", "must be the next_cursor of a page of this tenant and order")
}
