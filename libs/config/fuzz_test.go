package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

// FuzzLoad: whatever is in the file and the environment, a configuration is loaded whole or refused with its mistakes, one
// line each; what was loaded keeps every rule, comes out the same the next time, and no secret gets into an error.
func FuzzLoad(f *testing.F) {
	for _, seed := range []struct{ file, environment string }{
		{"", ""},
		{"workers: 7\nhosts: [a, b]\nhttp:\n  addr: \":1\"\n", "DELAYS=1s, 2m\nDEBUG=true"},
		{"auth:\n  secret: tiny-secret\nworkers: many", "WORKERS=0\nAUTH_SECRET=tiny-secret"},
	} {
		f.Add(seed.file, seed.environment)
	}
	path := filepath.Join(f.TempDir(), "config.yaml")
	f.Fuzz(func(t *testing.T, file, environment string) {
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		environ := append(strings.Split(environment, "\n"), "AUTH_SECRET=hunter2-hunter2") // shorter than allowed
		err := config.Load(defaults(), path, true, environ)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
		if mistakes, ok := errors.AsType[*config.Error](err); ok {
			require.NotEmpty(t, mistakes.Mistakes)
			require.Contains(t, err.Error(), "AUTH_SECRET")
			for _, mistake := range mistakes.Mistakes {
				require.NotContains(t, strings.TrimSpace(mistake), "\n", "a mistake is one line")
			}
		}

		environ[len(environ)-1] = "AUTH_SECRET=" + strings.Repeat("hunter2-", 4)
		one, other := defaults(), defaults()
		err = config.Load(one, path, true, environ)
		if again := config.Load(other, path, true, environ); err != nil {
			require.EqualError(t, again, err.Error(), "the same mistakes in the same order")
			require.NotContains(t, err.Error(), "hunter2")
			return
		}
		require.Equal(t, one, other)
		require.NotEmpty(t, one.RabbitMQ.URL)
		require.GreaterOrEqual(t, one.Workers, 1)
		require.LessOrEqual(t, one.Workers, 64)
		require.Contains(t, []string{"debug", "info"}, one.Level)
		for _, key := range config.Keys(one) {
			require.NotContains(t, key.Default, "hunter2", key.Name)
		}
	})
}
