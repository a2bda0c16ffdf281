package platform_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// fuzzFor is how long bytes are published; a thousand messages at least.
var fuzzFor = flag.Duration("hostile", 0, "how long FuzzPublishedProperties publishes for each of its seeds")

// Whatever bytes a producer sends as the properties of a message: nothing stops for anybody else, and what the broker has confirmed
// is stored or a dead letter. The producer's own connection may be closed for it.
func FuzzPublishedProperties(f *testing.F) {
	if testing.Short() {
		f.Skip("NOT RUN with -short, by make test-long alone: it starts a broker of its own")
	}
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		const each = 1000
		h := newHostile(t)
		z := &fuzzer{
			hostile: h, random: rand.New(rand.NewPCG(seed, seed)), outcomes: make(map[string]int),
			running: h.createTenant(t, 2), waiting: h.createTenant(t, 1), confirmed: make(map[uuid.UUID]int),
		}
		defer z.hangUp()
		h.suspend(t, z.waiting)
		for end := time.Now().Add(*fuzzFor); ; {
			for range each {
				z.publish(t)
			}
			h.check(fmt.Sprintf("%d messages", z.sent))
			h.newTenant()
			z.accounted(t, z.running)
			if !time.Now().Before(end) {
				break
			}
		}
		h.resume(t, z.waiting)
		z.accounted(t, z.waiting)
		require.Empty(t, h.degraded())
		t.Logf("seed %d: %d messages, %v; %d connections of the producer", seed, z.sent, z.outcomes, z.dialled)
	})
}

// fuzzer publishes.
type fuzzer struct {
	*hostile
	random           *rand.Rand
	running, waiting uuid.UUID // tenants: one that is consumed, one that is suspended
	conn             *amqptest.Conn
	sent, dialled    int
	confirmed        map[uuid.UUID]int
	outcomes         map[string]int
}

func (z *fuzzer) hangUp() {
	if z.conn != nil {
		_ = z.conn.Close() // nothing more is said on it
		z.conn = nil
	}
}

// publish publishes one message.
func (z *fuzzer) publish(t *testing.T) {
	t.Helper()
	z.sent++
	tenant := z.running
	if z.random.IntN(4) == 0 {
		tenant = z.waiting
	}
	properties, body := z.properties(), z.body()
	if z.conn == nil {
		conn, err := amqptest.Dial(t.Context(), z.RabbitMQURL)
		require.NoError(t, err)
		z.conn, z.dialled = conn, z.dialled+1
	}
	err := z.conn.Publish(contract.MessagesExchange, tenant.String(), properties, body)
	var exception *amqptest.ExceptionError
	switch {
	case err == nil:
		z.confirmed[tenant]++
		z.outcomes["confirmed"]++
	case errors.Is(err, amqptest.ErrRefused):
		z.outcomes["refused"]++
	case errors.Is(err, amqptest.ErrReturned):
		z.outcomes["returned"]++
	case errors.As(err, &exception):
		z.outcomes[fmt.Sprint("exception ", exception.Code)]++
		z.hangUp()
	default:
		z.outcomes["cut off"]++
		z.hangUp()
	}
}

// accounted waits until every message that was confirmed for a tenant is stored or a dead letter.
func (z *fuzzer) accounted(t *testing.T, tenant uuid.UUID) {
	t.Helper()
	found := 0
	if !assert.Eventually(t, func() bool {
		require.NoError(t, z.operator.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM messages WHERE tenant_id = $1)
			+ (SELECT count(*) FROM dead_letters WHERE tenant_id = $1)`, tenant).Scan(&found))
		return found >= z.confirmed[tenant]
	}, waitLimit, poll) {
		require.FailNow(t, "messages are lost or held up", "%d confirmed, %d found", z.confirmed[tenant], found)
	}
}

func (z *fuzzer) one(of ...string) string { return of[z.random.IntN(len(of))] }

func (z *fuzzer) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(z.random.Uint32())
	}
	return b
}

func (z *fuzzer) body() []byte {
	switch z.random.IntN(4) {
	case 0:
		return nil
	case 1:
		return z.bytes(z.random.IntN(300))
	default:
		return fmt.Appendf(nil, `{"n":%d}`, z.sent)
	}
}

// properties are those of a message as bytes: well formed, or changed somewhere.
func (z *fuzzer) properties() []byte {
	maybe := func(text string) string {
		switch z.random.IntN(3) {
		case 0:
			return text
		case 1:
			return string(z.bytes(z.random.IntN(255)))
		}
		return ""
	}
	p := amqptest.Properties{
		ContentType:     maybe("application/json"),
		ContentEncoding: maybe(z.one("gzip", "UTF-8", "\xff\xfe")),
		DeliveryMode:    byte(z.random.IntN(3)),
		CorrelationID:   maybe("correlation"),
		ReplyTo:         maybe(z.one("amq.rabbitmq.reply-to", contract.ParkingQueue)),
		Expiration:      z.one("", "", "", "", "", "0", "1", "2", "30", "300", "3000", z.one("-1", "1.5", " 1", "99999999999999999999", "one")),
		MessageID:       z.one("", fmt.Sprintf("%d", z.sent), uuid.NewString(), fmt.Sprintf("%d\x00\xff%s", z.sent, strings.Repeat("x", 200))),
		Type:            maybe("type"),
		AppID:           maybe("\u202eapp"),
		UserID:          strings.Repeat("guest", max(z.random.IntN(40)-38, 0)),
	}
	if z.random.IntN(4) == 0 {
		p.Priority, p.Timestamp = byte(z.random.IntN(256)), z.random.Uint64()
	}
	if z.random.IntN(4) > 0 {
		p.Headers = z.headers()
	}
	encoded := p.Encode()
	if z.random.IntN(8) > 0 {
		return encoded
	}
	switch at := z.random.IntN(len(encoded)); z.random.IntN(4) {
	case 0:
		encoded[at] = byte(z.random.Uint32())
	case 1:
		encoded = encoded[:at]
	case 2:
		encoded = append(encoded, z.bytes(1+z.random.IntN(20))...)
	default: // any flags, with the values of others
		binary.BigEndian.PutUint16(encoded, uint16(z.random.Uint32()))
	}
	return encoded
}

// headers are fields: of every type and name, large ones, doubled ones, and such that lie about their length.
func (z *fuzzer) headers() (fields []byte) {
	names := []string{
		"x-death", "CC", "BCC", "x-delivery-count", "x-first-death-queue", "x-first-death-reason", "x-last-death-exchange", "x-match",
		"x-delay", "x-acquired-count", "x-opt-delivery-count", contract.HeaderAttempt, contract.HeaderFirstFailedAt, contract.HeaderReason,
		contract.HeaderError, "", "a", "a\x00b", "\xff", strings.Repeat("n", 255),
	}
	for range z.random.IntN(6) {
		fields = append(fields, amqptest.Short(z.one(names...))...)
		fields = append(fields, z.field(0)...)
	}
	switch z.random.IntN(20) {
	case 0:
		fields = append(fields, amqptest.Field("deep", 'F', amqptest.Tables(1+z.random.IntN(3000))...)...)
	case 1:
		fields = append(fields, amqptest.Field("deep", 'A', amqptest.Arrays(1+z.random.IntN(3000))...)...)
	case 2:
		fields = append(fields, amqptest.Field("wide", 'A', amqptest.Elements(1+z.random.IntN(100_000))...)...)
	case 3:
		fields = append(fields, amqptest.Field("long", 'S', amqptest.Long(z.bytes(z.random.IntN(125_000)))...)...)
	}
	return fields
}

// field is a value with its type.
func (z *fuzzer) field(depth int) []byte {
	const types = "tbBsuIilfdDSxTAFVLZ?"
	sizes := map[byte]int{'t': 1, 'b': 1, 'B': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'l': 8, 'L': 8, 'f': 4, 'd': 8, 'D': 5, 'T': 8}
	known := len(types) - 3
	if z.random.IntN(30) == 0 {
		known = len(types)
	}
	kind := types[z.random.IntN(known)]
	value := z.bytes(sizes[kind])
	switch kind {
	case 'S', 'x':
		value = amqptest.Long([]byte(z.one("", "text", z.running.String(), z.neighbour.String(), uuid.NewString(), string(z.bytes(50)))))
	case 'A', 'F':
		var inner []byte
		for range z.random.IntN(4) {
			if depth > 4 {
				break
			}
			if kind == 'F' {
				inner = append(inner, amqptest.Short(z.one("queue", "reason", "count", "routing-keys", "a"))...)
			}
			inner = append(inner, z.field(depth+1)...)
		}
		value = amqptest.Long(inner)
		if z.random.IntN(50) == 0 {
			binary.BigEndian.PutUint32(value, z.random.Uint32()) // not its length
		}
	}
	return slices.Concat([]byte{kind}, value)
}
