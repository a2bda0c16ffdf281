package contract_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// A payload that passes and cannot be stored stops a whole batch; one that is refused without need is a lost message.
func TestCheckPayload(t *testing.T) {
	nested := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	numbers := func(number string, n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(number+",", n), ",") + "]"
	}
	for name, test := range map[string]struct {
		body   string
		reason contract.Reason // empty: valid
	}{
		"object":                    {body: `{"a":[1,-2.5e+3,true,false,null,"x"],"b":{}}`},
		"scalar string":             {body: `"x"`},
		"scalar null":               {body: `null`},
		"zero":                      {body: `-0`},
		"white space around":        {body: " \t\r\n{} \n"},
		"empty array in array":      {body: `[[],[[]],{}]`},
		"duplicate keys":            {body: `{"a":1,"a":2}`},
		"surrogate pair":            {body: `"\ud83d\ude00"`},
		"emoji":                     {body: `"😀"`},
		"escaped backslash and u":   {body: `"\\u0000"`},
		"all escapes":               {body: `"\"\\\/\b\f\n\r\t\u00e9"`},
		"replacement character":     {body: "\"\uFFFD\""},
		"200 levels":                {body: nested(200)},
		"400 digits":                {body: strings.Repeat("9", 400)},
		"400 digits by exponent":    {body: `1e399`},
		"400 digits after point":    {body: `1e-399`},
		"empty":                     {body: ``, reason: contract.ReasonNotJSON},
		"only white space":          {body: " \n", reason: contract.ReasonNotJSON},
		"zero byte":                 {body: "\x00", reason: contract.ReasonNotJSON},
		"two values":                {body: `{} {}`, reason: contract.ReasonNotJSON},
		"truncated":                 {body: `{"a":`, reason: contract.ReasonNotJSON},
		"trailing comma":            {body: `[1,]`, reason: contract.ReasonNotJSON},
		"leading comma":             {body: `[,1]`, reason: contract.ReasonNotJSON},
		"object trailing comma":     {body: `{"a":1,}`, reason: contract.ReasonNotJSON},
		"wrong bracket":             {body: `[1}`, reason: contract.ReasonNotJSON},
		"bare key":                  {body: `{a:1}`, reason: contract.ReasonNotJSON},
		"missing colon":             {body: `{"a" 1}`, reason: contract.ReasonNotJSON},
		"single quotes":             {body: `'a'`, reason: contract.ReasonNotJSON},
		"leading zero":              {body: `01`, reason: contract.ReasonNotJSON},
		"plus sign":                 {body: `+1`, reason: contract.ReasonNotJSON},
		"no digits after point":     {body: `1.`, reason: contract.ReasonNotJSON},
		"no digits in exponent":     {body: `1e`, reason: contract.ReasonNotJSON},
		"NaN":                       {body: `NaN`, reason: contract.ReasonNotJSON},
		"misspelt literal":          {body: `nul`, reason: contract.ReasonNotJSON},
		"unknown escape":            {body: `"\x"`, reason: contract.ReasonNotJSON},
		"short unicode escape":      {body: `"\u12"`, reason: contract.ReasonNotJSON},
		"raw control character":     {body: "\"\n\"", reason: contract.ReasonNotJSON},
		"open string":               {body: `"abc`, reason: contract.ReasonNotJSON},
		"open string with escape":   {body: `"abc\`, reason: contract.ReasonNotJSON},
		"invalid UTF-8":             {body: "\"\xff\"", reason: contract.ReasonNotJSON},
		"overlong UTF-8":            {body: "\"\xc0\x80\"", reason: contract.ReasonNotJSON},
		"surrogate in UTF-8":        {body: "\"\xed\xa0\x80\"", reason: contract.ReasonNotJSON},
		"byte order mark":           {body: "\uFEFF{}", reason: contract.ReasonNotJSON},
		"null character":            {body: `{"a":"\u0000"}`, reason: contract.ReasonUnstorable},
		"null character in key":     {body: `{"\u0000":1}`, reason: contract.ReasonUnstorable},
		"lone high surrogate":       {body: `"\ud83d"`, reason: contract.ReasonUnstorable},
		"lone low surrogate":        {body: `"\ude00"`, reason: contract.ReasonUnstorable},
		"high surrogate, then text": {body: `"\ud83dabcdef"`, reason: contract.ReasonUnstorable},
		"two high surrogates":       {body: `"\ud83d\ud83d"`, reason: contract.ReasonUnstorable},
		"401 digits":                {body: strings.Repeat("9", 401), reason: contract.ReasonUnstorable},
		"number bomb":               {body: `1e131071`, reason: contract.ReasonUnstorable},
		"tiny number bomb":          {body: `1e-16383`, reason: contract.ReasonUnstorable},
		"overflowing exponent":      {body: `1e99999999999999999999999`, reason: contract.ReasonUnstorable},
		"zero bomb":                 {body: `0e-131071`, reason: contract.ReasonUnstorable},
		"numbers that fit together": {body: numbers("1e399", (1<<20)/400)},
		"numbers that grow":         {body: numbers("1e399", (1<<20)/400+1), reason: contract.ReasonUnstorable},
		"a payload full of digits":  {body: numbers(strings.Repeat("9", 399), (1<<20)/400)},
		"201 levels":                {body: nested(201), reason: contract.ReasonTooDeep},
		"100,000 levels":            {body: nested(100_000), reason: contract.ReasonTooDeep},
		"too large":                 {body: `"` + strings.Repeat("x", 1<<20) + `"`, reason: contract.ReasonTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			err := contract.CheckPayload([]byte(test.body), contract.DefaultMaxPayload)
			if test.reason == "" {
				require.NoError(t, err)
				return
			}
			var bad *contract.PayloadError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, test.reason, bad.Reason, bad.Error())
		})
	}
}

// FuzzCheckPayload holds the scanner against encoding/json: what it calls not JSON must be refused there, too (or not be
// UTF-8, which encoding/json tolerates), and the other way round.
func FuzzCheckPayload(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2.5e+3,true,false,null,"x"],"b":{}}`, `"\ud83d\ude00"`, `[[],{}]`, `1e400`, "\"\xff\"", `{"a":1,}`, `01`, `"\u12"`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := contract.CheckPayload(body, contract.DefaultMaxPayload)
		var bad *contract.PayloadError
		if errors.As(err, &bad) && bad.Reason != contract.ReasonNotJSON {
			return // a limit of ours: the scanner stops there, the rest may be anything
		}
		require.Equal(t, json.Valid(body) && utf8.Valid(body), err == nil, "%q: %v", body, err)
	})
}

func BenchmarkCheckPayload(b *testing.B) {
	body := []byte(`{"id":"evt_1","type":"order.created","data":{"items":[` + strings.Repeat(`{"sku":"A-1","quantity":2,"price":19.99},`, 20) + `{}]}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := contract.CheckPayload(body, contract.DefaultMaxPayload); err != nil {
			b.Fatal(err)
		}
	}
}

// What CheckPayload takes and what PayloadIn finds in front of something else are the same.
func TestPayloadIn(t *testing.T) {
	for _, body := range []string{`1`, `"x"`, ` {"a":[1,2,{}]}`, `[[],"]"]`, `null`, `-1.5e3`} {
		for _, behind := range []string{"", ",", "}", ` ,"id":1`, "\n"} {
			require.NoError(t, contract.CheckPayload([]byte(body), len(body)))
			length, ok := contract.PayloadIn([]byte(body+behind), len(body))
			require.True(t, ok, body+behind)
			require.Equal(t, len(body), length, body+behind)
		}
		_, ok := contract.PayloadIn([]byte(body+","), len(body)-1)
		require.False(t, ok, "too large: %s", body)
	}
	for _, body := range []string{``, ` `, `,`, `{`, `{"a":}`, `"`, `"\u0000"`, `1e400`, "\"\xff\"", strings.Repeat("[", 201) + strings.Repeat("]", 201)} {
		_, ok := contract.PayloadIn([]byte(body), 1<<20)
		require.False(t, ok, body)
	}
}
