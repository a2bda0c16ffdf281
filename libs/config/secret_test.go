package config_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

type secrets struct {
	Database struct {
		URL string `koanf:"url" validate:"required" secret:"url" usage:"the database"`
	} `koanf:"database"`
	Auth struct {
		Secret string `koanf:"secret" secret:"true" validate:"omitempty,min=32"`
		Issuer string `koanf:"issuer"`
	} `koanf:"auth"`
}

// A secret in the environment is shown by `docker inspect` and to every child process; one in a file is not.
func TestSecretsFromFiles(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	for name, content := range map[string]string{
		"as it is": secret, "with a line break": secret + "\n", "with a line break of Windows": secret + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var cfg secrets
			err := config.Load(&cfg, write(t, "database: {url: 'postgres://file/'}\n"), true, []string{
				"AUTH_SECRET_FILE=" + write(t, content), "AUTH_SECRET=", "DATABASE_URL_FILE=" + write(t, "postgres://u:p@h/d\n"),
			})
			require.NoError(t, err)
			require.Equal(t, secret, cfg.Auth.Secret)
			require.Equal(t, "postgres://u:p@h/d", cfg.Database.URL, "over that of the configuration file, as every variable")
			require.Contains(t, string(config.Masked(&cfg)), "postgres://u:***@h/d")
		})
	}
}

func TestSecretsFromFilesThatAreRefused(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	for name, tt := range map[string]struct {
		environ []string
		want    string
	}{
		"both forms":     {[]string{"AUTH_SECRET=hunter2", "AUTH_SECRET_FILE=" + write(t, "hunter2")}, "auth.secret (AUTH_SECRET) is given twice, by AUTH_SECRET_FILE as well: only one of them may be set"},
		"no file":        {[]string{"AUTH_SECRET_FILE=" + missing}, `auth.secret (AUTH_SECRET) cannot be read from the file of AUTH_SECRET_FILE, "` + missing + `": no such file or directory`},
		"a folder":       {[]string{"AUTH_SECRET_FILE=" + t.TempDir()}, "is a directory"},
		"an empty file":  {[]string{"AUTH_SECRET_FILE=" + write(t, "\n")}, "it is empty"},
		"too large":      {[]string{"AUTH_SECRET_FILE=/dev/zero"}, "it has more than 65536 bytes"},
		"a broken value": {[]string{"AUTH_SECRET_FILE=" + write(t, "hunter2\n")}, "auth.secret (AUTH_SECRET) must be at least 32 characters long"},
		"a line break":   {[]string{"AUTH_SECRET_FILE=a\rb"}, `"a\rb"`},
	} {
		t.Run(name, func(t *testing.T) {
			var cfg secrets
			err := config.Load(&cfg, "", false, append(tt.environ, "DATABASE_URL=x"))
			var mistakes *config.Error
			require.ErrorAs(t, err, &mistakes)
			require.Len(t, mistakes.Mistakes, 1, "%v", mistakes.Mistakes)
			require.Contains(t, mistakes.Mistakes[0], tt.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

// Another program's variable, or a setting that is no secret, does not make a file be read.
func TestOnlySecretsComeFromFiles(t *testing.T) {
	var cfg secrets
	require.NoError(t, config.Load(&cfg, "", false, []string{"AUTH_ISSUER_FILE=/none", "SSL_CERT_FILE=/none", "AUTH_SECRET_FILE=", "DATABASE_URL=x"}))
	help := config.Help(&cfg)
	require.Contains(t, help, "DATABASE_URL[_FILE]")
	require.Contains(t, help, "AUTH_SECRET[_FILE]")
	require.NotContains(t, strings.ReplaceAll(help, "AUTH_SECRET[_FILE]", ""), "ISSUER[")

	require.ErrorContains(t, config.Load(&struct {
		Key     string `koanf:"key" secret:"true"`
		KeyFile string `koanf:"key_file"`
	}{}, "", false, nil), "KEY_FILE is the environment variable of key_file and names a file for key")
}
