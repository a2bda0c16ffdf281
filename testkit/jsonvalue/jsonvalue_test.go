package jsonvalue_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/jsonvalue"
)

// A comparison that calls different values the same lets every loss of a digit pass; one that calls the same values
// different cries wolf, since PostgreSQL gives JSON back in another spelling.
func TestEqual(t *testing.T) {
	for name, test := range map[string]struct {
		a, b string
		same bool
	}{
		"order of keys":           {`{"a":1,"b":[2]}`, `{"b": [2.0], "a": 1}`, true},
		"key twice, the last":     {`{"a":1,"a":2}`, `{"a":2}`, true},
		"key twice, the first":    {`{"a":1,"a":2}`, `{"a":1}`, false},
		"case of a key":           {`{"a":1}`, `{"A":1}`, false},
		"one key more":            {`{"a":1}`, `{"a":1,"b":null}`, false},
		"null and absent":         {`{"a":null}`, `{}`, false},
		"null under another key":  {`{"a":null}`, `{"b":null}`, false},
		"spelling of a string":    {`"\u00fc\/"`, `"ü/"`, true},
		"surrogate pair":          {`"\ud83d\ude00"`, `"😀"`, true},
		"composed and decomposed": {`"é"`, `"e\u0301"`, false},
		"form of a number":        {`[1e3,-0.0,2.50,15e-1]`, `[1000,0,2.5,1.50]`, true},
		"a large exponent":        {`1e399`, `1` + strings.Repeat("0", 399), true},
		"beyond float64":          {`9007199254740993`, `9007199254740992`, false},
		"a long fraction":         {`0.1234567890123456789012345`, `0.1234567890123456789012346`, false},
		"float64 for a decimal":   {`0.1`, `0.1000000000000000055511151231257827`, false},
		"number and string":       {`1`, `"1"`, false},
		"null and false":          {`null`, `false`, false},
		"order of a list":         {`[1,2]`, `[2,1]`, false},
		"length of a list":        {`[1]`, `[1,1]`, false},
		"list and object":         {`[]`, `{}`, false},
		"list and number":         {`[1]`, `1`, false},
		"deep":                    {`{"a":[{"b":[true,{"c":"x"}]}]}`, `{"a":[{"b":[true,{"c":"y"}]}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := jsonvalue.Parse([]byte(test.a))
			require.NoError(t, err)
			b, err := jsonvalue.Parse([]byte(test.b))
			require.NoError(t, err)
			require.Equal(t, test.same, jsonvalue.Equal(a, b))
			require.Equal(t, test.same, jsonvalue.Equal(b, a))
			require.True(t, jsonvalue.Equal(a, a))
		})
	}
}

func TestParseTakesOneValue(t *testing.T) {
	for _, text := range []string{``, ` `, `{`, `1 1`, `{} x`, `[1,]`, `nil`} {
		_, err := jsonvalue.Parse([]byte(text))
		require.ErrorContains(t, err, "not JSON", text)
	}
}
