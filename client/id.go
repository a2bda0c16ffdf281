package client

import (
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 9562 defines version 5 by SHA-1; it names, it does not protect
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// ID is a UUID: the id of a message, of a tenant or of a dead letter. The zero ID stands for none. It converts to and from
// the types of UUID packages that are arrays of 16 bytes: client.ID(uuid.New()).
type ID [16]byte

// errID refuses a text that is no id.
var errID = errors.New("not a UUID of the form 0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")

// NewID makes a UUIDv7 (RFC 9562, section 5.7): the time in milliseconds, then 74 random bits. Ids of one process sort by
// the millisecond in which they were made.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[6:]) // never fails: crypto/rand ends the program rather than return an error
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // variant 10
	return id
}

// NameID is the id of a message that a producer knows by a name of its own, such as "order-17": a UUIDv5 (RFC 9562, section
// 5.5) of the name in the name space of the tenant. A producer that was restarted gets the same id again and publishes
// nothing twice. It is the id that the platform itself gives a message that comes over AMQP with that name as message_id.
// A name that is a UUID already is that UUID.
func NameID(tenant ID, name string) ID {
	if id, err := ParseID(name); err == nil {
		return id
	}
	hash := sha1.New() //nolint:gosec // see the import
	hash.Write(tenant[:])
	hash.Write([]byte(name))
	var id ID
	copy(id[:], hash.Sum(nil))
	id[6] = id[6]&0x0f | 0x50 // version 5
	id[8] = id[8]&0x3f | 0x80 // variant 10
	return id
}

// ParseID reads the usual form of 36 characters, in either case. It refuses every other form and the nil UUID, as the
// services do.
func ParseID(text string) (ID, error) {
	var id ID
	if err := id.UnmarshalText([]byte(text)); err != nil {
		return ID{}, err
	}
	if id.IsZero() {
		return ID{}, fmt.Errorf("%w: %s", errID, text)
	}
	return id, nil
}

// IsZero reports whether id stands for none.
func (id ID) IsZero() bool { return id == ID{} }

// String is the usual form, in lower case.
func (id ID) String() string { return string(id.append(nil)) }

// MarshalText is String for encoding/json and others.
func (id ID) MarshalText() ([]byte, error) { return id.append(nil), nil }

// UnmarshalText is ParseID for encoding/json and others; it reads the nil UUID as the zero ID.
func (id *ID) UnmarshalText(text []byte) error {
	const length = len("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	if len(text) != length || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return fmt.Errorf("%w: %.50q", errID, text)
	}
	digits := make([]byte, 0, 2*len(id))
	for _, part := range [][]byte{text[:8], text[9:13], text[14:18], text[19:23], text[24:]} {
		digits = append(digits, part...)
	}
	var parsed ID
	if _, err := hex.Decode(parsed[:], digits); err != nil {
		return fmt.Errorf("%w: %q", errID, text)
	}
	*id = parsed
	return nil
}

func (id ID) append(b []byte) []byte {
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}
