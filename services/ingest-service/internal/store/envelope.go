package store

import (
	"encoding/binary"
	"slices"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// envelopeColumns are named where a message of a write has an envelope: what they cost is paid by those that use them.
const envelopeColumns = ", type, key, attributes"

func hasEnvelopes(messages []Row) bool {
	return slices.ContainsFunc(messages, func(m Row) bool { return m.Envelope != nil })
}

// envelopeSize is how much [appendEnvelope] writes at most.
func envelopeSize(e *contract.Envelope) int {
	const null = 4
	if e == nil {
		return 3 * null
	}
	// Each byte of an attribute may need a backslash before it.
	return 3*null + len(`{}`) + 1 + len(e.Attributes)*len(`"":"",`) + 2*e.Size()
}

// appendEnvelope appends the values of [envelopeColumns] in the binary format.
func appendEnvelope(buffer []byte, e *contract.Envelope) []byte {
	return appendAttributes(appendKey(appendType(buffer, e), e), e)
}

func appendType(buffer []byte, e *contract.Envelope) []byte {
	if e == nil {
		return appendNull(buffer)
	}
	return appendText(buffer, e.Type)
}

func appendKey(buffer []byte, e *contract.Envelope) []byte {
	if e == nil {
		return appendNull(buffer)
	}
	return appendText(buffer, e.Key)
}

func appendAttributes(buffer []byte, e *contract.Envelope) []byte {
	if e == nil || len(e.Attributes) == 0 {
		return appendNull(buffer)
	}
	start := len(buffer)
	buffer = append(buffer, 0, 0, 0, 0, jsonbVersion)
	separator := byte('{')
	for name, value := range e.Attributes {
		buffer = append(buffer, separator)
		buffer = appendQuoted(buffer, name)
		buffer = append(buffer, ':')
		buffer = appendQuoted(buffer, value)
		separator = ','
	}
	buffer = append(buffer, '}')
	binary.BigEndian.PutUint32(buffer[start:], uint32(len(buffer)-start-4))
	return buffer
}

func appendNull(buffer []byte) []byte {
	const null = 0xFFFFFFFF // -1
	return binary.BigEndian.AppendUint32(buffer, null)
}

func appendText(buffer []byte, s string) []byte {
	if s == "" {
		return appendNull(buffer)
	}
	return append(binary.BigEndian.AppendUint32(buffer, uint32(len(s))), s...)
}

// appendQuoted appends s as a string of JSON. It has no control characters, and is UTF-8.
func appendQuoted(buffer []byte, s string) []byte {
	buffer = append(buffer, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			buffer = append(buffer, '\\')
		}
		buffer = append(buffer, s[i])
	}
	return append(buffer, '"')
}

// envelopeArray is an array of what appendValue appends of each envelope, with NULLs.
func envelopeArray(messages []Row, elementType uint32, appendValue func([]byte, *contract.Envelope) []byte) []byte {
	const hasNulls = 1
	buffer := arrayHeader(make([]byte, 0, arrayHeaderSize+4*len(messages)), elementType, len(messages))
	binary.BigEndian.PutUint32(buffer[4:], hasNulls)
	for i := range messages {
		buffer = appendValue(buffer, messages[i].Envelope)
	}
	return buffer
}
