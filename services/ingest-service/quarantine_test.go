package main

import (
	"maps"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// send publishes a message to an exchange, past what producers may do.
func (w *crashWorld) send(exchange, key, expiration, body string) {
	w.t.Helper()
	ctx, cancel := deadline(w.t)
	defer cancel()
	require.NoError(w.t, w.producer.Publish(ctx, publish.Message{Exchange: exchange, Key: key, Publishing: amqp.Publishing{
		MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Expiration: expiration, Body: []byte(body),
	}}))
}

// letter waits until a tenant has a dead letter of that reason.
func (w *crashWorld) publishDeadLetter(tenant uuid.UUID, reason string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		return w.count(w.t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1 AND reason = $2`, tenant, reason) == 1
	}, waitLimit, tick, "no dead letter %s", reason)
}

// ready waits until /readyz contains every text.
func (w *crashWorld) ready(texts ...string) {
	w.t.Helper()
	var last []byte
	require.Eventually(w.t, func() bool {
		_, last = get(w.t, w.ops+"/readyz")
		for _, text := range texts {
			if !strings.Contains(string(last), text) {
				return false
			}
		}
		return true
	}, waitLimit, tick, "want %v, last seen %s", texts, &last)
}

// connections are those of the service on which nothing is consumed that may end them, by their name and their port.
func (w *crashWorld) connections() map[string]string {
	w.t.Helper()
	var all []struct {
		Name string `json:"name"` // ports of both sides
		Link string `json:"user_provided_name"`
	}
	require.True(w.t, w.manage(w.t, "/api/connections", &all))
	links := make(map[string]string)
	for _, c := range all {
		if strings.HasPrefix(c.Link, serviceName) && !strings.HasSuffix(c.Link, " dead letters") && !strings.HasSuffix(c.Link, " parked messages") {
			links[c.Link] = c.Name
		}
	}
	return links
}

// A message that ends the connection at each delivery, wherever it comes from, is in quarantine within seconds, and the dead letters of
// all others behind it are recorded. Nobody else loses a connection. The operator is told, and removes it as the runbook says.
func TestMessageThatCrashesTheBrokersWriterDoesNotStopDeadLetters(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts a broker of its own")
	}
	t.Parallel()
	w, services := newWriterWorld(t)
	w.start()
	both := w.tenants(2)
	producer, neighbour := both[0], both[1]
	for _, v := range both {
		v.want(contract.TenantSpec{State: contract.DesiredSuspended, Workers: 1, Generation: 2})
	}
	for _, v := range both {
		v.observed()
	}
	var before map[string]string
	require.Eventually(t, func() bool {
		before = w.connections()
		return before[serviceName+" consume 1"] != "" && before[serviceName+" shared"] != ""
	}, waitLimit, tick)

	t.Log("it expires in the queue of its tenant")
	publishUnsignedID(t, services.RabbitMQURL, contract.MessagesExchange, producer.id.String(), 100*time.Millisecond)
	require.Eventually(t, func() bool { q, _ := producer.queue(); return q.Messages == 0 }, waitLimit, tick)
	w.send(contract.TenantsExchange, neighbour.id.String(), "100", `1`)
	w.publishDeadLetter(neighbour.id, "expired")

	t.Log("it is in the queue of dead letters")
	neighbour.want(contract.TenantSpec{State: contract.DesiredActive, Workers: 1, Generation: 3})
	neighbour.observed()
	publishUnsignedID(t, services.RabbitMQURL, contract.DeadLettersExchange, neighbour.id.String(), 0)
	w.send(contract.TenantsExchange, neighbour.id.String(), "", `{bad`)
	w.publishDeadLetter(neighbour.id, "not_json")

	t.Log("it comes back from a retry tier to nobody")
	stranger := uuid.New()
	publishUnsignedID(t, services.RabbitMQURL, contract.RetryTierName(time.Second), stranger.String(), 0)
	w.send(contract.RetryTierName(time.Second), stranger.String(), "", `1`)
	w.publishDeadLetter(stranger, "unroutable")

	w.ready(`"degraded"`, "quarantine: 3 messages")
	require.Contains(t, w.metrics(), "mtm_quarantine_messages 3")
	for _, queue := range []string{contract.DeadLettersQueue, contract.ParkingQueue} {
		require.Eventually(t, func() bool {
			return !strings.Contains(w.metrics(), `mtm_dead_letters_blocked{queue="`+queue+`"} 1`)
		}, waitLimit, tick)
	}
	neighbour.publish(5)
	neighbour.drained()
	after := w.connections()
	maps.DeleteFunc(after, func(link, _ string) bool { return before[link] == "" })
	require.Equal(t, before, after, "others have lost their connection")

	t.Log("it is removed")
	target := services.RabbitMQManagementURL + "/api/queues/%2F/" + contract.QuarantineQueue + "/get"
	for range 3 {
		messages := manageGet(t, target)
		require.Len(t, messages, 1)
		require.Contains(t, string(messages[0]), "unreadable")
	}
	w.ready(`"ready"`)
	require.Contains(t, w.metrics(), "mtm_quarantine_messages 0")
	producer.want(contract.TenantSpec{State: contract.DesiredActive, Workers: 1, Generation: 3})
	producer.converged()
}

// policyCommand is what the runbook says for an installation that is older than the quarantine.
func policyCommand(t *testing.T) []string {
	t.Helper()
	runbook, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^rabbitmqctl set_policy .*$`).FindString(string(runbook))
	require.NotEmpty(t, line, "the runbook has the command")
	words := regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`).FindAllString(line, -1)
	for i, word := range words {
		words[i] = strings.Trim(os.Expand(strings.Trim(word, `"`), func(name string) string {
			return map[string]string{"VHOST": "/"}[name]
		}), `'`)
	}
	return words
}

// The queues of an installation that is older than the quarantine have no delivery limit, and are used as they are. There such a
// message holds up what lies behind it in its queue, and nothing else; the operator is told, and the policy of the runbook ends it.
func TestInstallationOlderThanTheQuarantine(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts a broker of its own")
	}
	t.Parallel()
	w, services := newWriterWorld(t)
	session, err := w.link.Session(t.Context())
	require.NoError(t, err)
	require.NoError(t, session.Do(t.Context(), func(ch *amqp.Channel) error {
		return provision.DeclareSharedUnlimited(ch, defaultConfig().Ingest.RetryDelays, amqp.QueueTypeQuorum)
	}))
	w.start()
	neighbour, stranger := w.tenants(1)[0], uuid.New()
	publishUnsignedID(t, services.RabbitMQURL, contract.ParkingExchange, stranger.String(), 0)
	w.send(contract.RetryTierName(time.Second), stranger.String(), "", `1`)
	w.ready(`"degraded"`, "parking: the deliveries of this queue break the connection")
	require.Contains(t, w.metrics(), `mtm_dead_letters_blocked{queue="parking"} 1`)
	w.send(contract.TenantsExchange, neighbour.id.String(), "", `{bad`)
	w.publishDeadLetter(neighbour.id, "not_json")
	require.Zero(t, w.count(t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, stranger))

	command := policyCommand(t)
	output, err := services.Process(backing.ServiceRabbitMQ).Tool(t.Context(), command[0], command[1:]...)
	require.NoError(t, err, "%s", output)
	w.publishDeadLetter(stranger, "unroutable")
	w.ready(`"degraded"`, "quarantine: 1 messages")
	require.Eventually(t, func() bool { return strings.Contains(w.metrics(), `mtm_dead_letters_blocked{queue="parking"} 0`) }, waitLimit, tick)
}
