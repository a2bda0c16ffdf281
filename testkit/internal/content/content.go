// Package content writes something to a server and reads it again, for tests of what becomes of it.
package content

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

// Value is what is kept, Name where: a table, a queue, a bucket.
const (
	Value = "kept"
	Name  = "keep"
)

// Query is the one value that sql returns at the database.
func Query[T any](t *testing.T, url, sql string, args ...any) T {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	var value T
	require.NoError(t, connection.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

// Execute runs sql at the database.
func Execute(t *testing.T, url, sql string) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	_, err = connection.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// Declare makes a durable quorum queue with one message.
func Declare(t *testing.T, url, queue string) {
	t.Helper()
	connection, err := amqp.Dial(url)
	require.NoError(t, err)
	channel, err := connection.Channel()
	require.NoError(t, err)
	require.NoError(t, channel.Confirm(false))
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	require.NoError(t, err)
	confirm, err := channel.PublishWithDeferredConfirmWithContext(t.Context(), "", queue, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, Body: []byte(Value),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	confirmed, err := confirm.WaitContext(ctx)
	require.NoError(t, err)
	require.True(t, confirmed)
	require.NoError(t, connection.Close())
}

// Put makes a bucket with the key "key".
func Put(t *testing.T, url, bucket string) {
	t.Helper()
	stream := JetStream(t, url)
	kv, err := stream.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "key", Value)
	require.NoError(t, err)
}

// JetStream is a connection to NATS that is closed with the test.
func JetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	connection, err := nats.Connect(url)
	require.NoError(t, err)
	t.Cleanup(connection.Close)
	stream, err := jetstream.New(connection)
	require.NoError(t, err)
	return stream
}

// Keep writes to all three servers.
func Keep(t *testing.T, databaseURL, rabbitMQURL, natsURL string) {
	t.Helper()
	Execute(t, databaseURL, "CREATE TABLE "+Name+" AS SELECT '"+Value+"'::text AS value")
	Declare(t, rabbitMQURL, Name)
	Put(t, natsURL, Name)
}

// Kept fails the test unless all three servers have what [Keep] has written.
func Kept(t *testing.T, databaseURL, rabbitMQURL, natsURL string) {
	t.Helper()
	require.Equal(t, Value, Query[string](t, databaseURL, "SELECT value FROM "+Name))

	connection, err := amqp.Dial(rabbitMQURL)
	require.NoError(t, err)
	channel, err := connection.Channel()
	require.NoError(t, err)
	message, found, err := channel.Get(Name, false)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, Value, string(message.Body))
	require.NoError(t, connection.Close()) // which gives the message back

	kv, err := JetStream(t, natsURL).KeyValue(t.Context(), Name)
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), "key")
	require.NoError(t, err)
	require.Equal(t, Value, string(entry.Value()))
}
