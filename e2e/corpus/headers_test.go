package corpus_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// headerForms are headers that a producer may send: each ends some client, or changes on the way through one.
func headerForms() map[string][]byte {
	field := amqptest.Field
	number := func(n uint64) []byte {
		return []byte{byte(n >> 56), byte(n >> 48), byte(n >> 40), byte(n >> 32), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	fields := func(n int) (all []byte) {
		for i := range n {
			all = append(all, field(fmt.Sprint(i), 'V')...)
		}
		return all
	}
	forms := map[string][]byte{
		"none":                         nil,
		"a table without fields":       {},
		"8,192 elements":               field("a", 'A', amqptest.Elements(8192)...),
		"8,193 elements":               field("a", 'A', amqptest.Elements(8193)...),
		"100,000 elements":             field("a", 'A', amqptest.Elements(100_000)...),
		"9,000 fields":                 fields(9000),
		"9,000 fields in a table":      field("a", 'F', amqptest.Long(fields(9000))...),
		"40,000 fields of one name":    bytes.Repeat(field("", 'V'), 40_000),
		"a name twice":                 slices.Concat(field("a", 't', 1), field("b", 'V'), field("a", 't', 0)),
		"a long name":                  field(strings.Repeat("n", 255), 'V'),
		"a name that is not UTF-8":     field("\xff\x00", 'V'),
		"text that is not UTF-8":       field("a", 'S', amqptest.Long([]byte("a\x00\xff\xfe"))...),
		"bytes":                        field("a", 'x', amqptest.Long([]byte{0, 255})...),
		"decimal":                      field("a", 'D', 2, 0, 0, 7, 0xcf),
		"a time in milliseconds":       field("a", 'T', number(1_700_000_000_000)...),
		"a time before all":            field("a", 'T', number(math.MaxUint64)...),
		"numbers":                      slices.Concat(field("b", 'b', 128), field("B", 'B', 255), field("s", 's', 128, 0), field("u", 'u', 255, 255), field("I", 'I', 128, 0, 0, 0), field("i", 'i', 255, 255, 255, 255), field("l", 'l', number(1<<63)...), field("t", 't', 1)),
		"floats":                       slices.Concat(field("f", 'f', 0x3e, 0, 0, 0), field("d", 'd', number(math.Float64bits(math.MaxFloat64))...), field("z", 'd', number(1<<63)...)),
		"another code for 64 bits":     field("L", 'L', number(7)...),
		"NaN":                          field("a", 'd', number(math.Float64bits(math.NaN()))...),
		"headers of the platform":      slices.Concat(field(contract.HeaderProperties, 'l', number(1)...), field(contract.HeaderAttempt, 'l', number(99)...), field(contract.HeaderTenant, 'S', amqptest.Long([]byte(uuid.Max.String()))...), field("a", 'V')),
		"properties in a header":       field(contract.HeaderProperties, 'x', amqptest.Long([]byte("\xff"))...),
		"headers that the broker uses": slices.Concat(field("x-match", 'S', amqptest.Long([]byte("all"))...), field("x-expires", 'V'), field("x-stream-offset", 'l', number(1)...)),
	}
	for _, levels := range []int{32, 33, 100, 5000} {
		forms[fmt.Sprintf("tables in %d levels", levels)] = field("a", 'F', amqptest.Tables(levels)...)
		forms[fmt.Sprintf("arrays in %d levels", levels)] = field("a", 'A', amqptest.Arrays(levels)...)
	}
	for _, size := range []int{48 << 10, 64 << 10, 100_000, 128_000, 129_500, 130_000, 130_700} {
		forms[fmt.Sprintf("%d bytes", size)] = field("a", 'S', amqptest.Long(bytes.Repeat([]byte("x"), size))...)
	}
	// As large as a frame can be, with the other properties of propertiesOf.
	sides := len(propertiesOf(uuid.Nil, "", field("a", 'S', 0, 0, 0, 0)))
	forms["a full frame"] = field("a", 'S', amqptest.Long(bytes.Repeat([]byte("x"), amqptest.MaxProperties-sides))...)
	return forms
}

// propertiesOf are all properties that a producer may set, with headers.
func propertiesOf(id uuid.UUID, expiration string, headers []byte) []byte {
	return amqptest.Properties{
		ContentType: "application/json", ContentEncoding: "identity", Headers: headers, DeliveryMode: 2, Priority: 3, CorrelationID: "correlation",
		ReplyTo: "reply", Expiration: expiration, MessageID: id.String(), Timestamp: 1_700_000_000_000, Type: "type", AppID: "app",
	}.Encode()
}

// One message stops nobody's dead letters, and each has all that came with the message, whichever way it took and whatever
// headers it has: not JSON, expired in the queue of a suspended tenant, or refused by the database until it was tried too
// often. What is replayed has it again.
func TestHeadersOnTheWayToDeadLettersAndBack(t *testing.T) {
	w := newWorld(t, map[string]string{"INGEST_RETRY_DELAYS": "200ms,400ms", "INGEST_MAX_ATTEMPTS": "3"})
	_, err := w.operator.Exec(t.Context(), refusals)
	require.NoError(t, err)
	producer, err := amqptest.Dial(t.Context(), w.broker)
	require.NoError(t, err)
	defer func() { _ = producer.Close() }() // it may have been replaced
	tenant, token := w.createTenant(t)
	asleep, asleepToken := w.createTenant(t)
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	_, err = w.api.SuspendTenant(ctx, client.ID(asleep), client.Wait())
	require.NoError(t, err)

	sent := map[uuid.UUID]string{} // the names of the forms, by message id
	published := map[uuid.UUID][]byte{}
	accepted := map[string]bool{}
	publish := func(to uuid.UUID, form, expiration, body string, headers []byte) {
		id := uuid.New()
		properties := propertiesOf(id, expiration, headers)
		if excess := len(properties) - amqptest.MaxProperties; excess > 0 { // that form alone
			headers = slices.Clone(headers[:len(headers)-excess])
			copy(headers[1+len("a")+1:], amqptest.Long(headers[1+len("a")+1+4:])[:4])
			properties = propertiesOf(id, expiration, headers)
		}
		if err := producer.Publish(contract.MessagesExchange, to.String(), properties, []byte(body)); err != nil {
			var refused *amqptest.ExceptionError // what the broker refuses concerns nobody else
			require.ErrorAs(t, err, &refused, form)
			require.Contains(t, []string{"NaN"}, form, "%v", err)
			producer, err = amqptest.Dial(t.Context(), w.broker)
			require.NoError(t, err)
			return
		}
		if form == "another code for 64 bits" { // the broker sends them under the usual one
			properties = bytes.Replace(properties, []byte("\x01LL"), []byte("\x01Ll"), 1)
		}
		sent[id], published[id], accepted[form] = form, properties, true
	}
	forms := headerForms()
	for form, headers := range forms {
		publish(tenant, form, "", `{bad`, headers)
		publish(tenant, form, "", `{"transient":1}`, headers)
		publish(asleep, form, "100", `{}`, headers)
	}
	require.GreaterOrEqual(t, len(accepted), len(forms)-1)

	deadLetters := append(w.awaitDeadLetters(t, token, 2*len(accepted)), w.awaitDeadLetters(t, asleepToken, len(accepted))...)
	for _, l := range deadLetters {
		form := sent[uuid.UUID(l.MessageID)]
		var kept []byte
		require.NoError(t, w.operator.QueryRow(t.Context(), `SELECT properties FROM dead_letters WHERE id = $1`, uuid.UUID(l.ID)).Scan(&kept))
		equalProperties(t, published[uuid.UUID(l.MessageID)], kept, form+", "+l.Reason)
		require.Equal(t, "application/json", l.ContentType, form)
		want := `{"content_type":"application/json","content_encoding":"identity","delivery_mode":2,"priority":3,"correlation_id":"correlation",
			"reply_to":"reply","message_id":"` + l.MessageID.String() + `","timestamp":"2023-11-14T22:13:20.000Z","type":"type","app_id":"app"`
		if l.Reason == "expired" {
			want += `,"expiration":"100"`
		}
		require.JSONEq(t, want+"}", string(l.Properties), form)
	}
	w.checkReplays(t, tenant, token, deadLetters, sent, published)
}

// checkReplays replays what the database has refused, and compares what is published with what was.
func (w *world) checkReplays(t *testing.T, tenant uuid.UUID, token string, deadLetters []client.DeadLetter, sent map[uuid.UUID]string, published map[uuid.UUID][]byte) {
	t.Helper()
	_, err := w.operator.Exec(t.Context(), `UPDATE allowed SET transient = true`)
	require.NoError(t, err)
	observer, err := amqptest.Dial(t.Context(), w.broker)
	require.NoError(t, err)
	defer func() { require.NoError(t, observer.Close()) }()
	w.bind(t, "observer", tenant)
	replayed := 0
	for _, l := range deadLetters {
		if l.Reason != string(contract.ReasonMaxAttempts) {
			continue
		}
		form := sent[uuid.UUID(l.MessageID)]
		result, err := w.as(token).ReplayDeadLetter(t.Context(), l.ID)
		require.NoError(t, err)
		require.Equal(t, client.Replayed, result.Result)
		replayed++
		var m *amqptest.Message
		require.Eventually(t, func() bool {
			m, err = observer.Get("observer")
			return err != nil || m != nil
		}, waitLimit, poll, form)
		require.NoError(t, err)
		got, headers, err := header.Properties(m.Properties).Decode()
		require.NoError(t, err)
		got.Headers = headers.Decode()
		want, headers, err := header.Properties(published[uuid.UUID(l.MessageID)]).Decode()
		require.NoError(t, err)
		want.Headers = headers.Without(func(name string) bool { return strings.HasPrefix(name, contract.HeaderPrefix) }).Decode()
		if len(headers) > 128_900 {
			want.Headers = amqp.Table{} // with what the broker adds they would not fit into a frame
		}
		first := want
		first.Headers = headers.Without(repeated()).Decode()
		if form == "9,000 fields" { // of which 8,192 are published; which these are depends on the order in which the broker has kept them
			require.Len(t, got.Headers, len(want.Headers), form)
			names := map[string]bool{} // to look each of them up among the bytes would take a minute
			for f, err := range headers.Fields() {
				require.NoError(t, err)
				names[string(f.Name)] = true
			}
			for name, value := range got.Headers {
				require.True(t, names[name] && value == nil, name)
			}
			want.Headers = got.Headers
		}
		require.True(t, assert.ObjectsAreEqual(want, got) || assert.ObjectsAreEqual(first, got), "%s\nwant %.300v\ngot  %.300v", form, want, got)
	}
	require.Positive(t, replayed)
	w.awaitAll(t, token, replayed)
}

// repeated tells the headers whose name there has been before.
func repeated() func(name string) bool {
	seen := map[string]bool{}
	return func(name string) bool {
		again := seen[name]
		seen[name] = true
		return again
	}
}

// equalProperties demands that properties are the same, except for headers that a queue adds, and their order: the broker sorts
// the headers of what it dead-letters, and of headers of one name RabbitMQ 4 keeps the first.
func equalProperties(t *testing.T, want, got header.Properties, name string) {
	t.Helper()
	sorted := func(p header.Properties) header.Properties {
		var fields []string
		for f, err := range p.Headers().Fields() {
			require.NoError(t, err, name)
			if string(f.Name) != "x-delivery-count" {
				fields = append(fields, string(f.Raw))
			}
		}
		slices.Sort(fields)
		return p.WithHeaders([]byte(strings.Join(fields, "")))
	}
	first := want.WithHeaders(want.Headers().Without(repeated()))
	if !bytes.Equal(sorted(want), sorted(got)) && !bytes.Equal(sorted(first), sorted(got)) {
		require.Failf(t, "other properties", "%s\nsent %.300q\ngot  %.300q", name, want, got)
	}
}

// bind has a queue that gets a copy of what reaches the queue of a tenant, except from the retries.
func (w *world) bind(t *testing.T, queue string, tenant uuid.UUID) {
	t.Helper()
	amqptest.Do(t, w.link, func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclare(queue, true, false, false, false, nil); err != nil {
			return err
		}
		return ch.QueueBind(queue, tenant.String(), contract.TenantsExchange, false, nil)
	})
}
