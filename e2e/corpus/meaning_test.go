package corpus_test

import (
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parse reads one JSON value with every digit of its numbers. Of keys that occur more than once the last one counts, as
// in PostgreSQL.
func parse(t *testing.T, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var value any
	require.NoError(t, decoder.Decode(&value), "%.200s", text)
	return value
}

// sameMeaning compares two values as RFC 8259 understands them: numbers by value and not as float64, objects without
// regard to the order of their keys, strings character by character.
func sameMeaning(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		return ok && rational(a).Cmp(rational(b)) == 0
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameMeaning)
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key, value := range a {
			other, ok := b[key]
			if !ok || !sameMeaning(value, other) {
				return false
			}
		}
		return true
	default:
		return a == b
	}
}

func rational(n json.Number) *big.Rat {
	r, ok := new(big.Rat).SetString(string(n))
	if !ok {
		return new(big.Rat).SetFrac64(1, 7) // equal to no JSON number
	}
	return r
}

func requireSameMeaning(t *testing.T, sent, got string) {
	t.Helper()
	require.True(t, sameMeaning(parse(t, sent), parse(t, got)), "sent %.300s\ngot  %.300s", sent, got)
}

// A comparison that is satisfied by everything would let every loss of a digit pass.
func TestSameMeaning(t *testing.T) {
	for _, pair := range [][2]string{
		{`1`, `1.0`},
		{`1e2`, `100`},
		{`-0`, `0`},
		{`1.50`, `15e-1`},
		{`{"a":1,"b":[2]}`, `{"b":[2.0],"a":1}`},
		{`"\u00e9"`, `"é"`},
		{`{"a":1,"a":2}`, `{"a":2}`},
		{`1e399`, `1` + strings.Repeat("0", 399)},
	} {
		require.True(t, sameMeaning(parse(t, pair[0]), parse(t, pair[1])), pair)
	}
	for _, pair := range [][2]string{
		{`9007199254740993`, `9007199254740992`},
		{`0.1`, `0.1000000000000000055511151231257827`},
		{`1`, `"1"`},
		{`null`, `false`},
		{`[1,2]`, `[2,1]`},
		{`[1]`, `[1,1]`},
		{`{"a":1}`, `{"a":1,"b":null}`},
		{`{"a":1}`, `{"A":1}`},
		{`"é"`, `"e\u0301"`},
		{`[]`, `{}`},
		{`{"a":1,"a":2}`, `{"a":1}`},
	} {
		require.False(t, sameMeaning(parse(t, pair[0]), parse(t, pair[1])), pair)
	}
}
