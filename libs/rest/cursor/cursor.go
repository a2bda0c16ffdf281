// Package cursor is the text with which a page names the place where it ends, so that the next one continues there. Clients
// keep it as long as they like, give it back, and do not look inside. It is the base64url, without padding, of
//
//	version            1 byte
//	fields of T        in their order, big endian
//	CRC-32C            4 bytes, of all before; not everywhere, see [Format]
//
// Each cursor has one text, and what is not such a text is refused. The checksum finds what was cut, mistyped or mixed up.
// It is no signature, and none is needed: whose list is read follows from the token, so a client that makes up a cursor only
// loses their own place. What a cursor belongs to, such as a tenant and an order, is among its fields, for the list to
// compare.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"net/http"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// Format is the form of the cursors of one list. T is a struct with exported fields of fixed size (see [binary.Size]);
// with any other type its methods panic.
type Format[T any] struct {
	// Version is another one whenever the fields of T, or what they mean, have changed.
	Version byte
	// Unchecked leaves out the checksum.
	Unchecked bool
}

// Encode returns the text for fields, which needs no escaping in a URL or in JSON.
func (f Format[T]) Encode(fields T) string {
	raw, err := binary.Append([]byte{f.Version}, binary.BigEndian, fields)
	if err != nil {
		panic("cursor: " + err.Error())
	}
	if !f.Unchecked {
		raw = binary.BigEndian.AppendUint32(raw, crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)))
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Decode is the reverse of [Format.Encode]. Any other text is 400 bad_cursor.
func (f Format[T]) Decode(text string) (T, error) {
	var fields, none T
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil && len(raw) > 0 {
		_, err = binary.Decode(raw[1:], binary.BigEndian, &fields)
	}
	// Version, length, checksum, line breaks and unused bits of base64, booleans other than 0 and 1: all is compared here.
	if err != nil || f.Encode(fields) != text {
		return none, Problem(NotGiven)
	}
	return fields, nil
}

// NotGiven is what is wrong with a cursor that no page has had.
const NotGiven = "the cursor is not one that was given"

// Problem is the answer to a cursor that is not of the list that was asked for: 400 bad_cursor.
func Problem(detail string) error {
	return problem.New(http.StatusBadRequest, "bad_cursor", detail).
		WithField("cursor", "must be the next_cursor of an earlier answer to the same request")
}

// Micros is a time as cursors have it: in microseconds since 1970, and 0 for the zero time.
func Micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// Time is the reverse of [Micros], in UTC. It reports false for what no row can have: times before 1970 and after 9999.
func Time(micros int64) (time.Time, bool) {
	if micros == 0 {
		return time.Time{}, true
	}
	t := time.UnixMicro(micros).UTC()
	return t, micros > 0 && t.Year() <= 9999
}
