package corpus_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// invalid is what cannot be stored.
type invalid struct {
	body string
	// reason of the dead letter that it becomes over AMQP.
	reason contract.Reason
	// code of the problem that it is over HTTP; empty for malformed_json.
	code string
}

// invalidPayloads are bodies that must not be stored.
func invalidPayloads() map[string]invalid {
	payloads := map[string]invalid{
		"\\u0000":                     {body: `"\u0000"`, reason: contract.ReasonUnstorable},
		"\\u0000 in a key":            {body: `{"\u0000":1}`, reason: contract.ReasonUnstorable},
		"\\u0000 far inside":          {body: `[[[{"a":["x\u0000y"]}]]]`, reason: contract.ReasonUnstorable},
		"high surrogate":              {body: `"\ud800"`, reason: contract.ReasonUnstorable},
		"low surrogate":               {body: `"\udc00"`, reason: contract.ReasonUnstorable},
		"surrogates reversed":         {body: `"\ude00\ud83d"`, reason: contract.ReasonUnstorable},
		"two high surrogates":         {body: `"\ud83d\ud83d\ude00"`, reason: contract.ReasonUnstorable},
		"surrogate before a letter":   {body: `"\ud83dx"`, reason: contract.ReasonUnstorable},
		"surrogate before an escape":  {body: `"\ud83d\n"`, reason: contract.ReasonUnstorable},
		"surrogate in a key":          {body: `{"\udfff":1}`, reason: contract.ReasonUnstorable},
		"401 digits":                  {body: strings.Repeat("9", 401), reason: contract.ReasonUnstorable},
		"401 digits, negative":        {body: "-" + strings.Repeat("9", 401), reason: contract.ReasonUnstorable},
		"401 digits on both sides":    {body: strings.Repeat("9", 200) + "." + strings.Repeat("9", 201), reason: contract.ReasonUnstorable},
		"exponent over the limit":     {body: `1e400`, reason: contract.ReasonUnstorable},
		"neg. exponent over it":       {body: `1e-400`, reason: contract.ReasonUnstorable},
		"the largest numeric":         {body: `1e131071`, reason: contract.ReasonUnstorable},
		"over the largest numeric":    {body: `1e131072`, reason: contract.ReasonUnstorable},
		"below the smallest numeric":  {body: `1e-16384`, reason: contract.ReasonUnstorable},
		"exponent over 64 bits":       {body: `1e99999999999999999999`, reason: contract.ReasonUnstorable},
		"neg. exponent over 64 bits":  {body: `1e-99999999999999999999`, reason: contract.ReasonUnstorable},
		"zero, exponent over 64 bits": {body: `0e99999999999999999999`, reason: contract.ReasonUnstorable},
		"number bomb in a list":       {body: `[1,2,{"a":1e131071}]`, reason: contract.ReasonUnstorable},
		"201 arrays":                  {body: strings.Repeat("[", 201) + strings.Repeat("]", 201), reason: contract.ReasonTooDeep},
		"201 objects":                 {body: strings.Repeat(`{"a":`, 201) + "1" + strings.Repeat("}", 201), reason: contract.ReasonTooDeep},
		// encoding/json, which reads the body of a request first, gives up beyond 10,000 levels, and the scanner at the first
		// fault that it meets.
		"surrogate cut off": {body: `"\ud83d\u`, reason: contract.ReasonUnstorable, code: "malformed_json"},
		"100,000 arrays":    {body: strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), reason: contract.ReasonTooDeep, code: "malformed_json"},
	}
	for name, p := range payloads {
		if p.code == "" {
			p.code = "payload_" + string(p.reason)
			payloads[name] = p
		}
	}
	for name, body := range map[string]string{
		"nothing":                    ``,
		"only white space":           " \t\r ",
		"text":                       `text`,
		"two values":                 `{} {}`,
		"two values, no space":       `{}{}`,
		"two numbers":                `1 2`,
		"comma behind":               `{},`,
		"bracket behind":             `[]]`,
		"text behind":                `{}x`,
		"comment":                    `/* c */ {}`,
		"comment behind":             `{} // c`,
		"hash comment":               `{} # c`,
		"byte order mark":            "\uFEFF{}",
		"byte order mark, UTF-16":    "\xff\xfe{\x00}\x00",
		"UTF-16":                     "{\x00}\x00",
		"no-break space":             "\u00a0{}",
		"form feed":                  "\f{}",
		"vertical tab":               "\v{}",
		"next line":                  "\u0085{}",
		"zero byte":                  "\x00",
		"zero byte behind":           "{}\x00",
		"zero byte in a string":      "\"\x00\"",
		"open object":                `{`,
		"open array":                 `[`,
		"open array, value":          `[1`,
		"open array, comma":          `[1,`,
		"open string":                `"a`,
		"open key":                   `{"a`,
		"key alone":                  `{"a"}`,
		"key and colon":              `{"a":}`,
		"key and two colons":         `{"a"::1}`,
		"number for a key":           `{1:1}`,
		"null for a key":             `{null:1}`,
		"bare key":                   `{a:1}`,
		"key in single quotes":       `{'a':1}`,
		"comma for a colon":          `{"a",1}`,
		"equals for a colon":         `{"a"=1}`,
		"semicolon":                  `{"a":1;"b":2}`,
		"no comma in an object":      `{"a":1 "b":2}`,
		"no comma in an array":       `[1 2]`,
		"two commas":                 `[1,,2]`,
		"only a comma":               `[,]`,
		"trailing comma":             `[1,]`,
		"trailing comma, object":     `{"a":1,}`,
		"leading comma":              `[,1]`,
		"colon in an array":          `["a":1]`,
		"object closed as an array":  `{"a":1]`,
		"array closed as an object":  `[1}`,
		"crossed":                    `[{]}`,
		"brackets of another kind":   `(1)`,
		"True":                       `True`,
		"NULL":                       `NULL`,
		"truth cut off":              `tru`,
		"nul":                        `nul`,
		"nulll":                      `nulll`,
		"undefined":                  `undefined`,
		"NaN":                        `NaN`,
		"Infinity":                   `Infinity`,
		"minus Infinity":             `-Infinity`,
		"minus":                      `-`,
		"two minuses":                `--1`,
		"plus":                       `+1`,
		"minus, space":               `- 1`,
		"leading zero":               `01`,
		"leading zero, negative":     `-01`,
		"two zeros":                  `00`,
		"point first":                `.5`,
		"point last":                 `5.`,
		"minus, point":               `-.5`,
		"two points":                 `1.2.3`,
		"comma for a point":          `1,5`,
		"exponent without digits":    `1e`,
		"exponent with a sign alone": `1e+`,
		"two exponents":              `1e1e1`,
		"fraction in an exponent":    `1e1.5`,
		"exponent alone":             `e1`,
		"hexadecimal":                `0x10`,
		"octal":                      `0o7`,
		"underscore":                 `1_000`,
		"spaces in a number":         `1 000`,
		"letters behind a number":    `1a`,
		"full-width digit":           "\uff11",
		"single quotes":              `'a'`,
		"backquotes":                 "`a`",
		"curly quotes":               "\u201ca\u201d",
		"no quotes":                  `[a]`,
		"quote in a string":          `"a"b"`,
		"backslash at the end":       `"a\`,
		"backslash before the quote": `"a\"`,
		"escape x":                   `"\x41"`,
		"escape a":                   `"\a"`,
		"escape 0":                   `"\0"`,
		"escape quote":               `"\'"`,
		"escape U":                   `"\U0041"`,
		"escape of nothing":          `"\ "`,
		"escape of an emoji":         `"\😀"`,
		"u of three":                 `"\u00A"`,
		"u of letters":               `"\u00zz"`,
		"u in braces":                `"\u{41}"`,
		"u alone":                    `"\u"`,
		"tab in a string":            "\"\t\"",
		"return in a string":         "\"\r\"",
		"escape character":           "\"\x1b\"",
		"lone continuation byte":     "\"\x80\"",
		"truncated UTF-8":            "\"\xe2\x82\"",
		"overlong slash":             "\"\xc0\xaf\"",
		"overlong zero":              "\"\xe0\x80\x80\"",
		"surrogate in UTF-8":         "\"\xed\xa0\x80\"",
		"CESU-8":                     "\"\xed\xa0\xbd\xed\xb8\x80\"",
		"above U+10FFFF":             "\"\xf4\x90\x80\x80\"",
		"five bytes":                 "\"\xf8\x88\x80\x80\x80\"",
		"byte 0xff":                  "\"\xff\"",
		"invalid UTF-8 in a key":     "{\"\xff\":1}",
		"Latin-1":                    "\"caf\xe9\"",
		"gzip":                       "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
		"XML":                        `<a/>`,
		"form":                       `a=1&b=2`,
		"YAML":                       "- a",
	} {
		payloads[name] = invalid{body: body, reason: contract.ReasonNotJSON, code: "malformed_json"}
	}
	return payloads
}

// Over AMQP nobody can be told at once: what cannot be stored has to be found among the dead letters, whole and with its
// reason, and the messages before and behind it have to be stored.
func TestInvalidPayloadsOverAMQP(t *testing.T) {
	w := sharedWorld(t)
	tenant, token := w.createTenant(t)
	names := make(map[uuid.UUID]string)
	var messages []publish.Message
	good := 0
	payloads := invalidPayloads()
	for name, p := range payloads {
		id := uuid.New()
		names[id] = name
		messages = append(messages, amqpMessage(tenant, uuid.New(), `{"neighbour":true}`), amqpMessage(tenant, id, p.body))
		good++
	}
	// A message that CC brings into the queue of a tenant whose key it does not have.
	foreign := amqpMessage(tenant, uuid.New(), `{"whose":"?"}`)
	foreign.Key = uuid.NewString()
	foreign.Publishing.Headers = amqp.Table{"CC": []any{tenant.String()}}
	names[uuid.MustParse(foreign.Publishing.MessageId)] = "foreign key"
	payloads["foreign key"] = invalid{body: `{"whose":"?"}`, reason: contract.ReasonForeignKey}
	w.publishAMQP(t, append(messages, foreign)...)

	w.awaitAll(t, token, good)
	api := w.as(token)
	for _, l := range w.awaitDeadLetters(t, token, len(names)) {
		require.False(t, l.MessageID.IsZero())
		name := names[uuid.UUID(l.MessageID)]
		p, known := payloads[name]
		require.True(t, known, "a dead letter of nobody's: %+v", l)
		delete(payloads, name)
		require.Equal(t, p.reason, contract.Reason(l.Reason), "%s: %s", name, l.Error)
		require.NotEmpty(t, l.Error, name)
		require.Equal(t, 1, l.Attempts, name)
		require.EqualValues(t, len(p.body), l.PayloadSize, name)
		require.Equal(t, "application/json", l.ContentType, name)
		require.False(t, l.LastFailedAt.Before(l.FirstFailedAt), name)
		switch {
		case l.PayloadOmitted:
			require.Greater(t, len(p.body), 64<<10, name)
			whole, err := api.DeadLetter(t.Context(), l.ID)
			require.NoError(t, err)
			require.Equal(t, p.body, string(whole.PayloadBytes), name)
		case name == "foreign key":
			require.JSONEq(t, p.body, string(l.Payload))
		default:
			require.Equal(t, p.body, string(l.PayloadBytes), "%s: every byte is kept", name)
		}
	}
	require.Empty(t, payloads, "these have no dead letter")

	// Their own reason finds them, as they are they cannot be replayed, and dropping them leaves nothing.
	for reason, n := range map[contract.Reason]int{contract.ReasonForeignKey: 1, contract.ReasonTooDeep: 3, contract.ReasonTooLarge: 0} {
		filter := client.DeadLetterFilter{Reason: string(reason)}
		count, err := api.CountDeadLetters(t.Context(), filter)
		require.NoError(t, err)
		require.EqualValues(t, n, count, reason)
		require.Len(t, w.deadLetters(t, token, filter), n)
	}
	replayed, err := api.ReplayDeadLetters(t.Context(), client.DeadLetterFilter{Reason: string(contract.ReasonNotJSON)})
	require.NoError(t, err)
	require.Zero(t, replayed.Replayed)
	require.Positive(t, replayed.Refused)
	_, err = api.DropDeadLetters(t.Context(), client.DeadLetterFilter{All: true})
	require.NoError(t, err)
	require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{}))
	w.awaitAll(t, token, good)
}

// Over HTTP a producer is told at once what is wrong, alone or as a line among others, which it must not touch.
func TestInvalidPayloadsOverHTTP(t *testing.T) {
	w := sharedWorld(t)
	_, token := w.createTenant(t)
	payloads := invalidPayloads()
	// What breaks out of the envelope is another request, and refused as such.
	payloads["a second payload"] = invalid{body: `1,"payload":2`, code: "duplicate_field"}
	payloads["another field"] = invalid{body: `1,"priority":9`, code: "unknown_field"}
	payloads["another id"] = invalid{body: `1,"id":"` + uuid.NewString() + `"`, code: "duplicate_field"}
	payloads["id in capitals"] = invalid{body: `1,"ID":1`, code: "unknown_field"}

	var lines [][]byte
	var names []string
	for name, p := range payloads {
		body := envelope(uuid.New(), p.body)
		require.Equal(t, p.code, w.publish(t, http.StatusBadRequest, token, body).Code(t), name)
		require.NotContains(t, p.body, "\n", "%s is more than a line", name)
		lines = append(lines, envelope(uuid.New(), `{"neighbour":true}`), body)
		names = append(names, "", name)
	}
	accepted := 0
	for i, line := range w.publishBatch(t, token, lines) {
		require.Equal(t, i+1, line.Line)
		if names[i] == "" {
			require.Equal(t, http.StatusAccepted, line.Status, "the neighbour of %s", names[i^1])
			accepted++
			continue
		}
		require.Equal(t, http.StatusBadRequest, line.Status, names[i])
		require.Equal(t, payloads[names[i]].code, line.Code, names[i])
	}
	// Whole lines that are no messages, and white space that JSON does not have.
	for i, line := range w.publishBatch(t, token, [][]byte{
		[]byte(`1`), []byte(`[]`), []byte(`null`), []byte(`"payload"`), []byte("\u00a0" + `{"payload":1}`), []byte("\v" + `{"payload":1}`),
		[]byte("\uFEFF" + `{"payload":1}`), []byte(`{"payload":1} `),
	}) {
		if i == 7 {
			require.Equal(t, http.StatusAccepted, line.Status)
			accepted++
			continue
		}
		require.Equal(t, http.StatusBadRequest, line.Status, "line %d", i+1)
	}
	require.Equal(t, "malformed_json", w.publish(t, http.StatusBadRequest, token, []byte("\uFEFF"+`{"payload":1}`)).Code(t))
	require.Equal(t, "empty_body", w.publish(t, http.StatusBadRequest, token, nil).Code(t))
	require.Equal(t, "empty_body", w.publish(t, http.StatusBadRequest, token, bytes.Repeat([]byte(" "), 100)).Code(t))
	w.awaitAll(t, token, accepted)
	require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{}), "what was refused at once is no dead letter")
}
