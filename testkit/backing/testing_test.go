package backing

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

func query[T any](t *testing.T, url, sql string, args ...any) T {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	var value T
	require.NoError(t, connection.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	connection, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, connection.Close(context.WithoutCancel(t.Context()))) }()
	_, err = connection.Exec(t.Context(), sql)
	require.NoError(t, err)
}

func TestEachTestHasAMigratedDatabaseOfItsOwn(t *testing.T) {
	first, second := Postgres(t), Postgres(t)
	for _, url := range []string{first, second} {
		require.True(t, query[bool](t, url, "SELECT count(*) > 0 FROM goose_db_version"), "the migrations have been applied")
		require.True(t, query[bool](t, url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
	}
	execute(t, first, "CREATE TABLE mine (id int)")
	require.False(t, query[bool](t, second, "SELECT to_regclass('mine') IS NOT NULL"))
}

func TestTheDatabaseOfATestIsRemoved(t *testing.T) {
	var url string
	t.Run("a test", func(t *testing.T) {
		url = Postgres(t)
		connection, err := pgx.Connect(t.Context(), url) // which the test forgets to close
		require.NoError(t, err)
		t.Cleanup(func() { _ = connection.Close(context.WithoutCancel(t.Context())) })
	})
	_, err := pgx.Connect(t.Context(), url)
	require.ErrorContains(t, err, errNoDatabase)
}

func TestManyTestsCloneAtATime(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			require.Positive(t, query[int](t, Postgres(t), "SELECT count(*) FROM goose_db_version"))
		})
	}
}

func TestEachTestHasAVirtualHostOfItsOwn(t *testing.T) {
	var left Broker
	t.Run("a test", func(t *testing.T) {
		left = RabbitMQ(t)
		other := RabbitMQ(t)
		declare(t, left.URL, "mine")
		connection, err := amqp.Dial(other.URL)
		require.NoError(t, err)
		channel, err := connection.Channel()
		require.NoError(t, err)
		_, err = channel.QueueDeclarePassive("mine", false, false, false, false, nil)
		var refused *amqp.Error
		require.ErrorAs(t, err, &refused)
		require.Equal(t, amqp.NotFound, refused.Code)
		require.NoError(t, connection.Close())
	})
	api, err := newManagement(left.ManagementURL)
	require.NoError(t, err)
	var missing *statusError
	require.ErrorAs(t, api.do(t.Context(), http.MethodGet, left.path(), nil), &missing)
	require.Equal(t, http.StatusNotFound, missing.status)
}

// declare makes a durable quorum queue with one message.
func declare(t *testing.T, url, queue string) {
	t.Helper()
	connection, err := amqp.Dial(url)
	require.NoError(t, err)
	channel, err := connection.Channel()
	require.NoError(t, err)
	require.NoError(t, channel.Confirm(false))
	_, err = channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	require.NoError(t, err)
	confirm, err := channel.PublishWithDeferredConfirmWithContext(t.Context(), "", queue, true, false, amqp.Publishing{
		DeliveryMode: amqp.Persistent, Body: []byte("kept"),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	confirmed, err := confirm.WaitContext(ctx)
	require.NoError(t, err)
	require.True(t, confirmed)
	require.NoError(t, connection.Close())
}

func TestEachTestHasANATSOfItsOwn(t *testing.T) {
	first, second := NATS(t), NATS(t)
	put(t, first, "mine")
	connection, err := nats.Connect(second)
	require.NoError(t, err)
	defer connection.Close()
	stream, err := jetstream.New(connection)
	require.NoError(t, err)
	_, err = stream.KeyValue(t.Context(), "mine")
	require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
}

// put makes a bucket with the key "key".
func put(t *testing.T, url, bucket string) {
	t.Helper()
	connection, err := nats.Connect(url)
	require.NoError(t, err)
	defer connection.Close()
	stream, err := jetstream.New(connection)
	require.NoError(t, err)
	kv, err := stream.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket})
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "key", "kept")
	require.NoError(t, err)
}

func TestOnlyWhatIsOldIsSwept(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	require.Equal(t, []string{"mtm_test_1_a"}, leftBehind(
		[]string{"mtm_test_1_a", "mtm_test_999999_b", "mtm_test_c", "mtm", "mtm_template_1_a"}, "mtm_test_", now))
}
