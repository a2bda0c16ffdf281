package traffic

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// hostile is a kind of properties and headers that a producer may send over AMQP, and that must change nothing: a message with
// them is stored or a dead letter as one without.
type hostile int

const (
	hostileNone     hostile = iota
	hostileDeep             // headers nested thirty levels
	hostileWide             // and with thousands of elements
	hostileHuge             // 60 KB
	hostileCount            // what the broker counts deliveries with
	hostileAttempt          // what the platform counts attempts with, forged
	hostileBytes            // no UTF-8, and NUL
	hostileTime             // a timestamp in milliseconds
	hostileEncoding         // content types and encodings that say something else
	hostileDeath            // a header of the broker's dead-lettering; it may be refused, and is left out then
	hostileExpiring         // expires after milliseconds; poison alone, so that it is a dead letter either way
	hostileCopied           // a copy for another tenant; poison alone, so that its content is known
	hostileKinds
)

// reasonExpired is the reason of a dead letter that the broker has made when the message expired.
const reasonExpired = "expired"

func (h hostile) String() string {
	return [...]string{
		"none", "deep headers", "wide headers", "huge headers", "forged delivery count", "forged attempt", "invalid text", "timestamp in milliseconds",
		"odd encodings", "x-death", "expiration", "copy to another tenant",
	}[h]
}

// hostileOf is the kind of a message over AMQP: three of four poisoned ones have one, and one of eight others.
func (i *identity) hostileOf(seq uint32, poisoned bool) hostile {
	chosen := mix(i.key ^ uint64(seq)<<20)
	every, kinds := uint64(8), uint64(hostileExpiring)
	if poisoned {
		if chosen>>32%4 == 0 {
			return hostileNone
		}
		every, kinds = 1, uint64(hostileKinds)
	}
	if chosen>>40%every != 0 {
		return hostileNone
	}
	return hostile(1 + chosen%(kinds-1))
}

// arm gives a message properties and headers of a kind. The headers that it has stay.
func (h hostile) arm(p *amqp.Publishing, neighbour uuid.UUID, again bool) {
	headers := amqp.Table{}
	switch h {
	case hostileDeep:
		deep := any("deep")
		for n := range 30 { // the publisher refuses more than 32
			if n%2 == 0 {
				deep = []any{deep}
			} else {
				deep = amqp.Table{"deeper": deep}
			}
		}
		headers["deep"] = deep
	case hostileWide:
		headers["wide"] = slices.Repeat([]any{int32(1), nil, true}, 2700) // the publisher refuses more than 8,192
	case hostileHuge:
		headers["huge"] = strings.Repeat("huge", 15<<10)
	case hostileCount:
		headers["x-delivery-count"], headers["x-acquired-count"] = int64(1_000_000), "many"
	case hostileAttempt:
		headers[contract.HeaderAttempt], headers[contract.HeaderFirstFailedAt] = int32(1_000_000), "yesterday"
	case hostileBytes:
		p.Type, p.AppId, p.CorrelationId, headers["\xff\x00"] = "\xff\xfe", "a\x00b", "\xed\xa0\x80", "\x00"
	case hostileTime:
		p.Timestamp = time.Unix(1_700_000_000_000, 0)
	case hostileEncoding:
		p.ContentType, p.ContentEncoding = "application/x-java-serialized-object", "gzip"
	case hostileDeath:
		if !again { // the first time may have been refused for it
			headers["x-death"] = []any{"no table", amqp.Table{"queue": contract.ParkingQueue, "reason": "expired", "count": "1"}}
		}
	case hostileExpiring:
		p.Expiration = "1"
	case hostileCopied:
		if p.Headers == nil { // else it has a copy already
			headers["CC"] = []any{neighbour.String()}
		}
	case hostileNone, hostileKinds:
		return
	}
	maps.Copy(headers, p.Headers)
	p.Headers = headers
}

// noteHostile counts what was confirmed.
func (t *Traffic) noteHostile(h hostile) {
	if h == hostileNone {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.armed[h]++
}

// Hostile is how many messages of each kind of hostile properties and headers were confirmed.
func (t *Traffic) Hostile() (kinds []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h := hostileNone + 1; h < hostileKinds; h++ {
		kinds = append(kinds, fmt.Sprintf("%s %d", h, t.armed[h]))
	}
	return kinds
}
