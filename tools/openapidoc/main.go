// Command openapidoc completes an OpenAPI 2.0 document that swag has made, from standard input to standard output. What is the
// same for all operations is said here, and in no comment of a handler:
//
//   - The errors that any operation may answer with, for what is left a default, and that they are problem documents
//     (application/problem+json). swag knows one media type for all answers of an operation.
//   - The headers of answers: X-Request-ID of all, WWW-Authenticate of 401, Retry-After of 503.
//   - Names of types without the package that they are from, which would be a part of their names in every generated client.
//   - Properties of answers that may be null are not required.
//   - Examples of parameters as x-example: parameters have no example in OpenAPI 2.0, and validators refuse it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"slices"
	"strings"
)

const (
	problemType    = "application/problem+json"
	problemSchema  = "#/definitions/Problem"
	definitionsRef = "#/definitions/"
)

// errorAnswers are those of any operation with a token.
func errorAnswers() map[string]string {
	return map[string]string{
		"400":     "the request is not valid: `code` says why, errors[] names the field",
		"401":     "`missing_token`, or `invalid_token`",
		"403":     "`insufficient_scope`, or the token is bound to another tenant",
		"413":     "`body_too_large`",
		"415":     "`unsupported_media_type`, or `unsupported_encoding`",
		"500":     "`internal`: request_id leads to its cause in the log",
		"503":     "not now: try again after the time in Retry-After",
		"default": "any other error, such as 405, 408 and 431",
	}
}

type header struct{ status, name, kind, description string }

// answerHeaders are those of all answers, or of one status.
func answerHeaders() []header {
	return []header{
		{"", "X-Request-ID", "string", "id of the request, which leads to it in the log"},
		{"401", "WWW-Authenticate", "string", "RFC 6750 section 3"},
		{"503", "Retry-After", "integer", "seconds after which to try again"},
	}
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("openapidoc: ")
	if err := run(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(in io.Reader, out io.Writer) error {
	var doc document
	if err := json.NewDecoder(in).Decode(&doc); err != nil {
		return fmt.Errorf("read the document: %w", err)
	}
	if err := doc.shortNames(); err != nil {
		return err
	}
	sent := map[string]bool{} // the types of bodies of requests
	for path, operations := range doc.object("paths") {
		for method, operation := range asObject(operations) {
			if err := complete(asObject(operation), doc["produces"], sent); err != nil {
				return fmt.Errorf("%s %s: %w", strings.ToUpper(method), path, err)
			}
		}
	}
	for name, definition := range doc.object("definitions") {
		if !sent[name] {
			optionalIfNull(asObject(definition))
		}
	}
	if info := doc.object("info"); len(asObject(info["contact"])) == 0 {
		delete(info, "contact")
	}
	// Each operation says it of its own.
	delete(doc, "produces")
	delete(doc, "consumes")
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

// document is a JSON object.
type document map[string]any

func asObject(v any) document {
	m, _ := v.(map[string]any)
	return m
}

func (d document) object(name string) document { return asObject(d[name]) }

// complete completes one operation; produces is what the document says of all. The type of its body is put into sent.
func complete(operation document, produces any, sent map[string]bool) error {
	if operation["operationId"] == nil {
		return errors.New("it has no @id")
	}
	body := false
	parameters, _ := operation["parameters"].([]any)
	for _, p := range parameters {
		parameter := asObject(p)
		if parameter["in"] == "body" {
			body = true
			ref, _ := parameter.object("schema")["$ref"].(string)
			sent[strings.TrimPrefix(ref, definitionsRef)] = true
		}
		if example, ok := parameter["example"]; ok {
			delete(parameter, "example")
			parameter["x-example"] = example
		}
	}
	if operation["produces"] == nil {
		operation["produces"] = produces
	}
	types, _ := operation["produces"].([]any)
	if !slices.Contains(types, any(problemType)) {
		operation["produces"] = append(slices.Clone(types), problemType)
	}
	if body && operation["consumes"] == nil {
		operation["consumes"] = []any{"application/json"}
	}
	answers := operation.object("responses")
	for status, description := range errorAnswers() {
		if answers[status] == nil {
			answers[status] = map[string]any{"description": description, "schema": map[string]any{"$ref": problemSchema}}
		}
	}
	for status, answer := range answers {
		headers := asObject(answer).object("headers")
		if headers == nil {
			headers = document{}
			asObject(answer)["headers"] = map[string]any(headers)
		}
		for _, h := range answerHeaders() {
			if h.status == "" || h.status == status {
				headers[h.name] = map[string]any{"type": h.kind, "description": h.description}
			}
		}
		schema := asObject(answer).object("schema")
		if (status >= "400" || status == "default") && schema["$ref"] != problemSchema {
			return fmt.Errorf("%s is not a problem document", status)
		}
	}
	return nil
}

// optionalIfNull takes what may be null out of the required properties of an answer: go-swagger understands required as "not null"
// and would refuse the answer. In requests null is a value that has to be sent, such as a payload.
func optionalIfNull(definition document) {
	required, _ := definition["required"].([]any)
	properties := definition.object("properties")
	required = slices.DeleteFunc(required, func(name any) bool {
		property, _ := name.(string)
		return properties.object(property)["x-nullable"] == true
	})
	definition["required"] = required
	if len(required) == 0 {
		delete(definition, "required")
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
	d["definitions"] = map[string]any(definitions)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				v["$ref"] = definitionsRef + short(strings.TrimPrefix(ref, definitionsRef))
			}
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(map[string]any(d))
	return nil
}

// short is a name without its package, and in capitals as exported types are: those of a package are often not.
func short(name string) string {
	name = name[strings.LastIndexByte(name, '.')+1:]
	return strings.ToUpper(name[:1]) + name[1:]
}
