// Package envelope reads the envelope of a message from what came with it over AMQP, and puts it into what is published.
//
// The type is the AMQP property of that name or the header mtm-type; the key and the attributes are headers. A producer that has never
// heard of envelopes may have set the property, to anything: a type that is none is left out, and not held against the message.
package envelope

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/header"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// headerPrefix begins the names of all headers of an envelope.
const headerPrefix = "mtm-"

// Of is the envelope of a message: nil if it has none, which costs no memory. The error, a [*contract.EnvelopeError] whose field is
// the name of the header, says that a header is outside of the contract. ignored says that the property type is, which is then left out.
// Of headers of one name the last one counts.
func Of(property string, headers header.Table) (e *contract.Envelope, ignored bool, err error) {
	for f, err := range headers.Fields() {
		if err != nil {
			break // what cannot be read is nobody's
		}
		if len(f.Name) < len(headerPrefix) || string(f.Name[:len(headerPrefix)]) != headerPrefix {
			continue
		}
		if e == nil {
			e = &contract.Envelope{}
		}
		if err := set(e, f); err != nil {
			return nil, false, err
		}
	}
	if property != "" && (e == nil || e.Type == "") {
		if ignored = contract.CheckType(property) != nil; !ignored {
			if e == nil {
				e = &contract.Envelope{}
			}
			e.Type = property
		}
	}
	if e.IsZero() {
		return nil, ignored, nil
	}
	if len(e.Attributes) == 0 {
		e.Attributes = nil
	}
	return e, ignored, check(e)
}

// check is [contract.Envelope.Check] with fields as AMQP has them.
func check(e *contract.Envelope) error {
	err := e.Check()
	if refused, ok := err.(*contract.EnvelopeError); ok { //nolint:errorlint // it is not wrapped
		name, attribute := strings.CutPrefix(refused.Field, "attributes.")
		switch {
		case attribute:
			refused.Field = contract.HeaderAttributePrefix + name
		case refused.Field == "attributes":
			refused.Field = contract.HeaderAttributePrefix + "*"
		default:
			refused.Field = headerPrefix + refused.Field
		}
	}
	return err
}

// set takes a header into e. Others that begin with the prefix mean nothing.
func set(e *contract.Envelope, f header.Field) error {
	name := string(f.Name)
	attribute, isAttribute := strings.CutPrefix(name, contract.HeaderAttributePrefix)
	if !isAttribute && name != contract.HeaderType && name != contract.HeaderKey {
		return nil
	}
	value, given, ok := text(f)
	if !ok {
		return &contract.EnvelopeError{Field: short(name), Detail: "must be a string, a boolean or a number"}
	}
	switch {
	case name == contract.HeaderType:
		e.Type = value
	case name == contract.HeaderKey:
		e.Key = value
	case !given:
		delete(e.Attributes, attribute)
	default:
		if e.Attributes == nil {
			e.Attributes = make(map[string]string)
		}
		// One more than there may be is as good as all of a hundred thousand.
		if _, again := e.Attributes[attribute]; again || len(e.Attributes) <= contract.MaxAttributes {
			e.Attributes[attribute] = value
		}
	}
	return nil
}

// short keeps a name, of up to 255 bytes of anything, fit to be shown.
func short(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// text is the value of a header as text. given is false for one without a value; ok is false for a type that has no text.
func text(f header.Field) (s string, given, ok bool) {
	c := header.Cursor{Left: f.Value}
	switch f.Kind {
	case 'S':
		return string(f.Value), true, true
	case 't':
		return strconv.FormatBool(c.Uint8() != 0), true, true
	case 'f':
		return strconv.FormatFloat(float64(math.Float32frombits(c.Uint32())), 'g', -1, 32), true, true
	case 'd':
		return strconv.FormatFloat(math.Float64frombits(c.Uint64()), 'g', -1, 64), true, true
	case 'D':
		scale, value := c.Uint8(), int32(c.Uint32())
		return decimal(scale, value), true, true
	case 'V':
		return "", false, true
	}
	if n, whole := f.Int(); whole {
		return strconv.FormatInt(n, 10), true, true
	}
	return "", false, false
}

// decimal is value with so many of its digits behind the point.
func decimal(scale uint8, value int32) string {
	if scale == 0 {
		return strconv.Itoa(int(value))
	}
	digits := strconv.FormatInt(int64(value), 10)
	sign := ""
	if value < 0 {
		sign, digits = "-", digits[1:]
	}
	if missing := int(scale) + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	point := len(digits) - int(scale)
	return fmt.Sprintf("%s%s.%s", sign, digits[:point], digits[point:])
}

// Put adds e to what is published, in place of an envelope that is there.
func Put(p *amqp.Publishing, e *contract.Envelope) {
	Remove(p)
	if e.IsZero() {
		return
	}
	p.Type = e.Type
	if e.Key == "" && len(e.Attributes) == 0 {
		return
	}
	if p.Headers == nil {
		p.Headers = make(amqp.Table, 1+len(e.Attributes))
	}
	if e.Key != "" {
		p.Headers[contract.HeaderKey] = e.Key
	}
	for name, value := range e.Attributes {
		p.Headers[contract.HeaderAttributePrefix+name] = value
	}
}

// Remove takes an envelope out of what is published.
func Remove(p *amqp.Publishing) {
	p.Type = ""
	for name := range p.Headers {
		if name == contract.HeaderType || name == contract.HeaderKey || strings.HasPrefix(name, contract.HeaderAttributePrefix) {
			delete(p.Headers, name)
		}
	}
}
