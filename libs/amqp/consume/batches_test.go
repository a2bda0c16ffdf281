package consume_test

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
)

// publishings have, together, the properties and types of headers that the library can write, and bodies around the sizes of frames.
func publishings() []amqp.Publishing {
	const frame = 131072 - 8 // what fits into a frame of the size that both sides agree on
	at := time.Unix(1_700_000_000, 0)
	all := []amqp.Publishing{
		{},
		{Body: []byte("a")},
		{MessageId: "an id", ContentType: "application/json", Body: []byte(`{"a":1}`)},
		{
			ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: amqp.Persistent, Priority: 3, CorrelationId: "c",
			ReplyTo: "r", Expiration: "60000", MessageId: "m", Timestamp: at, Type: "t", AppId: "a", Body: []byte("everything"),
		},
		{Headers: amqp.Table{}, Body: []byte("a table with nothing in it")},
		{Headers: amqp.Table{
			"bool": true, "int8": int8(-8), "byte": byte(200), "int16": int16(-16), "uint16": uint16(math.MaxUint16), "int32": int32(-32),
			"uint32": uint32(math.MaxUint32), "int64": int64(-64), "float32": float32(0.5), "float64": 0.25,
			"decimal": amqp.Decimal{Scale: 2, Value: 314}, "string": "text", "bytes": []byte{0, 1}, "time": at, "nothing": nil,
			"table": amqp.Table{"deeper": amqp.Table{"deepest": "x"}, "": int32(1)}, "array": []any{int32(1), "two", []any{nil, amqp.Table{"a": false}}},
			strings.Repeat("n", 100): strings.Repeat("v", 40_000),
		}, Body: []byte("every type")},
	}
	for _, size := range []int{1 << 10, frame - 1, frame, frame + 1, 2 * frame, 1 << 20} {
		all = append(all, amqp.Publishing{MessageId: fmt.Sprint(size), Body: bytes.Repeat([]byte("x"), size)})
	}
	return append(all, all...)
}

// drainBatches takes n deliveries.
func drainBatches(t *testing.T, c *consume.Consumer, n int) (all []consume.Delivery) {
	t.Helper()
	for len(all) < n {
		select {
		case <-c.Ready():
			all = append(all, c.Drain(nil)...)
		case <-c.Ended():
			t.Fatal("the consumer has ended")
		case <-time.After(amqptest.WaitLimit):
			t.Fatalf("%d of %d messages are delivered", len(all), n)
		}
	}
	require.Len(t, all, n)
	return all
}

// What is read here is what the library would have read: a message must not depend on which of them it was.
func TestBatchesAreWhatTheLibraryReads(t *testing.T) {
	t.Parallel()
	link := amqptest.StartLink(t, backing.RabbitMQ(t).URL, nil)
	queues := []string{"read-here", "read-by-the-library"}
	ch := amqptest.Channel(t, link)
	for _, queue := range queues {
		_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
		require.NoError(t, err)
		require.NoError(t, ch.QueueBind(queue, "key", "amq.topic", false, nil))
	}
	// Both consumers find all messages there, and thus in the same order: from 4.3 on, a quorum queue delivers what has a higher
	// priority before what was there earlier.
	require.NoError(t, ch.Confirm(false))
	sent := publishings()
	confirmations := make([]*amqp.DeferredConfirmation, len(sent))
	for i, p := range sent {
		var err error
		confirmations[i], err = ch.PublishWithDeferredConfirmWithContext(t.Context(), "amq.topic", "key", true, false, p)
		require.NoError(t, err)
	}
	for _, c := range confirmations {
		acked, err := c.WaitContext(amqptest.Deadline(t, amqptest.WaitLimit))
		require.NoError(t, err)
		require.True(t, acked)
	}
	s := amqptest.Session(t, link)
	here, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), s, queues[0], "here", 1000)
	require.NoError(t, err)
	there, err := consume.Plain(amqptest.Deadline(t, amqptest.WaitLimit), s, queues[1], "there", 1000)
	require.NoError(t, err)
	for i, got := range drainBatches(t, here, len(sent)) {
		var want amqp.Delivery
		select {
		case want = <-there.Deliveries:
		case <-time.After(amqptest.WaitLimit):
			t.Fatal("nothing is delivered")
		}
		want.Acknowledger, want.ConsumerTag = nil, ""
		if len(got.Body) == 0 {
			got.Body, want.Body = nil, nil
		}
		require.Nil(t, got.Headers)
		if want.Headers != nil {
			got.Headers = got.Properties.Headers().Decode()
		}
		require.Equal(t, want, got.Delivery, "message %d", i)
	}
	require.NoError(t, here.Ack(uint64(len(sent)), true))
	for _, c := range []*consume.Consumer{here, there} {
		require.NoError(t, c.Stop())
		c.Release()
	}
	require.Eventually(t, func() bool { return len(amqptest.Drain(t, link, queues[1])) == len(sent) }, amqptest.WaitLimit, time.Millisecond)
	require.Empty(t, amqptest.Drain(t, link, queues[0]), "what was acknowledged is gone")
}

// A consumer that starts over on the same connection must not take what was sent to the one before for its own: it would
// acknowledge other messages than those it has.
func TestBatchesOfAConsumerBeforeAreNotThoseOfTheNext(t *testing.T) {
	t.Parallel()
	link := amqptest.StartLink(t, backing.RabbitMQ(t).URL, nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	const total, step = 500, 5
	messages := make([]publish.Message, total)
	for i := range messages {
		messages[i] = amqptest.NewMessage(tenantA, fmt.Sprintf("%04d", i))
	}
	for _, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), messages) {
		require.NoError(t, err)
	}
	s := amqptest.Session(t, link)
	seen := map[string]int{} // acknowledged, by id
	for round := 0; len(seen) < total; round++ {
		require.Less(t, round, total, "it continues")
		c, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), s, amqptest.Queue(tenantA), "same", 100)
		require.NoError(t, err)
		select {
		case <-c.Ready():
		case <-time.After(amqptest.WaitLimit):
			t.Fatalf("%d of %d messages are delivered", len(seen), total)
		}
		taken := c.Drain(nil)
		for i, d := range taken[:min(step, len(taken))] {
			require.EqualValues(t, i+1, d.DeliveryTag, "tags begin anew")
			seen[d.MessageId]++
		}
		require.NoError(t, c.Ack(uint64(min(step, len(taken))), true))
		require.NoError(t, c.Stop())
		c.Release() // with deliveries on their way
	}
	for id, n := range seen {
		require.Equal(t, 1, n, "message %s", id)
	}
	require.Empty(t, amqptest.Drain(t, link, amqptest.Queue(tenantA)))
}

// Consumers start over while deliveries are on their way, and probes look at queues: whatever is in these, the connection
// belongs to others, too.
func TestConsumersThatEndCostNobodyTheConnection(t *testing.T) {
	t.Parallel()
	b := backing.RabbitMQ(t)
	probing := amqptest.StartLink(t, b.URL, nil)
	link := amqptest.StartLink(t, b.URL, nil)
	amqptest.Declare(t, link, tenantA)
	producer, err := amqptest.Dial(t.Context(), b.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, producer.Close()) }()
	hostile := amqptest.Properties{Headers: amqptest.Field("a", 'A', amqptest.Arrays(33)...)}.Encode()
	const total = 100
	for range total {
		require.NoError(t, producer.Publish(amqptest.Exchange, tenantA, hostile, []byte("{}")))
	}
	s, probed, prober := amqptest.Session(t, link), amqptest.Session(t, probing), consume.NewProber(probing)
	for range 30 {
		c, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), s, amqptest.Queue(tenantA), "hasty", total)
		require.NoError(t, err)
		require.NoError(t, c.Stop()) // with deliveries on their way
		c.Release()
	}
	for range 5 {
		require.NoError(t, prober.Probe(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Queue(tenantA)))
	}
	c, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), s, amqptest.Queue(tenantA), "last", total)
	require.NoError(t, err)
	for _, d := range drainBatches(t, c, total) {
		require.Equal(t, amqptest.Arrays(33)[4:], d.Properties.Headers().Lookup("a").Value)
	}
	require.NoError(t, c.Ack(total, true))
	require.NoError(t, s.Err(), "it is the same connection")
	require.NoError(t, probed.Err(), "this one, too")
	require.NoError(t, c.Stop())
	c.Release()
}

func TestBrokerBehindTLS(t *testing.T) {
	t.Parallel()
	ours, others := certificate.NewAuthority(t), certificate.NewAuthority(t)
	broker := backing.RabbitMQ(t).URL
	secured := func(pair tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ours.Pool}
	}
	address := amqptest.NewTLSProxy(t, broker, secured(ours.Issue(t, "broker.example")))
	expired := amqptest.NewTLSProxy(t, broker, secured(ours.IssueExpired(t, "broker.example")))
	cert, key := certificate.Files(t, ours.Issue(t, "client.example"))
	at := func(address *url.URL, parameters ...string) string {
		query := url.Values{}
		for i := 0; i < len(parameters); i += 2 {
			query.Set(parameters[i], parameters[i+1])
		}
		with := *address
		with.RawQuery = query.Encode()
		return with.String()
	}
	good := []string{"cacertfile", ours.File, "certfile", cert, "keyfile", key, "server_name_indication", "broker.example"}

	link := amqptest.StartLink(t, at(address, good...), nil)
	amqptest.Declare(t, link, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	big := amqptest.NewMessage(tenantA, "big")
	big.Publishing.Body = bytes.Repeat([]byte("x"), 1<<20)
	for range 10 {
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), big))
	}
	c, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Session(t, link), amqptest.Queue(tenantA), "tls", 100)
	require.NoError(t, err)
	for _, d := range drainBatches(t, c, 10) {
		require.Equal(t, big.Publishing.Body, d.Body)
	}
	require.NoError(t, c.Ack(10, true))
	require.NoError(t, c.Stop())
	c.Release()

	for name, test := range map[string]struct {
		parameters []string
		want       string
		address    *url.URL // another broker
	}{
		"another name":          {good[:6], "127.0.0.1", nil},
		"expired":               {good, "expired", expired},
		"another authority":     {append([]string{"cacertfile", others.File}, good[2:]...), "unknown authority", nil},
		"no authority":          {[]string{"cacertfile", filepath.Join(t.TempDir(), "none")}, "cacertfile", nil},
		"not an authority":      {[]string{"cacertfile", writeFile(t, "nothing")}, "cacertfile has no certificate", nil},
		"no certificate of own": {[]string{"cacertfile", ours.File, "server_name_indication", "broker.example"}, "", nil},
		"no such certificate":   {[]string{"certfile", "/none", "keyfile", "/none"}, "certfile", nil},
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 100)
			link := conn.NewLink(conn.Config{URL: at(cmp.Or(test.address, address), test.parameters...)}, t.Name(), zaptest.NewLogger(t), func(err error) { failed <- err })
			stop := amqptest.Run(t, link.Run)
			err := <-failed
			stop()
			require.ErrorIs(t, err, conn.ErrUnavailable)
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), address.User.String(), "the password")
		})
	}
}

func writeFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}
