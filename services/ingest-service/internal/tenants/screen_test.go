package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/reroute"
)

// do has fn work on a channel.
func (r *rig) do(fn func(ch *amqp.Channel) error) error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	session, err := r.link.Session(ctx)
	require.NoError(r.t, err)
	return session.Do(ctx, fn)
}

// asBeforeTheScreen leaves the broker as a version of the platform does that has no screen.
func (r *rig) asBeforeTheScreen(tenants ...uuid.UUID) {
	r.t.Helper()
	require.NoError(r.t, r.do(func(ch *amqp.Channel) error {
		for _, tenant := range tenants {
			if err := ch.QueueBind(contract.QueueName(tenant.String()), tenant.String(), contract.MessagesExchange, false, nil); err != nil {
				return err
			}
		}
		for _, exchange := range []string{contract.TenantsExchange, contract.ScreenExchange, contract.RefusedExchange} {
			if err := ch.ExchangeDelete(exchange, false, false); err != nil {
				return err
			}
		}
		_, err := ch.QueueDelete(contract.RefusedQueue(0), false, false, false)
		return err
	}))
}

// hostile publishes what a broker that needs a screen must not take.
func (r *rig) hostile(tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	return r.publisher.Publish(ctx, publish.Message{
		Exchange: contract.MessagesExchange, Key: tenant.String(),
		Publishing: amqp.Publishing{MessageId: uuid.NewString(), Headers: amqp.Table{"x-death": nil}, Body: []byte(`2`)},
	})
}

// An installation is upgraded while producers publish over AMQP, and the service over HTTP. Nothing is returned, and all of it is
// stored; at the end no tenant is reached past the screen.
func TestInstallationChangesOverToTheScreenUnderTraffic(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.start()
	tenants := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
	for i, tenant := range tenants {
		r.want(tenant, []contract.DesiredState{contract.DesiredActive, contract.DesiredSuspended}[i%2], 2, 1)
		r.observed(tenant, []contract.ConsumerState{contract.StateRunning, contract.StateSuspended}[i%2], 1)
	}
	stop()
	r.asBeforeTheScreen(tenants...)

	var accepted atomic.Int64
	produce := func(exchange string, publisher reroute.Broker) func() {
		return r.run(func(ctx context.Context) error {
			for n := 0; ctx.Err() == nil; n++ {
				err := publisher.Publish(context.WithoutCancel(ctx), publish.Message{
					Exchange: exchange, Key: tenants[n%len(tenants)].String(),
					Publishing: amqp.Publishing{MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: []byte(`1`)},
				})
				if exchange == contract.TenantsExchange && errors.Is(err, conn.ErrUnavailable) {
					continue // its channel was closed over the missing exchange, as another message was told
				}
				if err != nil {
					return fmt.Errorf("message %d to %s: %w", n, exchange, err)
				}
				accepted.Add(1)
			}
			return nil
		})
	}
	stopAMQP := produce(contract.MessagesExchange, r.publisher)
	own := publish.New(r.link, 1, r.deps.Log)
	r.run(own.Run)
	stopHTTP := produce(contract.TenantsExchange, reroute.New(own, func(uuid.UUID) {}))
	more := func() {
		t.Helper()
		before := accepted.Load()
		require.Eventually(t, func() bool { return accepted.Load() > before+100 }, waitLimit, poll)
	}
	more()
	r.start()
	session, err := r.link.Session(t.Context())
	require.NoError(t, err)
	for _, tenant := range tenants {
		if provision.Screened(r.broker.Screen, session.Version()) {
			require.Eventually(t, func() bool { return errors.Is(r.hostile(tenant), publish.ErrRejected) }, waitLimit, poll)
		}
	}
	more()
	stopAMQP()
	stopHTTP()
	r.want(tenants[1], contract.DesiredActive, 2, 2)
	stored := func() (n int) {
		for _, tenant := range tenants {
			n += r.count(`SELECT count(*) FROM messages WHERE tenant_id = $1 AND payload = '1'`, tenant)
		}
		return n
	}
	require.Eventually(t, func() bool { return int64(stored()) == accepted.Load() }, waitLimit, poll)
}

// A tenant whose queue has lost its bindings is found by the first message that cannot be routed: that one is worth another try,
// and so is every other until the queue is bound again, which begins at once.
func TestTenantThatCannotBeRoutedIsVerified(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant, neighbour := uuid.New(), uuid.New()
	for _, id := range []uuid.UUID{tenant, neighbour} {
		r.want(id, contract.DesiredActive, 1, 1)
		r.observed(id, contract.StateRunning, 1)
	}
	publisher := reroute.New(r.publisher, r.controller.Verify)
	try := func(id uuid.UUID) error {
		ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
		defer cancel()
		return publisher.Publish(ctx, publish.Message{
			Exchange: contract.TenantsExchange, Key: id.String(),
			Publishing: amqp.Publishing{MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: []byte(`1`)},
		})
	}
	require.NoError(t, try(tenant))
	r.unbind(tenant)
	require.Eventually(t, func() bool {
		require.NoError(t, try(neighbour))
		err := try(tenant)
		if err != nil {
			require.ErrorIs(t, err, publish.ErrUnroutable)
		}
		return err == nil
	}, waitLimit, poll)
	r.observed(tenant, contract.StateRunning, 1)
	_, _, known := r.controller.Lookup(t.Context(), tenant)
	require.True(t, known)
}
