package rest

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// DecodeJSON reads the request body into the value that into points to, strictly: what a client sent and
// the service did not understand is an error and not a surprise later.
//
//   - The content type must be application/json, in UTF-8 (415 unsupported_media_type). A body may be compressed: see [Body].
//   - The body must be one JSON value and nothing behind it (400 empty_body, malformed_json).
//   - Keys of a struct are matched exactly, case included, and each may occur once (400 unknown_field,
//     duplicate_field). In a map each key may be there once as well. What is inside a json.RawMessage or an interface is not looked into.
//   - Values must have the field's type (400 wrong_type); null only fits pointers, raw messages, maps,
//     slices and interfaces. A uuid.UUID has the form that UUID takes (400 invalid_uuid), a time.Time that of RFC 3339
//     (400 invalid_time). A whole number may be written as any number of that value is: 5, 5.0 and 50e-1 are one.
//   - Strings and keys have no half of a surrogate pair ("\ud800"), which encoding/json would replace in silence (400
//     invalid_string).
//
// errors[] names each field by its path, such as "items[3].id"; up to 20 of them. Nesting beyond 10,000
// levels is malformed_json (a limit of encoding/json). The size is bounded by the server.
func DecodeJSON(c *fiber.Ctx, into any) error {
	if err := JSONContent(c); err != nil {
		return err
	}
	body, err := Body(c, c.App().Config().BodyLimit)
	if err != nil {
		return err
	}
	return Decode(body, into)
}

// Decode is DecodeJSON for bytes that did not come as a body of their own, such as a line of NDJSON.
func Decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return problem.New(http.StatusBadRequest, "empty_body", "the request needs a JSON body")
	}
	if !utf8.Valid(body) {
		return malformed("it is not valid UTF-8") // encoding/json would replace the bytes in silence
	}
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		return malformed("it begins with a byte order mark")
	}
	if !json.Valid(body) {
		return malformed(syntax(body))
	}
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decode body: %T is not a pointer", into)
	}
	d := &decoder{}
	if err := d.value(body, target.Elem(), ""); err != nil {
		return fmt.Errorf("decode body: %w", err)
	}
	return d.problem()
}

// JSONContent refuses bodies of other types than JSON (415 unsupported_media_type), even when the bytes would parse: a form
// post from a foreign page can be text/plain without a preflight, but not application/json.
func JSONContent(c *fiber.Ctx) error { return Content(c, fiber.MIMEApplicationJSON) }

// Content refuses bodies of other media types than those given (415 unsupported_media_type), and those in another encoding of
// characters than UTF-8 and ASCII, which is a part of it.
func Content(c *fiber.Ctx, types ...string) error {
	header := c.Get(fiber.HeaderContentType)
	if slices.Contains(types, header) {
		return nil
	}
	media, params, err := mime.ParseMediaType(header)
	charset := params["charset"]
	known := charset == "" || slices.ContainsFunc([]string{"utf-8", "utf8", "us-ascii"}, func(name string) bool { return strings.EqualFold(charset, name) })
	switch {
	case err != nil || !slices.Contains(types, media):
		return problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be "+types[0]).
			WithField(fiber.HeaderContentType, "must be "+strings.Join(types, " or "))
	case !known:
		return problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "the body must be in UTF-8").
			WithField(fiber.HeaderContentType, "must have the charset utf-8, or none")
	}
	return nil
}

func malformed(why string) *problem.Problem {
	return problem.New(http.StatusBadRequest, "malformed_json", "the body is not one JSON value: "+why)
}

// syntax says where a body stops being JSON.
func syntax(body []byte) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	var value json.RawMessage
	err := dec.Decode(&value)
	var bad *json.SyntaxError
	switch {
	case err == nil:
		return fmt.Sprintf("there is more behind it, at byte %d", dec.InputOffset()+1)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case errors.As(err, &bad):
		return fmt.Sprintf("%s at byte %d", bad.Error(), bad.Offset)
	default:
		return "it can't be parsed"
	}
}

// decoder collects what is wrong with the fields of a body. It goes through structs itself, because
// encoding/json ignores the case of keys, takes the last of several, and stops at the first mistake.
type decoder struct {
	code   string // of the first mistake
	fields []problem.FieldError
}

func (d *decoder) problem() error {
	if d.code == "" {
		return nil
	}
	p := problem.New(http.StatusBadRequest, d.code, "the body does not fit: "+describe(d.fields[0]))
	p.Errors = d.fields
	return p
}

func describe(f problem.FieldError) string {
	if f.Field == "" {
		return "it " + f.Detail
	}
	return f.Field + " " + f.Detail
}

func (d *decoder) mistake(code, field, detail string) {
	if d.code == "" {
		d.code = code
	}
	if len(d.fields) < maxFields {
		d.fields = append(d.fields, problem.FieldError{Field: short(field), Detail: detail})
	}
}

// value decodes raw, which is valid JSON, into v. Its errors are mistakes of the program.
func (d *decoder) value(raw []byte, v reflect.Value, path string) error {
	raw = bytes.TrimSpace(raw)
	switch {
	case v.Type() == reflect.TypeFor[json.RawMessage]():
		v.SetBytes(bytes.Clone(raw))
		return nil
	case bytes.Equal(raw, []byte("null")):
		d.null(v, path)
		return nil
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(raw, v.Elem(), path)
	case v.Type() == reflect.TypeFor[uuid.UUID]():
		d.uuid(raw, v, path)
		return nil
	case v.Type() == reflect.TypeFor[time.Time]():
		d.time(raw, v, path)
		return nil
	case ownForm(v):
		return d.leaf(raw, v, path)
	case v.Kind() == reflect.Struct && raw[0] == '{':
		return d.object(raw, v, path)
	case v.Kind() == reflect.Map && raw[0] == '{':
		return d.dictionary(raw, v, path)
	case v.Kind() == reflect.Slice && raw[0] == '[':
		return d.list(raw, v, path)
	default:
		return d.leaf(raw, v, path)
	}
}

// ownForm tells whether a type decodes itself, as time.Time does.
func ownForm(v reflect.Value) bool {
	t := reflect.PointerTo(v.Type())
	return t.Implements(reflect.TypeFor[json.Unmarshaler]()) || t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func (d *decoder) null(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		v.SetZero()
	default:
		d.mistake("wrong_type", path, "must be "+expected(v)+", not null")
	}
}

func (d *decoder) uuid(raw []byte, v reflect.Value, path string) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		d.mistake("wrong_type", path, "must be a UUID in a string, not "+kind(raw))
		return
	}
	id, err := UUID(path, s)
	if p, ok := problem.As(err); ok {
		d.mistake(p.Code, path, p.Errors[0].Detail)
		return
	}
	v.Set(reflect.ValueOf(id))
}

func (d *decoder) time(raw []byte, v reflect.Value, path string) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		d.mistake("wrong_type", path, "must be a time in a string, not "+kind(raw))
		return
	}
	t, err := ParseTime(s)
	if err != nil {
		d.mistake("invalid_time", path, mustBeTime)
		return
	}
	v.Set(reflect.ValueOf(t))
}

func (d *decoder) leaf(raw []byte, v reflect.Value, path string) error {
	if loneSurrogate(raw) {
		d.mistake("invalid_string", path, noSurrogate)
		return nil
	}
	text := raw
	if v.CanInt() || v.CanUint() {
		text = wholeNumber(raw)
	}
	err := json.Unmarshal(text, v.Addr().Interface())
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong) && strings.HasPrefix(wrong.Value, "number "):
		d.mistake("wrong_type", join(path, wrong.Field), "must be "+expected(v)+" that fits, not number "+short(string(raw)))
	case errors.As(err, &wrong):
		d.mistake("wrong_type", join(path, wrong.Field), "must be "+expected(v)+", not "+kind(raw))
	default: // the type's own UnmarshalJSON or UnmarshalText
		d.mistake("wrong_type", path, "is not valid")
	}
	return nil
}

func (d *decoder) object(raw []byte, v reflect.Value, path string) error {
	fields := fieldsOf(v.Type())
	return d.members(raw, path, func(key, at string, value []byte) error {
		index, known := fields[key]
		if !known {
			d.mistake("unknown_field", at, "is not a field of this request")
			return nil
		}
		return d.value(value, v.FieldByIndex(index), at)
	})
}

// dictionary decodes an object whose keys are the client's.
func (d *decoder) dictionary(raw []byte, v reflect.Value, path string) error {
	v.Set(reflect.MakeMap(v.Type()))
	return d.members(raw, path, func(key, at string, value []byte) error {
		element := reflect.New(v.Type().Elem()).Elem()
		if err := d.value(value, element, at); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key), element)
		return nil
	})
}

// members calls take with the members of an object, and with their path. A key that is there twice, or no text, is a mistake.
func (d *decoder) members(raw []byte, path string, take func(key, at string, value []byte) error) error {
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil { // the opening brace
		return fmt.Errorf("read object: %w", err)
	}
	for dec.More() {
		before := dec.InputOffset()
		token, err := dec.Token()
		if err != nil {
			return fmt.Errorf("read key: %w", err)
		}
		key, _ := token.(string)
		broken := loneSurrogate(raw[before:dec.InputOffset()])
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("read value: %w", err)
		}
		switch at := join(path, key); {
		case broken:
			d.mistake("invalid_string", at, noSurrogate)
		case seen[key]:
			d.mistake("duplicate_field", at, "must be given once")
		default:
			if err := take(key, at, value); err != nil {
				return err
			}
			seen[key] = true
		}
	}
	return nil
}

func (d *decoder) list(raw []byte, v reflect.Value, path string) error {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		if err := d.value(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	return nil
}

// fieldsOf maps the JSON names of a struct's fields, those of embedded structs included, to their place.
func fieldsOf(t reflect.Type) map[string][]int {
	fields := map[string][]int{}
	for _, f := range reflect.VisibleFields(t) {
		tag, tagged := f.Tag.Lookup("json")
		name, _, _ := strings.Cut(tag, ",")
		switch {
		case !f.IsExported() || tag == "-" || f.Anonymous && name == "":
			continue
		case !tagged || name == "":
			name = f.Name
		}
		fields[name] = f.Index
	}
	return fields
}

func join(path, name string) string {
	if path == "" || name == "" {
		return path + name
	}
	return path + "." + name
}

// expected names what a field takes, in JSON's words.
func expected(v reflect.Value) string {
	switch v.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	default:
		return "something else"
	}
}

// kind names what a JSON value is.
func kind(raw []byte) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
