// Package jsonvalue compares what was sent with what came back, where a store may have written the same JSON in another way.
package jsonvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
)

// Parse reads a text that is one JSON value, with every digit of its numbers. Of keys that occur more than once in an
// object the last one counts, as in PostgreSQL.
func Parse(text []byte) (value any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not JSON: something follows the first value")
	}
	return value, nil
}

// Equal reports whether two values from [Parse] mean the same (RFC 8259): the order of keys, the spelling of strings and
// the form of numbers (1e3 and 1000) do not count, their exact value does. The time for a number grows with its exponent,
// which the services keep small.
func Equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, Equal)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, Equal)
	case json.Number:
		b, ok := b.(json.Number)
		return ok && equalNumbers(a, b)
	default: // string, bool, nil
		return a == b
	}
}

// equalNumbers compares decimals: float64 has one number for 9007199254740993 and 9007199254740992.
func equalNumbers(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, okX := new(big.Rat).SetString(a.String())
	y, okY := new(big.Rat).SetString(b.String())
	return okX && okY && x.Cmp(y) == 0
}
