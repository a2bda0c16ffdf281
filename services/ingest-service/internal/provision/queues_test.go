package provision_test

import (
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func queueTypes(t *testing.T, test func(t *testing.T, queueType string)) {
	t.Helper()
	for _, queueType := range []string{amqp.QueueTypeQuorum, amqp.QueueTypeClassic} {
		t.Run(queueType, func(t *testing.T) {
			t.Parallel()
			test(t, queueType)
		})
	}
}

// receive waits for the next message of a queue.
func receive(t *testing.T, ch *amqp.Channel, queue string) amqp.Delivery {
	t.Helper()
	var d amqp.Delivery
	require.Eventually(t, func() bool {
		got, ok, err := ch.Get(queue, true)
		require.NoError(t, err)
		d = got
		return ok
	}, amqptest.WaitLimit, 10*time.Millisecond, "nothing arrives in %s", queue)
	return d
}

// A message that waits for its next attempt must come back to its tenant, under its key, once.
func TestRetryTierReturnsAMessageToItsTenant(t *testing.T) {
	t.Parallel()
	queueTypes(t, func(t *testing.T, queueType string) {
		t.Helper()
		broker := backing.RabbitMQ(t)
		link := amqptest.StartLink(t, broker.URL, nil)
		declare(t, link, provision.QueueOptions{Type: queueType, MaxLengthBytes: 1 << 20}, tenantA, tenantB)
		publisher := amqptest.StartPublisher(t, link, 1)
		m := message(tenantA, "again")
		m.Exchange = contract.RetryTierName(200 * time.Millisecond)
		m.Publishing.Headers = amqp.Table{contract.HeaderAttempt: int32(2)}
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))

		ch := amqptest.Channel(t, link)
		d := receive(t, ch, contract.QueueName(tenantA))
		require.Equal(t, tenantA, d.RoutingKey)
		require.Equal(t, contract.RetryReturnExchange, d.Exchange)
		require.Equal(t, "again", d.MessageId)
		require.EqualValues(t, 2, d.Headers[contract.HeaderAttempt])
		require.Empty(t, amqptest.Drain(t, link, contract.QueueName(tenantA)))
		require.Empty(t, amqptest.Drain(t, link, contract.QueueName(tenantB)))
	})
}

// Messages of a deleted tenant in a tier must not stop those of the others behind them.
func TestRetryTierParksWhatHasNoTenantAnyMore(t *testing.T) {
	t.Parallel()
	queueTypes(t, func(t *testing.T, queueType string) {
		t.Helper()
		broker := backing.RabbitMQ(t)
		link := amqptest.StartLink(t, broker.URL, nil)
		declare(t, link, provision.QueueOptions{Type: queueType}, tenantA)
		publisher := amqptest.StartPublisher(t, link, 1)
		tier := contract.RetryTierName(200 * time.Millisecond)
		for range 40 {
			m := message(tenantB, "of a deleted tenant")
			m.Exchange = tier
			require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))
		}
		m := message(tenantA, "behind them")
		m.Exchange = tier
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))

		ch := amqptest.Channel(t, link)
		require.Equal(t, "behind them", receive(t, ch, contract.QueueName(tenantA)).MessageId)
		for range 40 {
			d := receive(t, ch, contract.ParkingQueue)
			require.Equal(t, tenantB, d.RoutingKey, "the recorder finds the tenant in the key")
		}
	})
}

// Without a limit a message that kills its consumer comes back for ever; with one but no target it would be destroyed.
func TestDeliveryLimitParksAMessage(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	declare(t, link, provision.QueueOptions{}, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message(tenantA, "poison")))

	ch := amqptest.Channel(t, link)
	require.NoError(t, ch.Qos(1, 0, false))
	deliveries, err := ch.ConsumeWithContext(t.Context(), contract.QueueName(tenantA), "", false, false, false, false, nil)
	require.NoError(t, err)
	parked := amqptest.Channel(t, link)
	parkings, err := parked.ConsumeWithContext(t.Context(), contract.ParkingQueue, "", true, false, false, false, nil)
	require.NoError(t, err)
	for n := 0; ; n++ {
		select {
		case d := <-deliveries:
			require.LessOrEqual(t, n, 1000)
			require.NoError(t, d.Reject(true))
		case d := <-parkings:
			require.Greater(t, n, 1000)
			require.Equal(t, "poison", d.MessageId)
			require.Equal(t, contract.ParkingRoutingKey, d.RoutingKey)
			deaths, ok := d.Headers["x-death"].([]any)
			require.True(t, ok)
			death, ok := deaths[0].(amqp.Table)
			require.True(t, ok)
			require.Equal(t, contract.QueueName(tenantA), death["queue"])
			require.Equal(t, "delivery_limit", death["reason"])
			return
		case <-time.After(amqptest.WaitLimit):
			t.Fatalf("the message is gone after %d deliveries", n)
		}
	}
}

// A message that ends the connection of the recorder at each delivery must not hold up the dead letters behind it, of all tenants, nor be
// lost; and those behind it, delivered one at a time, are not taken for the same.
func TestDeliveriesThatEndTheRecorderAreInQuarantine(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	declare(t, link, provision.QueueOptions{})
	publisher := amqptest.StartPublisher(t, link, 1)
	for queue, exchange := range map[string]string{
		contract.ParkingQueue: contract.ParkingExchange, contract.DeadLettersQueue: contract.DeadLettersExchange,
		contract.LargeDeadLettersQueue: contract.LargeDeadLettersExchange,
	} {
		for _, id := range []string{"poison", "good"} {
			m := message(tenantA, id)
			m.Exchange = exchange
			require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), m))
		}
		for n := 1; ; n++ {
			conn, err := amqp.Dial(broker.URL)
			require.NoError(t, err)
			ch, err := conn.Channel()
			require.NoError(t, err)
			require.NoError(t, ch.Qos(1, 0, false))
			deliveries, err := ch.ConsumeWithContext(t.Context(), queue, "", false, false, false, false, nil)
			require.NoError(t, err)
			select {
			case d := <-deliveries:
				if d.MessageId == "good" {
					require.Equal(t, 22, n, "a limit of 20 is 21 deliveries")
					require.NotContains(t, d.Headers, "x-delivery-count")
					require.NoError(t, d.Ack(false))
				}
				require.NoError(t, conn.Close())
				if d.MessageId != "good" {
					continue
				}
			case <-time.After(amqptest.WaitLimit):
				t.Fatalf("nothing is delivered after %d times", n)
			}
			break
		}
		d := receive(t, amqptest.Channel(t, link), contract.QuarantineQueue)
		require.Equal(t, "poison", d.MessageId)
		require.Equal(t, queue, d.Headers["x-first-death-queue"])
	}
}

// An installation whose queues are older than the quarantine continues with them.
func TestQueuesOlderThanTheQuarantineAreUsedAsTheyAre(t *testing.T) {
	t.Parallel()
	link := amqptest.StartLink(t, backing.RabbitMQ(t).URL, nil)
	for range 2 {
		require.NoError(t, amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
			return provision.DeclareSharedUnlimited(ch, nil, amqp.QueueTypeQuorum)
		}))
	}
	require.ErrorIs(t, amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
		return provision.DeclareShared(ch, nil, amqp.QueueTypeQuorum)
	}), provision.ErrQueueMismatch)
}

func TestQueueWithOtherArgumentsIsRecognizedAndCanBeAdopted(t *testing.T) {
	t.Parallel()
	queueTypes(t, func(t *testing.T, queueType string) {
		t.Helper()
		broker := backing.RabbitMQ(t)
		link := amqptest.StartLink(t, broker.URL, nil)
		declare(t, link, provision.QueueOptions{Type: queueType, MaxLengthBytes: 1000}, tenantA)
		declare(t, link, provision.QueueOptions{Type: queueType, MaxLengthBytes: 1000}, tenantA) // again: nothing happens
		do := func(fn func(ch *amqp.Channel) error) error {
			return amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), fn)
		}

		err := do(func(ch *amqp.Channel) error {
			return provision.DeclareTenant(ch, tenantA, provision.QueueOptions{Type: queueType, MaxLengthBytes: 2000})
		})
		require.ErrorIs(t, err, provision.ErrQueueMismatch)
		require.ErrorContains(t, err, contract.QueueName(tenantA))
		require.NoError(t, do(func(ch *amqp.Channel) error { return provision.BindTenant(ch, tenantA, false) }))
		require.Error(t, do(func(ch *amqp.Channel) error { return provision.BindTenant(ch, tenantB, false) }), "there is none to bind")

		other := amqp.QueueTypeClassic
		if queueType == amqp.QueueTypeClassic {
			other = amqp.QueueTypeQuorum
		}
		err = do(func(ch *amqp.Channel) error {
			return provision.DeclareShared(ch, []time.Duration{200 * time.Millisecond}, other)
		})
		require.ErrorIs(t, err, provision.ErrQueueMismatch)
	})
}

func TestDeleteTenantCanBeRepeated(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	declare(t, link, provision.QueueOptions{}, tenantA)
	publisher := amqptest.StartPublisher(t, link, 1)
	require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message(tenantA, "m")))
	for range 2 {
		require.NoError(t, amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
			_, err := provision.DeleteTenant(amqptest.Deadline(t, amqptest.WaitLimit), ch, tenantA)
			return err
		}))
	}
	require.ErrorIs(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message(tenantA, "m")), publish.ErrUnroutable)
}

// A queue that is deleted forgets whom it owes confirmations (RabbitMQ 3.10, quorum): the channel that waits for them confirms
// nothing to anybody, and its publishers, of whatever tenant, are told that the broker is away.
func TestDeletingATenantThatIsPublishedToStopsNobodyElse(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	link := amqptest.StartLink(t, broker.URL, nil)
	declare(t, link, provision.QueueOptions{}, tenantB)
	publisher, operator := amqptest.StartPublisher(t, link, 2), amqptest.StartLink(t, broker.URL, nil)
	before := amqptest.Session(t, link)
	batch := make([]publish.Message, 1000)
	for i := range batch {
		batch[i] = message(tenantA, strconv.Itoa(i))
	}
	for range 3 {
		declare(t, link, provision.QueueOptions{}, tenantA)
		deleted := make(chan struct{})
		var publishing sync.WaitGroup
		for range 2 {
			publishing.Go(func() {
				for over := false; !over; {
					select {
					case <-deleted:
						over = true
					default:
					}
					for _, err := range publisher.PublishBatch(amqptest.Deadline(t, amqptest.WaitLimit), batch) {
						if err != nil && !errors.Is(err, publish.ErrUnroutable) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		ch := amqptest.Channel(t, operator)
		require.Eventually(t, func() bool {
			queue, err := ch.QueueDeclarePassive(contract.QueueName(tenantA), true, false, false, false, nil)
			return err == nil && queue.Messages > 0
		}, amqptest.WaitLimit, time.Millisecond)
		_, err := provision.DeleteTenant(amqptest.Deadline(t, amqptest.WaitLimit), ch, tenantA)
		require.NoError(t, err)
		close(deleted)
		require.NoError(t, publisher.Publish(amqptest.Deadline(t, amqptest.WaitLimit), message(tenantB, "m")))
		publishing.Wait()
	}
	require.Same(t, before, amqptest.Session(t, link), "the connection of all publishers was given up")
}
