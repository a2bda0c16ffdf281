package deadletter

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

// headerGrowth is how many times longer headers are as JSON than as a field table, at most: a control character takes six
// bytes in a string, and `{"$base64":""}` stands for six of a byte array.
const headerGrowth = 6

// HeadersJSON renders headers as a JSON object, in the order in which they came and without those of the platform. What JSON has
// no value for is an object with one name:
//
//	{"$base64": "AAE="}      a byte array, or a string that is not UTF-8
//	{"$float": "NaN"}        a float that is no number: "NaN", "+Inf" or "-Inf"
//	{"$values": [1, 2]}      a name that occurs more than once, with all its values
//	{"$encoded": "AXMA…"}    a table or an array, as on the wire in base64, that nests over 200 levels or cannot be read
//
// A name that is not UTF-8 is "$base64:" and its bytes. Decimals and whole numbers are exact numbers. A time is RFC 3339, as of
// [TimeText]. The error is [header.ErrUnreadable] if headers end with what cannot be read; what comes before is in the
// object.
func HeadersJSON(headers header.Table) (json.RawMessage, error) {
	named, err := collect(headers.Fields(), republish.Added)
	return named.appendJSON(nil, 0), err
}

// object are the fields of a table by name, in the order of their names' first occurrence.
type object struct {
	names  []string
	values map[string][]header.Field
}

// collect reads fields, as far as they can be read, without those that skip says.
func collect(fields iter.Seq2[header.Field, error], skip func(name string) bool) (object, error) {
	o := object{values: map[string][]header.Field{}}
	for f, err := range fields {
		if err != nil {
			return o, err
		}
		name := string(f.Name)
		if skip(name) {
			continue
		}
		if o.values[name] == nil {
			o.names = append(o.names, name)
		}
		o.values[name] = append(o.values[name], f)
	}
	return o, nil
}

// appendJSON renders o, which lies in so many tables and arrays.
func (o object) appendJSON(out []byte, depth int) []byte {
	out = append(out, '{')
	for i, name := range o.names {
		if i > 0 {
			out = append(out, ',')
		}
		key := name
		if !utf8.ValidString(name) {
			key = "$base64:" + base64.StdEncoding.EncodeToString([]byte(name))
		}
		out = append(appendString(out, key), ':')
		if values := o.values[name]; len(values) == 1 {
			out = appendValue(out, values[0], depth)
		} else {
			out = append(appendArray(append(out, `{"$values":`...), values, depth), '}')
		}
	}
	return append(out, '}')
}

func appendArray(out []byte, elements []header.Field, depth int) []byte {
	out = append(out, '[')
	for i, element := range elements {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendValue(out, element, depth)
	}
	return append(out, ']')
}

// appendValue renders the value of f, which lies in depth tables and arrays within the headers.
func appendValue(out []byte, f header.Field, depth int) []byte {
	switch f.Kind {
	case 't':
		return strconv.AppendBool(out, f.Value[0] != 0)
	case 'f':
		return appendFloat(out, float64(math.Float32frombits(binary.BigEndian.Uint32(f.Value))), 32)
	case 'd':
		return appendFloat(out, math.Float64frombits(binary.BigEndian.Uint64(f.Value)), 64)
	case 'D':
		return appendDecimal(out, f.Value[0], int32(binary.BigEndian.Uint32(f.Value[1:])))
	case 'T':
		return appendString(out, TimeText(int64(binary.BigEndian.Uint64(f.Value))))
	case 'S', 'x':
		if f.Kind == 'S' && utf8.Valid(f.Value) {
			return appendString(out, string(f.Value))
		}
		return appendBytes(out, "$base64", f.Value)
	case 'F', 'A':
		return appendContainer(out, f, depth+1)
	case 'V':
		return append(out, "null"...)
	}
	n, _ := f.Int()
	return strconv.AppendInt(out, n, 10)
}

func appendContainer(out []byte, f header.Field, depth int) []byte {
	if depth > contract.MaxDepth {
		return appendBytes(out, "$encoded", f.Value)
	}
	if f.Kind == 'F' {
		o, err := collect(f.Elements(), func(string) bool { return false })
		if err != nil {
			return appendBytes(out, "$encoded", f.Value)
		}
		return o.appendJSON(out, depth)
	}
	var elements []header.Field
	for element, err := range f.Elements() {
		if err != nil {
			return appendBytes(out, "$encoded", f.Value)
		}
		elements = append(elements, element)
	}
	return appendArray(out, elements, depth)
}

// appendBytes renders an object with one name, which needs no escapes.
func appendBytes(out []byte, name string, b []byte) []byte {
	out = append(append(append(out, `{"`...), name...), `":"`...)
	return append(base64.StdEncoding.AppendEncode(out, b), `"}`...)
}

func appendString(out []byte, s string) []byte {
	encoded, err := json.Marshal(s)
	if err != nil { // a string can always be encoded
		return append(out, `""`...)
	}
	return append(out, encoded...)
}

func appendFloat(out []byte, v float64, bits int) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		out = append(out, `{"$float":"`...)
		return append(strconv.AppendFloat(out, v, 'g', -1, bits), `"}`...)
	}
	return strconv.AppendFloat(out, v, 'g', -1, bits)
}

// appendDecimal renders value·10^-scale, digit by digit.
func appendDecimal(out []byte, scale uint8, value int32) []byte {
	const longest = 20 // zeros that are written out
	if scale > longest {
		return strconv.AppendInt(append(strconv.AppendInt(out, int64(value), 10), 'e'), -int64(scale), 10)
	}
	digits := strconv.FormatInt(int64(value), 10)
	if value < 0 {
		out, digits = append(out, '-'), digits[1:]
	}
	if missing := int(scale) + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - int(scale)
	out = append(out, digits[:point]...)
	if scale > 0 {
		out = append(append(out, '.'), digits[point:]...)
	}
	return out
}

// lastSecond and firstSecond are those of the years that RFC 3339 can write, as Unix times.
const (
	lastSecond  = 253402300799 // 9999-12-31T23:59:59Z
	firstSecond = -62167219200 // 0000-01-01T00:00:00Z
)

// TimeText is a timestamp of AMQP in RFC 3339 and UTC. AMQP counts seconds, but many producers send milliseconds, or less. So a
// number beyond the year 9999 is read as milliseconds, then as microseconds, then as nanoseconds, and written with as many
// digits; that is right for all times since 1978. What lies before the year 0 is the number.
func TimeText(sent int64) string {
	unit := int64(1)
	for _, layout := range []string{
		"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z", "2006-01-02T15:04:05.000000Z", "2006-01-02T15:04:05.000000000Z",
	} {
		if sent >= firstSecond && sent/unit <= lastSecond {
			return time.Unix(sent/unit, sent%unit*(int64(time.Second)/unit)).UTC().Format(layout)
		}
		unit *= 1000
	}
	return strconv.FormatInt(sent, 10)
}
