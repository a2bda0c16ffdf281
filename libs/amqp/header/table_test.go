package header_test

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Whatever a library has written is read as it was, type by type.
func TestTableDecode(t *testing.T) {
	t.Parallel()
	encoded := header.Table(amqptest.Table(amqptest.EveryType()))
	require.Equal(t, amqptest.EveryType(), encoded.Decode())
	for f, err := range encoded.Fields() {
		require.NoError(t, err)
		require.Equal(t, f.Raw, encoded.Lookup(string(f.Name)).Raw)
	}
	for name, want := range map[string]int64{"int8": -8, "byte": 200, "int16": -16, "uint16": math.MaxUint16, "int32": -32, "uint32": math.MaxUint32, "int64": math.MinInt64} {
		n, ok := encoded.Lookup(name).Int()
		require.True(t, ok)
		require.Equal(t, want, n, name)
	}
	_, ok := encoded.Lookup("string").Int()
	require.False(t, ok)
	require.Empty(t, encoded.Lookup("bytes").Text())
	require.Equal(t, "text\x00\xff", encoded.Lookup("string").Text())
	require.Equal(t, encoded, encoded.Without(func(string) bool { return false }))
	require.Empty(t, encoded.Without(func(string) bool { return true }))
}

// What is decoded is published again: it must be whole, and what other clients read.
func TestTableDecodeLeavesOutWhatOthersCannotRead(t *testing.T) {
	t.Parallel()
	field := amqptest.Field
	good := field("good", 't', 1)
	for name, bad := range map[string][]byte{
		"tables in 33 levels":            field("bad", 'F', amqptest.Tables(33)...),
		"arrays in 33 levels":            field("bad", 'A', amqptest.Arrays(33)...),
		"arrays in 50,000 levels":        field("bad", 'A', amqptest.Arrays(50_000)...),
		"8,193 elements":                 field("bad", 'A', amqptest.Elements(8193)...),
		"8,193 elements in another list": field("bad", 'A', amqptest.Long(append([]byte{'A'}, amqptest.Elements(8193)...))...),
		"an unknown type in a table":     field("bad", 'F', amqptest.Long(field("a", '!'))...),
		"a length that lies":             field("bad", 'A', amqptest.Long([]byte{'S', 0, 0, 1, 0})...),
		"twice, the last one bad":        append(field("bad", 't', 1), field("bad", 'A', amqptest.Elements(8193)...)...),
	} {
		require.Equal(t, amqp.Table{"good": true}, header.Table(append(bytes.Clone(bad), good...)).Decode(), name)
	}
	for name, end := range map[string][]byte{"an unknown type": field("bad", '!'), "a length that lies": field("bad", 'S', 0, 0, 1, 0), "nothing": {3}} {
		require.Equal(t, amqp.Table{"good": true}, header.Table(append(bytes.Clone(good), end...)).Decode(), name)
	}
	var many []byte
	for i := range 9000 {
		many = append(many, field(fmt.Sprint(i), 'V')...)
	}
	require.Len(t, header.Table(many).Decode(), 8192)
	require.Len(t, header.Table(field("a", 'A', amqptest.Elements(8192)...)).Decode()["a"], 8192)
}

// The limits that the platform keeps are those of the library: what is published at them is read, one level or one element
// more ends the connection of its reader.
func TestLimitsAreThoseOfTheLibrary(t *testing.T) {
	t.Parallel()
	b := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, b.URL, nil)
	ch := amqptest.Channel(t, link)
	_, err := ch.QueueDeclare("q", true, false, false, false, nil)
	require.NoError(t, err)
	raw, err := amqptest.Dial(t.Context(), b.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	publisher := amqptest.StartPublisher(t, link, 1)
	// readable reports whether the library reads what is in the queue.
	readable := func() bool {
		conn, err := amqp.Dial(b.URL)
		require.NoError(t, err)
		defer func() { _ = conn.Close() }() // it may be closed already
		ch, err := conn.Channel()
		require.NoError(t, err)
		_, ok, err := ch.Get("q", true)
		require.Equal(t, err == nil, ok)
		return ok
	}
	for name, form := range map[string]func(n int) []byte{
		"tables":   func(n int) []byte { return amqptest.Field("a", 'F', amqptest.Tables(32+n)...) },
		"arrays":   func(n int) []byte { return amqptest.Field("a", 'A', amqptest.Arrays(32+n)...) },
		"elements": func(n int) []byte { return amqptest.Field("a", 'A', amqptest.Elements(8192+n)...) },
		"fields": func(n int) []byte {
			var fields []byte
			for i := range 8192 + n {
				fields = append(fields, amqptest.Field(fmt.Sprint(i), 'V')...)
			}
			return amqptest.Field("a", 'F', amqptest.Long(fields)...)
		},
	} {
		within, beyond := header.Table(form(0)).Decode(), form(1)
		require.Len(t, within, 1, name)
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), publish.Message{Key: "q", Publishing: amqp.Publishing{Headers: within}}), name)
		require.True(t, readable(), name)
		require.NoError(t, raw.Publish("", "q", amqptest.Properties{Headers: beyond}.Encode(), nil))
		require.False(t, readable(), "%s: the library has other limits now", name)
		_, err := ch.QueuePurge("q", false)
		require.NoError(t, err)
	}
	deep, list := amqp.Table{}, make([]any, 8193)
	for range 32 {
		deep = amqp.Table{"n": deep}
	}
	for name, headers := range map[string]amqp.Table{
		"depth": {"a": deep}, "elements": {"a": list}, "elements in a table": {"a": amqp.Table{"b": list}}, "elements in a list": {"a": []any{list}},
		"size": {"a": strings.Repeat("x", 129<<10)}, "a name": {strings.Repeat("n", 256): true}, "a name within": {"a": []any{amqp.Table{strings.Repeat("n", 256): true}}},
	} {
		err := publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), publish.Message{Key: "q", Publishing: amqp.Publishing{Headers: headers}})
		require.ErrorIs(t, err, publish.ErrInvalid, name)
	}
}

// Properties are cut and joined at the right places, whichever of them there are.
func TestPropertiesChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"", "text", strings.Repeat("x", 255)})
		p := amqptest.Properties{
			ContentType: text.Draw(t, "content type"), ContentEncoding: text.Draw(t, "encoding"), DeliveryMode: rapid.Byte().Draw(t, "mode"),
			Priority: rapid.Byte().Draw(t, "priority"), CorrelationID: text.Draw(t, "correlation"), ReplyTo: text.Draw(t, "reply"),
			MessageID: text.Draw(t, "id"), Type: text.Draw(t, "type"), Timestamp: rapid.Uint64().Draw(t, "time"), AppID: text.Draw(t, "app"),
		}
		if rapid.Bool().Draw(t, "headers") {
			p.Headers = amqptest.Field("a", 't', 1)
		}
		encoded := header.Properties(p.Encode())
		require.Equal(t, p.Headers, []byte(encoded.Headers()))
		require.Equal(t, p.Priority != 0, encoded.HasPriority())
		decoded, _, err := encoded.Decode()
		require.NoError(t, err)
		require.Equal(t, []any{p.ContentType, p.MessageID, p.AppID, p.Priority}, []any{decoded.ContentType, decoded.MessageId, decoded.AppId, decoded.Priority})

		expired := p
		expired.Expiration = text.Draw(t, "expiration")
		require.Equal(t, header.Properties(expired.Encode()), encoded.WithExpiration(expired.Expiration))
		require.Equal(t, encoded, encoded.WithExpiration(strings.Repeat("1", 256)))
		if withOne := header.Properties(expired.Encode()); expired.Expiration != "" {
			require.Equal(t, withOne, withOne.WithExpiration("1"), "a second one would end up in the property behind it")
		}
		p.Headers = nil
		require.Equal(t, header.Properties(p.Encode()), encoded.WithHeaders(nil))
		p.Headers = amqptest.Field("b", 'V')
		require.Equal(t, header.Properties(p.Encode()), encoded.WithHeaders(p.Headers))

		cut := encoded[:rapid.IntRange(0, len(encoded)-1).Draw(t, "cut")]
		_, _, err = cut.Decode()
		require.ErrorIs(t, err, header.ErrUnreadable)
		_, _, _ = cut.Headers(), cut.WithHeaders(nil), cut.WithExpiration("1") // no panic
	})
}
