package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const (
	problemType = "application/problem+json"
	// location is the name of the document, in front of JSON pointers into it.
	location = "file:///openapi.yaml"
	// largeBody is the length from which on a body is not looked at: decoding a page of 8 MiB takes seconds with the race detector, and
	// shorter pages have the same form.
	largeBody = 1 << 20
)

// Document is an OpenAPI 3.1 document.
type Document struct {
	root       any
	operations []operation

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // guarded by mu, like the compiler: those that were used, by their JSON pointer
}

type operation struct {
	id, method string
	segments   []string // of its path; {name} stands for any
	pointer    pointer
}

// pointer is a JSON pointer (RFC 6901) into the document.
type pointer string

func (p pointer) to(names ...string) pointer {
	for _, name := range names {
		p += pointer("/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name))
	}
	return p
}

// Parse reads a document. Objects of its components have no other properties than those that are named: clients have to put up with
// new ones, but here they would be missing in the document.
func Parse(text []byte) (*Document, error) {
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("parse the OpenAPI document: %w", err)
	}
	encoded, err := json.Marshal(tree) // into the types that package jsonschema knows
	if err != nil {
		return nil, fmt.Errorf("parse the OpenAPI document: %w", err)
	}
	d := &Document{compiler: jsonschema.NewCompiler(), schemas: make(map[string]*jsonschema.Schema)}
	if d.root, err = jsonschema.UnmarshalJSON(bytes.NewReader(encoded)); err != nil {
		return nil, fmt.Errorf("parse the OpenAPI document: %w", err)
	}
	for _, s := range d.object("/components/schemas") {
		if s, ok := s.(map[string]any); ok && s["properties"] != nil && s["additionalProperties"] == nil {
			s["additionalProperties"] = false
		}
	}
	for path, methods := range d.object("/paths") {
		for method, o := range asObject(methods) {
			id, _ := asObject(o)["operationId"].(string)
			d.operations = append(d.operations, operation{
				id: id, method: strings.ToUpper(method), segments: strings.Split(path, "/"), pointer: pointer("/paths").to(path, method),
			})
		}
	}
	if len(d.operations) == 0 {
		return nil, errors.New("the OpenAPI document has no operations")
	}
	d.compiler.AssertFormat()
	d.compiler.AssertContent()
	if err := d.compiler.AddResource(location, d.root); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	return d, nil
}

// Operations are the ids of all operations.
func (d *Document) Operations() []string {
	var ids []string
	for _, o := range d.operations {
		ids = append(ids, o.id)
	}
	slices.Sort(ids)
	return ids
}

// Operation is the id of the operation that a request is of, "" if there is none.
func (d *Document) Operation(request *http.Request) string {
	if o, ok := d.find(request); ok {
		return o.id
	}
	return ""
}

// Covers tells whether an answer is one that the document speaks of: something below its paths, or a problem document.
func (d *Document) Covers(request *http.Request, response *http.Response) bool {
	segments := strings.Split(request.URL.EscapedPath(), "/")
	return mediaType(response.Header) == problemType || slices.ContainsFunc(d.operations, func(o operation) bool {
		return len(segments) > 1 && o.segments[1] == segments[1]
	})
}

// Check says what is wrong with an answer, and with a request that was accepted.
func (d *Document) Check(request *http.Request, response *http.Response, body []byte) error {
	o, ok := d.find(request)
	if !ok {
		return d.checkUnknown(request, response, body)
	}
	answer := d.resolve(o.pointer.to("responses", strconv.Itoa(response.StatusCode)))
	if d.at(answer) == nil && response.StatusCode >= http.StatusBadRequest {
		answer = d.resolve(o.pointer.to("responses", "default"))
	}
	if d.at(answer) == nil {
		return fmt.Errorf("%s has no such status", o.id)
	}
	if err := d.checkHeaders(answer.to("headers"), response.Header); err != nil {
		return err
	}
	if response.StatusCode < http.StatusMultipleChoices {
		if err := d.checkAccepted(o, request); err != nil {
			return fmt.Errorf("accepted, but %w", err)
		}
	}
	if request.Method == http.MethodHead {
		return nil
	}
	content := d.object(answer.to("content"))
	switch media := mediaType(response.Header); {
	case len(content) == 0 && len(body) == 0:
		return nil
	case len(content) == 0:
		return errors.New("a body where there is none")
	case content[media] == nil:
		return fmt.Errorf("no such media type: %q", media)
	default:
		return d.validate(answer.to("content", media, "schema"), body)
	}
}

// checkUnknown checks an answer to what is no operation.
func (d *Document) checkUnknown(request *http.Request, response *http.Response, body []byte) error {
	switch {
	case response.StatusCode < http.StatusBadRequest:
		return errors.New("no such operation")
	case mediaType(response.Header) != problemType:
		return errors.New("an error that is no problem document")
	case request.Method == http.MethodHead:
		return nil
	default:
		return d.validate("/components/schemas/Problem", body)
	}
}

// find finds the operation of a request; where several paths fit, it is the one with the fewest parameters. A HEAD is answered as a
// GET, without the body.
func (d *Document) find(request *http.Request) (found operation, ok bool) {
	method := request.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	segments := strings.Split(request.URL.EscapedPath(), "/")
	fewest := len(segments)
	for _, o := range d.operations {
		if parameters, fits := o.fits(segments); o.method == method && fits && parameters < fewest {
			found, ok, fewest = o, true, parameters
		}
	}
	if ok {
		return found, true
	}
	return operation{}, false
}

func (o operation) fits(segments []string) (parameters int, ok bool) {
	if len(segments) != len(o.segments) {
		return 0, false
	}
	for i, segment := range o.segments {
		switch {
		case strings.HasPrefix(segment, "{") && segments[i] != "":
			parameters++
		case segment != segments[i]:
			return 0, false
		}
	}
	return parameters, true
}

func (d *Document) checkHeaders(headers pointer, given http.Header) error {
	for name := range d.object(headers) {
		h := d.resolve(headers.to(name))
		text := given.Get(name)
		if text == "" {
			if asObject(d.at(h))["required"] == true {
				return fmt.Errorf("no header %s", name)
			}
			continue
		}
		var value any = text
		if asObject(d.at(h.to("schema")))["type"] == "integer" {
			value = json.Number(text)
			if _, err := strconv.ParseInt(text, 10, 64); err != nil {
				return fmt.Errorf("header %s: %w", name, err)
			}
		}
		if err := d.validateValue(h.to("schema"), value); err != nil {
			return fmt.Errorf("header %s: %w", name, err)
		}
	}
	return nil
}

// checkAccepted checks the body of a request, if it is JSON and can be had once more. One that says nothing, and need not be there,
// is none.
func (d *Document) checkAccepted(o operation, request *http.Request) error {
	description := o.pointer.to("requestBody")
	schema := description.to("content", mediaType(request.Header), "schema")
	if d.at(schema) == nil || asObject(d.at(schema))["type"] == "string" || request.GetBody == nil || request.Header.Get("Content-Encoding") != "" {
		return nil
	}
	reader, err := request.GetBody()
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	body, err := io.ReadAll(reader)
	if err := errors.Join(err, reader.Close()); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	if asObject(d.at(description))["required"] != true && slices.Contains([]string{"", "{}"}, strings.Join(strings.Fields(string(body)), "")) {
		return nil
	}
	if err := d.validate(schema, body); err != nil {
		return fmt.Errorf("the request: %w: %.500s", err, body)
	}
	return nil
}

func (d *Document) validate(schema pointer, body []byte) error {
	if len(body) >= largeBody {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return d.validateValue(schema, value)
}

func (d *Document) validateValue(p pointer, value any) error {
	s, err := d.schema(p)
	if err != nil {
		return err
	}
	return s.Validate(value)
}

func (d *Document) schema(p pointer) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fragment := (&url.URL{Fragment: string(p)}).String() // escaped, with its #
	if s := d.schemas[fragment]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(location + fragment)
	if err != nil {
		return nil, fmt.Errorf("read the schema at %s: %w", p, err)
	}
	d.schemas[fragment] = s
	return s, nil
}

// at is what p points at, nil if that is not there.
func (d *Document) at(p pointer) any {
	value := d.root
	for name := range strings.SplitSeq(strings.TrimPrefix(string(p), "/"), "/") {
		value = asObject(value)[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return value
}

// resolve follows the reference at p, if there is one.
func (d *Document) resolve(p pointer) pointer {
	if ref, ok := asObject(d.at(p))["$ref"].(string); ok {
		return pointer(strings.TrimPrefix(ref, "#"))
	}
	return p
}

func (d *Document) object(p pointer) map[string]any { return asObject(d.at(p)) }

func asObject(v any) map[string]any {
	object, _ := v.(map[string]any)
	return object
}

// mediaType is that of a body, without parameters.
func mediaType(h http.Header) string {
	media, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return media
}
