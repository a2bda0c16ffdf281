package openapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const things = `
openapi: 3.1.0
paths:
  /things:
    post:
      operationId: createThing
      requestBody:
        content:
          application/json: {schema: {$ref: '#/components/schemas/NewThing'}}
      responses:
        "201":
          headers:
            Location: {required: true, schema: {type: string}}
            Retry-After: {$ref: '#/components/headers/Retry-After'}
          content:
            application/json: {schema: {$ref: '#/components/schemas/Thing'}}
        "409": {$ref: '#/components/responses/Conflict'}
        default: {$ref: '#/components/responses/Conflict'}
  /things/{id}:
    get:
      operationId: getThing
      responses:
        "200":
          content:
            application/json: {schema: {$ref: '#/components/schemas/Thing'}}
    delete:
      operationId: deleteThing
      responses:
        "204": {}
  /things/all:
    get:
      operationId: countThings
      responses:
        "200":
          content:
            application/json: {schema: {type: integer}}
components:
  headers:
    Retry-After: {schema: {type: integer, minimum: 1}}
  responses:
    Conflict:
      content:
        application/problem+json: {schema: {$ref: '#/components/schemas/Problem'}}
  schemas:
    NewThing: {type: object, additionalProperties: false, required: [name], properties: {name: {type: string}}}
    Thing:
      type: object
      required: [id, size]
      properties:
        id: {type: string, format: uuid}
        size: {type: [integer, "null"]}
        content: {}
        raw: {type: string, contentEncoding: base64}
    Problem: {type: object, required: [code], properties: {code: {type: string}}}
`

const (
	thing   = `{"id":"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11","size":null,"content":[1e400]}`
	located = "Location: /things/1"
	problem = "Content-Type: application/problem+json"
)

// What a service answers otherwise than its document says would be found by somebody with a generated client.
func TestCheck(t *testing.T) {
	doc, err := Parse([]byte(things))
	require.NoError(t, err)
	for name, c := range map[string]struct {
		method, path, sent string
		status             int
		header, body       string
		wrong              string // a part of the error; "" if there is none
	}{
		"an answer as it should be":   {"POST", "/things", `{"name":"x"}`, 201, located, thing, ""},
		"with a header more":          {"POST", "/things", `{"name":"x"}`, 201, located + "\nRetry-After: 5", thing, ""},
		"an error":                    {"POST", "/things", `{`, 409, problem, `{"code":"x"}`, ""},
		"an error by default":         {"POST", "/things", `{`, 400, problem, `{"code":"x"}`, ""},
		"a literal path comes first":  {"GET", "/things/all", "", 200, "", `5`, ""},
		"no body":                     {"DELETE", "/things/1", "", 204, "", "", ""},
		"HEAD":                        {"HEAD", "/things/1", "", 200, "", "", ""},
		"a body that may be left out": {"POST", "/things", ` {} `, 201, located, thing, ""},
		"no such method":              {"PUT", "/things", "", 405, problem, `{"code":"x"}`, ""},
		"no such path":                {"GET", "/things/", "", 404, problem, `{"code":"x"}`, ""},

		"a property too many":          {"GET", "/things/1", "", 200, "", `{"id":"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11","size":1,"colour":"red"}`, "colour"},
		"a property too few":           {"GET", "/things/1", "", 200, "", `{"id":"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"}`, "size"},
		"another type":                 {"GET", "/things/1", "", 200, "", strings.Replace(thing, "null", `"5"`, 1), "size"},
		"no UUID":                      {"GET", "/things/1", "", 200, "", `{"id":"5","size":1}`, "uuid"},
		"no base64":                    {"GET", "/things/1", "", 200, "", strings.Replace(thing, `"content":[1e400]`, `"raw":"%"`, 1), "base64"},
		"no JSON":                      {"GET", "/things/1", "", 200, "", `{`, "not JSON"},
		"a status too many":            {"GET", "/things/1", "", 202, "", thing, "no such status"},
		"an error too many":            {"GET", "/things/1", "", 404, problem, `{"code":"x"}`, "no such status"},
		"another media type":           {"POST", "/things", `{"name":"x"}`, 409, "", `{"code":"x"}`, "media type"},
		"no header":                    {"POST", "/things", `{"name":"x"}`, 201, "", thing, "Location"},
		"a header out of range":        {"POST", "/things", `{"name":"x"}`, 201, located + "\nRetry-After: 0", thing, "Retry-After"},
		"a header that is no number":   {"POST", "/things", `{"name":"x"}`, 201, located + "\nRetry-After: soon", thing, "Retry-After"},
		"a body where none is":         {"DELETE", "/things/1", "", 204, "", "x", "a body"},
		"accepted, with another type":  {"POST", "/things", `{"name":5}`, 201, located, thing, "accepted"},
		"accepted, with unknown names": {"POST", "/things", `{"name":"x","size":5}`, 201, located, thing, "accepted"},
		"accepted, unknown method":     {"PUT", "/things", "", 200, "", thing, "no such operation"},
		"an error without a code":      {"PUT", "/things", "", 405, problem, `{}`, "code"},
		"an error that is no document": {"PUT", "/things", "", 405, "", `{"code":"x"}`, "no problem document"},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), c.method, "http://localhost"+c.path, strings.NewReader(c.sent))
			require.NoError(t, err)
			request.Header.Set("Content-Type", "application/json")
			response := &http.Response{StatusCode: c.status, Header: http.Header{"Content-Type": {"application/json"}}}
			for line := range strings.Lines(c.header) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
				response.Header.Set(key, value)
			}
			require.True(t, doc.Covers(request, response))
			err = doc.Check(request, response, []byte(c.body))
			if c.wrong == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.wrong)
		})
	}
}

// Tests ask other servers, too.
func TestOtherServersAreNotCovered(t *testing.T) {
	doc, err := Parse([]byte(things))
	require.NoError(t, err)
	for _, path := range []string{"/", "", "/metrics", "/api/queues", "/thing"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost"+path, http.NoBody)
		require.NoError(t, err)
		require.False(t, doc.Covers(request, &http.Response{Header: http.Header{"Content-Type": {"application/json"}}}), path)
	}
}

// Readers of the document copy its examples: each is what a service takes or answers.
func TestExamplesOfThePlatform(t *testing.T) {
	doc, err := platform()
	require.NoError(t, err)
	require.Contains(t, doc.Operations(), "publishMessage")
	examples := 0
	var walk func(p pointer)
	walk = func(p pointer) {
		object := doc.object(p)
		if example, ok := object["example"]; ok && object["schema"] != nil {
			examples++
			require.NoError(t, doc.validateValue(p.to("schema"), example), string(p))
		}
		for name := range object {
			walk(p.to(name))
		}
	}
	walk("/paths")
	walk("/components/responses")
	require.Greater(t, examples, len(doc.Operations()))
}

// A test that takes its requests from the document must not miss one, or send it to another service.
func TestRoutes(t *testing.T) {
	doc, err := Parse([]byte(strings.Replace(things, "operationId: createThing", "operationId: createThing\n      servers: [{url: /, description: thing-service}]", 1)))
	require.NoError(t, err)
	require.ElementsMatch(t, []Route{
		{Operation: "createThing", Method: "POST", Path: "/things", Service: "thing-service", Body: true},
		{Operation: "getThing", Method: "GET", Path: "/things/{id}"},
		{Operation: "deleteThing", Method: "DELETE", Path: "/things/{id}"},
		{Operation: "countThings", Method: "GET", Path: "/things/all"},
	}, doc.Routes())
}
