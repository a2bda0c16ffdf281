package corpus_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/jsonvalue"
)

// validPayloads are JSON values that have to be stored and given back equal in meaning. gives is what the text has to
// come back as, where the way that PostgreSQL writes a jsonb is part of the promise; else it is free.
func validPayloads() map[string]struct{ sent, gives string } {
	return map[string]struct{ sent, gives string }{
		// Every kind of value at the top.
		"null":             {sent: `null`},
		"true":             {sent: `true`},
		"false":            {sent: `false`},
		"zero":             {sent: `0`},
		"string":           {sent: `"text"`},
		"empty string":     {sent: `""`},
		"empty object":     {sent: `{}`},
		"empty array":      {sent: `[]`},
		"nested empties":   {sent: `[{},[],[[]],{"a":{}},[{"b":[]}]]`},
		"array of scalars": {sent: `[null,true,false,0,"",1.5]`},
		"array of nulls":   {sent: `[null,null,null]`},
		"mixed types":      {sent: `[1,"1",true,"true",null,"null",{},[]]`},

		// Numbers: jsonb keeps each digit and each trailing zero, and writes them in plain form.
		"above 2^53":             {sent: `9007199254740993`, gives: `9007199254740993`},
		"below -2^53":            {sent: `-9007199254740993`, gives: `-9007199254740993`},
		"2^63":                   {sent: `9223372036854775808`, gives: `9223372036854775808`},
		"above 2^64":             {sent: `18446744073709551617`, gives: `18446744073709551617`},
		"100 digits":             {sent: strings.Repeat("7", 100), gives: strings.Repeat("7", 100)},
		"400 digits":             {sent: strings.Repeat("9", 400), gives: strings.Repeat("9", 400)},
		"400 digits, negative":   {sent: "-" + strings.Repeat("9", 400), gives: "-" + strings.Repeat("9", 400)},
		"200 digits on a side":   {sent: strings.Repeat("1", 200) + "." + strings.Repeat("2", 200)},
		"399 decimals":           {sent: "0." + strings.Repeat("3", 399), gives: "0." + strings.Repeat("3", 399)},
		"0.1":                    {sent: `0.1`, gives: `0.1`},
		"pi":                     {sent: `3.14159265358979323846264338327950288419716939937510`, gives: `3.14159265358979323846264338327950288419716939937510`},
		"trailing zeros":         {sent: `1.500`, gives: `1.500`},
		"money":                  {sent: `{"price":19.90,"tax":0.00}`, gives: `{"tax": 0.00, "price": 19.90}`},
		"minus zero":             {sent: `-0`, gives: `0`}, // numeric has one zero
		"minus zero, decimal":    {sent: `-0.00`, gives: `0.00`},
		"minus zero, exponent":   {sent: `-0e-1`},
		"exponent":               {sent: `1e3`, gives: `1000`},
		"exponent in capitals":   {sent: `1E3`, gives: `1000`},
		"exponent with plus":     {sent: `1e+3`, gives: `1000`},
		"negative exponent":      {sent: `15e-4`, gives: `0.0015`},
		"zero exponent":          {sent: `5e0`, gives: `5`},
		"exponent, zeros first":  {sent: `1e0002`, gives: `100`},
		"fraction, exponent":     {sent: `1.25e2`, gives: `125`},
		"fraction over exponent": {sent: `1.23456e2`, gives: `123.456`},
		"largest exponent":       {sent: `1e399`, gives: "1" + strings.Repeat("0", 399)},
		"smallest exponent":      {sent: `1e-399`, gives: "0." + strings.Repeat("0", 398) + "1"},
		"above a float64":        {sent: `1e309`, gives: "1" + strings.Repeat("0", 309)},
		"below a float64":        {sent: `4.9e-325`},
		"largest float64":        {sent: `1.7976931348623157e308`},
		"zero with an exponent":  {sent: `0e99`, gives: `0`},
		"zero, many decimals":    {sent: `0e-399`},
		"numbers in a list":      {sent: `[0,-0,1,-1,0.5,-0.5,1e1,1e-1,9007199254740993]`},

		// Strings.
		"all short escapes":      {sent: `"\"\\\/\b\f\n\r\t"`, gives: `"\"\\/\b\f\n\r\t"`},
		"unicode escape":         {sent: `"\u00e9\u4E2D\uFFFD"`, gives: `"é中�"`},
		"raw unicode":            {sent: `"é中文Ж☃"`, gives: `"é中文Ж☃"`},
		"surrogate pair":         {sent: `"\ud83d\ude00"`, gives: `"😀"`},
		"surrogates in capitals": {sent: `"\uD834\uDD1E"`, gives: `"𝄞"`},
		"raw astral":             {sent: `"😀𝄞"`, gives: `"😀𝄞"`},
		"highest character":      {sent: `"\udbff\udfff"`, gives: "\"\U0010FFFF\""},
		"noncharacters":          {sent: `"\uFFFE\uFFFF\uFDD0"`},
		"private use":            {sent: `"\uE000"`},
		"control characters":     {sent: `"\u0001\u001f\u007f\u0080\u009f"`},
		"line separators":        {sent: "\"\u2028\u2029\""},
		"line separators, u":     {sent: `"\u2028\u2029"`},
		"byte order mark inside": {sent: "\"\uFEFF\""},
		"zero width":             {sent: `"\u200b\u200d\u2060"`},
		"right to left":          {sent: `"\u202eabc"`},
		"composed":               {sent: `"é"`},
		"decomposed":             {sent: "\"e\u0301\""}, // not the same characters: nothing is normalized
		"escaped backslash, u":   {sent: `"\\u0000"`, gives: `"\\u0000"`},
		"backslashes":            {sent: `"\\\\\\"`},
		"slashes":                {sent: `"a/b\/c"`, gives: `"a/b/c"`},
		"quotes":                 {sent: `"\"'` + "`" + `"`},
		"html":                   {sent: `"<script>&amp;</script>"`, gives: `"<script>&amp;</script>"`},
		"sql":                    {sent: `"'; DROP TABLE messages; --"`},
		"placeholder":            {sent: `"$1 ? %s {}"`},
		"JSON in a string":       {sent: `"{\"a\":[1,2]}"`},
		"leading, ending spaces": {sent: `"  x  "`, gives: `"  x  "`},
		"64 KiB":                 {sent: `"` + strings.Repeat("abcdefgh", 8<<10) + `"`},

		// Objects.
		"duplicate keys":           {sent: `{"a":1,"a":2}`, gives: `{"a": 2}`},
		"duplicates, escaped":      {sent: `{"a":1,"\u0061":3}`, gives: `{"a": 3}`},
		"duplicates, nested":       {sent: `{"o":{"k":[1],"k":{"k":2}}}`, gives: `{"o": {"k": {"k": 2}}}`},
		"duplicates, other kind":   {sent: `{"a":{"b":1},"a":null}`, gives: `{"a": null}`},
		"order of keys":            {sent: `{"b":1,"a":2,"aa":3}`, gives: `{"a": 2, "b": 1, "aa": 3}`},
		"empty key":                {sent: `{"":0}`},
		"keys by case":             {sent: `{"A":1,"a":2}`},
		"keys that look alike":     {sent: "{\"\u00e9\":1,\"e\u0301\":2}"},
		"key of escapes":           {sent: `{"\"\\\n\u00e9":1}`},
		"key of spaces":            {sent: `{" ":1,"  ":2}`},
		"long key":                 {sent: `{"` + strings.Repeat("k", 10_000) + `":1}`},
		"__proto__":                {sent: `{"__proto__":{"x":1},"constructor":null,"toString":0}`},
		"keys of the API":          {sent: `{"id":7,"tenant_id":null,"payload":{"payload":1},"created_at":"never"}`},
		"1,000 keys":               {sent: manyKeys(1000)},
		"keys that are numbers":    {sent: `{"0":0,"1":1,"-1":-1,"1e3":2}`},
		"deep in arrays":           {sent: strings.Repeat("[", 200) + strings.Repeat("]", 200)},
		"deep in objects":          {sent: strings.Repeat(`{"a":`, 199) + `{}` + strings.Repeat("}", 199)},
		"deep in both":             {sent: strings.Repeat(`[{"a":`, 100) + `1` + strings.Repeat("}]", 100)},
		"wide":                     {sent: "[" + strings.TrimSuffix(strings.Repeat("0,", 10_000), ",") + "]"},
		"many objects":             {sent: "[" + strings.TrimSuffix(strings.Repeat(`{"a":[{}]},`, 1000), ",") + "]"},
		"numbers at their largest": {sent: "[" + strings.TrimSuffix(strings.Repeat("1e399,", 100), ",") + "]"},

		// White space around and between; jsonb keeps none of it.
		"spaces":               {sent: `  { "a" : [ 1 , 2 ] }  `, gives: `{"a": [1, 2]}`},
		"tabs":                 {sent: "\t{\t\"a\"\t:\t1\t}\t", gives: `{"a": 1}`},
		"carriage returns":     {sent: "\r{\r\"a\"\r:\r1\r}\r", gives: `{"a": 1}`},
		"line feeds":           {sent: "\n{\n\"a\"\n:\n1\n}\n", gives: `{"a": 1}`},
		"all of them":          {sent: " \t\r\n[ \t\r\n1 \t\r\n, \t\r\n2 \t\r\n] \t\r\n", gives: `[1, 2]`},
		"none":                 {sent: `{"a":[1,{"b":2}]}`, gives: `{"a": [1, {"b": 2}]}`},
		"10 KiB of spaces":     {sent: strings.Repeat(" ", 10<<10) + "1", gives: `1`},
		"scalar within spaces": {sent: " null ", gives: `null`},
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"key %d":%d`, n-i, i)
	}
	return "{" + b.String()[1:] + "}"
}

// A value that comes back as another one, or not at all, is a message lost. Each goes in over each way.
func TestValidPayloadsComeBackEqual(t *testing.T) {
	w := sharedWorld(t)
	tenant, token := w.createTenant(t)
	payloads := validPayloads()
	type sending struct{ name, way string }
	sent := make(map[uuid.UUID]sending)
	next := func(name, way string) uuid.UUID {
		id := uuid.New()
		sent[id] = sending{name, way}
		return id
	}

	var lines [][]byte
	var direct []publish.Message
	for name, p := range payloads {
		require.NoError(t, contract.CheckPayload([]byte(p.sent), contract.DefaultMaxPayload), name)
		w.publish(t, http.StatusAccepted, token, envelope(next(name, overHTTP), p.sent))
		if !strings.Contains(p.sent, "\n") { // a line of NDJSON has none
			lines = append(lines, envelope(next(name, overBatch), p.sent))
		}
		direct = append(direct, amqpMessage(tenant, next(name, overAMQP), p.sent))
	}
	for i, line := range w.publishBatch(t, token, lines) {
		require.Equal(t, http.StatusAccepted, line.Status, "line %d: %s", i, line.Code)
	}
	w.publishAMQP(t, direct...)

	all := w.awaitAll(t, token, len(sent))
	for id, s := range sent {
		p := payloads[s.name]
		got, stored := all[id]
		require.True(t, stored, "%s over %s is not stored", s.name, s.way)
		requireSameMeaning(t, p.sent, got)
		if p.gives != "" {
			require.Equal(t, p.gives, got, "%s over %s", s.name, s.way)
		}
	}
	// One by one it is the same.
	for id, s := range sent {
		if s.way != overAMQP {
			continue
		}
		one, err := w.as(token).Message(t.Context(), client.ID(id))
		require.NoError(t, err)
		require.Equal(t, all[id], string(one.Payload), s.name)
	}
	require.Empty(t, w.deadLetters(t, token, client.DeadLetterFilter{}))
}

// The limits are the ones that are promised, to the byte: over HTTP for the body as a whole, over AMQP for the payload.
func TestLimitsToTheByte(t *testing.T) {
	w := sharedWorld(t)
	tenant, token := w.createTenant(t)
	const limit = contract.DefaultMaxPayload
	text := func(size int) string { return `"` + strings.Repeat("x", size-2) + `"` }
	sent := make(map[uuid.UUID]string)

	id := uuid.New()
	around := len(envelope(id, ""))
	body := envelope(id, text(limit-around))
	require.Len(t, body, limit)
	w.publish(t, http.StatusAccepted, token, body)
	sent[id] = text(limit - around)
	a := w.publish(t, http.StatusRequestEntityTooLarge, token, envelope(uuid.New(), text(limit-around+1)))
	require.Equal(t, "body_too_large", a.Code(t))

	id, small := uuid.New(), uuid.New()
	lines := w.publishBatch(t, token, [][]byte{
		envelope(id, text(limit-around)), envelope(uuid.New(), text(limit-around+1)), envelope(small, `1`),
	})
	require.Equal(t, []int{http.StatusAccepted, http.StatusRequestEntityTooLarge, http.StatusAccepted},
		[]int{lines[0].Status, lines[1].Status, lines[2].Status})
	require.Equal(t, "line_too_large", lines[1].Code)
	sent[id], sent[small] = text(limit-around), `1`

	id, tooLarge := uuid.New(), uuid.New()
	w.publishAMQP(t, amqpMessage(tenant, id, text(limit)), amqpMessage(tenant, tooLarge, text(limit+1)))
	sent[id] = text(limit)

	all := w.awaitAll(t, token, len(sent))
	for id, payload := range sent {
		require.Equal(t, payload, all[id])
	}
	dead := w.awaitDeadLetters(t, token, 1)[0]
	require.Equal(t, tooLarge, uuid.UUID(dead.MessageID))
	require.Equal(t, contract.ReasonTooLarge, contract.Reason(dead.Reason))
	require.EqualValues(t, limit+1, dead.PayloadSize)
	require.True(t, dead.PayloadOmitted, "a list does not carry the largest payloads")
	whole, err := w.as(token).DeadLetter(t.Context(), dead.ID)
	require.NoError(t, err)
	require.Equal(t, text(limit+1), string(whole.Payload), "it is JSON, and it is all there")
}

// Six bytes such as 1e399 are 400 when they are read. A payload may not grow over its limit by that, and what just fits
// must not keep a tenant from reading: twelve messages of 15 kB that are a megabyte each in the answer, more than a page holds.
func TestPayloadsThatGrowWhenTheyAreRead(t *testing.T) {
	w := sharedWorld(t)
	tenant, token := w.createTenant(t)
	numbers := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1e399,", n), ",") + "]" }
	const most = contract.DefaultMaxPayload / contract.MaxNumberDigits
	a := w.publish(t, http.StatusBadRequest, token, envelope(uuid.New(), numbers(most+1)))
	require.Equal(t, "payload_unstorable", a.Code(t))

	messages := []publish.Message{amqpMessage(tenant, uuid.New(), numbers(most+1))}
	const count = 12
	for range count {
		messages = append(messages, amqpMessage(tenant, uuid.New(), numbers(most)))
	}
	w.publishAMQP(t, messages...)
	require.Equal(t, contract.ReasonUnstorable, contract.Reason(w.awaitDeadLetters(t, token, 1)[0].Reason))
	first := ""
	for _, got := range w.awaitAll(t, token, count) {
		if first == "" {
			first = got
			require.Greater(t, len(got), most*contract.MaxNumberDigits)
			requireSameMeaning(t, numbers(most), got)
		}
		require.True(t, first == got, "they are all the same") //nolint:testifylint // a megabyte each is nothing to print
	}
}

// requireSameMeaning compares what was sent with what came back, in whatever spelling.
func requireSameMeaning(t *testing.T, sent, got string) {
	t.Helper()
	a, err := jsonvalue.Parse([]byte(sent))
	require.NoError(t, err, "%.200s", sent)
	b, err := jsonvalue.Parse([]byte(got))
	require.NoError(t, err, "%.200s", got)
	require.True(t, jsonvalue.Equal(a, b), "sent %.300s\ngot  %.300s", sent, got)
}
