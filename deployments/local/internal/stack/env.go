package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// envKeys are the variables of stack.env, in their order.
func envKeys() []string {
	return []string{
		"TENANT_URL", "INGEST_URL", "QUERY_URL",
		"TENANT_OPS_URL", "INGEST_OPS_URL", "QUERY_OPS_URL",
		"DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL",
		"ADMIN_TOKEN",
	}
}

func (s *Stack) envFile() string { return filepath.Join(s.dir, "stack.env") }

// writeEnv writes stack.env, which a shell can source and which Docker and others read as name=value lines. It holds
// a token and passwords, so it is for its owner alone.
func (s *Stack) writeEnv(values map[string]string) error {
	var body strings.Builder
	for _, key := range envKeys() {
		value := values[key]
		if strings.ContainsAny(value, " \t\"'`$&;|<>()*?[]#~!\\") {
			value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
		}
		fmt.Fprintf(&body, "%s=%s\n", key, value)
	}
	temporary := s.envFile() + ".new"
	if err := os.WriteFile(temporary, []byte(body.String()), 0o600); err != nil {
		return fmt.Errorf("write stack.env: %w", err)
	}
	if err := os.Rename(temporary, s.envFile()); err != nil {
		return fmt.Errorf("write stack.env: %w", err)
	}
	return nil
}

// errNotUp says that there is no stack to use.
var errNotUp = errors.New("the stack is not up: make up")

// Env are the addresses and the token of the running stack: what stack.env holds, with the environment over it, so that
// a stack elsewhere can be named by the same variables.
func (s *Stack) Env() (map[string]string, error) {
	values, err := s.readEnv()
	if err != nil {
		return nil, err
	}
	missing := false
	for _, key := range envKeys() {
		values[key] = s.setting(key, values[key])
		missing = missing || values[key] == ""
	}
	if len(values) == 0 || missing && values["TENANT_URL"] == "" {
		return nil, errNotUp
	}
	return values, nil
}

// readEnv is what stack.env holds, nothing if it is not there.
func (s *Stack) readEnv() (map[string]string, error) {
	values := map[string]string{}
	body, err := os.ReadFile(s.envFile())
	if errors.Is(err, os.ErrNotExist) {
		return values, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read stack.env: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if !found {
			continue
		}
		if inner, quoted := strings.CutPrefix(value, "'"); quoted {
			value = strings.ReplaceAll(strings.TrimSuffix(inner, "'"), `'\''`, "'")
		}
		values[key] = value
	}
	return values, nil
}
