package platform_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// newWorldOnItsOwnBroker is a platform whose broker nobody else has: what it is sent could end the work of all who share one.
func newWorldOnItsOwnBroker(t *testing.T) *world {
	t.Helper()
	requireOwn(t)
	services := backing.Dedicated(t, backing.ServiceRabbitMQ)
	opts := stack.Options{
		DatabaseURL: backing.Postgres(t), RabbitMQURL: services.RabbitMQURL, NATSURL: backing.NATS(t),
		ServiceEnv: map[string]map[string]string{stack.IngestService: {"RABBITMQ_MANAGEMENT_URL": services.RabbitMQManagementURL}},
	}
	w := ownWorld(t, opts)
	w.backing = services
	return w
}

// deathHeaders are forms of a header x-death: those that end the dead-lettering of a broker below 4.0, those that it takes for a
// cycle, and those that speak of somebody else's queue.
func deathHeaders(own, neighbour uuid.UUID) map[string]any {
	entry := func(queue, reason, exchange, key string) amqp.Table {
		return amqp.Table{
			"queue": queue, "reason": reason, "exchange": exchange, "routing-keys": []any{key}, "count": int64(1), "time": time.Unix(1_700_000_000, 0),
		}
	}
	deep := any("a")
	for range 30 {
		deep = []any{deep}
	}
	return map[string]any{
		"a text in a list": []any{"a"}, "a number in a list": []any{int32(1)}, "lists": []any{[]any{amqp.Table{}}}, "an empty list": []any{}, "void in a list": []any{nil},
		"an empty table": []any{amqp.Table{}}, "count is text": []any{amqp.Table{"queue": "q", "reason": "expired", "count": "1"}},
		"a table and a text": []any{entry("q", "expired", "", "k"), "a"}, "deep": deep,
		"void": nil, "text": "a", "a table": amqp.Table{"count": int64(1)}, "a number": int64(1), "truth": false,
		"names parking":            []any{entry(contract.ParkingQueue, "expired", "", contract.ParkingRoutingKey)},
		"names the own queue":      []any{entry(contract.QueueName(own.String()), "expired", contract.MessagesExchange, own.String())},
		"names a neighbour":        []any{entry(contract.QueueName(neighbour.String()), "delivery_limit", contract.RetryReturnExchange, neighbour.String())},
		"names the tier and twice": []any{entry("retry.1s", "expired", "", own.String()), entry("retry.1s", "expired", "", own.String())},
	}
}

// hostile is a world with a tenant that is suspended, where what expires waits, and one that is not.
type hostile struct {
	*world
	t                    *testing.T
	suspended, neighbour uuid.UUID
	tokens               map[uuid.UUID]string
	screened             bool
	expired              map[string]bool // ids of messages to suspended that were confirmed
	ids                  map[uuid.UUID]bool
	checks               int
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	w := newWorldOnItsOwnBroker(t)
	h := &hostile{
		world: w, t: t, suspended: w.createTenant(t, 1), neighbour: w.createTenant(t, 1), tokens: make(map[uuid.UUID]string),
		expired: make(map[string]bool), ids: make(map[uuid.UUID]bool),
	}
	for _, tenant := range []uuid.UUID{h.suspended, h.neighbour} {
		h.tokens[tenant] = w.token(t, tenant, "messages:read messages:write deadletters:manage")
	}
	w.suspend(t, h.suspended)
	session, err := w.link.Session(t.Context())
	require.NoError(t, err)
	major, err := strconv.Atoi(strings.SplitN(session.Version(), ".", 2)[0])
	h.screened = err != nil || major < 4 // the default: rabbitmq.screen is auto
	return h
}

// send publishes a message over AMQP that expires, with a header.
func (h *hostile) send(tenant uuid.UUID, id, expiration string, headers amqp.Table) error {
	h.t.Helper()
	m := amqpMessage(tenant, id, []byte(`{"hostile":true}`))
	m.Publishing.Headers, m.Publishing.Expiration = headers, expiration
	ctx, cancel := context.WithTimeout(h.t.Context(), waitLimit)
	defer cancel()
	return h.amqp.Publish(ctx, m)
}

// attack publishes a message to the suspended tenant that is refused by a broker that cannot bear it, and accepted by any other.
func (h *hostile) attack(form, expiration string, headers amqp.Table) {
	h.t.Helper()
	id := uuid.NewString()
	err := h.send(h.suspended, id, expiration, headers)
	if h.screened {
		require.ErrorIs(h.t, err, publish.ErrRejected, form)
		return
	}
	require.NoError(h.t, err, form)
	h.expired[id] = true
}

// check demands that nothing has happened to anybody: a neighbour's message is stored, one that expires is a dead letter, and one
// comes back from the retries.
func (h *hostile) check(form string) {
	h.t.Helper()
	h.checks++
	over, back := uuid.New(), uuid.New()
	ctx, cancel := context.WithTimeout(h.t.Context(), waitLimit)
	defer cancel()
	require.NoError(h.t, h.publishOne(ctx, h.tokens[h.neighbour], over, `1`))
	m := amqpMessage(h.neighbour, back.String(), []byte(`2`))
	m.Exchange = contract.RetryTierName(time.Second)
	require.NoError(h.t, h.amqp.Publish(ctx, m))
	expired := uuid.NewString()
	require.NoError(h.t, h.send(h.suspended, expired, "1", nil))
	h.ids[over], h.ids[back], h.expired[expired] = true, true, true
	require.Eventually(h.t, func() bool { return h.stored(h.t, h.neighbour) == len(h.ids) }, waitLimit, poll, "after %s", form)
	require.Eventually(h.t, func() bool { return maps.Equal(h.expired, h.deadLetters(h.suspended)) }, waitLimit, poll, "after %s", form)
}

// deadLetters are the messages of a tenant's dead letters that have expired.
func (h *hostile) deadLetters(tenant uuid.UUID) map[string]bool {
	h.t.Helper()
	ids := make(map[string]bool)
	for d, err := range h.as(h.tokens[tenant]).DeadLetters(client.DeadLetterQuery{Limit: 1000}).All(h.t.Context()) {
		require.NoError(h.t, err)
		require.Equal(h.t, "expired", d.Reason)
		ids[d.MessageID.String()] = true
	}
	return ids
}

// newTenant demands that a tenant can be made.
func (h *hostile) newTenant() {
	h.t.Helper()
	h.createTenant(h.t, 1)
}

// degraded are the checks of ingest-service that are not fine.
func (h *hostile) degraded() map[string]string {
	h.t.Helper()
	var body struct {
		Checks map[string]struct {
			OK    bool   `json:"ok"`
			Error string `json:"error"`
		} `json:"checks"`
	}
	h.raw(h.t, http.StatusOK, raw.Request{URL: h.IngestOpsURL + "/readyz"}).Into(h.t, &body)
	faults := make(map[string]string)
	for name, check := range body.Checks {
		if !check.OK {
			faults[name] = check.Error
		}
	}
	return faults
}

// One message of one tenant, with a header that the broker stumbles over when it expires, used to end dead letters, retries and new
// tenants for everybody, also after a restart of the broker. Whatever is in it, its producer is told that it is refused, or it
// is a dead letter; and nobody else notices.
func TestHeadersOfAProducerNeverMeetTheBrokersDeadLettering(t *testing.T) {
	h := newHostile(t)
	h.check("nothing")
	forms := deathHeaders(h.suspended, h.neighbour)
	if testing.Short() { // NOT RUN with -short, by make test-long alone: the other forms, each of which takes seconds
		maps.DeleteFunc(forms, func(form string, _ any) bool {
			return !slices.Contains([]string{"a text in a list", "names a neighbour", "void"}, form)
		})
	}
	for _, form := range slices.Sorted(maps.Keys(forms)) {
		for _, expiration := range []string{"0", "1", "300"} {
			h.attack(form, expiration, amqp.Table{"x-death": forms[form]})
			h.attack(form+", among others", expiration, amqp.Table{
				"a": "b", "x-death": forms[form], "x-first-death-queue": contract.ParkingQueue, "x-first-death-reason": "expired", "z": int32(1),
			})
		}
		h.check(form)
	}
	h.newTenant()
	t.Run("copies", func(*testing.T) { h.copies() })
	t.Run("HTTP", func(*testing.T) { h.overHTTP() })

	require.NoError(t, h.backing.Process(backing.ServiceRabbitMQ).Kill(t.Context()))
	require.NoError(t, h.backing.Process(backing.ServiceRabbitMQ).Start(t.Context()))
	h.awaitReady(t)
	require.Eventually(t, func() bool {
		err := h.send(h.neighbour, uuid.NewString(), "1", amqp.Table{"x-death": nil})
		return !errors.Is(err, conn.ErrUnavailable)
	}, waitLimit, poll)
	if !h.screened {
		return // the neighbour's are stored, as they are consumed at once
	}
	h.attack("after a restart", "300", amqp.Table{"x-death": []any{"a"}})
	h.check("a restart")
	h.newTenant()
	require.Empty(t, h.deadLetters(h.neighbour))
	require.Eventually(t, func() bool { return len(h.degraded()) == 0 }, waitLimit, poll, "%v", h.degraded())
	require.Contains(t, h.metrics(t, h.IngestOpsURL), "mtm_dead_lettering_up 1")
}

// copies sends hostile messages by way of the headers that name further routing keys.
func (h *hostile) copies() {
	h.t.Helper()
	for _, header := range []string{"CC", "BCC"} {
		for _, key := range []string{h.neighbour.String(), contract.ParkingRoutingKey, contract.CanaryName("x"), "retry.1s"} {
			h.attack(header+" "+key, "300", amqp.Table{"x-death": []any{"a"}, header: []any{key}})
		}
	}
	if h.screened {
		h.check("copies")
		return
	}
	// The copies are dead letters of the neighbour, whose queue they came through.
	require.Eventually(h.t, func() bool { return maps.Equal(h.expired, h.deadLetters(h.suspended)) }, waitLimit, poll)
}

// overHTTP demands that a client of the API cannot write a header of a message at all.
func (h *hostile) overHTTP() {
	h.t.Helper()
	post := func(status int, path, contentType, body string, header map[string]string) raw.Response {
		h.t.Helper()
		return h.raw(h.t, status, raw.Request{
			Method: http.MethodPost, URL: h.IngestURL + path, Token: h.tokens[h.neighbour], ContentType: contentType, Header: header, Body: []byte(body),
		})
	}
	for _, field := range []string{"headers", "x-death", "expiration", "properties"} {
		body := fmt.Sprintf(`{"payload":1,%q:{"x-death":["a"]}}`, field)
		require.Equal(h.t, "unknown_field", post(http.StatusBadRequest, "/messages", "application/json", body, nil).Code(h.t))
		batch := post(http.StatusAccepted, "/messages/batch", "application/x-ndjson", body, nil)
		require.Contains(h.t, string(batch.Body), "unknown_field")
	}
	id := uuid.New()
	body := fmt.Sprintf(`{"id":%q,"payload":{"x-death":["a"]}}`, id)
	post(http.StatusAccepted, "/messages", "application/json", body, map[string]string{"X-Death": "a", "Expiration": "300"})
	h.ids[id] = true
	if h.screened {
		h.check("HTTP")
	}
}
