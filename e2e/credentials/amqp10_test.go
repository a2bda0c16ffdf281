package credentials_test

import (
	"context"
	"strings"
	"testing"

	amqp10 "github.com/Azure/go-amqp"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// producer10 has a credential and speaks AMQP 1.0.
type producer10 struct {
	w   *world
	url string
}

// addresses of exchanges and queues are written in another way from RabbitMQ 4.0 on.
func (p *producer10) exchange(name, key string) string {
	if p.w.before4(0) {
		return "/exchange/" + name + "/" + key
	}
	return "/exchanges/" + name + "/" + key
}

func (p *producer10) queue(name string) string {
	if p.w.before4(0) {
		return "/amq/queue/" + name
	}
	return "/queues/" + name
}

// on makes an attempt on a connection and in a session of its own.
func (p *producer10) on(do func(ctx context.Context, session *amqp10.Session) error) error {
	p.w.t.Helper()
	ctx := p.w.ctx()
	var connection *amqp10.Conn
	require.Eventually(p.w.t, func() (connected bool) { // the one before may still be counted
		var err error
		connection, err = amqp10.Dial(ctx, p.url, nil)
		return err == nil
	}, waitLimit, poll)
	defer connection.Close() //nolint:errcheck // the broker may have closed it
	session, err := connection.NewSession(ctx, nil)
	require.NoError(p.w.t, err)
	err = do(ctx, session)
	require.NotErrorIs(p.w.t, err, context.DeadlineExceeded, "the broker does not say no")
	return err
}

// send publishes one message to an address.
func (p *producer10) send(address string, change ...func(*amqp10.Message)) error {
	p.w.t.Helper()
	return p.on(func(ctx context.Context, session *amqp10.Session) error {
		sender, err := session.NewSender(ctx, address, nil)
		if err != nil {
			return err
		}
		message := amqp10.NewMessage([]byte(`{"from":"a producer"}`))
		message.Header = &amqp10.MessageHeader{Durable: true}
		for _, change := range change {
			change(message)
		}
		return sender.Send(ctx, message, nil)
	})
}

// receive attaches to an address as a consumer, and waits for a message or for the broker's refusal, which may come after the attachment.
func (p *producer10) receive(address string) error {
	p.w.t.Helper()
	return p.on(func(ctx context.Context, session *amqp10.Session) error {
		receiver, err := session.NewReceiver(ctx, address, nil)
		if err != nil {
			return err
		}
		_, err = receiver.Receive(ctx, nil)
		return err
	})
}

func property(name, value string) func(*amqp10.Message) {
	return func(m *amqp10.Message) { m.ApplicationProperties = map[string]any{name: value} }
}

func annotation(name string, value any) func(*amqp10.Message) {
	return func(m *amqp10.Message) { m.Annotations = amqp10.Annotations{name: value} }
}

// The other protocol that the broker may speak on the same port must be no way around.
func TestProducerCannotBreakOutOverAMQP10(t *testing.T) {
	t.Parallel()
	services := backing.DedicatedWith(t, backing.Options{
		Services: []backing.Name{backing.ServiceRabbitMQ}, RabbitMQPlugins: []string{"rabbitmq_amqp1_0"},
	})
	w := newWorld(t, backing.Broker{URL: services.RabbitMQURL, ManagementURL: services.RabbitMQManagementURL, VHost: "%2F"})
	own, issued := w.tenant()
	other, neighbour := w.tenant()
	id, foreign := own.String(), other.String()
	p := &producer10{w: w, url: issued.URL}
	require.NoError(t, p.send(p.exchange(issued.Exchange, id)))
	stored := 1

	for name, address := range map[string]string{
		"another key": p.exchange(issued.Exchange, foreign), "a pattern": p.exchange(issued.Exchange, "%23"), "its neighbour's exchange": p.exchange(neighbour.Exchange, foreign),
		"its neighbour's exchange with its key": p.exchange(neighbour.Exchange, id), "messages": p.exchange(contract.MessagesExchange, id),
		"tenants": p.exchange(contract.TenantsExchange, id), "parking": p.exchange(contract.ParkingExchange, id), "amq.topic": p.exchange("amq.topic", id),
		"behind the screen": p.exchange(contract.TenantScreenedName(foreign), id), "its neighbour's queue": p.queue(contract.QueueName(foreign)),
		"its own queue": p.queue(contract.QueueName(id)), "dead letters": p.queue(contract.DeadLettersQueue),
		"a topic": "/topic/" + id, "a queue to be made": "/queue/mine", "nothing": "/nothing",
	} {
		require.Error(t, p.send(address), "%s: %s", name, address)
	}
	for name, address := range map[string]string{
		"its neighbour's queue": p.queue(contract.QueueName(foreign)), "its own queue": p.queue(contract.QueueName(id)), "the quarantine": p.queue(contract.QuarantineQueue),
		"its own exchange": p.exchange(issued.Exchange, id), "all": p.exchange(contract.TenantsExchange, "%23"), "a topic": "/topic/%23", "a queue to be made": "/queue/mine",
	} {
		require.Error(t, p.receive(address), "%s: %s", name, address)
	}

	// The key may be in the message instead.
	bare := strings.TrimSuffix(p.exchange(issued.Exchange, ""), "/")
	subject := func(key string) func(*amqp10.Message) {
		return func(m *amqp10.Message) { m.Properties = &amqp10.MessageProperties{Subject: &key} }
	}
	if w.before4(0) {
		require.Error(t, p.send(bare, subject(foreign)))
		require.NoError(t, p.send(bare, subject(id)))
		stored++
	}
	// Further keys, by the names that this protocol has for them, or 0-9-1. Below 4.0 none of it becomes a header of 0-9-1, x-death included.
	for _, change := range []func(*amqp10.Message){
		property("x-death", "a"), annotation("x-death", []any{"a"}),
		property("CC", foreign), property("BCC", foreign), annotation("x-cc", []any{foreign}), annotation("x-routing-key", foreign), annotation("x-exchange", neighbour.Exchange),
	} {
		if err := p.send(p.exchange(issued.Exchange, id), change); err == nil {
			stored++
		} else {
			t.Log(err)
		}
	}
	w.requireStored(own, stored)
	w.requireStored(other, 0)

	// A revoked credential is of no use in this protocol either.
	err := p.on(func(ctx context.Context, session *amqp10.Session) error {
		sender, err := session.NewSender(ctx, p.exchange(issued.Exchange, id), nil)
		if err != nil {
			return err
		}
		require.NoError(t, w.api.RevokeCredential(ctx, client.ID(own), issued.ID))
		for {
			if err := sender.Send(ctx, amqp10.NewMessage([]byte(`"after"`)), nil); err != nil {
				return err
			}
		}
	})
	require.Error(t, err)
	_, err = amqp10.Dial(w.ctx(), p.url, nil)
	require.Error(t, err)
}
