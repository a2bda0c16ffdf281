package httpapi

import (
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// A cursor is the position of the last tenant of a page: a version, the microseconds since 1970 in eight bytes, and the
// id, in base64url. Clients must not look into it; the version lets it change.
const (
	cursorVersion = 1
	cursorBytes   = 1 + 8 + 16
)

// encodeCursor writes p as a cursor. The start of the list, too, has one.
func encodeCursor(p tenant.Position) string {
	raw := make([]byte, 0, cursorBytes)
	raw = append(raw, cursorVersion)
	var micros int64
	if !p.CreatedAt.IsZero() {
		micros = p.CreatedAt.UnixMicro()
	}
	raw = binary.BigEndian.AppendUint64(raw, uint64(micros))
	raw = append(raw, p.ID[:]...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// decodeCursor reads what encodeCursor has written. Anything else is 400 bad_cursor.
func decodeCursor(s string) (tenant.Position, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(raw) != cursorBytes || raw[0] != cursorVersion {
		return tenant.Position{}, badCursor()
	}
	p := tenant.Position{ID: uuid.UUID(raw[9:])}
	micros := int64(binary.BigEndian.Uint64(raw[1:9]))
	if micros == 0 && p.ID == uuid.Nil {
		return tenant.Position{}, nil
	}
	p.CreatedAt = time.UnixMicro(micros).UTC()
	// Beyond these PostgreSQL has no timestamps, and no tenant was created.
	if p.CreatedAt.Year() < 1970 || p.CreatedAt.Year() > 9999 {
		return tenant.Position{}, badCursor()
	}
	return p, nil
}

func badCursor() error {
	return problem.New(http.StatusBadRequest, "bad_cursor", "the cursor is none that this list has given").
		WithField("cursor", "must be next_cursor of another page")
}
