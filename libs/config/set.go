package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// set converts what YAML or the environment gave into the leaf's type. The message completes a line that
// begins with the key; it repeats the value unless that is a secret.
func (l leaf) set(raw any) error {
	if _, ok := raw.(map[string]any); ok {
		return errors.New("must be a value, not a section")
	}
	err := l.assign(raw)
	if err == nil {
		return nil
	}
	if l.secret || l.value.Kind() == reflect.String {
		return err // a string that is wrong may be a URL with a password
	}
	return fmt.Errorf("%w, not %q", err, fmt.Sprint(raw))
}

func (l leaf) assign(raw any) error {
	switch {
	case raw == nil:
		return errors.New("has no value")
	case l.value.Type() == reflect.TypeFor[time.Duration]():
		return l.assignDuration(raw)
	case isText(l.value):
		return l.assignText(raw)
	}
	switch l.value.Kind() {
	case reflect.Slice:
		return l.assignList(raw)
	case reflect.String:
		s, ok := raw.(string)
		if !ok {
			return errors.New("must be a string (put it in quotes)") // 0123 and 1e3 would lose their spelling
		}
		l.value.SetString(s)
		return nil
	case reflect.Bool:
		return l.assignBool(raw)
	case reflect.Float32, reflect.Float64:
		return l.assignFloat(raw)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return l.assignUint(raw)
	default:
		return l.assignInt(raw)
	}
}

// assignDuration refuses a bare number: whether 30 means seconds or nanoseconds is anyone's guess.
func (l leaf) assignDuration(raw any) error {
	s, ok := raw.(string)
	if !ok {
		return errors.New("must be a duration with a unit, such as 5s")
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return errors.New("must be a duration with a unit, such as 5s")
	}
	l.value.SetInt(int64(d))
	return nil
}

func (l leaf) assignText(raw any) error {
	s, ok := raw.(string)
	if !ok {
		return errors.New("must be a string")
	}
	u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](l.value.Addr())
	if !ok {
		return errors.New("can't be set")
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		return fmt.Errorf("is not valid: %w", err)
	}
	return nil
}

func (l leaf) assignList(raw any) error {
	var items []string
	switch raw := raw.(type) {
	case string:
		for item := range strings.SplitSeq(raw, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	case []any:
		for _, item := range raw {
			s, ok := item.(string)
			if !ok {
				return errors.New("must be a list of strings")
			}
			items = append(items, s)
		}
	default:
		return errors.New("must be a list of strings")
	}
	list := reflect.MakeSlice(l.value.Type(), len(items), len(items))
	for i, item := range items {
		if err := (leaf{value: list.Index(i)}).assign(item); err != nil {
			return err
		}
	}
	l.value.Set(list)
	return nil
}

func (l leaf) assignBool(raw any) error {
	b, err := strconv.ParseBool(scalar(raw))
	if err != nil {
		return errors.New("must be true or false")
	}
	l.value.SetBool(b)
	return nil
}

func (l leaf) assignInt(raw any) error {
	n, err := strconv.ParseInt(scalar(raw), 10, 64)
	if err != nil || l.value.OverflowInt(n) {
		return errors.New("must be a whole number")
	}
	l.value.SetInt(n)
	return nil
}

func (l leaf) assignUint(raw any) error {
	n, err := strconv.ParseUint(scalar(raw), 10, 64)
	if err != nil || l.value.OverflowUint(n) {
		return errors.New("must be a whole number that is not negative")
	}
	l.value.SetUint(n)
	return nil
}

func (l leaf) assignFloat(raw any) error {
	f, err := strconv.ParseFloat(scalar(raw), 64)
	if err != nil || l.value.OverflowFloat(f) {
		return errors.New("must be a number")
	}
	l.value.SetFloat(f)
	return nil
}

// scalar is the spelling of a YAML scalar. A quoted number counts as a number, since templates that
// generate the file quote what they insert; a list or a section has no spelling.
func scalar(raw any) string {
	switch raw.(type) {
	case string, bool, int, int64, uint64, float64:
		return strings.TrimSpace(fmt.Sprint(raw))
	default:
		return ""
	}
}
