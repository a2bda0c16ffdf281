package platform_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// What a producer says of a message comes back with it, whichever way it took: over HTTP, in a batch, as a CloudEvent, over AMQP, and
// as a dead letter that is replayed.
func TestEnvelopesOnEveryWay(t *testing.T) {
	w := newWorld(t)
	tenant := w.createTenant(t, 2)
	token := w.token(t, tenant, "messages:read messages:write deadletters:manage")
	c := w.as(token)
	full := client.Envelope{Type: "order.created", Key: "order-4711 \"ü\"", Attributes: map[string]string{"region": "eu", "n": "7"}}
	want := make(map[client.ID]client.Envelope)

	m := client.Publishing{Payload: 1, Type: full.Type, Key: full.Key, Attributes: full.Attributes}
	id, err := c.Publish(t.Context(), m)
	require.NoError(t, err)
	want[id] = full
	results, err := c.PublishBatch(t.Context(), []client.Publishing{m, {Payload: 2}, {Payload: 3, Type: "order.paid"}})
	require.NoError(t, err)
	want[results[0].ID], want[results[1].ID], want[results[2].ID] = full, client.Envelope{}, client.Envelope{Type: "order.paid"}

	var accepted struct{ ID uuid.UUID }
	for range 2 {
		w.raw(t, http.StatusAccepted, raw.Request{
			Method: http.MethodPost, URL: w.IngestURL + "/messages", Token: token, ContentType: "application/cloudevents+json",
			Body: []byte(`{"specversion":"1.0","id":"1","source":"/shop","type":"order.created","subject":"4711","data":{"a":1}}`),
		}).Into(t, &accepted)
	}
	want[client.ID(accepted.ID)] = client.Envelope{Type: "order.created", Key: "4711", Attributes: map[string]string{"source": "/shop"}}

	send := func(headers amqp.Table) client.ID {
		t.Helper()
		id := uuid.New()
		message := amqpMessage(tenant, id.String(), []byte(`4`))
		message.Publishing.Type, message.Publishing.Headers = full.Type, headers
		require.NoError(t, w.amqp.Publish(t.Context(), message))
		return client.ID(id)
	}
	want[send(amqp.Table{contract.HeaderKey: full.Key, "mtm-attr-region": "eu", "mtm-attr-n": int64(7)})] = full
	broken := send(amqp.Table{contract.HeaderKey: "two\nlines"})
	var dead []client.DeadLetter
	require.Eventually(t, func() bool {
		page, err := c.DeadLetters(client.DeadLetterQuery{Filter: client.DeadLetterFilter{Reason: string(contract.ReasonBadEnvelope)}}).Next(t.Context())
		dead = page.Items
		return err == nil && len(dead) == 1
	}, waitLimit, poll)
	require.Equal(t, broken, dead[0].MessageID)
	_, err = c.ReplayDeadLetter(t.Context(), dead[0].ID)
	problem, ok := errors.AsType[*client.Problem](err)
	require.True(t, ok, "%v", err)
	require.EqualValues(t, "bad_envelope", problem.Code)
	_, err = c.ReplayDeadLetterEdited(t.Context(), dead[0].ID, client.Edit{Envelope: &full})
	require.NoError(t, err)
	want[broken] = full

	require.Eventually(t, func() bool {
		all, err := w.readAll(t.Context(), token, false)
		return err == nil && len(all) == len(want)
	}, waitLimit, poll)
	all, err := w.readAll(t.Context(), token, true)
	require.NoError(t, err)
	for _, m := range all {
		require.Equal(t, want[m.ID], m.Envelope)
		one, err := c.Message(t.Context(), m.ID)
		require.NoError(t, err)
		require.Equal(t, m, one)
	}
}
