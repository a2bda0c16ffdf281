package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/envelope"
)

// NewMessage is the body of POST /messages, and a line of POST /messages/batch.
type NewMessage struct {
	// Without one the message gets a new id. A message is stored once per id: the first one wins.
	ID *uuid.UUID `json:"id,omitempty" swaggertype:"string" format:"uuid" extensions:"x-nullable" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	// Any JSON value that can be kept and given back: no `\u0000`, no lone surrogates, no number of more than 400 digits in its plain form, nested at most 200 levels.
	Payload json.RawMessage `json:"payload" validate:"required" extensions:"x-nullable"`
	// Kind of the message, for filters: up to 255 bytes of text without control characters. Empty is as if absent.
	Type *string `json:"type,omitempty" maxLength:"255" extensions:"x-nullable" example:"order.created"`
	// What the message is about, for filters: up to 255 bytes of text without control characters. Empty is as if absent.
	Key *string `json:"key,omitempty" maxLength:"255" extensions:"x-nullable" example:"order-4711"`
	// Up to 16, for filters, 4 KiB in all: names of up to 64 of the characters a-z, 0-9, _, . and -, values of up to 512 bytes of text without control characters.
	Attributes map[string]string `json:"attributes,omitempty" extensions:"x-nullable" example:"region:eu"`
} // @name NewMessage

// Accepted is the answer to a message.
type Accepted struct {
	ID uuid.UUID `json:"id" format:"uuid"`
} // @name MessageAccepted

// publish takes in a message.
//
//	@summary		Publish a message
//	@description	202 means that the broker has confirmed it. The same `id` twice is stored once, the first wins; so a request that got no answer, or 503, is safe to repeat with the same id. Messages of a suspended tenant are accepted and wait.
//	@description	`type`, `key` and `attributes` are what readers select messages by. An event of CloudEvents 1.0 in its structured mode (`application/cloudevents+json`) is taken as well: `data` is the payload, `type` the type, `subject` the key, and the other context attributes are attributes. Its `id` and `source` together are its identity, from which the id of the message follows.
//	@description	Where the tenant has a limit of messages or bytes a second, the answers have `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11), with policies `messages`, whose unit is one message, and `bytes`.
//	@tags			messages
//	@security		Bearer
//	@param			message		body		NewMessage	true	"the message"
//	@param			tenant_id	query		string		false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@success		202			{object}	Accepted
//	@failure		400			{object}	problem.Problem	"`malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `validation_failed`, `malformed_encoding`, `payload_unstorable`, `payload_too_deep`, `payload_too_large`, `invalid_cloudevent`: errors[] names the field"
//	@failure		404			{object}	problem.Problem	"`tenant_not_found`"
//	@failure		409			{object}	problem.Problem	"`tenant_deleting`"
//	@failure		413			{object}	problem.Problem	"`body_too_large`, or `payload_too_large`: over the tenant's limit"
//	@failure		429			{object}	problem.Problem	"`rate_limited`: over the tenant's limit of messages or bytes a second; the message was not accepted. Try again after the time in Retry-After"
//	@header			202,429		{string}	RateLimit-Policy	"the limits a second of a tenant that has any"
//	@header			202,429		{string}	RateLimit			"what is left of them; it may be gone before it is asked for"
//	@header			429			{integer}	Retry-After			"seconds"
//	@failure		507			{object}	problem.Problem	"`storage_full`: the tenant has stored as much as it may (`stored_max_bytes`); the message was not accepted. With Retry-After if the tenant has a retention, which makes room"
//	@header			507			{integer}	Retry-After			"seconds, where waiting may help"
//	@failure		503			{object}	problem.Problem	"`tenant_provisioning`, `broker_blocked`, `broker_unavailable`, `queue_full`, `queue_missing`, `queue_unanswered`, `confirm_timeout`: try again after the time in Retry-After. Where the message may have been accepted, errors[] has its id in the field `id`."
//	@id			publishMessage
//	@router			/messages [post]
func (a *api) publish(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "tenant_id"); err != nil {
		return err
	}
	tenant, err := auth.Tenant(c)
	if err != nil {
		return err
	}
	if err := rest.Content(c, fiber.MIMEApplicationJSON, cloudEvents); err != nil {
		return err
	}
	// Not a copy: nothing of it is kept beyond this call.
	body, err := rest.Body(c, a.cfg.MessageBody)
	if err != nil {
		return err
	}
	m, err := a.readAs(c, tenant, body)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	limits, err := a.open(ctx, tenant)
	if err != nil {
		return err
	}
	if err := checkSize(m.payload, limits.MaxPayload); err != nil {
		return err
	}
	if refusal := a.storageFull(tenant, limits); refusal != nil {
		a.metrics.count(tenant, errStorageFull)
		return refusal
	}
	perSecond := rate.Publishing(limits)
	if !perSecond.IsZero() {
		if _, refusal := a.pass(ctx, c, tenant, perSecond, []rate.Amounts{cost(body)}); refusal != nil {
			a.metrics.count(tenant, errRateLimited)
			return refusal
		}
	}
	err = a.deps.Publisher.Publish(ctx, message(tenant, m, time.Now()))
	a.metrics.count(tenant, err)
	if !perSecond.IsZero() {
		a.giveBack(tenant, cost(body), err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", publishProblem(err, m.id.String()), err)
	}
	return c.Status(http.StatusAccepted).JSON(Accepted{ID: m.id})
}

// readAs reads a message in the form that the request names.
func (a *api) readAs(c *fiber.Ctx, tenant uuid.UUID, body []byte) (incoming, error) {
	if isCloudEvent(c) {
		return a.readCloudEvent(tenant, body)
	}
	return a.read(body)
}

// read returns a message that can be stored, with an id.
func (a *api) read(body []byte) (m incoming, err error) {
	m, ok := readQuickly(body, a.cfg.MaxPayload)
	if !ok {
		if m, err = a.readStrictly(body); err != nil {
			return incoming{}, err
		}
	}
	if m.id == uuid.Nil {
		if m.id, err = uuid.NewV7(); err != nil {
			return incoming{}, fmt.Errorf("make a message id: %w", err)
		}
	}
	return m, nil
}

// readStrictly says what is wrong with a message, if anything is. The id is uuid.Nil if there is none.
func (a *api) readStrictly(body []byte) (incoming, error) {
	var given NewMessage
	if err := rest.Decode(body, &given); err != nil {
		return incoming{}, err
	}
	if err := a.checkPayload(given.Payload); err != nil {
		return incoming{}, err
	}
	m := incoming{payload: given.Payload}
	if given.ID != nil {
		m.id = *given.ID
	}
	var err error
	m.envelope, err = newEnvelope(given.Type, given.Key, given.Attributes)
	return m, err
}

// newEnvelope is what was given of an envelope: nil if nothing was. It says what cannot be one.
func newEnvelope(messageType, key *string, attributes map[string]string) (*contract.Envelope, error) {
	e := contract.Envelope{Attributes: attributes}
	if messageType != nil {
		e.Type = *messageType
	}
	if key != nil {
		e.Key = *key
	}
	if e.IsZero() {
		return nil, nil //nolint:nilnil // a message without an envelope
	}
	if refused, ok := errors.AsType[*contract.EnvelopeError](e.Check()); ok {
		return nil, problem.New(http.StatusBadRequest, "validation_failed", refused.Error()).WithField(refused.Field, refused.Detail)
	}
	return &e, nil
}

// checkPayload says why a payload cannot be stored. Nil stands for none.
func (a *api) checkPayload(payload []byte) error {
	if payload == nil {
		return problem.New(http.StatusBadRequest, "validation_failed", "payload is required").WithField("payload", "is required")
	}
	if err := contract.CheckPayload(payload, a.cfg.MaxPayload); err != nil {
		return payloadProblem(err)
	}
	return nil
}

// message is what is published of a message. Its body is the payload and nothing else, as from producers that publish over
// AMQP, and its envelope is where theirs is.
func message(tenant uuid.UUID, m incoming, now time.Time) publish.Message {
	p := amqp.Publishing{
		MessageId: m.id.String(), ContentType: fiber.MIMEApplicationJSON, DeliveryMode: amqp.Persistent, Timestamp: now, Body: m.payload,
	}
	if m.envelope != nil {
		envelope.Put(&p, m.envelope)
	}
	return publish.Message{Exchange: contract.TenantsExchange, Key: tenant.String(), Publishing: p}
}
