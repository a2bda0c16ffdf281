package httpapi

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

// A cursor is a place in the list of a tenant's dead letters. Clients do not look inside. It is the base64url of 54 bytes,
// big endian:
//
//	0     version, 1
//	1     what it belongs to: 1 the list, 2 a replay
//	2     tenant (16 bytes)
//	18    of a replay: when it began, in microseconds since 1970 (8); letters of later failures are left out
//	26    time of the first failure of the letter behind which it is, in microseconds since 1970 (8)
//	34    id of that letter (16); all zero at the start
//	50    CRC-32C of all before
//
// The checksum finds what was cut, mistyped or mixed up. It is no signature, and none is needed: which tenant is read
// follows from the token.
const (
	cursorVersion  = 1
	cursorBytes    = 54
	cursorChecksum = 50
)

// cursorKind says what a cursor belongs to.
type cursorKind byte

const (
	cursorOfList   cursorKind = 1
	cursorOfReplay cursorKind = 2
)

// cursor is a decoded cursor.
type cursor struct {
	kind     cursorKind
	tenant   uuid.UUID
	began    time.Time
	position deadletter.Position
}

func (c cursor) encode() string {
	raw := make([]byte, 0, cursorBytes)
	raw = append(raw, cursorVersion, byte(c.kind))
	raw = append(raw, c.tenant[:]...)
	raw = appendTime(raw, c.began)
	raw = appendTime(raw, c.position.FirstFailedAt)
	raw = append(raw, c.position.ID[:]...)
	raw = binary.BigEndian.AppendUint32(raw, checksum(raw))
	return base64.RawURLEncoding.EncodeToString(raw)
}

// appendTime writes the zero time as 0.
func appendTime(raw []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.BigEndian.AppendUint64(raw, 0)
	}
	return binary.BigEndian.AppendUint64(raw, uint64(t.UnixMicro()))
}

func readTime(raw []byte) time.Time {
	micros := int64(binary.BigEndian.Uint64(raw))
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}

// decodeCursor takes exactly what was encoded for tenant and kind; anything else is 400 bad_cursor.
func decodeCursor(text string, tenant uuid.UUID, kind cursorKind) (cursor, error) {
	// The decoder skips line breaks, so the length is checked on both sides.
	if len(text) != base64.RawURLEncoding.EncodedLen(cursorBytes) {
		return cursor{}, badCursor("the cursor is not one that was given")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion ||
		binary.BigEndian.Uint32(raw[cursorChecksum:]) != checksum(raw[:cursorChecksum]) {
		return cursor{}, badCursor("the cursor is not one that was given")
	}
	c := cursor{
		kind: cursorKind(raw[1]), tenant: uuid.UUID(raw[2:18]), began: readTime(raw[18:]),
		position: deadletter.Position{FirstFailedAt: readTime(raw[26:]), ID: uuid.UUID(raw[34:50])},
	}
	switch {
	case c.tenant != tenant:
		return cursor{}, badCursor("the cursor belongs to another tenant")
	case c.kind != kind:
		return cursor{}, badCursor("the cursor belongs to another request")
	case (c.kind == cursorOfReplay) == c.began.IsZero(), c.encode() != text: // the first moment of year 1 is the zero time, too
		return cursor{}, badCursor("the cursor is not one that was given")
	}
	// PostgreSQL has years up to 294276, and microseconds of 64 bits reach further.
	for _, t := range []time.Time{c.began, c.position.FirstFailedAt} {
		if year := t.Year(); year < 0 || year > 9999 {
			return cursor{}, badCursor("the cursor is not one that was given")
		}
	}
	return c, nil
}

func checksum(raw []byte) uint32 { return crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)) }

func badCursor(detail string) error {
	return problem.New(http.StatusBadRequest, "bad_cursor", detail).
		WithField("cursor", "must be the next_cursor of an answer to this request, of this tenant")
}
