package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// leaf is one settable field of a configuration struct.
type leaf struct {
	name   string // "http.body_limit"
	env    string // "HTTP_BODY_LIMIT"
	goPath string // "HTTP.BodyLimit", as validator names it
	usage  string
	secret bool
	file   string // "AUTH_SECRET_FILE", "" unless the value may be in a file
	value  reflect.Value
}

// Key describes one setting, for --help and for documentation.
type Key struct {
	// Name is the dotted key of the file.
	Name string
	// Env is the environment variable.
	Env string
	// File is the environment variable with the path of a file that holds the value, "" if there is none.
	File string
	// Default is the value that cfg came with, masked if it is a secret.
	Default string
	// Usage says what it is for.
	Usage string
}

// Keys lists the settings of cfg, a configuration struct or a pointer to one, in the order of its fields.
// It returns nothing for anything else.
func Keys(cfg any) []Key {
	leaves, err := leavesOf(cfg)
	if err != nil {
		return nil
	}
	keys := make([]Key, len(leaves))
	for i, l := range leaves {
		keys[i] = Key{Name: l.name, Env: l.env, File: l.file, Default: l.masked(), Usage: l.usage}
	}
	return keys
}

// leavesOf walks cfg. Its errors are mistakes of the program: a type that can't be set, a name twice.
func leavesOf(cfg any) ([]leaf, error) {
	v := reflect.ValueOf(cfg)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: %T is not a struct", cfg)
	}
	leaves, err := walk(v, "", "")
	if err != nil {
		return nil, err
	}
	envs := make(map[string]string, len(leaves))
	for _, l := range leaves {
		if other, ok := envs[l.env]; ok {
			return nil, fmt.Errorf("config: keys %s and %s have the same environment variable %s", other, l.name, l.env)
		}
		envs[l.env] = l.name
	}
	for _, l := range leaves {
		if other, ok := envs[l.file]; ok {
			return nil, fmt.Errorf("config: %s is the environment variable of %s and names a file for %s", l.file, other, l.name)
		}
	}
	return leaves, nil
}

func walk(v reflect.Value, prefix, goPrefix string) ([]leaf, error) {
	var leaves []leaf
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		name := field.Tag.Get("koanf")
		if field.Anonymous && name == "" && isSection(value) { // its keys are those of the struct around it
			inner, err := walk(value, prefix, goPrefix+field.Name+".")
			if err != nil {
				return nil, err
			}
			leaves = append(leaves, inner...)
			continue
		}
		if name == "" || name == "-" || !field.IsExported() {
			continue
		}
		name, goPath := prefix+name, goPrefix+field.Name
		if isSection(value) {
			inner, err := walk(value, name+".", goPath+".")
			if err != nil {
				return nil, err
			}
			leaves = append(leaves, inner...)
			continue
		}
		if !settable(value) {
			return nil, fmt.Errorf("config: %s has the type %s, which can't be configured", name, field.Type)
		}
		l := leaf{
			name:   name,
			env:    strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(name)),
			goPath: goPath,
			usage:  field.Tag.Get("usage"),
			secret: field.Tag.Get("secret") == "true",
			value:  value,
		}
		if field.Tag.Get("secret") != "" {
			l.file = l.env + fileSuffix
		}
		leaves = append(leaves, l)
	}
	return leaves, nil
}

// isSection tells a nested struct from a struct that is one value, such as a netip.Addr.
func isSection(v reflect.Value) bool {
	return v.Kind() == reflect.Struct && !isText(v)
}

func isText(v reflect.Value) bool {
	return reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func settable(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Slice:
		return v.Type().Elem().Kind() == reflect.String || v.Type().Elem() == reflect.TypeFor[time.Duration]()
	default:
		return isText(v)
	}
}

// text is the value as it would be written into the environment.
func (l leaf) text() string {
	switch v := l.value.Interface().(type) {
	case time.Duration:
		return v.String()
	case encoding.TextMarshaler:
		b, err := v.MarshalText()
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	if l.value.Kind() == reflect.Slice {
		parts := make([]string, l.value.Len())
		for i := range parts {
			parts[i] = fmt.Sprint(l.value.Index(i).Interface())
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(l.value.Interface())
}
