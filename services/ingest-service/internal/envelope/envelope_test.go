package envelope_test

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/envelope"
)

func encode(t rapid.TB, headers amqp.Table) header.Table {
	t.Helper()
	return header.Properties(amqptest.Encode(amqp.Publishing{Headers: headers})).Headers()
}

func TestValuesOfHeadersAreText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		value any
		text  string
	}{
		{"", ""},
		{"ä", "ä"},
		{true, "true"},
		{false, "false"},
		{int8(-1), "-1"},
		{byte(255), "255"},
		{int16(-300), "-300"},
		{int32(math.MinInt32), "-2147483648"},
		{int64(math.MaxInt64), "9223372036854775807"},
		{float32(0.1), "0.1"},
		{1e21, "1e+21"},
		{-0.5, "-0.5"},
		{math.Inf(1), "+Inf"},
		{amqp.Decimal{Scale: 2, Value: 12345}, "123.45"},
		{amqp.Decimal{Scale: 0, Value: -7}, "-7"},
		{amqp.Decimal{Scale: 3, Value: -7}, "-0.007"},
	} {
		e, _, err := envelope.Of("", encode(t, amqp.Table{"mtm-attr-a": c.value}))
		require.NoError(t, err)
		require.Equal(t, &contract.Envelope{Attributes: map[string]string{"a": c.text}}, e)
	}
}

func TestNoEnvelope(t *testing.T) {
	t.Parallel()
	for _, headers := range []amqp.Table{
		nil, {"a": "b", "MTM-KEY": "x", "mtm": "x", "mtm-keys": "x", "mtm-": []any{}}, {"mtm-key": "", "mtm-type": nil, "mtm-attr-a": nil},
	} {
		e, ignored, err := envelope.Of("", encode(t, headers))
		require.NoError(t, err)
		require.False(t, ignored)
		require.Nil(t, e)
	}
	// What cannot be read belongs to nobody.
	_, _, err := envelope.Of("", header.Table{7, 'm'})
	require.NoError(t, err)
}

func TestTheHeaderIsTheTypeBeforeTheProperty(t *testing.T) {
	t.Parallel()
	e, ignored, err := envelope.Of("\x00", encode(t, amqp.Table{"mtm-type": "header"}))
	require.NoError(t, err)
	require.False(t, ignored, "nobody has read it")
	require.Equal(t, "header", e.Type)
	e, ignored, err = envelope.Of("\x00", nil)
	require.NoError(t, err)
	require.True(t, ignored)
	require.Nil(t, e)
}

// The last of several headers of one name counts, as where a dead letter is replayed.
func TestHeadersOfOneName(t *testing.T) {
	t.Parallel()
	headers := append(encode(t, amqp.Table{"mtm-key": "first", "mtm-attr-a": "1"}), encode(t, amqp.Table{"mtm-key": "last", "mtm-attr-a": nil})...)
	e, _, err := envelope.Of("", headers)
	require.NoError(t, err)
	require.Equal(t, &contract.Envelope{Key: "last"}, e)
}

func TestHeadersOutsideOfTheContract(t *testing.T) {
	t.Parallel()
	many := amqp.Table{}
	for i := range 2000 {
		many["mtm-attr-"+strconv.Itoa(i)] = "x"
	}
	for _, c := range []struct {
		headers amqp.Table
		field   string
	}{
		{amqp.Table{"mtm-type": strings.Repeat("x", 256)}, "mtm-type"},
		{amqp.Table{"mtm-type": []byte("x")}, "mtm-type"},
		{amqp.Table{"mtm-key": amqp.Table{}}, "mtm-key"},
		{amqp.Table{"mtm-key": "a\x00"}, "mtm-key"},
		{amqp.Table{"mtm-attr-a": []any{}}, "mtm-attr-a"},
		{amqp.Table{"mtm-attr-a": strings.Repeat("x", 513)}, "mtm-attr-a"},
		{amqp.Table{"mtm-attr-": "x"}, "mtm-attr-*"},
		{amqp.Table{"mtm-attr-A": "x"}, "mtm-attr-*"},
		{many, "mtm-attr-*"},
	} {
		_, _, err := envelope.Of("fine", encode(t, c.headers))
		refused, ok := errors.AsType[*contract.EnvelopeError](err)
		require.True(t, ok, c.field)
		require.Equal(t, c.field, refused.Field)
	}
	// A name that is no text is shown as text.
	raw := append([]byte{byte(len("mtm-attr-\xff"))}, "mtm-attr-\xff"...)
	raw = binary.BigEndian.AppendUint32(append(raw, 'A'), 0)
	_, _, err := envelope.Of("", raw)
	refused, ok := errors.AsType[*contract.EnvelopeError](err)
	require.True(t, ok)
	require.Equal(t, "mtm-attr-\ufffd", refused.Field)
}

// What is put into a message is read from it again, and nothing is left of what was there.
func TestPutAndOf(t *testing.T) {
	t.Parallel()
	text := rapid.StringMatching(`[ -~ä€]{0,50}`)
	rapid.Check(t, func(r *rapid.T) {
		e := &contract.Envelope{Type: text.Draw(r, "type"), Key: text.Draw(r, "key")}
		if n := rapid.IntRange(0, 16).Draw(r, "n"); n > 0 {
			e.Attributes = rapid.MapOfN(rapid.StringMatching(`[a-z0-9_.-]{1,20}`), text, n, n).Draw(r, "attributes")
		}
		p := amqp.Publishing{Type: "old", Headers: amqp.Table{"mtm-key": "old", "mtm-type": "old", "mtm-attr-old": "old", "kept": "x"}}
		envelope.Put(&p, e)
		require.Equal(r, "x", p.Headers["kept"])
		got, ignored, err := envelope.Of(p.Type, encode(r, p.Headers))
		require.NoError(r, err)
		require.False(r, ignored)
		if e.IsZero() {
			require.Nil(r, got)
			return
		}
		require.Equal(r, e, got)
	})
}

// A message without an envelope costs no memory for it.
func BenchmarkNoEnvelope(b *testing.B) {
	headers := encode(b, amqp.Table{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "retry": int32(1)})
	b.ReportAllocs()
	for b.Loop() {
		if e, _, err := envelope.Of("", headers); e != nil || err != nil {
			b.Fatal(e, err)
		}
	}
}
