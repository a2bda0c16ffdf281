package backing

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/content"
)

func TestEachTestHasAMigratedDatabaseOfItsOwn(t *testing.T) {
	first, second := Postgres(t), Postgres(t)
	for _, url := range []string{first, second} {
		require.True(t, content.Query[bool](t, url, "SELECT count(*) > 0 FROM goose_db_version"), "the migrations have been applied")
		require.True(t, content.Query[bool](t, url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
	}
	content.Execute(t, first, "CREATE TABLE mine (id int)")
	require.False(t, content.Query[bool](t, second, "SELECT to_regclass('mine') IS NOT NULL"))
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
	require.ErrorContains(t, err, "3D000")
}

func TestManyTestsCloneAtATime(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			require.Positive(t, content.Query[int](t, Postgres(t), "SELECT count(*) FROM goose_db_version"))
		})
	}
}

func TestEachTestHasAVirtualHostOfItsOwn(t *testing.T) {
	var left Broker
	t.Run("a test", func(t *testing.T) {
		left = RabbitMQ(t)
		other := RabbitMQ(t)
		content.Declare(t, left.URL, "mine")
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
	api, err := management.New(left.ManagementURL, left.URL)
	require.NoError(t, err)
	require.ErrorIs(t, api.Do(t.Context(), http.MethodGet, left.path(), nil, nil), management.ErrUnknown)
}

func TestEachTestHasANATSOfItsOwn(t *testing.T) {
	first, second := NATS(t), NATS(t)
	content.Put(t, first, "mine")
	_, err := content.JetStream(t, second).KeyValue(t.Context(), "mine")
	require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
}

func TestOnlyWhatIsOldIsSwept(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	require.Equal(t, []string{"mtm_test_1_a"}, leftBehind(
		[]string{"mtm_test_1_a", "mtm_test_999999_b", "mtm_test_c", "mtm", "mtm_template_1_a"}, "mtm_test_", now))
}
