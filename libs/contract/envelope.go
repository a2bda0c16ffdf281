package contract

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of an [Envelope].
const (
	// MaxTypeBytes is that of a short string of AMQP 0-9-1, in which a type travels.
	MaxTypeBytes = 255
	// MaxKeyBytes is the same for the key.
	MaxKeyBytes = 255
	// MaxAttributes is the number of attributes of a message.
	MaxAttributes = 16
	// MaxAttributeNameBytes is for the name of an attribute.
	MaxAttributeNameBytes = 64
	// MaxAttributeValueBytes is for its value.
	MaxAttributeValueBytes = 512
	// MaxAttributesBytes is for names and values of all attributes of a message together.
	MaxAttributesBytes = 4 << 10
)

// How an envelope travels over AMQP 0-9-1, beside the property type.
const (
	// HeaderType is the type as a header: a client of AMQP 1.0 has no property of that name, and sends an application property. It
	// counts before the property.
	HeaderType = "mtm-type"
	// HeaderKey is the key.
	HeaderKey = "mtm-key"
	// HeaderAttributePrefix begins the name of a header that is an attribute; the name of the attribute follows.
	HeaderAttributePrefix = "mtm-attr-"
)

// Envelope is what a message carries beside its id and its payload, by which readers select messages. What is empty is absent.
type Envelope struct {
	// Type is the kind of message, such as "order.created": up to [MaxTypeBytes] of text.
	Type string
	// Key names what the message is about: up to [MaxKeyBytes] of text.
	Key string
	// Attributes have names of [a-z0-9_.-], up to [MaxAttributeNameBytes], and values of up to [MaxAttributeValueBytes] of text. An empty
	// value is a value.
	Attributes map[string]string
}

// EnvelopeError says why an envelope is not one.
type EnvelopeError struct {
	// Field is "type", "key", "attributes", or "attributes." and a name.
	Field string
	// Detail says what must be true of the field, beginning with "must".
	Detail string
}

func (e *EnvelopeError) Error() string { return e.Field + " " + e.Detail }

// IsZero reports whether nothing is in e. A nil one is empty.
func (e *Envelope) IsZero() bool {
	return e == nil || e.Type == "" && e.Key == "" && len(e.Attributes) == 0
}

// Size is how many bytes e has: those of its texts, and of names and values of the attributes. They count for usage with those of the payload.
func (e *Envelope) Size() int {
	if e == nil {
		return 0
	}
	return len(e.Type) + len(e.Key) + attributesSize(e.Attributes)
}

func attributesSize(attributes map[string]string) (size int) {
	for name, value := range attributes {
		size += len(name) + len(value)
	}
	return size
}

// Check returns an [*EnvelopeError] if e is outside of the limits above, or contains what is no text: control characters, or
// bytes that are not UTF-8.
func (e *Envelope) Check() error {
	if e == nil {
		return nil
	}
	if err := CheckType(e.Type); err != nil {
		return err
	}
	if detail := checkText(e.Key, MaxKeyBytes); detail != "" {
		return &EnvelopeError{"key", detail}
	}
	if len(e.Attributes) > MaxAttributes {
		return &EnvelopeError{"attributes", fmt.Sprintf("must be at most %d, not %d", MaxAttributes, len(e.Attributes))}
	}
	for name, value := range e.Attributes {
		if !isAttributeName(name) {
			return &EnvelopeError{"attributes", fmt.Sprintf("must have names of 1 to %d of the characters a-z, 0-9, _, . and -", MaxAttributeNameBytes)}
		}
		if detail := checkText(value, MaxAttributeValueBytes); detail != "" {
			return &EnvelopeError{"attributes." + name, detail}
		}
	}
	if size := attributesSize(e.Attributes); size > MaxAttributesBytes {
		return &EnvelopeError{"attributes", fmt.Sprintf("must have at most %d bytes of names and values, not %d", MaxAttributesBytes, size)}
	}
	return nil
}

// CheckType returns an [*EnvelopeError] if a type is not one. An empty one is absent.
func CheckType(s string) error {
	if detail := checkText(s, MaxTypeBytes); detail != "" {
		return &EnvelopeError{"type", detail}
	}
	return nil
}

// checkText says what must be true of s; "" if it is.
func checkText(s string, limit int) string {
	switch {
	case len(s) > limit:
		return fmt.Sprintf("must have at most %d bytes, not %d", limit, len(s))
	case !utf8.ValidString(s):
		return "must be UTF-8"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "must not contain control characters"
	}
	return ""
}

func isAttributeName(name string) bool {
	if name == "" || len(name) > MaxAttributeNameBytes {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', isDigit(c), c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
