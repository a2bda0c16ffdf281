package rest_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

type base struct {
	ID *uuid.UUID `json:"id"`
}

type item struct {
	ID    string `json:"id"`
	Count int8   `json:"count"`
}

type request struct {
	base
	Name    string            `json:"name"`
	Workers *int              `json:"workers"`
	On      bool              `json:"on"`
	Ratio   float64           `json:"ratio"`
	Items   []item            `json:"items"`
	Tags    []string          `json:"tags"`
	Labels  map[string]string `json:"labels"`
	At      time.Time         `json:"at"`
	Payload json.RawMessage   `json:"payload"`
	Any     any               `json:"any"`
	Skipped string            `json:"-"`
	Plain   string
}

const id = "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"

func TestDecodeTakes(t *testing.T) {
	workers := 5
	tenant := uuid.MustParse(id)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		body string
		want request
	}{
		"nothing":                {`{}`, request{}},
		"white space around":     {" \r\n\t{} \n", request{}},
		"strings":                {`{"name":"x","Plain":"y"}`, request{Name: "x", Plain: "y"}},
		"escaped key":            {`{"n\u0061me":"x"}`, request{Name: "x"}},
		"pointer":                {`{"workers":5}`, request{Workers: &workers}},
		"null for a pointer":     {`{"workers":null}`, request{}},
		"null for a list":        {`{"items":null,"labels":null,"any":null}`, request{}},
		"whole with a point":     {`{"workers":5.0}`, request{Workers: &workers}},
		"whole with an exponent": {`{"workers":5e0}`, request{Workers: &workers}},
		"whole with both":        {`{"workers":0.050E+2}`, request{Workers: &workers}},
		"whole, scaled down":     {`{"workers":50e-1}`, request{Workers: &workers}},
		"zero of any form":       {`{"items":[{"count":-0},{"count":-0.00},{"count":0e999999999999}]}`, request{Items: []item{{}, {}, {}}}},
		"negative with a point":  {`{"items":[{"count":-1.28e2}]}`, request{Items: []item{{Count: -128}}}},
		"surrogate pair":         {`{"name":"\uD83D\uDE00\\ud800"}`, request{Name: "\U0001F600\\ud800"}},
		"surrogate in a payload": {`{"payload":"\ud800"}`, request{Payload: json.RawMessage(`"\ud800"`)}},
		"time in other zones":    {`{"at":"2026-01-02t05:04:05.000+02:00"}`, request{At: at}},
		"scalars":                {`{"on":true,"ratio":1e3}`, request{On: true, Ratio: 1000}},
		"uuid in an embedded":    {`{"id":"` + id + `"}`, request{base: base{ID: &tenant}}},
		"uuid in capitals":       {`{"id":"` + strings.ToUpper(id) + `"}`, request{base: base{ID: &tenant}}},
		"list of objects":        {`{"items":[{"id":"a"},{"count":-128}]}`, request{Items: []item{{ID: "a"}, {Count: -128}}}},
		"list of strings":        {`{"tags":["a","b"]}`, request{Tags: []string{"a", "b"}}},
		"empty list":             {`{"tags":[]}`, request{Tags: []string{}}},
		"map":                    {`{"labels":{"a":"b"}}`, request{Labels: map[string]string{"a": "b"}}},
		"type with its own form": {`{"at":"2026-01-02T03:04:05Z"}`, request{At: at}},
		"any":                    {`{"any":[1,"x"]}`, request{Any: []any{1.0, "x"}}},
		"payload as it is":       {`{"payload": {"b":1,"a":[1.0e400, null],"b":2} }`, request{Payload: json.RawMessage(`{"b":1,"a":[1.0e400, null],"b":2}`)}},
		"null payload":           {`{"payload":null}`, request{Payload: json.RawMessage("null")}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got request
			require.NoError(t, rest.Decode([]byte(tt.body), &got))
			require.Equal(t, tt.want, got)
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	tests := map[string]struct {
		body  string
		code  string
		field string
	}{
		"empty":                   {"", "empty_body", ""},
		"white space":             {" \n", "empty_body", ""},
		"not json":                {"name=x", "malformed_json", ""},
		"cut off":                 {`{"name":"x`, "malformed_json", ""},
		"trailing data":           {`{} {}`, "malformed_json", ""},
		"trailing brace":          {`{}}`, "malformed_json", ""},
		"trailing comma":          {`{"name":"x",}`, "malformed_json", ""},
		"comment":                 {"{} // x", "malformed_json", ""},
		"byte order mark":         {"\ufeff{}", "malformed_json", ""},
		"invalid utf-8":           {"{\"name\":\"\xff\"}", "malformed_json", ""},
		"invalid utf-8 payload":   {"{\"payload\":\"\xc3\x28\"}", "malformed_json", ""},
		"control character":       {"{\"name\":\"\x01\"}", "malformed_json", ""},
		"NaN":                     {`{"ratio":NaN}`, "malformed_json", ""},
		"100,000 arrays":          {deep, "malformed_json", ""},
		"100,000 closed arrays":   {deep + strings.Repeat("]", 100_000), "malformed_json", ""},
		"100,000 in the payload":  {`{"payload":` + deep + strings.Repeat("]", 100_000) + `}`, "malformed_json", ""},
		"100,000 objects":         {strings.Repeat(`{"any":`, 100_000), "malformed_json", ""},
		"null":                    {"null", "wrong_type", ""},
		"list":                    {"[]", "wrong_type", ""},
		"string":                  {`"x"`, "wrong_type", ""},
		"number":                  {"1", "wrong_type", ""},
		"unknown field":           {`{"title":"x"}`, "unknown_field", "title"},
		"other case":              {`{"Name":"x"}`, "unknown_field", "Name"},
		"go name":                 {`{"Skipped":"x"}`, "unknown_field", "Skipped"},
		"dash":                    {`{"-":"x"}`, "unknown_field", "-"},
		"embedded struct":         {`{"base":{}}`, "unknown_field", "base"},
		"unknown in a list":       {`{"items":[{"id":"a"},{"x":1}]}`, "unknown_field", "items[1].x"},
		"duplicate":               {`{"name":"x","name":"y"}`, "duplicate_field", "name"},
		"duplicate by an escape":  {`{"name":"x","n\u0061me":"y"}`, "duplicate_field", "name"},
		"duplicate in a list":     {`{"items":[{"id":"a","id":"b"}]}`, "duplicate_field", "items[0].id"},
		"number for a string":     {`{"name":5}`, "wrong_type", "name"},
		"null for a string":       {`{"name":null}`, "wrong_type", "name"},
		"string for a number":     {`{"workers":"5"}`, "wrong_type", "workers"},
		"fraction for a number":   {`{"workers":1.5}`, "wrong_type", "workers"},
		"number too large":        {`{"workers":99999999999999999999}`, "wrong_type", "workers"},
		"number out of int8":      {`{"items":[{"count":128}]}`, "wrong_type", "items[0].count"},
		"float too large":         {`{"ratio":1e999}`, "wrong_type", "ratio"},
		"object for a string":     {`{"name":{}}`, "wrong_type", "name"},
		"object for a list":       {`{"items":{}}`, "wrong_type", "items"},
		"string in a list":        {`{"items":["x"]}`, "wrong_type", "items[0]"},
		"null in a list":          {`{"items":[null]}`, "wrong_type", "items[0]"},
		"number in a string list": {`{"tags":["a",1]}`, "wrong_type", "tags[1]"},
		"number in a map":         {`{"labels":{"a":1}}`, "wrong_type", "labels.a"},
		"boolean":                 {`{"on":"true"}`, "wrong_type", "on"},
		"word for a time":         {`{"at":"yesterday"}`, "invalid_time", "at"},
		"time with one digit":     {`{"at":"2026-01-02T3:04:05Z"}`, "invalid_time", "at"},
		"number for a time":       {`{"at":5}`, "wrong_type", "at"},
		"negative for unsigned":   {`{"items":[{"count":-129}]}`, "wrong_type", "items[0].count"},
		"fraction with exponent":  {`{"workers":15e-1}`, "wrong_type", "workers"},
		"fraction, very small":    {`{"workers":1e-400}`, "wrong_type", "workers"},
		"whole, very large":       {`{"workers":1e400}`, "wrong_type", "workers"},
		"exponent, very large":    {`{"workers":1e99999999999999999999}`, "wrong_type", "workers"},
		"just over 64 bits":       {`{"workers":9223372036854775808.0}`, "wrong_type", "workers"},
		"high surrogate":          {`{"name":"\ud800"}`, "invalid_string", "name"},
		"low surrogate":           {`{"name":"a\udc00b"}`, "invalid_string", "name"},
		"surrogates reversed":     {`{"name":"\udc00\ud800"}`, "invalid_string", "name"},
		"two high surrogates":     {`{"name":"\uD83D\uD83D\uDE00"}`, "invalid_string", "name"},
		"surrogate in a list":     {`{"tags":["a","\ud800"]}`, "invalid_string", "tags[1]"},
		"surrogate in a map":      {`{"labels":{"a":"\ud800"}}`, "invalid_string", "labels.a"},
		"surrogate in a map key":  {`{"labels":{"\ud800":"a"}}`, "invalid_string", "labels.\ufffd"},
		"surrogate anywhere":      {`{"any":[{"a":"\ud800"}]}`, "invalid_string", "any"},
		"surrogate in a key":      {`{"\ud800":1}`, "invalid_string", ""},
		"surrogate in an id":      {`{"id":"\ud800"}`, "invalid_uuid", "id"},
		"surrogate in a time":     {`{"at":"\ud800"}`, "invalid_time", "at"},
		"uuid without hyphens":    {`{"id":"` + strings.ReplaceAll(id, "-", "") + `"}`, "invalid_uuid", "id"},
		"uuid in braces":          {`{"id":"{` + id + `}"}`, "invalid_uuid", "id"},
		"urn":                     {`{"id":"urn:uuid:` + id + `"}`, "invalid_uuid", "id"},
		"nil uuid":                {`{"id":"00000000-0000-0000-0000-000000000000"}`, "invalid_uuid", "id"},
		"number for a uuid":       {`{"id":5}`, "wrong_type", "id"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got request
			p, ok := problem.As(rest.Decode([]byte(tt.body), &got))
			require.True(t, ok)
			require.Equal(t, http.StatusBadRequest, p.Status)
			require.Equal(t, tt.code, p.Code, p.Error())
			require.NotEmpty(t, p.Detail)
			if tt.field != "" {
				require.Equal(t, tt.field, p.Errors[0].Field)
				require.Contains(t, p.Detail, tt.field)
			}
		})
	}
}

// Editors put it there unseen, so the client is told what it is.
func TestByteOrderMarkIsNamed(t *testing.T) {
	p, ok := problem.As(rest.Decode([]byte("\ufeff{}"), &request{}))
	require.True(t, ok)
	require.Contains(t, p.Detail, "it begins with a byte order mark")
	require.ErrorContains(t, contract.CheckPayload([]byte("\ufeff{}"), contract.DefaultMaxPayload), "it begins with a byte order mark")
}

// A client corrects a request once, not once per mistake.
func TestDecodeNamesAllMistakes(t *testing.T) {
	var got request
	p, ok := problem.As(rest.Decode([]byte(`{"title":"x","workers":"5","items":[{"id":1}],"on":true}`), &got))
	require.True(t, ok)
	require.Equal(t, []problem.FieldError{
		{Field: "title", Detail: "is not a field of this request"},
		{Field: "workers", Detail: "must be a whole number, not a string"},
		{Field: "items[0].id", Detail: "must be a string, not a number"},
	}, p.Errors)
	require.Equal(t, "unknown_field", p.Code, "the code is that of the first one")
}

func TestDecodeBoundsTheNumberOfMistakes(t *testing.T) {
	var got request
	p, ok := problem.As(rest.Decode([]byte(`{"tags":[`+strings.Repeat("1,", 10_000)+`1]}`), &got))
	require.True(t, ok)
	require.Len(t, p.Errors, 20)
}

// "number 99999999999999999999" is in the message of encoding/json; a value of a megabyte must not be.
func TestDecodeDoesNotEchoValues(t *testing.T) {
	var got request
	p, ok := problem.As(rest.Decode([]byte(`{"workers":`+strings.Repeat("9", 100_000)+`}`), &got))
	require.True(t, ok)
	require.Less(t, len(p.Error()), 1000)
	p, ok = problem.As(rest.Decode([]byte(`{"`+strings.Repeat("ü", 100_000)+`":1}`), &got))
	require.True(t, ok)
	require.Less(t, len(p.Error()), 1000)
}

func TestDecodeIntoOtherTypes(t *testing.T) {
	var list []item
	require.NoError(t, rest.Decode([]byte(`[{"id":"a"}]`), &list))
	require.Equal(t, []item{{ID: "a"}}, list)

	var raw json.RawMessage
	require.NoError(t, rest.Decode([]byte(` {"a":1} `), &raw))
	require.JSONEq(t, `{"a":1}`, string(raw))

	_, isProblem := problem.As(rest.Decode([]byte(`{}`), item{}))
	require.False(t, isProblem, "a mistake of the program is not the client's")
	require.Error(t, rest.Decode([]byte(`{}`), item{}))
}

// Whatever encoding/json would take for the type without its leniencies, Decode must take, too, and with
// the same result; and nothing may make it panic.
func TestDecodeAgreesWithEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := item{
			ID:    rapid.String().Draw(t, "id"),
			Count: rapid.Int8().Draw(t, "count"),
		}
		body, err := json.Marshal(map[string]any{"name": in.ID, "items": []item{in, in}, "payload": in})
		require.NoError(t, err)
		var want, got request
		require.NoError(t, json.Unmarshal(body, &want))
		require.NoError(t, rest.Decode(body, &got))
		require.Equal(t, want, got)
	})
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"name":"x","items":[{"id":"a"}]}`, `[`, `{"id":null}`, `{"payload":{"a":1}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want request
		if rest.Decode(body, &got) != nil {
			return
		}
		err := json.Unmarshal(body, &want)
		if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && strings.ContainsAny(wrong.Value, ".eE") {
			return // a whole number in another form
		}
		if err != nil && !got.At.IsZero() {
			return // a time in lower case, or a leap second
		}
		require.NoError(t, err, "stricter than encoding/json, never laxer")
	})
}

func TestDecodeJSONOverHTTP(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error {
			var body item
			if err := rest.DecodeJSON(c, &body); err != nil {
				return err
			}
			return c.JSON(body)
		})
	})
	tests := map[string]struct {
		contentType string
		status      int
		code        string
	}{
		"json":                 {"application/json", 200, ""},
		"with a charset":       {`application/json; charset="UTF-8"`, 200, ""},
		"in capitals":          {"Application/JSON", 200, ""},
		"charset utf8":         {"application/json;charset=UTF8", 200, ""},
		"charset us-ascii":     {`application/json; charset="US-ASCII"`, 200, ""},
		"charset utf-16":       {"application/json; charset=UTF-16", 415, "unsupported_media_type"},
		"charset utf-16le":     {"application/json; charset=utf-16le", 415, "unsupported_media_type"},
		"two charsets":         {"application/json; charset=utf-8; charset=utf-16", 415, "unsupported_media_type"},
		"none":                 {"", 415, "unsupported_media_type"},
		"form":                 {"application/x-www-form-urlencoded", 415, "unsupported_media_type"},
		"text":                 {"text/plain", 415, "unsupported_media_type"},
		"multipart":            {"multipart/form-data; boundary=x", 415, "unsupported_media_type"},
		"problem":              {"application/problem+json", 415, "unsupported_media_type"},
		"other charset":        {"application/json; charset=latin1", 415, "unsupported_media_type"},
		"nonsense":             {"application/json; ;;=", 415, "unsupported_media_type"},
		"json as a parameter":  {"text/plain; x=application/json", 415, "unsupported_media_type"},
		"more behind the type": {"application/jsonx", 415, "unsupported_media_type"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := a.do(t, http.MethodPost, "/", `{"id":"x"}`, "Content-Type", tt.contentType)
			if tt.code == "" {
				require.Equal(t, 200, resp.StatusCode, resp.body)
				return
			}
			p := resp.problem(t, tt.status, tt.code)
			require.Equal(t, "Content-Type", p.Errors[0].Field)
		})
	}
	a.do(t, http.MethodPost, "/", `{"x":1}`, "Content-Type", "application/json").problem(t, 400, "unknown_field")
	a.do(t, http.MethodPost, "/", "", "Content-Type", "application/json").problem(t, 400, "empty_body")
}
