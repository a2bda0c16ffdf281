package traffic

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/testkit/jsonvalue"
)

// identity makes the ids and the contents of one tenant's messages, and recognises them.
type identity struct {
	tenant uuid.UUID
	tag    [6]byte // begins the ids
	key    uint64
	bytes  int  // length of a payload, about
	large  bool // some are longer, see isLarge
}

func newIdentity(seed int64, tenant uuid.UUID, payloadBytes int) identity {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint64(nil, uint64(seed)), tenant[:]...))
	i := identity{tenant: tenant, key: binary.BigEndian.Uint64(sum[8:]), bytes: payloadBytes}
	copy(i.tag[:], sum[:])
	return i
}

// mix spreads n over 64 bits (the finalizer of SplitMix64).
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// id is a UUID of version 8 (RFC 9562: of one's own making): the tag of the tenant, a check sum, and the number.
func (i *identity) id(seq uint32) (id uuid.UUID) {
	check := mix(i.key ^ uint64(seq))
	copy(id[:], i.tag[:])
	id[6] = 0x80 | byte(check)&0x0f
	id[7] = byte(check >> 8)
	id[8] = 0x80 | byte(check>>16)&0x3f
	id[9], id[10], id[11] = byte(check>>24), byte(check>>32), byte(check>>40)
	binary.BigEndian.PutUint32(id[12:], seq)
	return id
}

// seq is the reverse of id; false for an id that is not of this tenant's making.
func (i *identity) seq(id uuid.UUID) (uint32, bool) {
	seq := binary.BigEndian.Uint32(id[12:])
	return seq, i.id(seq) == id
}

// payload is the content of a message, exactly as PostgreSQL gives a jsonb back (keys by length, then by bytes), so
// that comparing it takes no parsing as a rule. Every revision of a message has another content.
func (i *identity) payload(seq uint32, revision byte) []byte {
	const hex, overhead = "0123456789abcdef", 110
	length := i.bytes - overhead
	if i.isLarge(seq) {
		length += largeBytes
	}
	p := make([]byte, 0, max(length, 0)+2*overhead)
	p = append(p, `{"n": `...)
	p = strconv.AppendUint(p, uint64(seq), 10)
	p = append(p, `, "pad": "ü\n\"`...) // what has to survive escaping
	state := mix(i.key ^ uint64(seq)<<8 ^ uint64(revision))
	for left := length; left > 0; left-- {
		if left%16 == 0 {
			state = mix(state)
		}
		p = append(p, hex[state>>(left%16*4)&15])
	}
	p = append(p, `", "ratio": `...)
	p = strconv.AppendUint(p, state%1000, 10)
	p = append(p, `.50, "tenant": "`...) // a float would lose the zero
	p = append(p, i.tenant.String()...)
	p = append(p, `", "revision": `...)
	p = strconv.AppendUint(p, uint64(revision), 10)
	return append(p, '}')
}

// is reports whether payload is the content of a message, in whatever spelling.
func (i *identity) is(seq uint32, payload []byte) bool {
	want := i.payload(seq, 0)
	return bytes.Equal(want, payload) || sameJSON(want, payload)
}

// compacted is a payload without white space between its tokens.
func compacted(payload []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, payload) != nil { // it is JSON
		return payload
	}
	return out.Bytes()
}

// claims is the number that a payload has in it; false if it has none, or says that it is of another tenant.
func (i *identity) claims(payload []byte) (uint32, bool) {
	var content struct {
		N      *uint32   `json:"n"`
		Tenant uuid.UUID `json:"tenant"`
	}
	if json.Unmarshal(payload, &content) != nil || content.N == nil || content.Tenant != i.tenant {
		return 0, false
	}
	return *content.N, true
}

// sameJSON reports whether two texts are the same JSON value: spelling and the order of keys do not count.
func sameJSON(a, b []byte) bool {
	x, err := jsonvalue.Parse(a)
	if err != nil {
		return false
	}
	y, err := jsonvalue.Parse(b)
	return err == nil && jsonvalue.Equal(x, y)
}
