package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	jsonType       = "application/json"
	ndjsonType     = "application/x-ndjson"
	problemType    = "application/problem+json"
	problemSchema  = "#/definitions/Problem"
	definitionsRef = "#/definitions/"
)

// errorAnswers are the descriptions of what any operation with a token may answer, by status.
func errorAnswers() map[string]string {
	return map[string]string{
		"400":     "the request is not valid: `code` says why, errors[] names the field",
		"401":     "`missing_token`, or `invalid_token`",
		"403":     "`insufficient_scope`; `tenant_mismatch`: the token is bound to another tenant; `tenant_bound_token`: it is bound to one at all",
		"413":     "`body_too_large`",
		"415":     "`unsupported_media_type`: the body is not application/json in UTF-8; `unsupported_encoding`: it is compressed with other than gzip or zstd",
		"500":     "`internal`: request_id leads to its cause in the log",
		"503":     "not now: try again after the time in Retry-After",
		"default": "any other error, such as 405, 408 and 431",
	}
}

type header struct{ status, name, kind, description string }

// answerHeaders are those of all answers, or of one status; each of these answers has them.
func answerHeaders() []header {
	return []header{
		{"", "X-Request-ID", "string", "id of the request, which leads to it in the log"},
		{"401", "WWW-Authenticate", "string", "RFC 6750 section 3"},
		{"503", "Retry-After", "integer", "seconds after which to try again"},
	}
}

// complete says what is the same for all operations, and is in no comment of a handler:
//
//   - The errors that any operation may answer with, for what is left a default, and that they are problem documents
//     (application/problem+json). swag knows one media type for all answers of an operation.
//   - The headers of answers: X-Request-ID of all, WWW-Authenticate of 401, Retry-After of 503.
//   - Names of types without the package that they are from, which would be a part of their names in every generated client.
//   - Examples of parameters as x-example: parameters have no example in OpenAPI 2.0, and validators refuse it.
//
// It returns the names of the types that bodies of requests have.
func (d document) complete() (sent map[string]bool, err error) {
	if err := d.shortNames(); err != nil {
		return nil, err
	}
	sent = map[string]bool{}
	for _, o := range d.operations() {
		if err := o.complete(d["produces"], sent); err != nil {
			return nil, fmt.Errorf("%s %s: %w", strings.ToUpper(o.method), o.path, err)
		}
	}
	if info := d.object("info"); len(info.object("contact")) == 0 {
		delete(info, "contact")
	}
	// Each operation says it of its own.
	delete(d, "produces")
	delete(d, "consumes")
	return sent, nil
}

// complete completes one operation; produces is what the document says of all. The type of its body is put into sent.
func (o operation) complete(produces any, sent map[string]bool) error {
	if o.text("operationId") == "" {
		return errors.New("it has no @id")
	}
	body := false
	for _, p := range o.list("parameters") {
		parameter := asObject(p)
		if parameter["in"] == "body" {
			body = true
			sent[strings.TrimPrefix(parameter.object("schema").text("$ref"), definitionsRef)] = true
		}
		if example, ok := parameter["example"]; ok {
			delete(parameter, "example")
			parameter["x-example"] = example
		}
	}
	if o.document["produces"] == nil {
		o.document["produces"] = produces
	}
	if types := o.list("produces"); !slices.Contains(types, any(problemType)) {
		o.document["produces"] = append(slices.Clone(types), problemType)
	}
	if body && o.document["consumes"] == nil {
		o.document["consumes"] = []any{jsonType}
	}
	return o.completeAnswers()
}

func (o operation) completeAnswers() error {
	answers := o.object("responses")
	for status, description := range errorAnswers() {
		if answers[status] == nil {
			answers[status] = map[string]any{"description": description, "schema": map[string]any{"$ref": problemSchema}}
		}
	}
	for status := range answers {
		answer := answers.object(status)
		headers := answer.object("headers")
		if headers == nil {
			headers = document{}
			answer["headers"] = headers
		}
		for _, h := range answerHeaders() {
			if h.status == "" || h.status == status {
				headers[h.name] = map[string]any{"type": h.kind, "description": h.description}
			}
		}
		if isError(status) && answer.object("schema")["$ref"] != problemSchema {
			return fmt.Errorf("%s is not a problem document", status)
		}
	}
	return nil
}

func isError(status string) bool { return status >= "400" } // "default", too

// optionalIfNull takes what may be null out of the required properties of answers: go-swagger understands required as "not null"
// and would refuse the answer. In requests null is a value that has to be sent, such as a payload.
func (d document) optionalIfNull(sent map[string]bool) {
	definitions := d.object("definitions")
	for name := range definitions {
		if sent[name] {
			continue
		}
		definition := definitions.object(name)
		properties := definition.object("properties")
		required := slices.DeleteFunc(slices.Clone(definition.list("required")), func(name any) bool {
			property, _ := name.(string)
			return properties.object(property)["x-nullable"] == true
		})
		definition["required"] = required
		if len(required) == 0 {
			delete(definition, "required")
		}
	}
}

// shortNames takes the package out of the names of types.
func (d document) shortNames() error {
	definitions := document{}
	for name, definition := range d.object("definitions") {
		if definitions[short(name)] != nil {
			return fmt.Errorf("two types are called %s", short(name))
		}
		definitions[short(name)] = definition
	}
	d["definitions"] = definitions
	references(d, func(ref string) string { return definitionsRef + short(strings.TrimPrefix(ref, definitionsRef)) })
	return nil
}

// references replaces all references in v.
func references(v any, replace func(ref string) string) {
	if list, ok := v.([]any); ok {
		for _, item := range list {
			references(item, replace)
		}
		return
	}
	object := asObject(v)
	if ref, ok := object["$ref"].(string); ok {
		object["$ref"] = replace(ref)
	}
	for _, item := range object {
		references(item, replace)
	}
}

// short is a name without its package, and in capitals as exported types are: those of a package are often not.
func short(name string) string {
	name = name[strings.LastIndexByte(name, '.')+1:]
	return strings.ToUpper(name[:1]) + name[1:]
}
