package republish_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/republish"
)

// However a platform hands a message on, it is the same message: body, and properties byte by byte.
func TestRepublishingKeepsTheProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		original := amqptest.Properties{
			ContentType: rapid.StringN(0, 50, 255).Draw(t, "type"), Expiration: "1", UserID: "u", MessageID: rapid.StringN(0, 50, 255).Draw(t, "id"),
			Priority: rapid.Byte().Draw(t, "priority"),
			Headers:  rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "headers"),
		}
		if rapid.Bool().Draw(t, "large") {
			original.Headers = append(original.Headers, bytes.Repeat([]byte{7}, rapid.IntRange(40<<10, 130_000).Draw(t, "size"))...)
		}
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		d := consume.Delivery{Delivery: amqp.Delivery{Body: bytes.Clone(body)}, Properties: original.Encode()}
		for range rapid.IntRange(1, 3).Draw(t, "times") {
			p := republish.Publishing(d)
			require.NoError(t, p.Headers.Validate())
			encoded := amqptest.Encode(p)
			require.Less(t, len(encoded), 64<<10, "it fits into a frame, with all that is added to it")
			d = consume.Delivery{Delivery: amqp.Delivery{Body: p.Body}, Properties: encoded}
			republish.Unwrap(&d)
			require.True(t, bytes.Equal(body, d.Body))
			require.Equal(t, header.Properties(original.Encode()), republish.Original(&d))
		}
	})
}

func TestRepublishing(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	d := consume.Delivery{Delivery: amqp.Delivery{
		ContentType: "application/json", ContentEncoding: "gzip", CorrelationId: "c", ReplyTo: "r", MessageId: "m", Timestamp: at, Type: "t",
		AppId: "a", UserId: "u", Expiration: "100", DeliveryMode: amqp.Transient, Priority: 9, Body: []byte("body"),
	}, Properties: amqptest.Properties{UserID: "u", Headers: amqptest.Field("CC", 'A', amqptest.Elements(1)...)}.Encode()}
	want := amqp.Publishing{
		Headers: amqp.Table{contract.HeaderProperties: []byte(d.Properties)}, ContentType: "application/json", ContentEncoding: "gzip",
		CorrelationId: "c", ReplyTo: "r", MessageId: "m", Timestamp: at, Type: "t", AppId: "a", DeliveryMode: amqp.Persistent, Body: []byte("body"),
	}
	require.Equal(t, want, republish.Publishing(d))
	d.ReplyTo = "amq.rabbitmq.reply-to"
	require.Empty(t, republish.Publishing(d).ReplyTo, "the broker would close the channel")

	// With both, it would be larger than what the broker takes.
	d.Body = make([]byte, 16<<20-1000)
	d.Properties = amqptest.Properties{AppID: "a", Headers: amqptest.Field("x", 'S', amqptest.Long(make([]byte, 100_000))...)}.Encode()
	p := republish.Publishing(d)
	require.Len(t, p.Body, len(d.Body))
	require.Equal(t, amqptest.Properties{AppID: "a"}.Encode(), p.Headers[contract.HeaderProperties])
}

// A replay has all that may act again, and nothing that must not.
func TestReplaying(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000_000, 0)
	headers := amqptest.EveryType()
	maps.Copy(headers, amqp.Table{
		"CC": []any{"other"}, "BCC": []any{"other"}, "x-death": []any{}, "x-first-death-queue": "q", "x-last-death-queue": "q", "x-delivery-count": int64(1),
		"x-delay": int32(1), "x-opt-a": true, contract.HeaderAttempt: int32(3), contract.HeaderProperties: []byte("forged"),
	})
	p := amqp.Publishing{
		Headers: headers, ContentType: "application/json", ContentEncoding: "identity", CorrelationId: "c", ReplyTo: "r", MessageId: "m",
		Timestamp: at, Type: "t", AppId: "a", UserId: "u", Expiration: "100", DeliveryMode: amqp.Transient, Priority: 9,
	}
	want := p
	want.Headers, want.UserId, want.Expiration, want.DeliveryMode, want.MessageId = amqptest.EveryType(), "", "", amqp.Persistent, "id"
	require.Equal(t, want, republish.Replay(amqptest.Encode(p), "id"))
	require.Equal(t, amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: "id"}, republish.Replay([]byte{0xff}, "id"))
	require.Equal(t, amqp.Publishing{DeliveryMode: amqp.Persistent, MessageId: "id"}, republish.Replay(nil, "id"))
	require.Nil(t, republish.Replay(amqptest.Properties{Headers: amqptest.Field("a", 'A', amqptest.Arrays(33)...)}.Encode(), "id").Headers)

	// What does not fit goes, the largest first.
	text := func(n int) []byte { return amqptest.Long(bytes.Repeat([]byte("x"), n)) }
	large := slices.Concat(amqptest.Field("a", 'S', text(50_000)...), amqptest.Field("b", 'S', text(70_000)...), amqptest.Field("c", 'S', text(10_000)...))
	fit := republish.Replay(amqptest.Properties{Headers: large}.Encode(), "id")
	require.ElementsMatch(t, []string{"a", "c"}, slices.Collect(maps.Keys(fit.Headers)))
	fit = republish.Replay(amqptest.Properties{Headers: amqptest.Field("b", 'S', text(126_000)...)}.Encode(), strings.Repeat("i", 255))
	require.Len(t, fit.Headers, 1)
}
