package deadletter

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// An operator who looks for the reason of a failure sees what the producer has sent, digit by digit.
func TestHeadersAsJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC)
	for name, c := range map[string]struct {
		value any
		want  string
	}{
		"string":             {"text", `"text"`},
		"NUL":                {"a\x00b", `"a\u0000b"`},
		"not UTF-8":          {"\xff", `{"$base64":"/w=="}`},
		"bytes":              {[]byte{0, 1}, `{"$base64":"AAE="}`},
		"nothing":            {nil, `null`},
		"bool":               {true, `true`},
		"int8":               {int8(-8), `-8`},
		"uint8":              {uint8(200), `200`},
		"int16":              {int16(-16), `-16`},
		"uint16":             {uint16(math.MaxUint16), `65535`},
		"int32":              {int32(math.MinInt32), `-2147483648`},
		"uint32":             {uint32(math.MaxUint32), `4294967295`},
		"beyond 2^53":        {int64(math.MaxInt64), `9223372036854775807`},
		"decimal":            {amqp.Decimal{Scale: 2, Value: 1999}, `19.99`},
		"decimal below zero": {amqp.Decimal{Scale: 3, Value: -5}, `-0.005`},
		"whole decimal":      {amqp.Decimal{Value: 5}, `5`},
		"decimal with zeros": {amqp.Decimal{Scale: 1, Value: 0}, `0.0`},
		"tiny decimal":       {amqp.Decimal{Scale: 255, Value: -7}, `-7e-255`},
		"NaN":                {math.NaN(), `{"$float":"NaN"}`},
		"infinity":           {float32(math.Inf(-1)), `{"$float":"-Inf"}`},
		"float":              {0.1, `0.1`},
		"short float":        {float32(0.1), `0.1`},
		"large float":        {1e300, `1e+300`},
		"time":               {at, `"2023-11-14T22:13:20Z"`},
		"milliseconds":       {time.Unix(at.UnixMilli()+7, 0), `"2023-11-14T22:13:20.007Z"`},
		"microseconds":       {time.Unix(at.UnixMicro(), 0), `"2023-11-14T22:13:20.000000Z"`},
		"nanoseconds":        {time.Unix(at.UnixNano(), 0), `"2023-11-14T22:13:20.000000000Z"`},
		"the last second":    {time.Unix(lastSecond, 0), `"9999-12-31T23:59:59Z"`},
		"before 1970":        {time.Unix(-1, 0), `"1969-12-31T23:59:59Z"`},
		"before all years":   {time.Unix(math.MinInt64, 0), `"-9223372036854775808"`},
		"table":              {amqp.Table{"x": true, "": amqp.Table{}}, `{"":{},"x":true}`},
		"array":              {[]any{int32(1), []any{}, "b"}, `[1,[],"b"]`},
	} {
		got, err := HeadersJSON(amqptest.Table(amqp.Table{"h": c.value, contract.HeaderReason: "ours", "x-delivery-count": int64(1)}))
		require.NoError(t, err, name)
		require.Equal(t, `{"h":`+c.want+`}`, string(got), name)
		require.True(t, json.Valid(got), name)
	}
	got, err := HeadersJSON(nil)
	require.NoError(t, err)
	require.Equal(t, `{}`, string(got))
}

// What no library sends is shown as well, and none of it is left out in silence.
func TestUnusualHeadersAsJSON(t *testing.T) {
	t.Parallel()
	field := amqptest.Field
	for name, c := range map[string]struct {
		headers    []byte
		want       string
		unreadable bool
	}{
		"a name twice":              {bytes.Join([][]byte{field("b", 't', 1), field("a", 'B', 1), field("b", 'V')}, nil), `{"b":{"$values":[true,null]},"a":1}`, false},
		"a name that is empty":      {field("", 'V'), `{"":null}`, false},
		"a name that is not UTF-8":  {field("\xff", 'V'), `{"$base64:/w==":null}`, false},
		"an unsigned 64-bit number": {field("a", 'L', 0, 0, 0, 0, 0, 0, 0, 1), `{"a":1}`, false},
		"a type that nobody knows":  {append(field("a", 'V'), field("b", '!', 1)...), `{"a":null}`, true},
		"a value beyond the table":  {append(field("a", 'V'), field("b", 'S', 0, 0, 1, 0)...), `{"a":null}`, true},
		"inside of a table":         {append(field("a", 'F', amqptest.Long(field("b", '!'))...), field("c", 'V')...), `{"a":{"$encoded":"AWIh"},"c":null}`, false},
		"inside of an array":        {field("a", 'A', amqptest.Long([]byte("V!"))...), `{"a":{"$encoded":"ViE="}}`, false},
	} {
		got, err := HeadersJSON(c.headers)
		require.Equal(t, c.want, string(got), name)
		if c.unreadable {
			require.ErrorIs(t, err, header.ErrUnreadable, name)
		} else {
			require.NoError(t, err, name)
		}
	}
	for name, headers := range map[string][]byte{
		"tables": field("a", 'F', amqptest.Tables(5000)...),
		"arrays": field("a", 'A', amqptest.Arrays(5000)...),
	} {
		got, err := HeadersJSON(headers)
		require.NoError(t, err, name)
		require.True(t, json.Valid(got), name)
		require.Equal(t, contract.MaxDepth+2, bytes.Count(got, []byte("{"))+bytes.Count(got, []byte("[")), "%s: and the headers, and what the rest is in", name)
		require.Contains(t, string(got), "$encoded", name)
	}
}

// A page of dead letters must not become many times longer than what its limit counts.
func TestHeadersAsJSONAreNotManyTimesLonger(t *testing.T) {
	t.Parallel()
	field := amqptest.Field
	for name, element := range map[string][]byte{
		"void": field("", 'V'), "control characters": field("\x01\x01", 'S', amqptest.Long(bytes.Repeat([]byte{1}, 1000))...),
		"empty bytes": field("a", 'x', 0, 0, 0, 0), "decimals": field("a", 'D', 20, 255, 255, 255, 255), "bytes": field("\x01", 'b', 128),
		"bad names": field("\xff", 'V'), "times": field("a", 'T', 1, 255, 255, 255, 255, 255, 255, 255), "NaN": field("a", 'f', 255, 255, 255, 255),
		"elements": field("a", 'A', amqptest.Elements(1000)...), "bad tables": field("a", 'F', 0, 0, 0, 1, '!'),
		"bad strings": field("a", 'S', 0, 0, 0, 1, 255), "floats": field("a", 'd', 0xbf, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
	} {
		for _, repeated := range []int{1, 1000} {
			headers := bytes.Repeat(element, repeated)
			got, err := HeadersJSON(headers)
			require.NoError(t, err, name)
			require.True(t, json.Valid(got), name)
			const sides = len(`{"":{"$values":[]}}`) + len("$base64:") // once
			require.LessOrEqual(t, len(got), headerGrowth*len(headers)+sides, "%s, %d times", name, repeated)
		}
		var distinct [][]byte
		for i := range 1000 {
			distinct = append(distinct, append([]byte{2, byte('a' + i%26), byte('a' + i/26)}, element[1+int(element[0]):]...))
		}
		headers := bytes.Join(distinct, nil)
		got, err := HeadersJSON(headers)
		require.NoError(t, err, name)
		require.LessOrEqual(t, len(got), headerGrowth*len(headers)+2, "%s, under names of their own", name)
	}
}
