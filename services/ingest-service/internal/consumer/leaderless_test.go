package consumer_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// leaderless makes a tenant's queue that has no leader: the broker writes down every half second which members of quorum
// queues it runs, and crashes before it has done so. The last of several is the most likely one.
func (r *rig) leaderless(process *backing.Process) (tenant uuid.UUID) {
	r.t.Helper()
	for range 6 {
		r.onChannel(func(ch *amqp.Channel) error {
			for range 5 {
				tenant = uuid.New()
				if err := provision.DeclareTenant(ch, tenant.String(), provision.QueueOptions{}); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(r.t, process.Kill(r.t.Context()))
		require.NoError(r.t, process.Start(r.t.Context()))
		require.Eventually(r.t, func() bool { return r.answers(r.tenant) }, waitLimit, poll) // it is only just there again
		if !r.answers(tenant) {
			return tenant
		}
	}
	r.t.Fatal("the broker remembers its queues whenever it is killed")
	return uuid.Nil
}

// answers reports whether the broker confirms a message to tenant within 3 s.
func (r *rig) answers(tenant uuid.UUID) bool {
	r.t.Helper()
	dialled, err := amqp.Dial(r.broker.URL)
	require.NoError(r.t, err)
	defer func() { _ = dialled.CloseDeadline(time.Now().Add(time.Second)) }() // it may be stuck
	ch, err := dialled.Channel()
	require.NoError(r.t, err)
	require.NoError(r.t, ch.Confirm(false))
	confirmation, err := ch.PublishWithDeferredConfirm(contract.MessagesExchange, tenant.String(), true, false, amqp.Publishing{})
	require.NoError(r.t, err)
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Second)
	defer cancel()
	acked, err := confirmation.WaitContext(ctx)
	return err == nil && acked
}

// watched runs a link and counts how often its connection is lost.
func (r *rig) watched(name string) (*conn.Link, *atomic.Int64) {
	r.t.Helper()
	losses := new(atomic.Int64)
	link := conn.NewLink(r.broker, name, zaptest.NewLogger(r.t), func(err error) {
		if err != nil {
			losses.Add(1)
		}
	})
	r.run(link.Run)
	return link, losses
}

// A tenant's queue without a leader costs the tenants that share its connection one interruption, not one every
// minute; and the tenant is served again as soon as its queue is.
func TestAQueueWithoutALeaderDoesNotKeepInterruptingOthers(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it waits for the broker to close connections, a minute each")
	}
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	r := newRigAt(t, services.RabbitMQURL)
	broken := r.leaderless(services.Process(backing.ServiceRabbitMQ))

	probeLink, probing := r.watched("test-quarantine")
	link, shared := r.watched("test-shared")
	r.cfg.Prober = consume.NewProber(probeLink)
	declaring := r.link
	r.link = link
	r.run(r.consumer().Run)
	var state consumer.State
	r.run(func(ctx context.Context) error {
		for {
			unlucky := consumer.New(r.cfg, broken, consumer.On(link), r.gate, r.writer, r.budget, &state, func(error) {}, zaptest.NewLogger(t))
			unlucky.Configure(1, 3)
			unlucky.Hasten(2 * time.Second)
			// A consumer ends when its queue is missing, as it is for a moment below; the controller starts another one.
			if err := unlucky.Run(ctx); !errors.Is(err, consumer.ErrQueueMissing) {
				return err
			}
		}
	})
	ids := r.publishMany(100)
	r.requireStored(ids)

	// The broker closes the connection after 30 to 65 s: once the one that is shared, from then on that of the probes.
	const rounds = 2 * time.Minute
	require.Eventually(t, func() bool { return probing.Load() == 1 }, rounds, poll)
	require.EqualValues(t, 1, shared.Load())
	for id := range r.publishMany(100) {
		ids[id] = true
	}
	r.requireStored(ids)
	require.False(t, state.Consuming.Load())

	r.link = declaring
	r.onChannel(func(ch *amqp.Channel) error {
		if _, err := provision.DeleteTenant(t.Context(), ch, broken.String()); err != nil {
			return err
		}
		return provision.DeclareTenant(ch, broken.String(), provision.QueueOptions{})
	})
	require.Eventually(t, state.Consuming.Load, rounds, poll)
	require.EqualValues(t, 1, shared.Load())
}
