package api

import (
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// envelope reads a message in the form that nearly all of them have: an object with a payload and, before or behind it, an
// id, if any. It reads them once and allocates nothing; the decoder of package rest, which can say what is wrong with any
// other form, reads them four times. Its answer for all that it refuses, right or wrong, is ok = false. The id is uuid.Nil
// if there is none.
func envelope(body []byte, maxPayload int) (id uuid.UUID, payload []byte, ok bool) {
	r := envelopeReader{rest: body}
	if !r.skip("{") {
		return uuid.Nil, nil, false
	}
	for {
		switch {
		case payload == nil && r.skip(`"payload"`) && r.skip(":"):
			r.space()
			length, ok := contract.PayloadIn(r.rest, maxPayload)
			if !ok {
				return uuid.Nil, nil, false
			}
			payload, r.rest = r.rest[:length], r.rest[length:]
		case id == uuid.Nil && r.skip(`"id"`) && r.skip(":"):
			if id = r.id(); id == uuid.Nil {
				return uuid.Nil, nil, false
			}
		default:
			return uuid.Nil, nil, false
		}
		if !r.skip(",") {
			break
		}
	}
	closed := r.skip("}")
	r.space()
	return id, payload, closed && payload != nil && len(r.rest) == 0
}

// envelopeReader walks over the bytes of an envelope.
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
