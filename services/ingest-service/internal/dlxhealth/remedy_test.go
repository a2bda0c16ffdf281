package dlxhealth

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

// repeatRemedy is the pause before the last command of the remedy is given again.
const repeatRemedy = 10 * time.Second

// runbook has the remedy, between the heading and the end of the block of commands.
const runbook = "../../../../docs/operations.md"

// remedy are the commands of the runbook, each with its arguments.
func remedy(t *testing.T, variables map[string]string) [][]string {
	t.Helper()
	text, err := os.ReadFile(runbook)
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "**Dead-lettering is down.**")
	require.True(t, found, "the runbook has a section")
	_, block, found := strings.Cut(section, "```sh\n")
	require.True(t, found)
	block, _, found = strings.Cut(block, "```")
	require.True(t, found)
	words := regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
	var commands [][]string
	for line := range strings.Lines(block) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		command := words.FindAllString(line, -1)
		require.Equal(t, "rabbitmqctl", command[0])
		for i, word := range command {
			if strings.HasPrefix(word, `"`) {
				word = os.Expand(word, func(name string) string { return variables[name] })
			}
			command[i] = strings.Trim(word, `'"`)
		}
		commands = append(commands, command)
	}
	return commands
}

// topology is that of an instance.
func (r *rig) topology(cfg conn.Config) *provision.Topology {
	r.t.Helper()
	probing := conn.NewLink(cfg, "quarantine", zap.NewNop(), nil)
	link := conn.NewLink(cfg, "topology", zap.NewNop(), nil)
	component.Run(r.t, probing.Run)
	component.Run(r.t, link.Run)
	return provision.NewTopology(link, consume.NewProber(probing), []time.Duration{tier}, provision.QueueOptions{}, cfg.Screen, zap.NewNop())
}

func (r *rig) publish(queue string, headers amqp.Table, expiration string) {
	r.t.Helper()
	require.NoError(r.t, r.tryPublish(queue, headers, expiration))
}

func (r *rig) tryPublish(queue string, headers amqp.Table, expiration string) error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	defer cancel()
	return r.publisher.Publish(ctx, publish.Message{Key: queue, Publishing: amqp.Publishing{
		MessageId: queue, Headers: headers, Expiration: expiration, DeliveryMode: amqp.Persistent, Body: []byte(`1`),
	}})
}

// parked takes a message out of the queue of parked messages.
func (r *rig) parked() (id string, ok bool) {
	r.t.Helper()
	got := make(chan amqp.Delivery, 1)
	require.NoError(r.t, r.do(func(ch *amqp.Channel) error {
		d, there, err := ch.Get(contract.ParkingQueue, true)
		if there {
			got <- d
		}
		return err
	}))
	select {
	case d := <-got:
		return d.MessageId, true
	default:
		return "", false
	}
}

// kill ends the dead-lettering of the node: with a message that waits in a tenant's queue where one can, else by hand.
func (r *rig) kill(broker *backing.Process, queue string) {
	r.t.Helper()
	session, err := r.link.Session(r.t.Context())
	require.NoError(r.t, err)
	if r.screened(session) {
		r.publish(queue, amqp.Table{"x-death": []any{"a"}}, "200") // to the queue itself, past the screen
		return
	}
	_, err = broker.Tool(r.t.Context(), "rabbitmqctl", "eval", "supervisor:terminate_child(rabbit_sup, rabbit_fifo_dlx_sup).")
	require.NoError(r.t, err)
}

// The dead-lettering of a node ends, as it did when a message with a header x-death expired. The operator is told so by instances
// that run and by one that is started, and has it back with the commands of the runbook, without a restart: what was stuck
// comes through, and tenants can be made.
func TestRemedyOfTheRunbook(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts a broker and breaks it")
	}
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	broker := services.Process(backing.ServiceRabbitMQ)
	if _, err := broker.Tool(t.Context(), "rabbitmqctl", "version"); errors.Is(err, backing.ErrNoTools) {
		t.Skip("NOT TESTED: the remedy of the runbook. The broker runs in a container, where its rabbitmqctl is out of reach; BACKING=native tests it")
	}
	cfg := conn.Config{URL: services.RabbitMQURL}
	r := newRig(t, cfg)
	poisoned, neighbour, late := uuid.NewString(), uuid.NewString(), uuid.New()
	for _, tenant := range []string{poisoned, neighbour} {
		require.NoError(t, r.do(func(ch *amqp.Channel) error { return provision.DeclareTenant(ch, tenant, provision.QueueOptions{}) }))
	}
	topology := r.topology(cfg)
	r.start()
	r.fine()
	r.kill(broker, contract.QueueName(poisoned))
	r.degraded(sharedTier, ownTier)

	r.publish(contract.QueueName(neighbour), nil, "200")
	require.Error(t, topology.Declare(t.Context(), late), "no tenant can be made")
	started := newRig(t, cfg)
	started.start()
	started.degradedBy(ownTier)
	_, there := r.parked()
	require.False(t, there, "the neighbour's message is stuck")
	halfMade := r.declareInVain(cfg.URL, 8)

	commands := remedy(t, map[string]string{"VHOST": "/", "QUEUE": contract.QueueName(poisoned)})
	for _, command := range commands {
		output, err := broker.Tool(t.Context(), command[0], command[1:]...)
		t.Logf("%v\n%s", command, output)
		require.NoError(t, err)
	}
	// The last two are to be repeated until they have reached all queues: those that have to be started first take a moment.
	for end := time.Now().Add(waitLimit); time.Now().Before(end) && (r.reported() != nil || started.reported() != nil); {
		select {
		case <-t.Context().Done():
		case <-time.After(repeatRemedy):
		}
		for _, last := range commands[len(commands)-2:] {
			output, err := broker.Tool(t.Context(), last[0], last[1:]...)
			t.Logf("again: %s", output)
			require.NoError(t, err)
		}
	}
	if r.reported() != nil || started.reported() != nil {
		t.Logf("still reported: %v; %v", r.reported(), started.reported())
		for _, look := range commands[:2] {
			output, err := broker.Tool(t.Context(), look[0], look[1:]...)
			t.Logf("%v\n%s %v", look, output, err)
		}
	}
	r.fine()
	started.fine()
	require.Eventually(t, func() bool {
		id, there := r.parked()
		return there && id == contract.QueueName(neighbour)
	}, waitLimit, poll)
	require.Eventually(t, func() bool {
		if err := topology.Declare(t.Context(), late); err != nil {
			return false
		}
		return topology.Bind(t.Context(), late) == nil
	}, waitLimit, poll, "tenants can be made again")
	halfMade = slices.DeleteFunc(halfMade, func(queue string) bool {
		err := r.tryPublish(queue, nil, "")
		if errors.Is(err, publish.ErrUnroutable) {
			return true // RabbitMQ 4.3 leaves nothing of a queue that it could not make
		}
		require.NoError(t, err)
		return false
	})
	require.Eventually(t, func() bool {
		id, _ := r.parked()
		halfMade = slices.DeleteFunc(halfMade, func(queue string) bool { return queue == id })
		return len(halfMade) == 0
	}, waitLimit, poll, "queues that were declared meanwhile have their lifetime: %v", &halfMade)
}

// declareInVain declares queues that dead-letter, which the broker cannot make: it may leave them with a part of their arguments.
func (r *rig) declareInVain(url string, n int) (names []string) {
	r.t.Helper()
	for i := range n {
		conn, err := amqp.Dial(url)
		require.NoError(r.t, err)
		ch, err := conn.Channel()
		require.NoError(r.t, err)
		name := contract.CanaryName("half-made-" + strconv.Itoa(i))
		_, err = ch.QueueDeclare(name, true, false, false, false, ownTierArgs())
		require.Error(r.t, err)
		require.Eventually(r.t, conn.IsClosed, waitLimit, poll, "the broker closes the connection that it cannot answer")
		names = append(names, name)
	}
	return names
}
