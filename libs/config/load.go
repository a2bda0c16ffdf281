package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

// Error lists everything that is wrong with a configuration.
type Error struct {
	// Mistakes has one line for each, which names the key and its environment variable.
	Mistakes []string
}

// Error is one line a mistake, below a heading.
func (e *Error) Error() string {
	return "the configuration has mistakes:\n  " + strings.Join(e.Mistakes, "\n  ")
}

// Load fills the struct that into points to, which comes with the defaults. The file at path may be
// absent unless it is required, which it is when a person has named it; an empty path means no file.
// environ is in the form of os.Environ. When anything is wrong the error is an *Error that names every
// mistake, or one of reading the file; into is then partly filled and must not be used.
func Load(into any, path string, required bool, environ []string) error {
	leaves, err := leavesOf(into)
	if err != nil {
		return err
	}
	switch {
	case len(leaves) == 0:
		return fmt.Errorf("config: %T has no keys", into)
	case !leaves[0].value.CanSet():
		return fmt.Errorf("config: %T is not a pointer", into)
	}
	fromFile, err := readFile(path, required)
	if err != nil {
		return err
	}
	fromEnv, err := readEnv(leaves, environ)
	if err != nil {
		return err
	}

	broken := map[string]bool{} // its rules say nothing new
	mistakes := readSecrets(leaves, environ, fromEnv, broken)
	mistakes = append(unknown(fromFile, leaves), mistakes...)
	for _, l := range leaves {
		for _, source := range []*koanf.Koanf{fromFile, fromEnv} {
			if !source.Exists(l.name) {
				continue
			}
			if err := l.set(source.Get(l.name)); err != nil {
				mistakes = append(mistakes, l.mistake(err.Error()))
				broken[l.name] = true
			}
		}
	}
	mistakes = append(mistakes, check(into, leaves, broken)...)
	if own, ok := into.(Checked); ok && len(mistakes) == 0 {
		mistakes = checkOwn(own, leaves)
	}
	if len(mistakes) > 0 {
		return &Error{Mistakes: mistakes}
	}
	return nil
}

func (l leaf) mistake(what string) string {
	return fmt.Sprintf("%s (%s) %s", l.name, l.env, what)
}

func readFile(path string, required bool) (*koanf.Koanf, error) {
	k := koanf.New(".")
	if path == "" {
		return k, nil
	}
	err := k.Load(file.Provider(filepath.Clean(path)), yaml.Parser())
	switch {
	case errors.Is(err, fs.ErrNotExist) && !required:
		return k, nil
	case errors.As(err, new(*os.PathError)):
		return nil, fmt.Errorf("read configuration: %w", err)
	case err != nil:
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return k, nil
}

// readEnv takes only the variables that belong to a key, since the environment is everyone's.
func readEnv(leaves []leaf, environ []string) (*koanf.Koanf, error) {
	names := make(map[string]string, len(leaves))
	for _, l := range leaves {
		names[l.env] = l.name
	}
	k := koanf.New(".")
	provider := env.Provider(".", env.Opt{
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if value == "" {
				return "", nil
			}
			return names[name], value
		},
	})
	if err := k.Load(provider, nil); err != nil {
		return nil, fmt.Errorf("read environment: %w", err)
	}
	return k, nil
}

// unknown finds the keys of the file that are not keys of the struct, and sections that are not sections.
func unknown(fromFile *koanf.Koanf, leaves []leaf) []string {
	known := func(name string) bool {
		return slices.ContainsFunc(leaves, func(l leaf) bool { return l.name == name })
	}
	section := func(name string) bool {
		return slices.ContainsFunc(leaves, func(l leaf) bool { return strings.HasPrefix(l.name, name+".") })
	}
	belowLeaf := func(name string) bool { // set says what is wrong with it
		return slices.ContainsFunc(leaves, func(l leaf) bool { return strings.HasPrefix(name, l.name+".") })
	}
	var mistakes []string
	for _, name := range fromFile.Keys() {
		value := fromFile.Get(name)
		_, isMap := value.(map[string]any)
		switch {
		case known(name), belowLeaf(name):
		case section(name) && (value == nil || isMap):
			// An empty section: everything below it is commented out.
		case section(name):
			mistakes = append(mistakes, name+" must be a section, not a value")
		default:
			mistakes = append(mistakes, printable(name)+" is not a known key")
		}
	}
	return mistakes
}

// printable is name as it is written, unless that would break the line.
func printable(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}
