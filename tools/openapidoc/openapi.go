package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed overlay.yaml
var overlayText []byte

// overlay is what version 3.1 says beside the documents of the services.
type overlay struct {
	Head struct {
		OpenAPI        string         `yaml:"openapi"`
		Info           map[string]any `yaml:"info"`
		Servers        any            `yaml:"servers"`
		Tags           any            `yaml:"tags"`
		SecurityScheme any            `yaml:"securityScheme"`
	} `yaml:"head"`
	// Services are their ports.
	Services map[string]int `yaml:"services"`
	// Operations are by their operationId.
	Operations map[string]struct {
		Scopes  []string       `yaml:"scopes"`
		Public  bool           `yaml:"public"` // needs no token, and so no scopes
		Request any            `yaml:"request"`
		Bodies  map[string]any `yaml:"bodies"` // further media types of the request, with schema and example
		Answers map[string]any `yaml:"answers"`
	} `yaml:"operations"`
}

// merger makes one document in version 3.1 of those of the services in version 2.0.
type merger struct {
	overlay        overlay
	paths, schemas document
}

func newMerger() (*merger, error) {
	m := &merger{paths: document{}, schemas: document{}}
	if err := yaml.Unmarshal(overlayText, &m.overlay); err != nil {
		return nil, fmt.Errorf("read the overlay: %w", err)
	}
	return m, nil
}

// add adds the operations and the types of a service. Types that are bodies of requests are sent: they have no other properties,
// since the services refuse unknown ones.
func (m *merger) add(service string, doc document, sent map[string]bool) error {
	if version := doc.object("info").text("version"); version != m.overlay.Head.Info["version"] {
		return fmt.Errorf("its version is %s, that of the overlay is %v", version, m.overlay.Head.Info["version"])
	}
	for _, o := range doc.operations() {
		added, err := m.operation(service, o)
		if err != nil {
			return fmt.Errorf("%s: %w", o.text("operationId"), err)
		}
		methods := m.paths.object(o.path)
		if methods == nil {
			methods = document{}
			m.paths[o.path] = methods
		}
		if methods[o.method] != nil {
			return fmt.Errorf("%s %s is there twice", o.method, o.path)
		}
		methods[o.method] = added
	}
	definitions := doc.object("definitions")
	for name := range definitions {
		added := schema(definitions.object(name))
		if sent[name] {
			added["additionalProperties"] = false
		}
		if there := m.schemas[name]; there != nil && !reflect.DeepEqual(there, added) {
			return fmt.Errorf("another type is called %s", name)
		}
		m.schemas[name] = added
	}
	return nil
}

func (m *merger) operation(service string, o operation) (document, error) {
	beside, ok := m.overlay.Operations[o.text("operationId")]
	if !ok {
		return nil, errors.New("it is not in the overlay")
	}
	delete(m.overlay.Operations, o.text("operationId"))
	port := m.overlay.Services[service]
	if port == 0 || (len(beside.Scopes) == 0) != beside.Public {
		return nil, errors.New("the overlay does not name the port of its service, and its scopes or that it is public")
	}
	server := document{
		"url": fmt.Sprintf("http://{host}:%d", port), "description": service,
		"variables": document{"host": document{"default": "localhost"}},
	}
	security := []any{} // of one that is public
	for _, scope := range beside.Scopes {
		security = append(security, document{"bearer": []any{scope}})
	}
	added := document{
		"operationId": o.text("operationId"), "summary": o.text("summary"), "description": o.text("description"), "tags": o.list("tags"),
		"security": security, "servers": []any{server},
	}
	var parameters []any
	for _, p := range o.list("parameters") {
		if p := asObject(p); p["in"] == "body" {
			body := requestBody(p, o.list("consumes"), beside.Request)
			for media, content := range beside.Bodies {
				body.object("content")[media] = content
			}
			added["requestBody"] = body
		} else {
			parameters = append(parameters, parameter(p))
		}
	}
	if parameters != nil {
		added["parameters"] = parameters
	}
	answers := document{}
	for status := range o.object("responses") {
		answers[status] = answer(status, o.object("responses").object(status), o.list("produces"), beside.Answers[status])
	}
	if beside.Public {
		o.document["security"] = security // to say so in the document of the service as well
		delete(answers, "401")
		delete(answers, "403")
	}
	added["responses"] = answers
	return added, nil
}

func requestBody(p document, types []any, example any) document {
	content := document{}
	for _, media := range types {
		if media == jsonType && slices.Contains(types, any(ndjsonType)) {
			continue // NDJSON under another name, for which a generated client would write a JSON string
		}
		content[fmt.Sprint(media)] = withExample(document{"schema": schema(p.object("schema"))}, example)
	}
	body := document{"description": p.text("description"), "content": content}
	if p["required"] == true {
		body["required"] = true
	}
	return body
}

func withExample(media document, example any) document {
	if example != nil {
		media["example"] = example
	}
	return media
}

// parameter converts a parameter that is no body: its type becomes a schema.
func parameter(p document) document {
	converted := document{"schema": document{}}
	for name, value := range p {
		switch name {
		case "name", "in", "required", "description":
			converted[name] = value
		case "x-example":
			converted["example"] = value
		default:
			converted.object("schema")[name] = value
		}
	}
	return converted
}

func answer(status string, old document, types []any, example any) document {
	converted := document{"description": old.text("description")}
	headers := document{}
	for name := range old.object("headers") {
		h := old.object("headers").object(name)
		headers[name] = document{"description": h.text("description"), "schema": document{"type": h["type"]}}
		if alwaysSent(status, name) {
			headers.object(name)["required"] = true
		}
	}
	converted["headers"] = headers
	if old["schema"] == nil {
		return converted
	}
	media := problemType
	if isError(status) {
		example = problemExample(status, converted.text("description"))
	} else {
		media = fmt.Sprint(types[0])
	}
	converted["content"] = document{media: withExample(document{"schema": schema(old.object("schema"))}, example)}
	return converted
}

// alwaysSent tells whether each answer with a status has a header.
func alwaysSent(status, name string) bool {
	return name == "Location" || slices.ContainsFunc(answerHeaders(), func(h header) bool {
		return h.name == name && (h.status == "" || h.status == status)
	})
}

// problemExample is a problem with the first code that the description of an answer names; nil if it names none.
func problemExample(status, description string) any {
	example := document{"type": "about:blank", "instance": "/messages", "request_id": "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"}
	_, code, _ := strings.Cut(description, "`")
	code, _, named := strings.Cut(code, "`")
	number, err := strconv.Atoi(status)
	if !named || err != nil {
		return nil
	}
	example["status"], example["title"], example["code"] = number, http.StatusText(number), code
	return example
}

// schema converts a schema: what may be null says so in its type, and keywords get the names that JSON Schema has given them since.
func schema(old document) document {
	converted := document{}
	for name, value := range old {
		switch name {
		case "$ref":
			converted[name] = "#/components/schemas/" + strings.TrimPrefix(fmt.Sprint(value), definitionsRef)
		case "example":
			converted["examples"] = []any{value}
		case "format":
			if value == "byte" {
				converted["contentEncoding"] = "base64"
			} else {
				converted[name] = value
			}
		case "type":
			converted[name] = value
			if old["x-nullable"] == true {
				converted[name] = []any{value, "null"}
			}
		case "x-nullable": // see above; without a type, null is as good as anything else
		case "items":
			converted[name] = schema(asObject(value))
		case "properties":
			properties := document{}
			for property, s := range asObject(value) {
				properties[property] = schema(asObject(s))
			}
			converted[name] = properties
		case "allOf":
			var all []any
			for _, s := range old.list(name) {
				all = append(all, schema(asObject(s)))
			}
			converted[name] = all
		default:
			converted[name] = value
		}
	}
	return converted
}

// yaml is the document. What occurs again and again, such as the errors of any operation, is said once, in its components.
func (m *merger) yaml() ([]byte, error) {
	if len(m.overlay.Operations) > 0 {
		return nil, fmt.Errorf("operations of the overlay that no service has: %s", slices.Sorted(maps.Keys(m.overlay.Operations)))
	}
	responses, headers, parameters := newShared("responses"), newShared("headers"), newShared("parameters")
	m.each(func(o document) {
		for status, r := range o.object("responses") {
			if isError(status) {
				responses.count(responseName(status), r)
			}
			for name, h := range asObject(r).object("headers") {
				headers.count(name, h)
			}
		}
		for _, p := range o.list("parameters") {
			parameters.count(parameterName(asObject(p)), p)
		}
	})
	m.each(func(o document) {
		for status, r := range o.object("responses") {
			if isError(status) {
				o.object("responses")[status] = responses.replace(responseName(status), r)
			}
			for name, h := range asObject(r).object("headers") {
				asObject(r).object("headers")[name] = headers.replace(name, h)
			}
		}
		for i, p := range o.list("parameters") {
			o.list("parameters")[i] = parameters.replace(parameterName(asObject(p)), p)
		}
	})
	head := m.overlay.Head
	return encode(document{
		"openapi": head.OpenAPI, "info": head.Info, "servers": head.Servers, "tags": head.Tags, "paths": m.paths,
		"components": document{
			"schemas": m.schemas, "securitySchemes": document{"bearer": head.SecurityScheme},
			"responses": responses.chosen, "headers": headers.chosen, "parameters": parameters.chosen,
		},
	})
}

func (m *merger) each(visit func(operation document)) {
	for path := range m.paths {
		for method := range m.paths.object(path) {
			visit(m.paths.object(path).object(method))
		}
	}
}

func responseName(status string) string {
	code, _ := strconv.Atoi(status)
	if name := http.StatusText(code); name != "" {
		return strings.ReplaceAll(name, " ", "")
	}
	return "OtherError"
}

// parameterName is the name of a parameter as types have them: TenantID of tenant_id.
func parameterName(p document) string {
	name := ""
	for word := range strings.SplitSeq(p.text("name"), "_") {
		if word == "id" {
			word = "ID"
		}
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}

// shared are components of one kind: of each name, what is used more than once, and most often.
type shared struct {
	kind   string
	uses   map[string]map[string]int // by name and JSON
	chosen document
}

func newShared(kind string) *shared {
	return &shared{kind: kind, uses: map[string]map[string]int{}, chosen: document{}}
}

func (s *shared) count(name string, v any) {
	if s.uses[name] == nil {
		s.uses[name] = map[string]int{}
	}
	s.uses[name][asJSON(v)]++
}

// replace returns a reference to v, if it is the one that is shared, or v.
func (s *shared) replace(name string, v any) any {
	key := asJSON(v)
	for other, uses := range s.uses[name] {
		if uses > s.uses[name][key] || uses == s.uses[name][key] && other < key {
			return v
		}
	}
	if s.uses[name][key] < 2 {
		return v
	}
	s.chosen[name] = v
	return document{"$ref": "#/components/" + s.kind + "/" + name}
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what was read from JSON and YAML can be written
	}
	return string(text)
}
