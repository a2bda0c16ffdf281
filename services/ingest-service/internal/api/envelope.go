package api

import (
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// incoming is a message that was sent over HTTP and can be stored.
type incoming struct {
	// id is uuid.Nil if there is none.
	id uuid.UUID
	// payload is a part of the body.
	payload []byte
	// envelope is nil if there is none.
	envelope *contract.Envelope
}

// readQuickly reads a message in the form that nearly all of them have: an object with a payload and, before or behind it, an id and an
// envelope, if any, without a backslash in it. It reads them once, and allocates nothing but an envelope; the decoder of package
// rest, which can say what is wrong with any other form, reads them four times. Its answer for all that it refuses, right
// or wrong, is ok = false.
func readQuickly(body []byte, maxPayload int) (m incoming, ok bool) {
	r := envelopeReader{rest: body}
	if !r.skip("{") {
		return incoming{}, false
	}
	var e contract.Envelope
	for {
		switch {
		case m.payload == nil && r.skip(`"payload"`) && r.skip(":"):
			r.space()
			length, ok := contract.PayloadIn(r.rest, maxPayload)
			if !ok {
				return incoming{}, false
			}
			m.payload, r.rest = r.rest[:length], r.rest[length:]
		case m.id == uuid.Nil && r.skip(`"id"`) && r.skip(":"):
			if m.id = r.id(); m.id == uuid.Nil {
				return incoming{}, false
			}
		case !r.envelope(&e):
			return incoming{}, false
		}
		if !r.skip(",") {
			break
		}
	}
	closed := r.skip("}")
	r.space()
	if !e.IsZero() {
		if e.Check() != nil {
			return incoming{}, false
		}
		m.envelope = &contract.Envelope{Type: e.Type, Key: e.Key, Attributes: e.Attributes}
	}
	return m, closed && m.payload != nil && len(r.rest) == 0
}

// envelopeReader walks over the bytes of a message.
type envelopeReader struct{ rest []byte }

// space passes over what is white space in JSON.
func (r *envelopeReader) space() {
	for len(r.rest) > 0 {
		switch r.rest[0] {
		case ' ', '\t', '\r', '\n':
			r.rest = r.rest[1:]
		default:
			return
		}
	}
}

// skip passes over token and the white space before it, if that is what comes next.
func (r *envelopeReader) skip(token string) bool {
	r.space()
	if len(r.rest) < len(token) || string(r.rest[:len(token)]) != token {
		return false
	}
	r.rest = r.rest[len(token):]
	return true
}

// id passes over a UUID in the form that [rest.UUID] takes, in a string; else it is uuid.Nil.
func (r *envelopeReader) id() uuid.UUID {
	const length = len("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	if !r.skip(`"`) || len(r.rest) <= length || r.rest[length] != '"' {
		return uuid.Nil
	}
	id, err := uuid.ParseBytes(r.rest[:length])
	if err != nil {
		return uuid.Nil
	}
	r.rest = r.rest[length+1:]
	return id
}

// envelope passes over a field of an envelope that e does not have yet. What is empty is left to the other decoder.
func (r *envelopeReader) envelope(e *contract.Envelope) bool {
	switch {
	case e.Type == "" && r.skip(`"type"`) && r.skip(":"):
		e.Type = r.text()
		return e.Type != ""
	case e.Key == "" && r.skip(`"key"`) && r.skip(":"):
		e.Key = r.text()
		return e.Key != ""
	case e.Attributes == nil && r.skip(`"attributes"`) && r.skip(":"):
		e.Attributes = r.attributes()
		return e.Attributes != nil
	}
	return false
}

// attributes passes over an object of texts; else it is nil.
func (r *envelopeReader) attributes() map[string]string {
	if !r.skip("{") {
		return nil
	}
	attributes := make(map[string]string)
	for {
		name := r.text()
		if _, again := attributes[name]; again || name == "" || !r.skip(":") {
			return nil
		}
		value := r.text()
		if value == "" || len(attributes) == contract.MaxAttributes {
			return nil
		}
		attributes[name] = value
		if !r.skip(",") {
			break
		}
	}
	if !r.skip("}") {
		return nil
	}
	return attributes
}

// text passes over a string without a backslash; else, and for one that is empty, it is "".
func (r *envelopeReader) text() string {
	if !r.skip(`"`) {
		return ""
	}
	for i, c := range r.rest {
		switch {
		case c == '"':
			s := r.rest[:i]
			if !utf8.Valid(s) {
				return ""
			}
			r.rest = r.rest[i+1:]
			return string(s)
		case c == '\\' || c < ' ':
			return ""
		}
	}
	return ""
}
