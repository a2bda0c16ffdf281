package consume_test

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func startLinkByLibrary(t *testing.T, url string) *conn.Link {
	t.Helper()
	cfg := conn.Config{URL: url, Reader: conn.ReaderLibrary}
	link := conn.NewLink(cfg, t.Name(), zaptest.NewLogger(t), nil)
	amqptest.Run(t, link.Run)
	return link
}

// What is stored, shown and replayed of a message must not depend on which reader an installation has chosen.
func TestBothReadersReadTheSame(t *testing.T) {
	t.Parallel()
	url := backing.RabbitMQ(t).URL
	link := amqptest.StartLink(t, url, nil)
	queues := []string{"by-wire", "by-library"}
	ch := amqptest.Channel(t, link)
	for _, queue := range queues {
		_, err := ch.QueueDeclare(queue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
		require.NoError(t, err)
		require.NoError(t, ch.QueueBind(queue, "key", "amq.topic", false, nil))
	}
	sent := publishings()
	for _, p := range sent {
		require.NoError(t, ch.PublishWithContext(t.Context(), "amq.topic", "key", true, false, p))
	}
	wire, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Session(t, link), queues[0], "wire", 1000)
	require.NoError(t, err)
	library, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Session(t, startLinkByLibrary(t, url)), queues[1], "library", 1000)
	require.NoError(t, err)
	want, got := drainBatches(t, wire, len(sent)), drainBatches(t, library, len(sent))
	for i := range sent {
		if len(want[i].Body) == 0 { // nil or empty
			want[i].Body, got[i].Body = nil, nil
		}
		require.Equal(t, want[i].Delivery, got[i].Delivery, "message %d", i)
		wanted, wantedHeaders, err := want[i].Properties.Decode()
		require.NoError(t, err)
		read, headers, err := got[i].Properties.Decode()
		require.NoError(t, err)
		require.Equal(t, wanted, read, "message %d", i)
		require.Equal(t, wantedHeaders.Decode(), headers.Decode(), "message %d", i)
		require.Len(t, got[i].Properties, len(want[i].Properties), "message %d", i)
	}
	for _, c := range []*consume.Consumer{wire, library} {
		require.NoError(t, c.Ack(uint64(len(sent)), true))
		require.NoError(t, c.Stop())
		c.Release()
	}
	for _, queue := range queues {
		require.Empty(t, amqptest.Drain(t, link, queue), "what was acknowledged is gone")
	}
}

// A consumer must be told that its channel is gone, whichever reader it has: it would wait for ever.
func TestConsumerOfTheLibraryEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	link := startLinkByLibrary(t, backing.RabbitMQ(t).URL)
	ch := amqptest.Channel(t, link)
	_, err := ch.QueueDeclare("ends", true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
	require.NoError(t, err)
	c, err := consume.Start(amqptest.Deadline(t, amqptest.WaitLimit), amqptest.Session(t, link), "ends", "ends", 10)
	require.NoError(t, err)
	_, err = ch.QueueDelete("ends", false, false, false)
	require.NoError(t, err)
	select {
	case _, open := <-c.Ended():
		require.False(t, open)
	case <-time.After(amqptest.WaitLimit):
		t.Fatal("the consumer was not ended")
	}
	c.Release()
}
