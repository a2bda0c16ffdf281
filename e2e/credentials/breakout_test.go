package credentials_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// errNacked and errReturned are what a producer is told of a message that was refused or not routable.
var (
	errNacked   = errors.New("basic.nack")
	errReturned = errors.New("basic.return")
)

// attempt is one thing that a producer tries on a channel of its own. What it publishes and the broker confirms is counted.
type attempt func(ch *amqp.Channel) error

// publishing publishes one message, mandatory and with a confirm, and returns what the producer is told.
func publishing(exchange, key string, change ...func(*amqp.Publishing)) attempt {
	return func(ch *amqp.Channel) error {
		if err := ch.Confirm(false); err != nil {
			return err
		}
		closed, returned := ch.NotifyClose(make(chan *amqp.Error, 1)), ch.NotifyReturn(make(chan amqp.Return, 1))
		m := amqp.Publishing{MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, ContentType: "application/json", Body: []byte(`{"from":"a producer"}`)}
		for _, change := range change {
			change(&m)
		}
		ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
		defer cancel()
		confirm, err := ch.PublishWithDeferredConfirmWithContext(ctx, exchange, key, true, false, m)
		if err != nil {
			return err
		}
		// A channel that ends says why first, then closes the notifications and resolves the confirms.
		select {
		case refused := <-closed:
			return refused
		case _, open := <-returned:
			if !open {
				return <-closed
			}
			return errReturned
		case <-confirm.Done():
			select {
			case refused := <-closed:
				return refused
			case _, open := <-returned: // a message comes back before its confirm
				if !open {
					return <-closed
				}
				return errReturned
			default:
			}
			if !confirm.Acked() {
				return errNacked
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func header(name string, value any) func(*amqp.Publishing) {
	return func(m *amqp.Publishing) { m.Headers = amqp.Table{name: value} }
}

func userID(name string) func(*amqp.Publishing) { return func(m *amqp.Publishing) { m.UserId = name } }

// try makes an attempt on a new channel, on another connection if that was lost, and returns the code with which it is refused, 0 if it is
// not.
func (p *producer) try(name string, do attempt) int {
	p.w.t.Helper()
	if p.connection.IsClosed() {
		p.connection = p.w.dial(p.url)
	}
	ch, err := p.connection.Channel()
	require.NoError(p.w.t, err, name)
	defer func() { _ = ch.Close() }() // the broker may have closed it
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	err = do(ch)
	if errors.Is(err, amqp.ErrClosed) { // by what came before
		if told := <-closed; told != nil {
			err = told
		}
	}
	if err == nil {
		return 0
	}
	refused := new(amqp.Error)
	require.ErrorAs(p.w.t, err, &refused, name)
	return refused.Code
}

// producer has a credential.
type producer struct {
	w          *world
	url        string
	connection *amqp.Connection
}

const refused = amqp.AccessRefused

// A producer that is confined to its tenant must get nowhere else: to no other tenant, to nothing that all share, and to nobody's queue.
// What it may do works.
func TestProducerCannotBreakOut(t *testing.T) {
	t.Parallel()
	w := worldOn(t, shared.Stack(t))
	own, issued := w.tenant()
	other, neighbour := w.tenant()
	id, foreign := own.String(), other.String()
	p := &producer{w: w, url: issued.URL, connection: w.dial(issued.URL)}
	stored := 0

	require.Equal(t, contract.TenantExchangeName(id), issued.Exchange)
	if err := publishing(issued.Exchange, id)(channel(t, p.connection)); err != nil {
		t.Fatal(err)
	}
	stored++

	for _, key := range []string{foreign, "#", "*", "", id + ".x", "x." + id, id + "\n", strings.ToUpper(id) + "\n", contract.ParkingRoutingKey} {
		require.Equal(t, refused, p.try(key, publishing(issued.Exchange, key)), "with the key %q", key)
	}
	for _, exchange := range []string{
		neighbour.Exchange, contract.MessagesExchange, contract.TenantsExchange, contract.RetryReturnExchange, contract.DeadLettersExchange,
		contract.LargeDeadLettersExchange, contract.QuarantineExchange, contract.ParkingExchange, contract.ScreenExchange, contract.RefusedExchange,
		contract.TenantScreenName(id), contract.TenantScreenedName(id), contract.TenantScreenedName(foreign), "retry.1s",
		"", "amq.topic", "amq.direct", "amq.fanout", "amq.headers", "amq.match", "amq.rabbitmq.trace", "messages2", issued.Exchange + "x", issued.Exchange + "\n",
	} {
		for _, key := range []string{id, contract.QueueName(foreign)} {
			require.Equal(t, refused, p.try(exchange, publishing(exchange, key)), "to %q with %q", exchange, key)
		}
	}
	stored += p.tryCopies(issued, id, foreign)
	p.tryDeclarations(issued, id, foreign)
	stored += p.tryTheRest(issued, id)
	p.tryUnroutable(issued, id)
	w.requireStored(own, stored)
	w.requireStored(other, 0)
}

func channel(t *testing.T, connection *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := connection.Channel()
	require.NoError(t, err)
	return ch
}

// tryCopies names further routing keys, which RabbitMQ checks from 4.0 on. Before, they lead nowhere. It returns how many messages were
// accepted.
func (p *producer) tryCopies(issued client.IssuedCredential, id, foreign string) (accepted int) {
	t := p.w.t
	t.Helper()
	for _, name := range []string{"CC", "BCC"} {
		for _, key := range []string{foreign, contract.QueueName(foreign), contract.ParkingQueue, contract.DeadLettersQueue, contract.TenantExchangeName(foreign), "#"} {
			want := 0
			if !p.w.before4(0) {
				want = refused
			} else {
				accepted++
			}
			require.Equal(t, want, p.try(name, publishing(issued.Exchange, id, header(name, []any{key}))), "%s: %q", name, key)
		}
	}
	// A copy to itself is one message.
	require.Zero(t, p.try("CC", publishing(issued.Exchange, id, header("CC", []any{id, id}))))
	accepted++
	// Where the broker cannot bear it, the screen refuses it.
	err := publishing(issued.Exchange, id, header("x-death", []any{"a"}))(channel(t, p.connection))
	if p.w.before4(0) {
		require.ErrorIs(t, err, errNacked)
	} else {
		require.NoError(t, err)
		accepted++
	}
	return accepted
}

// tryDeclarations touches queues and exchanges. Below 4.3 a passive declaration needs no permission: it tells whether a queue is there,
// and how many messages and consumers it has.
func (p *producer) tryDeclarations(issued client.IssuedCredential, id, foreign string) {
	t := p.w.t
	t.Helper()
	passive, unknown := refused, refused
	if p.w.before4(3) {
		passive, unknown = 0, amqp.NotFound
	}
	mine, theirs := contract.QueueName(id), contract.QueueName(foreign)
	declare := func(queue string) attempt {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(queue, false, true, false, false, nil)
			return err
		}
	}
	look := func(queue string) attempt {
		return func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err
		}
	}
	for name, c := range map[string]struct {
		do   attempt
		want int
	}{
		"declare a queue":                    {declare("mine"), refused},
		"declare a queue of the server":      {declare(""), refused},
		"declare a queue of a tenant":        {declare(contract.QueueName(uuid.NewString())), refused},
		"passive declare of its own queue":   {look(mine), passive},
		"passive declare of another's queue": {look(theirs), passive},
		"passive declare of no queue":        {look("nobody"), unknown},
		"passive declare of an exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive(contract.MessagesExchange, amqp.ExchangeTopic, true, false, false, false, nil)
		}, passive},
		"declare an exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("mine", amqp.ExchangeTopic, false, false, false, false, nil)
		}, refused},
		"declare its exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare(issued.Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
		}, refused},
		"bind a queue":   {func(ch *amqp.Channel) error { return ch.QueueBind(theirs, id, issued.Exchange, false, nil) }, refused},
		"bind its queue": {func(ch *amqp.Channel) error { return ch.QueueBind(mine, foreign, contract.TenantsExchange, false, nil) }, refused},
		"unbind a queue": {func(ch *amqp.Channel) error { return ch.QueueUnbind(theirs, foreign, contract.TenantsExchange, nil) }, refused},
		"bind its exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeBind(contract.TenantsExchange, "#", issued.Exchange, false, nil)
		}, refused},
		"bind to its exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeBind(issued.Exchange, "#", contract.TenantsExchange, false, nil)
		}, refused},
		"unbind its exchange": {func(ch *amqp.Channel) error {
			return ch.ExchangeUnbind(contract.TenantScreenName(id), id, issued.Exchange, false, nil)
		}, refused},
		"delete its exchange": {func(ch *amqp.Channel) error { return ch.ExchangeDelete(issued.Exchange, false, false) }, refused},
		"delete an exchange":  {func(ch *amqp.Channel) error { return ch.ExchangeDelete(contract.TenantsExchange, false, false) }, refused},
		"delete its queue":    {func(ch *amqp.Channel) error { _, err := ch.QueueDelete(mine, false, false, false); return err }, refused},
		"delete a queue":      {func(ch *amqp.Channel) error { _, err := ch.QueueDelete(theirs, false, false, false); return err }, refused},
		"purge its queue":     {func(ch *amqp.Channel) error { _, err := ch.QueuePurge(mine, false); return err }, refused},
		"purge a queue":       {func(ch *amqp.Channel) error { _, err := ch.QueuePurge(theirs, false); return err }, refused},
		"get":                 {func(ch *amqp.Channel) error { _, _, err := ch.Get(theirs, true); return err }, refused},
		"get its own":         {func(ch *amqp.Channel) error { _, _, err := ch.Get(mine, true); return err }, refused},
		"get dead letters":    {func(ch *amqp.Channel) error { _, _, err := ch.Get(contract.QuarantineQueue, true); return err }, refused},
		"consume": {func(ch *amqp.Channel) error {
			_, err := ch.Consume(theirs, "", true, false, false, false, nil)
			return err
		}, refused},
		"consume its own": {func(ch *amqp.Channel) error {
			_, err := ch.Consume(mine, "", true, false, false, false, nil)
			return err
		}, refused},
	} {
		require.Equal(t, c.want, p.try(name, c.do), name)
	}
}

// tryTheRest is what needs no permission, or goes beyond this broker. It returns how many messages were accepted.
func (p *producer) tryTheRest(issued client.IssuedCredential, id string) (accepted int) {
	t := p.w.t
	t.Helper()
	require.Equal(t, amqp.PreconditionFailed, p.try("user id", publishing(issued.Exchange, id, userID("operator"))), "another's user id")
	require.Zero(t, p.try("user id", publishing(issued.Exchange, id, userID(issued.Username))))
	accepted++
	// Replies need no queue and no permission; there is no way to reply to somebody else through the default exchange.
	require.Zero(t, p.try("reply-to", func(ch *amqp.Channel) error {
		_, err := ch.Consume("amq.rabbitmq.reply-to", "", true, false, false, false, nil)
		return err
	}))
	require.Equal(t, refused, p.try("reply", publishing("", "amq.rabbitmq.reply-to.x")))
	require.Zero(t, p.try("tx", func(ch *amqp.Channel) error {
		if err := ch.Tx(); err != nil {
			return err
		}
		if err := ch.PublishWithContext(t.Context(), issued.Exchange, id, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(`"tx"`)}); err != nil {
			return err
		}
		return ch.TxCommit()
	}))
	accepted++
	require.Equal(t, refused, p.try("tx", func(ch *amqp.Channel) error {
		if err := ch.Tx(); err != nil {
			return err
		}
		if err := ch.PublishWithContext(t.Context(), contract.TenantsExchange, id, true, false, amqp.Publishing{Body: []byte(`"tx"`)}); err != nil {
			return err
		}
		return ch.TxCommit()
	}))
	require.Zero(t, p.try("qos", func(ch *amqp.Channel) error { return ch.Qos(1, 0, true) }))

	address, err := url.Parse(issued.URL)
	require.NoError(t, err)
	for _, vhost := range []string{"", "nobody-has-it"} {
		address.Path, address.RawPath = vhost, ""
		_, err = amqp.Dial(address.String())
		require.Error(t, err, "another virtual host: %q", vhost)
	}
	manager, err := url.Parse(p.w.Options.ServiceEnv[stack.TenantService]["RABBITMQ_MANAGEMENT_URL"])
	require.NoError(t, err)
	manager.User = url.UserPassword(issued.Username, issued.Password)
	api, err := management.New(manager.String(), p.w.Options.RabbitMQURL)
	require.NoError(t, err)
	for _, path := range []string{"/api/whoami", "/api/overview", "/api/queues", "/api/users"} {
		require.ErrorIs(t, api.Do(t.Context(), http.MethodGet, path, nil, nil), management.ErrRefused, path)
	}
	return accepted
}

// tryUnroutable takes the way behind the exchange away: a confirm alone would say that all is well.
func (p *producer) tryUnroutable(issued client.IssuedCredential, id string) {
	t := p.w.t
	t.Helper()
	ch := channel(t, p.w.operator)
	if p.w.before4(0) {
		require.NoError(t, ch.ExchangeUnbind(contract.TenantScreenName(id), id, issued.Exchange, false, nil))
		defer func() {
			require.NoError(t, ch.ExchangeBind(contract.TenantScreenName(id), id, issued.Exchange, false, nil))
		}()
	} else {
		require.NoError(t, ch.QueueUnbind(contract.QueueName(id), id, issued.Exchange, nil))
		defer func() { require.NoError(t, ch.QueueBind(contract.QueueName(id), id, issued.Exchange, false, nil)) }()
	}
	require.ErrorIs(t, publishing(issued.Exchange, id)(channel(t, p.connection)), errReturned)
}

// One producer must not use up the connections and channels of a broker that all share.
func TestConnectionsAndChannelsOfACredentialAreLimited(t *testing.T) {
	t.Parallel()
	w := worldOn(t, shared.Stack(t))
	own, issued := w.tenant()
	var connections []*amqp.Connection
	for range maxConnections {
		connections = append(connections, w.dial(issued.URL))
	}
	_, err := amqp.Dial(issued.URL)
	require.Error(t, err)
	closed := connections[0].NotifyClose(make(chan *amqp.Error, 1))
	for opened := range 2047 {
		if _, err := connections[0].Channel(); err != nil {
			require.Equal(t, maxChannels, opened)
			break
		}
	}
	told := <-closed
	require.NotNil(t, told)
	require.Equal(t, amqp.NotAllowed, told.Code)

	// Another credential of the same tenant has limits of its own.
	second, err := w.api.IssueCredential(w.ctx(), client.ID(own), "second")
	require.NoError(t, err)
	require.NoError(t, publishing(second.Exchange, second.RoutingKey)(channel(t, w.dial(second.URL))))
	w.requireStored(own, 1)
}

// What a producer was confirmed is stored, whatever becomes of its credential. With the credential, and with the tenant, its connections
// end.
func TestRevocationAndDeletionCloseConnections(t *testing.T) {
	t.Parallel()
	w := worldOn(t, shared.Stack(t))
	own, first := w.tenant()
	second, err := w.api.IssueCredential(w.ctx(), client.ID(own), "second")
	require.NoError(t, err)
	connections := []*amqp.Connection{w.dial(first.URL), w.dial(second.URL)}
	var closed []chan *amqp.Error
	for _, connection := range connections {
		require.NoError(t, publishing(first.Exchange, first.RoutingKey)(channel(t, connection)))
		closed = append(closed, connection.NotifyClose(make(chan *amqp.Error, 1)))
	}
	require.NoError(t, w.api.RevokeCredential(w.ctx(), client.ID(own), first.ID))
	require.NotNil(t, <-closed[0])
	_, err = amqp.Dial(first.URL)
	require.ErrorIs(t, err, amqp.ErrCredentials)
	require.NoError(t, publishing(second.Exchange, second.RoutingKey)(channel(t, connections[1])))
	w.requireStored(own, 3)

	require.NoError(t, w.api.DeleteTenant(w.ctx(), client.ID(own), client.Wait()))
	require.NotNil(t, <-closed[1])
	_, err = amqp.Dial(second.URL)
	require.ErrorIs(t, err, amqp.ErrCredentials)
	err = channel(t, w.operator).ExchangeDeclarePassive(first.Exchange, amqp.ExchangeTopic, true, false, false, false, nil)
	gone := new(amqp.Error)
	require.ErrorAs(t, err, &gone)
	require.Equal(t, amqp.NotFound, gone.Code)
}
