package header

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Encode is the counterpart of [Properties.Decode]: the properties and headers of d as on the wire.
func Encode(d *amqp.Delivery) Properties {
	var flags uint16
	p := make(Properties, 2, 64)
	text := func(flag uint16, s string) {
		if s == "" {
			return
		}
		flags |= flag
		p = append(append(p, byte(len(s))), s...)
	}
	number := func(flag uint16, n uint8) {
		if n == 0 {
			return
		}
		flags |= flag
		p = append(p, n)
	}
	text(hasContentType, d.ContentType)
	text(hasContentEncoding, d.ContentEncoding)
	if d.Headers != nil {
		flags |= hasHeaders
		p = appendLong(p, func(b []byte) []byte { return appendTable(b, d.Headers) })
	}
	number(hasDeliveryMode, d.DeliveryMode)
	number(hasPriority, d.Priority)
	text(hasCorrelationID, d.CorrelationId)
	text(hasReplyTo, d.ReplyTo)
	text(hasExpiration, d.Expiration)
	text(hasMessageID, d.MessageId)
	if !d.Timestamp.IsZero() {
		flags |= hasTimestamp
		p = binary.BigEndian.AppendUint64(p, uint64(d.Timestamp.Unix()))
	}
	text(hasType, d.Type)
	text(hasUserID, d.UserId)
	text(hasAppID, d.AppId)
	binary.BigEndian.PutUint16(p, flags)
	return p
}

// appendLong appends what fill appends, behind its length.
func appendLong(b []byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = fill(binary.BigEndian.AppendUint32(b, 0))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendTable appends a field table without its length, the names in order.
func appendTable(b []byte, t amqp.Table) []byte {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		b = append(append(b, byte(len(name))), name...)
		b = appendField(b, t[name])
	}
	return b
}

// appendField appends type and value. The types are those that amqp091-go reads; the errata of RabbitMQ have their codes.
func appendField(b []byte, value any) []byte {
	big := binary.BigEndian
	switch v := value.(type) {
	case bool:
		if v {
			return append(b, 't', 1)
		}
		return append(b, 't', 0)
	case int8:
		return append(b, 'b', byte(v))
	case uint8:
		return append(b, 'B', v)
	case int16:
		return big.AppendUint16(append(b, 's'), uint16(v))
	case uint16:
		return big.AppendUint16(append(b, 'u'), v)
	case int32:
		return big.AppendUint32(append(b, 'I'), uint32(v))
	case uint32:
		return big.AppendUint32(append(b, 'i'), v)
	case int64:
		return big.AppendUint64(append(b, 'l'), uint64(v))
	case float32:
		return big.AppendUint32(append(b, 'f'), math.Float32bits(v))
	case float64:
		return big.AppendUint64(append(b, 'd'), math.Float64bits(v))
	case amqp.Decimal:
		return big.AppendUint32(append(b, 'D', v.Scale), uint32(v.Value))
	case string:
		return appendLong(append(b, 'S'), func(b []byte) []byte { return append(b, v...) })
	case []byte:
		return appendLong(append(b, 'x'), func(b []byte) []byte { return append(b, v...) })
	case time.Time:
		return big.AppendUint64(append(b, 'T'), uint64(v.Unix()))
	case amqp.Table:
		return appendLong(append(b, 'F'), func(b []byte) []byte { return appendTable(b, v) })
	case []any:
		return appendLong(append(b, 'A'), func(b []byte) []byte {
			for _, element := range v {
				b = appendField(b, element)
			}
			return b
		})
	default: // nil
		return append(b, 'V')
	}
}
