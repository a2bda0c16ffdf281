package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// cloudEvents is the media type of an event in the structured content mode of CloudEvents 1.0, in JSON
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md).
const cloudEvents = "application/cloudevents+json"

func isCloudEvent(c *fiber.Ctx) bool {
	media, _, err := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	return err == nil && media == cloudEvents
}

// cloudEvent is an event as it was sent: its context attributes and its data, by name.
type cloudEvent map[string]json.RawMessage

// readCloudEvent reads an event as a message: its data is the payload, null without any; type is the type, and subject the
// key. The other attributes, extensions included, are attributes of the same names, but for id and source, which together identify an event:
// the id of the message follows from both and the tenant.
func (a *api) readCloudEvent(tenant uuid.UUID, body []byte) (incoming, error) {
	var event cloudEvent
	if err := rest.Decode(body, &event); err != nil {
		return incoming{}, err
	}
	if event == nil {
		return incoming{}, invalidEvent("", "must be an object, not null")
	}
	texts, err := event.attributes()
	if err != nil {
		return incoming{}, err
	}
	payload, err := event.payload()
	if err != nil {
		return incoming{}, err
	}
	if err := a.checkPayload(payload); err != nil {
		return incoming{}, err
	}
	m := incoming{id: uuid.NewSHA1(tenant, []byte(texts["source"]+"\x00"+texts["id"])), payload: payload}
	m.envelope = &contract.Envelope{Type: texts["type"], Key: texts["subject"], Attributes: texts}
	for _, name := range []string{"specversion", "id", "type", "subject"} {
		delete(texts, name)
	}
	if refused, ok := errors.AsType[*contract.EnvelopeError](m.envelope.Check()); ok {
		field := strings.TrimPrefix(refused.Field, "attributes.")
		if field == "key" {
			field = "subject"
		}
		return incoming{}, invalidEvent(field, refused.Detail)
	}
	return m, nil
}

// attributes are the context attributes as text, those checked that CloudEvents itself defines. One that is null is absent.
func (event cloudEvent) attributes() (map[string]string, error) {
	texts := make(map[string]string, len(event))
	for name, raw := range event {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		text, ok := eventText(raw)
		if !ok {
			return nil, invalidEvent(name, "must be a string, a boolean or a whole number of 32 bits")
		}
		texts[name] = text
	}
	if texts["specversion"] != "1.0" {
		return nil, invalidEvent("specversion", `must be "1.0"`)
	}
	for _, name := range []string{"id", "source", "type"} {
		if texts[name] == "" {
			return nil, invalidEvent(name, "is required, and must not be empty")
		}
	}
	if at, given := texts["time"]; given {
		if _, err := rest.ParseTime(at); err != nil {
			return nil, invalidEvent("time", "must be a time in RFC 3339")
		}
	}
	if media, given := texts["datacontenttype"]; given {
		if !isJSONMedia(media) {
			return nil, invalidEvent("datacontenttype", "must be JSON")
		}
		delete(texts, "datacontenttype") // all payloads are
	}
	return texts, nil
}

// eventText is the value of an attribute as text, in its canonical form (CloudEvents 1.0.2, section "Type System").
func eventText(raw json.RawMessage) (text string, ok bool) {
	switch raw[0] {
	case '"':
		return text, json.Unmarshal(raw, &text) == nil
	case 't', 'f':
		return string(raw), true
	}
	n, err := strconv.ParseInt(string(raw), 10, 32)
	return strconv.FormatInt(n, 10), err == nil
}

func isJSONMedia(s string) bool {
	media, _, err := mime.ParseMediaType(s)
	return err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}

// payload is the data of the event, null if it has none.
func (event cloudEvent) payload() ([]byte, error) {
	data, encoded := event["data"], event["data_base64"]
	if string(encoded) == "null" {
		encoded = nil
	}
	switch {
	case data != nil && encoded != nil:
		return nil, invalidEvent("data_base64", "must not be given beside data")
	case encoded != nil:
		var text string
		if json.Unmarshal(encoded, &text) != nil {
			return nil, invalidEvent("data_base64", "must be a string")
		}
		decoded, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, invalidEvent("data_base64", "must be in base64")
		}
		return decoded, nil
	case data == nil:
		return []byte("null"), nil
	}
	return data, nil
}

func invalidEvent(field, detail string) error {
	p := problem.New(http.StatusBadRequest, "invalid_cloudevent", "the body is not a CloudEvent 1.0 that can be stored: "+strings.TrimSpace(field+" "+detail))
	return p.WithField(field, detail)
}
