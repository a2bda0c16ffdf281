package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	amqp10 "github.com/Azure/go-amqp"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

const (
	// mark is in the body of a message that breaks its connection.
	mark = "breaks its connection"
	// handful is how many connections a neighbour may lose: two that are shared, and one a round.
	handful = 5
	// healing is how long the probes of a tenant that has failed may be apart here, and what follows upon one.
	healing = 3 * time.Minute
)

// tenants brings n of them up on one connection.
func (w *crashWorld) tenants(n int) []*victim {
	w.t.Helper()
	all := make([]*victim, n)
	for i := range all {
		all[i] = &victim{t: w.t, w: w, id: uuid.New(), accepted: make(map[uuid.UUID]bool)}
		all[i].want(contract.TenantSpec{State: contract.DesiredActive, Workers: 1, Generation: 1})
	}
	for _, v := range all {
		v.observed()
	}
	return all
}

// connect has the service reach the broker at that URL, over one connection for all tenants.
func (w *crashWorld) connect(amqpURL string) {
	const variable = "RABBITMQ_URL="
	w.service.Env = slices.DeleteFunc(w.service.Env, func(line string) bool { return strings.HasPrefix(line, variable) })
	w.service.Env = append(w.service.Env, variable+amqpURL, "RABBITMQ_CONNECTIONS=1")
}

// poison publishes a message that breaks its connection.
func (v *victim) poison() {
	v.t.Helper()
	ctx, cancel := deadline(v.t)
	defer cancel()
	require.NoError(v.t, v.w.producer.Publish(ctx, publish.Message{
		Exchange: contract.MessagesExchange, Key: v.id.String(),
		Publishing: amqp.Publishing{MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, "%q", mark)},
	}))
}

// status is what the service has reported last.
func (v *victim) status() contract.TenantStatus {
	v.t.Helper()
	entry, err := v.w.statuses.Get(v.t.Context(), contract.StatusKey(v.id.String(), v.w.instance))
	require.NoError(v.t, err)
	return entry.Value
}

// hasFailed waits until the tenant is found to break connections.
func (v *victim) hasFailed() {
	v.t.Helper()
	var last contract.TenantStatus
	require.Eventually(v.t, func() bool {
		last = v.status()
		return last.State == contract.StateFailed && last.ObservedGeneration == v.spec.Generation
	}, waitLimit, tick, "last seen %+v", &last)
	require.Contains(v.t, last.Error, "break the connection")
	require.Contains(v.t, last.Error, "runbook")
	require.Contains(v.t, last.Error, "last error")
	require.Contains(v.t, v.w.metrics(), fmt.Sprintf("mtm_tenant_isolated{tenant_id=%q} 1", v.id))
}

func (w *crashWorld) metrics() string {
	w.t.Helper()
	status, metrics := get(w.t, w.ops+"/metrics")
	require.Equal(w.t, http.StatusOK, status)
	return string(metrics)
}

// drained waits until all that was accepted is stored.
func (v *victim) drained() {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return len(v.stored()) >= len(v.accepted) }, waitLimit, tick,
		"tenant %s: %d accepted, status %+v", v.id, len(v.accepted), v.status())
	require.Equal(v.t, v.accepted, v.stored())
}

// dropHead removes the first message of the queue, as the runbook says.
func (v *victim) dropHead() {
	v.t.Helper()
	require.Eventually(v.t, func() bool { // a probe may hold it
		dropped := false
		require.NoError(v.t, v.channel(func(ch *amqp.Channel) error {
			d, ok, err := ch.Get(contract.QueueName(v.id.String()), false)
			switch {
			case err != nil || !ok:
				return err
			case !strings.Contains(string(d.Body), mark):
				return d.Nack(false, true)
			}
			dropped = true
			return d.Ack(false)
		}))
		return dropped
	}, waitLimit, tick)
}

// A message that breaks the connection at each delivery stops its own tenant, and nobody else: neighbours lose a handful of
// connections, and from then on none. The tenant says why, is tried again on a connection of its own, and continues when the
// message is gone.
func TestDeliveriesThatBreakTheConnectionStopTheirTenantAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it waits for the probes of a tenant that has failed")
	}
	for name, test := range map[string]struct {
		poisoned int
		spoil    bool
		losses   int // of a neighbour
	}{
		"one tenant": {poisoned: 1, losses: handful}, "two tenants": {poisoned: 2, losses: handful},
		"deliveries that cannot be read": {poisoned: 1, spoil: true, losses: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := backing.RabbitMQ(t)
			breaker, proxied := newBreaker(t, broker.URL, mark)
			breaker.spoil = test.spoil
			w := newCrashWorldOn(t, broker)
			w.connect(proxied)
			w.start()
			all := w.tenants(50)
			culprits, neighbours := all[:test.poisoned], all[test.poisoned:]
			for i, v := range neighbours {
				v.publish(i % 3)
			}
			for _, v := range culprits {
				v.publish(5)
				v.poison()
				v.publish(5)
			}
			for _, v := range culprits {
				v.hasFailed()
			}
			for _, v := range neighbours {
				v.publish(5)
				v.drained()
				require.LessOrEqual(t, breaker.lossesOf(v.id), test.losses, "a neighbour keeps losing its connection")
			}
			undisturbed(t, breaker, culprits, neighbours)

			t.Log("what is wanted of it is done as far as that goes")
			first := culprits[0]
			first.want(contract.TenantSpec{State: contract.DesiredActive, Workers: 3, Generation: 2})
			first.hasFailed()
			first.want(contract.TenantSpec{State: contract.DesiredSuspended, Workers: 3, Generation: 3})
			first.observed()
			first.want(contract.TenantSpec{State: contract.DesiredActive, Workers: 3, Generation: 4})
			first.hasFailed()

			t.Log("the message is removed")
			before := breaker.allLosses()
			for _, v := range culprits {
				v.dropHead()
			}
			for _, v := range culprits {
				require.Eventually(t, func() bool { return v.status().State == contract.StateRunning }, healing, tick)
				v.publish(1)
				v.drained()
			}
			require.Eventually(t, func() bool { return !strings.Contains(w.metrics(), "mtm_tenant_isolated{") }, waitLimit, tick)
			require.Eventually(t, func() bool { return strings.Contains(w.metrics(), "mtm_isolation_candidates 0") }, waitLimit, tick)
			for _, v := range neighbours {
				require.Equal(t, before[v.id], breaker.lossesOf(v.id))
			}
		})
	}
}

// undisturbed waits for a further probe of each culprit, and demands that it costs nobody else anything.
func undisturbed(t *testing.T, b *breaker, culprits, neighbours []*victim) {
	t.Helper()
	before := b.allLosses()
	for _, v := range culprits {
		require.Eventually(t, func() bool { return b.lossesOf(v.id) > before[v.id] }, healing, tick, "it is never tried again")
		require.Equal(t, contract.StateFailed, v.status().State, "a probe is no recovery")
	}
	for _, v := range neighbours {
		require.Equal(t, before[v.id], b.lossesOf(v.id), "a neighbour has lost its connection again")
	}
}

// With rabbitmq.reader: library there are headers that end the connection of their consumer. That is no delivery that the
// platform reads, but it must stop nobody else either.
func TestDeliveriesThatTheLibraryCannotReadStopTheirTenantAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it waits for the probes of a tenant that has failed")
	}
	w := newCrashWorld(t)
	w.connect(w.broker.URL)
	w.service.Env = append(w.service.Env, "RABBITMQ_READER=library")
	w.start()
	all := w.tenants(10)
	culprit, neighbours := all[0], all[1:]
	producer, err := amqptest.Dial(t.Context(), w.broker.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, producer.Close()) }()
	deep := amqptest.Properties{Headers: amqptest.Field("deep", 'A', amqptest.Arrays(33)...)}.Encode()
	require.NoError(t, producer.Publish(contract.MessagesExchange, culprit.id.String(), deep, []byte("{}")))
	culprit.hasFailed()
	for _, v := range neighbours {
		v.publish(5)
		v.drained()
		require.Equal(t, contract.StateRunning, v.status().State)
	}
	require.Eventually(t, func() bool { // a probe may hold it
		taken := false
		require.NoError(t, culprit.channel(func(ch *amqp.Channel) error {
			purged, err := ch.QueuePurge(contract.QueueName(culprit.id.String()), false)
			taken = purged == 1
			return err
		}))
		return taken
	}, healing, tick)
	require.Eventually(t, func() bool { return culprit.status().State == contract.StateRunning }, healing, tick)
	culprit.publish(1)
	culprit.drained()
}

// The real one: RabbitMQ 3.10 crashes whenever it has to deliver an AMQP 1.0 message whose id is an unsigned long to a consumer over
// AMQP 0-9-1. The message is removed as the runbook says, and those behind it are stored.
func TestMessageThatCrashesTheBrokersWriterStopsItsTenantAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts a broker of its own")
	}
	w, services := newWriterWorld(t)
	w.start()
	all := w.tenants(20)
	culprit, neighbours := all[0], all[1:]
	culprit.publish(3)
	publishUnsignedID(t, services.RabbitMQURL, contract.MessagesExchange, culprit.id.String(), 0)
	culprit.publish(3)
	culprit.hasFailed()
	for _, v := range neighbours {
		v.publish(5)
		v.drained()
		require.Equal(t, contract.StateRunning, v.status().State)
	}

	queue := "/api/queues/%2F/" + contract.QueueName(culprit.id.String())
	require.Eventually(t, func() bool { // a probe may hold it
		return len(manageGet(t, services.RabbitMQManagementURL+queue+"/get")) == 1
	}, waitLimit, tick)
	require.Eventually(t, func() bool { return culprit.status().State == contract.StateRunning }, healing, tick)
	culprit.publish(1)
	culprit.drained()
}

// newWriterWorld is on a broker of its own that takes messages over AMQP 1.0.
func newWriterWorld(t *testing.T) (*crashWorld, *backing.Services) {
	t.Helper()
	services := backing.DedicatedWith(t, backing.Options{
		Services: []backing.Name{backing.ServiceRabbitMQ}, RabbitMQPlugins: []string{"rabbitmq_amqp1_0"},
	})
	skipUnlessWritersCrash(t, services)
	w := newCrashWorldOn(t, backing.Broker{URL: services.RabbitMQURL, ManagementURL: services.RabbitMQManagementURL, VHost: "%2F"})
	w.connect(services.RabbitMQURL)
	return w, services
}

// skipUnlessWritersCrash skips the test where the broker is one that can deliver the message.
func skipUnlessWritersCrash(t *testing.T, services *backing.Services) {
	t.Helper()
	if services.Process(backing.ServiceRabbitMQ).Source() != backing.SourceNative {
		t.Skip("SKIPPED: the broker runs in a container, where the plugin for AMQP 1.0 is not enabled")
	}
	conn, err := amqp.Dial(services.RabbitMQURL)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // only looked at
	version, _ := conn.Properties["version"].(string)
	if !strings.HasPrefix(version, "3.") {
		t.Skipf("SKIPPED: RabbitMQ %s converts the message for AMQP 0-9-1 without a crash", version)
	}
}

// publishUnsignedID publishes a message over AMQP 1.0, as the clients of other brokers do. Its lifetime has no end if it is 0.
func publishUnsignedID(t *testing.T, amqpURL, exchange, key string, lifetime time.Duration) {
	t.Helper()
	ctx, cancel := deadline(t)
	defer cancel()
	conn, err := amqp10.Dial(ctx, strings.TrimSuffix(amqpURL, "/"), nil)
	require.NoError(t, err)
	defer conn.Close() //nolint:errcheck // what was sent is confirmed
	session, err := conn.NewSession(ctx, nil)
	require.NoError(t, err)
	sender, err := session.NewSender(ctx, "/exchange/"+exchange+"/"+key, nil)
	require.NoError(t, err)
	message := amqp10.NewMessage([]byte(`"unreadable"`))
	message.Header = &amqp10.MessageHeader{Durable: true, TTL: lifetime}
	message.Properties = &amqp10.MessageProperties{MessageID: uint64(1)}
	require.NoError(t, sender.Send(ctx, message, nil))
}

// manageGet takes the first message out of a queue by the management API, which needs no connection of AMQP.
func manageGet(t *testing.T, target string) (messages []json.RawMessage) {
	t.Helper()
	got := raw.Must(t, http.DefaultTransport, http.StatusOK, raw.Request{
		Method: http.MethodPost, URL: target, Body: []byte(`{"count":1,"ackmode":"ack_requeue_false","encoding":"auto","truncate":1000}`),
	})
	got.Into(t, &messages)
	t.Logf("taken out of the queue: %s", got.Body)
	return messages
}
