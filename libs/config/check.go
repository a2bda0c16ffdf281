package config

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"

	"github.com/go-playground/validator/v10"
)

// addrRule is a rule of our own for addresses to listen on. The validator's hostname_port knows neither
// IPv6 nor port 0, which asks the system for a free one.
const addrRule = "listen_addr"

func listenAddr(f validator.FieldLevel) bool {
	_, port, err := net.SplitHostPort(f.Field().String())
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// check runs the rules of the validate tags and words each failure for the person who wrote the file.
func check(cfg any, leaves []leaf, broken map[string]bool) []string {
	v := validator.New(validator.WithRequiredStructEnabled())
	if err := v.RegisterValidation(addrRule, listenAddr); err != nil {
		return []string{err.Error()}
	}
	err := v.Struct(cfg)
	var failures validator.ValidationErrors
	if !errors.As(err, &failures) {
		if err != nil {
			return []string{err.Error()}
		}
		return nil
	}
	byPath := make(map[string]leaf, len(leaves))
	for _, l := range leaves {
		byPath[l.goPath] = l
	}
	var mistakes []string
	for _, f := range failures {
		_, path, _ := strings.Cut(f.StructNamespace(), ".") // without the name of the outermost type
		path, _, _ = strings.Cut(path, "[")                 // a rule on the items of a list
		l, ok := byPath[path]
		switch {
		case !ok:
			mistakes = append(mistakes, fmt.Sprintf("%s breaks the rule %s", path, rule(f)))
		case !broken[l.name]:
			mistakes = append(mistakes, l.mistake(explain(f, l)))
		}
	}
	return mistakes
}

// Checked is a configuration with rules of its own, such as for keys that contradict each other. Check is called once each key on its
// own is good, and says what is wrong by the names of the keys, as "must not be above …".
type Checked interface {
	Check() map[string]string
}

func checkOwn(cfg Checked, leaves []leaf) (mistakes []string) {
	wrong := cfg.Check()
	for _, l := range leaves { // in their order
		if what, ok := wrong[l.name]; ok {
			mistakes = append(mistakes, l.mistake(what))
		}
	}
	return mistakes
}

// explain words a rule. Rules that are not listed name themselves, which is still enough to look them up.
func explain(f validator.FieldError, l leaf) string {
	size := ""
	switch f.Kind() {
	case reflect.String:
		size = " characters long"
	case reflect.Slice:
		size = " items long"
	default: // numbers and durations
	}
	var want string
	switch f.Tag() {
	case "required":
		return "is required"
	case "required_with", "required_without", "required_if":
		return fmt.Sprintf("is required (%s)", rule(f))
	case "min", "gte":
		want = "must be at least " + f.Param() + size
	case "max", "lte":
		want = "must be at most " + f.Param() + size
	case "gt":
		want = "must be more than " + f.Param() + size
	case "lt":
		want = "must be less than " + f.Param() + size
	case "oneof":
		want = "must be one of " + strings.Join(strings.Fields(f.Param()), ", ")
	case "url", "http_url":
		want = "must be a URL"
	case addrRule, "hostname_port":
		want = `must be an address with a port, such as 127.0.0.1:8080 or :8080`
	default:
		want = "breaks the rule " + rule(f)
	}
	if value := l.masked(); value != "" && !l.secret {
		want += fmt.Sprintf(", not %q", value)
	}
	return want
}

func rule(f validator.FieldError) string {
	if f.Param() == "" {
		return f.Tag()
	}
	return f.Tag() + "=" + f.Param()
}
