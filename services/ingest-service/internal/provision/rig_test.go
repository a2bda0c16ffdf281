package provision_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	waitLimit = time.Minute // a limit for a machine that is busy with other packages; nothing takes nearly as long
	poll      = 20 * time.Millisecond
)

// rig is a broker, and a connection to it that publishes and looks at queues.
type rig struct {
	t         *testing.T
	broker    conn.Config
	link      *conn.Link
	publisher *publish.Publisher
}

func newRig(t *testing.T) *rig {
	t.Helper()
	return rigOn(t, backing.RabbitMQ(t).URL)
}

func rigOn(t *testing.T, url string) *rig {
	t.Helper()
	r := &rig{t: t, broker: conn.Config{URL: url}}
	r.link = conn.NewLink(r.broker, "test", zap.NewNop(), nil)
	r.publisher = publish.New(r.link, 1, zap.NewNop())
	r.run(r.link.Run)
	r.run(r.publisher.Run)
	return r
}

func (r *rig) run(run func(context.Context) error) (stop func()) {
	r.t.Helper()
	return component.Run(r.t, run)
}

// queue tells how many messages wait in the tenant's queue, which exists.
func (r *rig) queue(tenant uuid.UUID) (q amqp.Queue) {
	r.t.Helper()
	answer := make(chan amqp.Queue, 1)
	amqptest.Do(r.t, r.link, func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(contract.QueueName(tenant.String()), true, false, false, false, nil)
		answer <- q
		return err
	})
	return <-answer
}

// try publishes n messages, as a producer does.
func (r *rig) try(tenant uuid.UUID, n int) []error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	messages := make([]publish.Message, n)
	for i := range messages {
		messages[i] = publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, `%d`, i),
		}}
	}
	return r.publisher.PublishBatch(ctx, messages)
}

func (r *rig) publish(tenant uuid.UUID, n int) {
	r.t.Helper()
	for _, err := range r.try(tenant, n) {
		require.NoError(r.t, err)
	}
}

// routes reports whether a message for tenant finds its queue.
func (r *rig) routes(tenant uuid.UUID) bool {
	r.t.Helper()
	return r.try(tenant, 1)[0] == nil
}
