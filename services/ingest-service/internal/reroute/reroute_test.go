package reroute_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/reroute"
)

// routes is a broker that knows ways: exchange and key, and what becomes of a message there. It returns everything else.
type routes struct {
	ways     map[[2]string]error
	accepted []string
}

func (r *routes) Publish(ctx context.Context, m publish.Message) error {
	return r.PublishBatch(ctx, []publish.Message{m})[0]
}

func (r *routes) PublishBatch(_ context.Context, ms []publish.Message) []error {
	errs := make([]error, len(ms))
	for i, m := range ms {
		err, known := r.ways[[2]string{m.Exchange, m.Key}]
		switch {
		case !known:
			errs[i] = fmt.Errorf("%w: NO_ROUTE", publish.ErrUnroutable)
		case err != nil:
			errs[i] = err
		default:
			r.accepted = append(r.accepted, m.Exchange+" "+m.Publishing.MessageId)
		}
	}
	return errs
}

// A tenant that exists must not be unreachable over HTTP because its queue is bound in the way of an older version, or not
// yet on every node; its message is taken, once, and its bindings are seen to.
func TestMessagesFindQueuesThatAreBoundAsProducersNeedThem(t *testing.T) {
	bound, old, nowhere, full := uuid.New(), uuid.New(), uuid.New(), uuid.New()
	broker := &routes{ways: map[[2]string]error{
		{contract.TenantsExchange, bound.String()}: nil,
		{contract.MessagesExchange, old.String()}:  nil,
		{contract.TenantsExchange, full.String()}:  publish.ErrRejected,
	}}
	var verified []uuid.UUID
	p := reroute.New(broker, func(tenant uuid.UUID) { verified = append(verified, tenant) })
	message := func(exchange string, tenant uuid.UUID, id string) publish.Message {
		return publish.Message{Exchange: exchange, Key: tenant.String(), Publishing: amqp.Publishing{MessageId: id}}
	}
	errs := p.PublishBatch(t.Context(), []publish.Message{
		message(contract.TenantsExchange, old, "1"), message(contract.TenantsExchange, bound, "2"), message(contract.TenantsExchange, nowhere, "3"),
		message(contract.TenantsExchange, full, "4"), message(contract.TenantsExchange, old, "5"), message("retry.1s", old, "6"),
	})
	require.NoError(t, errors.Join(errs[0], errs[1], errs[4]))
	require.ErrorIs(t, errs[2], publish.ErrUnroutable)
	require.ErrorIs(t, errs[3], publish.ErrRejected)
	require.ErrorIs(t, errs[5], publish.ErrUnroutable)
	require.Equal(t, []string{"tenants 2", "messages 1", "messages 5"}, broker.accepted)
	require.Equal(t, []uuid.UUID{old, nowhere, old}, verified)

	broker.accepted, verified = nil, nil
	require.NoError(t, p.Publish(t.Context(), message(contract.TenantsExchange, old, "1")))
	require.NoError(t, p.Publish(t.Context(), message(contract.TenantsExchange, bound, "2")))
	require.ErrorIs(t, p.Publish(t.Context(), message(contract.TenantsExchange, nowhere, "3")), publish.ErrUnroutable)
	require.ErrorIs(t, p.Publish(t.Context(), message(contract.TenantsExchange, full, "4")), publish.ErrRejected)
	require.Equal(t, []string{"messages 1", "tenants 2"}, broker.accepted)
	require.Equal(t, []uuid.UUID{old, nowhere}, verified)
}
