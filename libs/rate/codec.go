package rate

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/google/uuid"
)

// The messages between instances. Instances of different versions run side by side: what follows behind what is known here is
// ignored, so that a later version may add to a message, and a message of another version is not answered. Numbers are unsigned
// varints as in encoding/binary.
//
//	request: version, length of the sender's name (1 byte), the name, number of asks, asks
//	ask:     tenant (16 bytes), kind (1 byte), need, want
//	answer:  version, number of grants, grants in the order of the asks
//	grant:   status (1 byte), tokens, level, wait in milliseconds
const (
	version = 1
	// maxAsks bounds a request: about a tenth of the megabyte that NATS takes.
	maxAsks = 4096
)

var errMalformed = errors.New("malformed message between instances")

// ask is what an instance needs of one limit of a tenant.
type ask struct {
	tenant uuid.UUID
	kind   Kind
	need   int64 // without so many tokens nothing can pass
	want   int64 // with so many nothing has to wait
}

// status says whether a grant counts.
type status uint8

const (
	lent     status = 1 // by the owner, though it may be no token
	unserved status = 2 // the instance is not the owner, or knows of no such limit, or takes the need for nonsense
)

// grant is the answer to an ask.
type grant struct {
	status status
	tokens int64
	level  int64         // tokens that are left in the bucket
	wait   time.Duration // until there is a token
}

func encodeRequest(from string, asks []ask) []byte {
	b := make([]byte, 0, 4+len(from)+len(asks)*24)
	b = append(b, version, byte(len(from)))
	b = append(b, from...)
	b = binary.AppendUvarint(b, uint64(len(asks)))
	for _, a := range asks {
		b = append(append(b, a.tenant[:]...), byte(a.kind))
		b = binary.AppendUvarint(b, uint64(a.need))
		b = binary.AppendUvarint(b, uint64(a.want))
	}
	return b
}

func decodeRequest(b []byte) (from string, asks []ask, err error) {
	r := reader{left: b}
	if r.byte() != version {
		return "", nil, errMalformed
	}
	from = string(r.take(int64(r.byte())))
	count := r.number()
	if r.failed || count > maxAsks {
		return "", nil, errMalformed
	}
	asks = make([]ask, 0, count)
	for range count {
		a := ask{}
		copy(a.tenant[:], r.take(int64(len(a.tenant))))
		a.kind, a.need, a.want = Kind(r.byte()), r.number(), r.number()
		if r.failed {
			return "", nil, errMalformed
		}
		asks = append(asks, a)
	}
	return from, asks, nil
}

func encodeAnswer(grants []grant) []byte {
	b := binary.AppendUvarint([]byte{version}, uint64(len(grants)))
	for _, g := range grants {
		b = append(b, byte(g.status))
		for _, n := range []int64{g.tokens, g.level, int64((g.wait + time.Millisecond - 1) / time.Millisecond)} {
			b = binary.AppendUvarint(b, uint64(max(n, 0)))
		}
	}
	return b
}

// decodeAnswer returns the grants for so many asks.
func decodeAnswer(b []byte, asks int) ([]grant, error) {
	r := reader{left: b}
	if r.byte() != version || r.number() != int64(asks) || r.failed {
		return nil, errMalformed
	}
	grants := make([]grant, asks)
	for i := range grants {
		g := grant{status: status(r.byte()), tokens: r.number(), level: r.number()}
		g.wait = time.Duration(min(r.number(), int64(maxWait/time.Millisecond))) * time.Millisecond
		if r.failed {
			return nil, errMalformed
		}
		grants[i] = g
	}
	return grants, nil
}

// reader reads a message from its beginning. After a failure it returns zeros.
type reader struct {
	left   []byte
	failed bool
}

func (r *reader) take(n int64) []byte {
	if r.failed || n > int64(len(r.left)) {
		r.failed = true
		return nil
	}
	taken := r.left[:n]
	r.left = r.left[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// number reads a number below 2^62, so that the sum of two is none that is negative.
func (r *reader) number() int64 {
	n, size := binary.Uvarint(r.left)
	if r.failed || size <= 0 || n > math.MaxInt64/2 {
		r.failed = true
		return 0
	}
	r.left = r.left[size:]
	return int64(n)
}
