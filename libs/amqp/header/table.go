package header

import (
	"errors"
	"iter"
	"math"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Limits of field tables that every client reads. amqp091-go is the strictest that is known (read.go of 1.16.0): it gives
// the connection up over a table or array that lies in more than 32 others within the headers, or that has more than 8,192
// elements. [Table.Decode] keeps them.
const (
	MaxDepth    = 32
	MaxElements = 8192
)

// MaxShort is the longest short string of AMQP 0-9-1, in bytes (section 4.2.5.3).
const MaxShort = 255

// ErrUnreadable says that a table, an array or properties do not follow AMQP 0-9-1.
var ErrUnreadable = errors.New("not encoded as AMQP 0-9-1 says")

// Table is a field table as on the wire, without its length: fields one behind the other, in the order in which they were
// sent, names that occur twice included (AMQP 0-9-1, section 4.2.5.5). Its publisher decides what is in it, so nothing
// here recurses or takes memory in proportion to what it says.
type Table []byte

// Field is an element of a [Table] or of an array.
type Field struct {
	// Name in a table; empty in an array.
	Name []byte
	// Kind is the code of the type, as the errata of RabbitMQ have them: 't', 'S', 'F', …
	Kind byte
	// Value is its encoding, without the length that strings, tables and arrays begin with.
	Value []byte
	// Raw is the whole field: name, code and value.
	Raw []byte
}

// Fields are the elements of t. What cannot be read ends them with [ErrUnreadable].
func (t Table) Fields() iter.Seq2[Field, error] { return fields(t, true) }

// Elements are those of the table or array that f holds; there are none in other types. What cannot be read ends them
// with [ErrUnreadable].
func (f Field) Elements() iter.Seq2[Field, error] {
	if f.Kind != 'F' && f.Kind != 'A' {
		return func(func(Field, error) bool) {}
	}
	return fields(f.Value, f.Kind == 'F')
}

func fields(content []byte, named bool) iter.Seq2[Field, error] {
	return func(yield func(Field, error) bool) {
		for c := (Cursor{Left: content}); len(c.Left) > 0; {
			before := c.Left
			var f Field
			if named {
				f.Name = c.Short()
			}
			f.Kind = c.Uint8()
			f.Value = c.value(f.Kind)
			if c.Failed {
				yield(Field{}, ErrUnreadable)
				return
			}
			f.Raw = before[:len(before)-len(c.Left)]
			if !yield(f, nil) {
				return
			}
		}
	}
}

// value is the encoding of a value of a type.
func (c *Cursor) value(kind byte) []byte {
	switch kind {
	case 't', 'b', 'B':
		return c.Bytes(1)
	case 's', 'u':
		return c.Bytes(2)
	case 'I', 'i', 'f':
		return c.Bytes(4)
	case 'D':
		return c.Bytes(5)
	case 'l', 'L', 'd', 'T':
		return c.Bytes(8)
	case 'S', 'x', 'A', 'F':
		return c.Long()
	case 'V':
		return c.Bytes(0)
	}
	c.Left, c.Failed = nil, true
	return nil
}

// Lookup returns the field of a name, the last one if there are several; zero if there is none. It reads as far as t can
// be read.
func (t Table) Lookup(name string) Field {
	var found Field
	for f, err := range t.Fields() {
		if err == nil && string(f.Name) == name {
			found = f
		}
	}
	return found
}

// Without is t without the fields whose names drop says, and without what cannot be read.
func (t Table) Without(drop func(name string) bool) Table {
	kept := make(Table, 0, len(t))
	for f, err := range t.Fields() {
		if err == nil && !drop(string(f.Name)) {
			kept = append(kept, f.Raw...)
		}
	}
	return kept
}

// Text is the value of a string, else empty.
func (f Field) Text() string {
	if f.Kind != 'S' {
		return ""
	}
	return string(f.Value)
}

// Int is the value of a whole number of any width; ok is false for other types.
func (f Field) Int() (n int64, ok bool) {
	c := Cursor{Left: f.Value}
	switch f.Kind {
	case 'b':
		return int64(int8(c.Uint8())), true
	case 'B':
		return int64(c.Uint8()), true
	case 's':
		return int64(int16(c.Uint16())), true
	case 'u':
		return int64(c.Uint16()), true
	case 'I':
		return int64(int32(c.Uint32())), true
	case 'i':
		return int64(c.Uint32()), true
	case 'l', 'L':
		return int64(c.Uint64()), true
	}
	return 0, false
}

// Decode is t as amqp091-go has it, so that it can be published again. Only whole fields are in it, each as it was: those
// which hold what is beyond the limits of other clients, or cannot be read, are left out. Of fields of one name the last
// counts.
func (t Table) Decode() amqp.Table {
	table := amqp.Table{}
	for f, err := range t.Fields() {
		if err != nil {
			break
		}
		value, ok := f.decode(0)
		switch _, again := table[string(f.Name)]; {
		case ok && (again || len(table) < MaxElements):
			table[string(f.Name)] = value
		case again:
			delete(table, string(f.Name))
		}
	}
	return table
}

// decode is the value of f as the Go type that amqp091-go has for it; depth is in how many tables and arrays it lies, the
// headers themselves not counted.
func (f Field) decode(depth int) (value any, ok bool) {
	c := Cursor{Left: f.Value}
	switch f.Kind {
	case 't':
		return c.Uint8() != 0, true
	case 'b':
		return int8(c.Uint8()), true
	case 'B':
		return c.Uint8(), true
	case 's':
		return int16(c.Uint16()), true
	case 'u':
		return c.Uint16(), true
	case 'I':
		return int32(c.Uint32()), true
	case 'i':
		return c.Uint32(), true
	case 'l', 'L':
		return int64(c.Uint64()), true
	case 'f':
		return math.Float32frombits(c.Uint32()), true
	case 'd':
		return math.Float64frombits(c.Uint64()), true
	case 'D':
		return amqp.Decimal{Scale: c.Uint8(), Value: int32(c.Uint32())}, true
	case 'S':
		return string(f.Value), true
	case 'x':
		return append([]byte{}, f.Value...), true
	case 'T':
		return c.time(), true
	case 'V':
		return nil, true
	}
	if depth == MaxDepth {
		return nil, false
	}
	if f.Kind == 'A' {
		return f.decodeArray(depth + 1)
	}
	return f.decodeTable(depth + 1)
}

func (f Field) decodeArray(depth int) (value any, ok bool) {
	var array []any
	for element, err := range f.Elements() {
		if err != nil || len(array) == MaxElements {
			return nil, false
		}
		value, ok := element.decode(depth)
		if !ok {
			return nil, false
		}
		array = append(array, value)
	}
	return array, true
}

func (f Field) decodeTable(depth int) (value any, ok bool) {
	table := amqp.Table{}
	for element, err := range f.Elements() {
		if err != nil || len(table) == MaxElements {
			return nil, false
		}
		value, ok := element.decode(depth)
		if !ok {
			return nil, false
		}
		table[string(element.Name)] = value
	}
	return table, true
}
