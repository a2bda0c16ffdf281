package amqptest_test

import (
	"bytes"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// What is published as bytes is what the broker has: other tests rest on it.
func TestConn(t *testing.T) {
	t.Parallel()
	url := backing.RabbitMQ(t).URL
	library, err := amqp.Dial(url)
	require.NoError(t, err)
	defer func() { require.NoError(t, library.Close()) }()
	ch, err := library.Channel()
	require.NoError(t, err)
	_, err = ch.QueueDeclare("q", true, false, false, false, nil)
	require.NoError(t, err)

	c, err := amqptest.Dial(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	properties := amqptest.Properties{
		ContentType: "text/plain", Headers: amqptest.Field("deep", 'F', amqptest.Tables(3)...), Priority: 3, Timestamp: 7, AppID: "app",
	}.Encode()
	require.NoError(t, c.Publish("", "q", properties, []byte("a")))
	d, ok, err := ch.Get("q", true)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, amqp.Table{"deep": amqp.Table{"n": amqp.Table{"n": amqp.Table{}}}}, d.Headers)
	require.Equal(t, []any{"text/plain", uint8(3), int64(7), "app"}, []any{d.ContentType, d.Priority, d.Timestamp.Unix(), d.AppId})

	large := bytes.Repeat([]byte("x"), 3*amqptest.FrameMax)
	full := amqptest.Properties{Headers: amqptest.Field("5000", 'A', amqptest.Arrays(5000)...)}.Encode()
	require.NoError(t, c.Publish("", "q", full, large))
	m, err := c.Get("q")
	require.NoError(t, err)
	require.Equal(t, &amqptest.Message{Key: "q", Properties: full, Body: large}, m)
	m, err = c.Get("q")
	require.NoError(t, err)
	require.Nil(t, m)

	require.ErrorIs(t, c.Publish("", "no such queue", properties, []byte("a")), amqptest.ErrReturned)
	var exception *amqptest.ExceptionError
	require.ErrorAs(t, c.Publish("no such exchange", "q", properties, nil), &exception)
	require.Equal(t, []any{uint16(404), false}, []any{exception.Code, exception.Connection})
	require.NoError(t, c.Publish("", "q", properties, nil), "on another channel")
	require.ErrorAs(t, c.Publish("", "q", amqptest.Properties{Headers: amqptest.Field("unknown", '!')}.Encode(), nil), &exception)
	require.True(t, exception.Connection)
}
