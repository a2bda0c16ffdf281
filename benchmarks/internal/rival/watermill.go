package rival

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/stdlib"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// watermillTopic names the table that Watermill makes for itself.
const watermillTopic = "benchmark"

// Watermill is a router of ThreeDotsLabs/watermill from its AMQP subscriber to its SQL publisher, as its documentation
// shows it, with as many handlers as workers. It writes into a table of its own making, which is dropped afterwards. The
// prefetch is that of ingest-service, where Watermill's default is 1.
func Watermill(ctx context.Context, r *rig.Rig, tenant uuid.UUID, workers, n int) (took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, rig.WaitLimit)
	defer cancel()
	log := watermill.NopLogger{}
	db := stdlib.OpenDBFromPool(r.Database)
	defer func() { err = errors.Join(err, db.Close()) }()
	sink, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(db), wsql.PublisherConfig{
		SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, AutoInitializeSchema: true,
	}, log)
	if err != nil {
		return 0, fmt.Errorf("watermill: make the publisher: %w", err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Minute}, log)
	if err != nil {
		return 0, fmt.Errorf("watermill: make the router: %w", err)
	}
	config := wamqp.NewDurableQueueConfig(r.Backing.RabbitMQURL)
	config.Queue.GenerateName = wamqp.GenerateQueueNameConstant(contract.QueueName(tenant.String()))
	config.Consume.Qos.PrefetchCount = prefetch
	config.Marshaler, config.TopologyBuilder = plain{}, declared{}
	began := time.Now()
	source, err := wamqp.NewSubscriber(config, log)
	if err != nil {
		return 0, fmt.Errorf("watermill: make the subscriber: %w", err)
	}
	stored := &counting{Publisher: sink, target: int64(n), reached: make(chan struct{})}
	for i := range workers {
		router.AddHandler("worker-"+strconv.Itoa(i), tenant.String(), source, watermillTopic, stored, func(m *message.Message) ([]*message.Message, error) {
			return []*message.Message{m}, nil
		})
	}
	running := make(chan error, 1)
	go func() { running <- router.Run(ctx) }()
	select {
	case <-stored.reached:
		took = time.Since(began)
	case err = <-running:
		running <- err
		err = errors.Join(errEnded, err)
	case <-ctx.Done():
		err = fmt.Errorf("%d of %d messages are stored: %w", stored.count.Load(), n, ctx.Err())
	}
	cancel()
	err = errors.Join(err, <-running, source.Close())
	_, dropped := r.Database.Exec(context.WithoutCancel(ctx), `DROP TABLE IF EXISTS watermill_`+watermillTopic)
	return took, errors.Join(err, dropped)
}

// plain is a marshaler for messages that do not come from Watermill.
type plain struct{ wamqp.DefaultMarshaler }

// Unmarshal implements amqp.Marshaler.
func (plain) Unmarshal(d amqp.Delivery) (*message.Message, error) {
	return message.NewMessage(d.MessageId, d.Body), nil
}

// declared is the topology of queues that are there already.
type declared struct{}

// BuildTopology implements amqp.TopologyBuilder.
func (declared) BuildTopology(*amqp.Channel, wamqp.BuildTopologyParams, wamqp.Config, watermill.LoggerAdapter) error {
	return nil
}

// ExchangeDeclare implements amqp.TopologyBuilder.
func (declared) ExchangeDeclare(*amqp.Channel, string, wamqp.Config) error { return nil }

// counting counts what has been published.
type counting struct {
	message.Publisher
	target  int64
	count   atomic.Int64
	reached chan struct{} // closed when count reaches target
}

// Publish implements message.Publisher.
func (c *counting) Publish(topic string, messages ...*message.Message) error {
	if err := c.Publisher.Publish(topic, messages...); err != nil {
		return err
	}
	if total := c.count.Add(int64(len(messages))); total >= c.target && total-int64(len(messages)) < c.target {
		close(c.reached)
	}
	return nil
}
