package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres/sqlstate"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/mortal"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

const (
	waitLimit = time.Minute // on a busy machine
	tick      = 20 * time.Millisecond
	secret    = "a secret of the tests, and of nobody else"
)

// crashWorld is one service in a process of its own, and everything around it; the test plays the registry.
type crashWorld struct {
	t        *testing.T
	operator *pgxpool.Pool
	broker   backing.Broker
	link     *conn.Link
	producer *publish.Publisher
	specs    *control.Bucket[contract.TenantSpec]
	statuses *control.Bucket[contract.TenantStatus]

	instance string
	ops      string
	service  *mortal.Service
	started  time.Time // when that was
}

func newCrashWorld(t *testing.T) *crashWorld {
	t.Helper()
	return newCrashWorldOn(t, backing.RabbitMQ(t))
}

func newCrashWorldOn(t *testing.T, broker backing.Broker) *crashWorld {
	t.Helper()
	databaseURL, natsURL := backing.Postgres(t), backing.NATS(t)
	w := &crashWorld{t: t, broker: broker, instance: "ingest-1"}
	var err error
	w.operator = pgtest.Operator(t, databaseURL)
	w.link = conn.NewLink(conn.Config{URL: w.broker.URL}, "test", zap.NewNop(), nil)
	w.producer = publish.New(w.link, 1, zap.NewNop())
	component.Run(t, w.link.Run)
	component.Run(t, w.producer.Run)
	conn, err := control.Connect(control.Config{URL: natsURL}, "test", zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	w.specs, w.statuses = control.Tenants(conn), control.Statuses(conn)
	require.Eventually(t, func() bool { _, err := w.specs.Snapshot(t.Context()); return err == nil }, waitLimit, tick)

	ports, err := port.Free(t.Context(), 2)
	require.NoError(t, err)
	w.ops = "http://127.0.0.1:" + strconv.Itoa(ports[1])
	w.service = mortal.New(t, serviceName,
		"DATABASE_URL="+databaseURL, "RABBITMQ_URL="+w.broker.URL, "NATS_URL="+natsURL, "AUTH_SECRET="+secret,
		"HTTP_ADDR=127.0.0.1:"+strconv.Itoa(ports[0]), "OPS_ADDR=127.0.0.1:"+strconv.Itoa(ports[1]))
	return w
}

// start starts the service; nothing lets it die any more.
func (w *crashWorld) start() {
	w.t.Helper()
	w.started = time.Now()
	w.service.Start("INGEST_INSTANCE=" + w.instance)
}

// steps are the steps that were done for a generation of a tenant, in the order in which they were done first.
func (w *crashWorld) steps(t *testing.T, tenant uuid.UUID, generation int64) []step.Step {
	t.Helper()
	var steps []step.Step
	seen := make(map[string]bool)
	for line := range strings.Lines(string(w.service.Written(t))) {
		name, ours := strings.CutPrefix(strings.TrimSpace(line), stepLine(tenant, generation, ""))
		if ours && !seen[name] {
			seen[name] = true
			steps = append(steps, step.Step(name))
		}
	}
	return steps
}

// manage asks the broker's management API, and reports false for what is not there.
func (w *crashWorld) manage(t *testing.T, path string, into any) bool {
	t.Helper()
	target, err := url.JoinPath(w.broker.ManagementURL, path)
	require.NoError(t, err)
	status, body := get(t, target)
	if status == http.StatusNotFound {
		return false
	}
	require.Equal(t, http.StatusOK, status, "%s: %s", path, body)
	require.NoError(t, json.Unmarshal(body, into))
	return true
}

func get(t *testing.T, target string) (status int, body []byte) {
	t.Helper()
	got, err := raw.Do(t.Context(), &http.Transport{DisableKeepAlives: true}, raw.Request{URL: target})
	if err != nil {
		return 0, []byte(err.Error())
	}
	return got.Status, got.Body
}

// queues are the names of all queues that the broker has.
func (w *crashWorld) queues(t *testing.T) (names []string) {
	t.Helper()
	var queues []struct{ Name string }
	require.True(t, w.manage(t, "/api/queues/"+w.broker.VHost, &queues))
	for _, q := range queues {
		names = append(names, q.Name)
	}
	return names
}

// empty deletes what is left of tenants, as the registry would, and demands that nothing of any is left anywhere.
func (w *crashWorld) empty() {
	w.t.Helper()
	all, err := w.specs.Snapshot(w.t.Context())
	require.NoError(w.t, err)
	for id, entry := range all {
		v := &victim{t: w.t, w: w, id: uuid.MustParse(id), accepted: make(map[uuid.UUID]bool)}
		v.want(contract.TenantSpec{State: contract.DesiredDeleting, Workers: 1, Generation: entry.Value.Generation + 1})
		v.converged()
	}
	all, err = w.specs.Snapshot(w.t.Context())
	require.NoError(w.t, err)
	require.Empty(w.t, all)
	statuses, err := w.statuses.Snapshot(w.t.Context())
	require.NoError(w.t, err)
	for key := range statuses {
		_, heartbeat := contract.ParseInstanceKey(key)
		require.True(w.t, heartbeat, key)
	}
	for _, queue := range w.queues(w.t) {
		_, ours := contract.TenantOfQueue(queue)
		require.False(w.t, ours, queue)
	}
	for what, sql := range map[string]string{
		"partitions":   `SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^messages_[0-9a-f]{32}$'`,
		"messages":     `SELECT count(*) FROM messages`,
		"dead letters": `SELECT count(*) FROM dead_letters`,
		"live ids":     `SELECT count(*) FROM tenant_partitions WHERE dropped_at IS NULL`,
	} {
		require.Zero(w.t, w.count(w.t, sql), what)
	}
	_, metrics := get(w.t, w.ops+"/metrics")
	require.NotContains(w.t, string(metrics), "tenant_id")
}

func (w *crashWorld) count(t *testing.T, sql string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, w.operator.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// victim is a tenant at whose change the service dies.
type victim struct {
	t        *testing.T
	w        *crashWorld
	id       uuid.UUID
	change   contract.TenantSpec // the operation's
	spec     contract.TenantSpec // what is wanted now
	before   contract.DesiredState
	last     step.Step          // at which it dies
	accepted map[uuid.UUID]bool // messages of which the broker has taken responsibility
}

// victim brings a tenant to where the operation begins.
func (w *crashWorld) victim(t *testing.T, o operation) *victim {
	t.Helper()
	v := &victim{t: t, w: w, id: uuid.New(), change: o.want, before: o.before, accepted: make(map[uuid.UUID]bool)}
	if o.before == "" {
		return v
	}
	v.want(contract.TenantSpec{State: o.before, Workers: workersBefore, Generation: 1})
	v.observed()
	_, err := w.operator.Exec(t.Context(),
		`INSERT INTO dead_letters (tenant_id, id, payload, reason) VALUES ($1, $2, '', 'not_json')`, v.id, uuid.New())
	require.NoError(t, err)
	return v
}

// want puts a desired state as the registry does.
func (v *victim) want(spec contract.TenantSpec) {
	v.t.Helper()
	spec.TenantID = v.id.String()
	v.spec = spec
	_, err := v.w.specs.Put(v.t.Context(), spec.TenantID, spec)
	require.NoError(v.t, err)
}

// dieAt has the service die at a step of the operation.
func (v *victim) dieAt(last step.Step) {
	v.t.Helper()
	v.last = last
	v.w.service.DieAt(v.t, stepLine(v.id, v.change.Generation, last))
}

// begin begins the operation, with messages in flight.
func (v *victim) begin() {
	v.t.Helper()
	if v.before != "" {
		v.publish(200)
	}
	v.want(v.change)
	if v.last == step.Released {
		v.observed()
		v.finish()
	}
}

// dies waits until the service has killed itself.
func (v *victim) dies() {
	v.t.Helper()
	v.w.service.AwaitDeath(v.t)
	v.publish(20) // producers do not know, and the broker is there
}

// publish publishes n messages, and notes which of them the broker has taken.
func (v *victim) publish(n int) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), waitLimit)
	defer cancel()
	messages := make([]publish.Message, n)
	for i := range messages {
		messages[i] = publish.Message{Exchange: contract.MessagesExchange, Key: v.id.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: fmt.Appendf(nil, `%d`, i),
		}}
	}
	for i, err := range v.w.producer.PublishBatch(ctx, messages) {
		if err == nil {
			v.accepted[uuid.MustParse(messages[i].Publishing.MessageId)] = true
			continue
		}
		require.ErrorIs(v.t, err, publish.ErrUnroutable)
	}
}

// observed waits until the service has reported that the desired state is reached.
func (v *victim) observed() contract.TenantStatus {
	v.t.Helper()
	goal := map[contract.DesiredState]contract.ConsumerState{
		contract.DesiredActive: contract.StateRunning, contract.DesiredSuspended: contract.StateSuspended, contract.DesiredDeleting: contract.StateDeleted,
	}[v.spec.State]
	var last contract.TenantStatus
	require.Eventually(v.t, func() bool {
		entry, err := v.w.statuses.Get(v.t.Context(), contract.StatusKey(v.id.String(), v.w.instance))
		last = entry.Value
		// One that the dead process has left does not count.
		fresh := last.ObservedAt.After(v.w.started)
		return err == nil && fresh && last.State == goal && last.ObservedGeneration == v.spec.Generation
	}, waitLimit, tick, "want %s, last seen %+v", goal, &last)
	return last
}

// finish completes a deletion as the registry does once it is reported.
func (v *victim) finish() {
	v.t.Helper()
	require.NoError(v.t, v.w.specs.Delete(v.t.Context(), v.id.String()))
	for _, key := range v.statusKeys() {
		require.NoError(v.t, v.w.statuses.Delete(v.t.Context(), key))
	}
}

// converged waits until what is wanted has come about, and demands that there is nothing else.
func (v *victim) converged() {
	v.t.Helper()
	switch v.spec.State {
	case contract.DesiredActive:
		v.runs()
	case contract.DesiredSuspended:
		v.isSuspended()
		v.want(contract.TenantSpec{State: contract.DesiredActive, Workers: v.spec.Workers, Generation: v.spec.Generation + 1})
		v.runs()
	case contract.DesiredDeleting:
		v.isGone()
	}
}

func (v *victim) runs() {
	v.t.Helper()
	require.Equal(v.t, v.spec.Workers, v.observed().Workers)
	v.isProvisioned(1)
	v.publish(10)
	require.Eventually(v.t, func() bool { return len(v.stored()) >= len(v.accepted) }, waitLimit, tick)
	require.Equal(v.t, v.accepted, v.stored())
	require.Equal(v.t, len(v.accepted), v.w.count(v.t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, v.id))
	require.Eventually(v.t, func() bool { q, _ := v.queue(); return q.Messages == 0 }, waitLimit, tick)
	v.isCounted()
}

// isCounted waits until what is stored is counted, exactly.
func (v *victim) isCounted() {
	v.t.Helper()
	counted := func() int {
		return v.w.count(v.t, `SELECT coalesce(sum(messages), 0) FROM usage_hours WHERE tenant_id = $1`, v.id)
	}
	require.Eventually(v.t, func() bool { return counted() >= len(v.accepted) }, waitLimit, tick)
	require.Equal(v.t, len(v.accepted), counted())
	require.Equal(v.t, 1, v.w.count(v.t, `SELECT count(*) FROM usage_positions p WHERE tenant_id = $1
		AND (messages, bytes) = (SELECT count(*), sum(bytes) FROM messages WHERE tenant_id = $1)`, v.id))
}

func (v *victim) isSuspended() {
	v.t.Helper()
	v.observed()
	v.isProvisioned(0)
	before, stored := len(v.accepted), len(v.stored())
	v.publish(10)
	require.Len(v.t, v.accepted, before+10, "messages are accepted")
	q, _ := v.queue()
	require.GreaterOrEqual(v.t, q.Messages, 10, "and kept")
	require.Len(v.t, v.stored(), stored, "and not consumed")
}

// isProvisioned demands a queue with its bindings and consumers, an attached partition, and one key in each bucket.
func (v *victim) isProvisioned(consumers int) {
	v.t.Helper()
	name := contract.QueueName(v.id.String())
	require.Eventually(v.t, func() bool { q, there := v.queue(); return there && q.Consumers == consumers }, waitLimit, tick)
	want := map[string]string{"": name, contract.TenantsExchange: v.id.String(), contract.RetryReturnExchange: v.id.String()}
	if session, err := v.w.link.Session(v.t.Context()); assert.NoError(v.t, err) && !provision.Screened("", session.Version()) {
		want[contract.MessagesExchange] = v.id.String()
	}
	var bound map[string]string
	// A process that is started long after its predecessor has died verifies bindings while it consumes.
	require.Eventually(v.t, func() bool {
		var bindings []struct {
			Source string `json:"source"`
			Key    string `json:"routing_key"`
		}
		found := v.w.manage(v.t, "/api/queues/"+v.w.broker.VHost+"/"+name+"/bindings", &bindings)
		bound = make(map[string]string)
		for _, b := range bindings {
			bound[b.Source] = b.Key
		}
		return found && maps.Equal(want, bound)
	}, waitLimit, tick, "want %v, last seen %v", want, &bound)
	var queue struct{ Arguments map[string]any }
	require.True(v.t, v.w.manage(v.t, "/api/queues/"+v.w.broker.VHost+"/"+name, &queue))
	require.Equal(v.t, contract.ParkingExchange, queue.Arguments["x-dead-letter-exchange"])

	require.Equal(v.t, 1, v.w.count(v.t, `SELECT count(*) FROM pg_inherits WHERE inhrelid = to_regclass($1)`, v.partition()))
	require.Equal(v.t, 1, v.w.count(v.t, `SELECT count(*) FROM tenant_partitions WHERE id = $1 AND dropped_at IS NULL`, v.id))
	entry, err := v.w.specs.Get(v.t.Context(), v.id.String())
	require.NoError(v.t, err)
	require.Equal(v.t, v.spec, entry.Value)
	require.Equal(v.t, []string{contract.StatusKey(v.id.String(), v.w.instance)}, v.statusKeys())
}

// isGone waits for the end of a deletion, completes it, and demands that nothing is left.
func (v *victim) isGone() {
	v.t.Helper()
	if v.last != step.Released { // else the registry has had its report
		v.observed()
		v.finish()
	}
	require.Eventually(v.t, func() bool {
		status, metrics := get(v.t, v.w.ops+"/metrics")
		return status == http.StatusOK && !strings.Contains(string(metrics), v.id.String())
	}, waitLimit, tick, "metric series stay")
	_, there := v.queue()
	require.False(v.t, there, "the queue stays")
	var bindings []json.RawMessage
	require.True(v.t, v.w.manage(v.t, "/api/bindings/"+v.w.broker.VHost, &bindings))
	for _, b := range bindings {
		require.NotContains(v.t, string(b), v.id.String())
	}
	require.Zero(v.t, v.w.count(v.t, `SELECT count(*) FROM pg_class WHERE relname = $1`, v.partition()))
	require.Zero(v.t, v.w.count(v.t, `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, v.id))
	require.Equal(v.t, 1, v.w.count(v.t, `SELECT count(*) FROM tenant_partitions WHERE id = $1 AND dropped_at IS NOT NULL`, v.id))
	require.Zero(v.t, v.w.count(v.t, `SELECT count(*) FROM usage_positions WHERE tenant_id = $1`, v.id))
	require.Empty(v.t, v.statusKeys())
	clear(v.accepted)
	v.publish(1)
	require.Empty(v.t, v.accepted, "a message of a tenant that is gone")
}

func (v *victim) partition() string { return "messages_" + strings.ReplaceAll(v.id.String(), "-", "") }

func (v *victim) stored() map[uuid.UUID]bool {
	v.t.Helper()
	rows, err := v.w.operator.Query(v.t.Context(), `SELECT id FROM messages WHERE tenant_id = $1`, v.id)
	require.NoError(v.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	require.NoError(v.t, err)
	stored := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		stored[id] = true
	}
	return stored
}

func (v *victim) statusKeys() (keys []string) {
	v.t.Helper()
	all, err := v.w.statuses.Snapshot(v.t.Context())
	require.NoError(v.t, err)
	for key := range all {
		if strings.HasPrefix(key, v.id.String()) {
			keys = append(keys, key)
		}
	}
	return keys
}

// channel does something on a channel of the test's own.
func (v *victim) channel(do func(*amqp.Channel) error) error {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), waitLimit)
	defer cancel()
	session, err := v.w.link.Session(ctx)
	require.NoError(v.t, err)
	return session.Do(ctx, do)
}

// queue looks at the tenant's queue.
func (v *victim) queue() (q amqp.Queue, there bool) {
	v.t.Helper()
	err := v.channel(func(ch *amqp.Channel) (err error) {
		q, err = ch.QueueDeclarePassive(contract.QueueName(v.id.String()), true, false, false, false, nil)
		return err
	})
	if refused, ok := errors.AsType[*amqp.Error](err); ok && refused.Code == amqp.NotFound {
		return q, false
	}
	require.NoError(v.t, err)
	return q, true
}

// bindHalf leaves the queue as a process of an older version does that dies between its two bindings.
func (v *victim) bindHalf() {
	v.t.Helper()
	require.NoError(v.t, v.channel(func(ch *amqp.Channel) error {
		return ch.QueueBind(contract.QueueName(v.id.String()), v.id.String(), contract.MessagesExchange, false, nil)
	}))
}

// dropOnce is one of the transactions in which a partition is dropped. One that has waited for a lock for 200 ms is none.
func (v *victim) dropOnce() {
	v.t.Helper()
	for {
		_, err := v.w.operator.Exec(v.t.Context(), `SELECT tenant_drop($1)`, v.id)
		if !sqlstate.Is(err, pgerrcode.LockNotAvailable) {
			require.NoError(v.t, err)
			return
		}
	}
}

// deadline is for one request of a test.
func deadline(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithTimeout(t.Context(), waitLimit)
}
