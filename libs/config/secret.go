package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/knadh/koanf/v2"
)

const (
	// fileSuffix is what the environment variable of a setting ends with where it names a file.
	fileSuffix = "_FILE"
	// secretLimit bounds what is read from such a file, in bytes.
	secretLimit = 64 << 10
)

// readSecrets puts the values of those settings into fromEnv whose environment variable names a file, and returns what is wrong;
// such settings are noted as broken.
func readSecrets(leaves []leaf, environ []string, fromEnv *koanf.Koanf, broken map[string]bool) (mistakes []string) {
	paths := make(map[string]string)
	for _, variable := range environ {
		if name, path, _ := strings.Cut(variable, "="); path != "" && strings.HasSuffix(name, fileSuffix) {
			paths[name] = path
		}
	}
	for _, l := range leaves {
		path := paths[l.file]
		if path == "" {
			continue
		}
		value, err := readSecret(path)
		switch {
		case fromEnv.Exists(l.name):
			err = fmt.Errorf("is given twice, by %s as well: only one of them may be set", l.file)
		case err == nil:
			err = fromEnv.Set(l.name, value)
		default:
			err = fmt.Errorf("cannot be read from the file of %s, %q: %w", l.file, path, err)
		}
		if err != nil {
			mistakes = append(mistakes, l.mistake(err.Error()))
			broken[l.name] = true
		}
	}
	return mistakes
}

// readSecret is the content of a file without the line break at its end, which most editors leave. Its error does not say the
// path.
func readSecret(path string) (string, error) {
	file, err := os.Open(filepath.Clean(path))
	if err != nil {
		return "", withoutPath(err)
	}
	content, err := io.ReadAll(io.LimitReader(file, secretLimit+1))
	if err := errors.Join(err, file.Close()); err != nil {
		return "", withoutPath(err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	switch {
	case len(content) > secretLimit:
		return "", fmt.Errorf("it has more than %d bytes", secretLimit)
	case value == "":
		return "", errors.New("it is empty")
	}
	return value, nil
}

// withoutPath is what went wrong with a file.
func withoutPath(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}
