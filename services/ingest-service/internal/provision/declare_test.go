package provision_test

import (
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
)

const (
	tenantA = "11111111-1111-4111-8111-111111111111"
	tenantB = "22222222-2222-4222-8222-222222222222"
)

// declare makes the shared topology and the queues of tenants.
func declare(t *testing.T, link *conn.Link, opts provision.QueueOptions, tenants ...string) {
	t.Helper()
	err := amqptest.Session(t, link).Do(amqptest.Deadline(t, amqptest.WaitLimit), func(ch *amqp.Channel) error {
		if err := provision.DeclareShared(ch, []time.Duration{200 * time.Millisecond}, opts.Type); err != nil {
			return err
		}
		for _, tenant := range tenants {
			if err := provision.DeclareTenant(ch, tenant, opts); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
}

func message(tenant, id string) publish.Message {
	m := amqptest.NewMessage(tenant, id)
	m.Exchange = contract.MessagesExchange
	return m
}
