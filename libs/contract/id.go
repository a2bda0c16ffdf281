package contract

import (
	"crypto/sha1" //nolint:gosec // RFC 9562 defines version 5 by SHA-1; it is a name, not a secret
)

// MessageID is the id under which a message is stored that was published with messageID: that itself if it is a UUID in
// its usual form of 36 characters, and not the nil UUID, else the UUIDv5 (RFC 9562, section 5.5) of it in the name space
// of the tenant. So the same message id published twice is one message, also where producers use ids of their own kind.
func MessageID(tenant [16]byte, messageID string) [16]byte {
	if id, ok := parseUUID(messageID); ok && id != [16]byte{} {
		return id
	}
	hash := sha1.New() //nolint:gosec // see above
	hash.Write(tenant[:])
	hash.Write([]byte(messageID))
	var id [16]byte
	copy(id[:], hash.Sum(nil))
	id[6] = id[6]&0x0f | 0x50 // version 5
	id[8] = id[8]&0x3f | 0x80 // variant 10
	return id
}

// parseUUID reads xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx in either case.
func parseUUID(s string) (id [16]byte, ok bool) {
	const length = 36
	if len(s) != length {
		return id, false
	}
	at := 0
	for i := 0; i < length; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return id, false
			}
			i++
			continue
		}
		high, highOK := hexDigit(s[i])
		low, lowOK := hexDigit(s[i+1])
		if !highOK || !lowOK {
			return id, false
		}
		id[at] = high<<4 | low
		at++
		i += 2
	}
	return id, true
}

func hexDigit(c byte) (value byte, ok bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
