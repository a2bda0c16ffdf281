package amqptest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Properties are those of a message. What is zero is not sent.
type Properties struct {
	ContentType, ContentEncoding string
	// Headers are the fields of the table, each as of [Field], one behind the other. Empty but not nil is a table without
	// fields.
	Headers                                                            []byte
	DeliveryMode, Priority                                             byte
	CorrelationID, ReplyTo, Expiration, MessageID, Type, UserID, AppID string
	Timestamp                                                          uint64
}

// Encode returns flags and values as in a content header.
func (p Properties) Encode() []byte {
	var flags uint16
	var values []byte
	bit := uint16(1 << 15)
	add := func(present bool, value ...byte) {
		if present {
			flags |= bit
			values = append(values, value...)
		}
		bit >>= 1
	}
	text := func(s string) { add(s != "", Short(s)...) }
	text(p.ContentType)
	text(p.ContentEncoding)
	add(p.Headers != nil, Long(p.Headers)...)
	add(p.DeliveryMode != 0, p.DeliveryMode)
	add(p.Priority != 0, p.Priority)
	text(p.CorrelationID)
	text(p.ReplyTo)
	text(p.Expiration)
	text(p.MessageID)
	add(p.Timestamp != 0, binary.BigEndian.AppendUint64(nil, p.Timestamp)...)
	text(p.Type)
	text(p.UserID)
	text(p.AppID)
	return append(binary.BigEndian.AppendUint16(nil, flags), values...)
}

// Field is a named field of a table: kind is the code of its type, value its encoding.
func Field(name string, kind byte, value ...byte) []byte {
	return slices.Concat(Short(name), []byte{kind}, value)
}

// Short is a short string: its length in a byte (of which the upper bits are lost) before it.
func Short(s string) []byte { return append([]byte{byte(len(s))}, s...) }

// Long is a long string, table or array: its length in four bytes before it.
func Long(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// Tables is the value of a field of type F that has so many tables one in the other, at least one; the innermost is empty.
func Tables(levels int) []byte {
	return nest(levels, Field("n", 'F'))
}

// Arrays is the value of a field of type A that has so many arrays one in the other, at least one; the innermost is empty.
func Arrays(levels int) []byte {
	return nest(levels, []byte{'A'})
}

// nest is a value in which each level but the innermost holds one field, which begins with prefix.
func nest(levels int, prefix []byte) (value []byte) {
	for inner := levels - 1; inner >= 0; inner-- {
		value = binary.BigEndian.AppendUint32(value, uint32(inner*(len(prefix)+4)))
		if inner > 0 {
			value = append(value, prefix...)
		}
	}
	return value
}

// Elements is the value of a field of type A with n elements that are void.
func Elements(n int) []byte { return Long(bytes.Repeat([]byte{'V'}, n)) }

// Encode returns the properties of p as amqp091-go sends them.
func Encode(p amqp.Publishing) []byte {
	e := Properties{
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, DeliveryMode: p.DeliveryMode, Priority: p.Priority,
		CorrelationID: p.CorrelationId, ReplyTo: p.ReplyTo, Expiration: p.Expiration, MessageID: p.MessageId,
		Type: p.Type, UserID: p.UserId, AppID: p.AppId,
	}
	if len(p.Headers) > 0 {
		e.Headers = Table(p.Headers)
	}
	if !p.Timestamp.IsZero() {
		e.Timestamp = uint64(p.Timestamp.Unix())
	}
	return e.Encode()
}

// Table are the fields of t, in the order of their names.
func Table(t amqp.Table) []byte {
	fields := []byte{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		fields = slices.Concat(fields, Short(name), value(t[name]))
	}
	return fields
}

// value is the code and the encoding of a value as amqp091-go writes it. It panics at a type that it does not know.
func value(v any) []byte {
	number := func(kind byte, v any) []byte {
		b, err := binary.Append([]byte{kind}, binary.BigEndian, v)
		if err != nil {
			panic(err)
		}
		return b
	}
	switch v := v.(type) {
	case nil:
		return []byte{'V'}
	case bool:
		return number('t', v)
	case int8:
		return number('b', v)
	case uint8:
		return number('B', v)
	case int16:
		return number('s', v)
	case uint16:
		return number('u', v)
	case int32:
		return number('I', v)
	case uint32:
		return number('i', v)
	case int64:
		return number('l', v)
	case float32:
		return number('f', v)
	case float64:
		return number('d', v)
	case amqp.Decimal:
		return number('D', v)
	case time.Time:
		return number('T', v.Unix())
	case string:
		return append([]byte{'S'}, Long([]byte(v))...)
	case []byte:
		return append([]byte{'x'}, Long(v)...)
	case amqp.Table:
		return append([]byte{'F'}, Long(Table(v))...)
	case []any:
		elements := make([][]byte, len(v))
		for i := range v {
			elements[i] = value(v[i])
		}
		return append([]byte{'A'}, Long(slices.Concat(elements...))...)
	}
	panic(fmt.Sprintf("a header of type %T", v))
}

// short reads a short string.
func short(b []byte) (s string, rest []byte) {
	n := 1 + int(b[0])
	return string(b[1:n]), b[n:]
}

func method(id uint32, arguments ...[]byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, id), slices.Concat(arguments...)...)
}

func frame(kind byte, channel uint16, payload []byte) []byte {
	f := binary.BigEndian.AppendUint16([]byte{kind}, channel)
	f = binary.BigEndian.AppendUint32(f, uint32(len(payload)))
	return append(append(f, payload...), frameEnd)
}

// EveryType are headers of every type that amqp091-go can write.
func EveryType() amqp.Table {
	return amqp.Table{
		"bool": true, "int8": int8(-8), "byte": byte(200), "int16": int16(-16), "uint16": uint16(math.MaxUint16), "int32": int32(-32),
		"uint32": uint32(math.MaxUint32), "int64": int64(math.MinInt64), "float32": float32(0.5), "float64": 0.25,
		"decimal": amqp.Decimal{Scale: 2, Value: -314}, "string": "text\x00\xff", "bytes": []byte{0, 1}, "nothing": nil,
		"time": time.Unix(1_700_000_000, 0), "milliseconds": time.Unix(1_700_000_000_000, 0), "": "no name",
		"table": amqp.Table{"deeper": amqp.Table{"deepest": "x"}}, "array": []any{int32(1), []any{nil, amqp.Table{"a": false}}},
	}
}
