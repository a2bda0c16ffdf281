package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type sample struct {
	RabbitMQ struct {
		URL       string        `koanf:"url" validate:"required" usage:"broker address"`
		Heartbeat time.Duration `koanf:"heartbeat" validate:"min=1s,max=1m"`
	} `koanf:"rabbitmq"`
	HTTP struct {
		Addr      string `koanf:"addr" validate:"required,listen_addr" usage:"API address"`
		BodyLimit int    `koanf:"body_limit" validate:"min=1024" usage:"bytes"`
	} `koanf:"http"`
	Auth struct {
		Secret string `koanf:"secret" secret:"true" validate:"omitempty,min=32" usage:"HS256 secret"`
	} `koanf:"auth"`
	Workers int      `koanf:"workers" validate:"min=1,max=64" usage:"default workers of a new tenant"`
	Max     uint16   `koanf:"max"`
	Ratio   float64  `koanf:"ratio"`
	Debug   bool     `koanf:"debug"`
	Hosts   []string `koanf:"hosts"`
	// Delays is a list of durations, each with its unit.
	Delays  []time.Duration `koanf:"delays"`
	Level   string          `koanf:"level" validate:"oneof=debug info"`
	ID      uuid.UUID       `koanf:"id"`
	Ignored string
}

func defaults() *sample {
	s := &sample{Workers: 3, Level: "info", Ratio: 0.5}
	s.RabbitMQ.URL = "amqp://guest:guest@localhost:5672/"
	s.RabbitMQ.Heartbeat = 10 * time.Second
	s.HTTP.Addr = ":8081"
	s.HTTP.BodyLimit = 1 << 20
	return s
}

func write(t *testing.T, yaml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(yaml), 0o600))
	return path
}

// Common is what several binaries configure, as a struct that each embeds.
type Common struct {
	HTTP struct {
		Addr string `koanf:"addr" validate:"required,listen_addr"`
	} `koanf:"http"`
	Timeout time.Duration `koanf:"timeout" validate:"min=1s"`
}

type embedding struct {
	Common
	Workers int `koanf:"workers" validate:"min=1"`
}

func TestEmbeddedStruct(t *testing.T) {
	var cfg embedding
	path := write(t, "http: {addr: ':1'}\ntimeout: 1s\nworkers: 2\n")
	require.NoError(t, config.Load(&cfg, path, true, []string{"TIMEOUT=2s"}))
	require.Equal(t, ":1", cfg.HTTP.Addr)
	require.Equal(t, 2*time.Second, cfg.Timeout)
	require.Equal(t, 2, cfg.Workers)
	err := config.Load(&cfg, path, true, []string{"HTTP_ADDR=nowhere", "TIMEOUT=1ms"})
	require.ErrorContains(t, err, "http.addr (HTTP_ADDR) must be an address with a port")
	require.ErrorContains(t, err, "timeout (TIMEOUT) must be at least 1s")
}

func TestEnvironmentGoesOverFileGoesOverDefaults(t *testing.T) {
	path := write(t, `
rabbitmq:
  url: amqp://file/
http:
  body_limit: 2048
workers: 7
debug: true
ratio: 2
max: "9"
hosts: [a, b]
id: 0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11
`)
	cfg := defaults()

	err := config.Load(cfg, path, true, []string{"RABBITMQ_URL=amqp://env/", "HTTP_BODY_LIMIT=4096", "RABBITMQ_HEARTBEAT=5s", "PATH=/bin", "HOSTS=x, y,", "DELAYS=1s, 2m"})

	require.NoError(t, err)
	require.Equal(t, "amqp://env/", cfg.RabbitMQ.URL)
	require.Equal(t, 5*time.Second, cfg.RabbitMQ.Heartbeat)
	require.Equal(t, ":8081", cfg.HTTP.Addr, "a partial section must not zero its neighbours")
	require.Equal(t, 4096, cfg.HTTP.BodyLimit)
	require.Equal(t, 7, cfg.Workers)
	require.True(t, cfg.Debug)
	require.InDelta(t, 2.0, cfg.Ratio, 0)
	require.EqualValues(t, 9, cfg.Max)
	require.Equal(t, []string{"x", "y"}, cfg.Hosts)
	require.Equal(t, []time.Duration{time.Second, 2 * time.Minute}, cfg.Delays)
	require.Equal(t, "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11", cfg.ID.String())
}

// The README of the original shows flat keys; both spellings name the same setting.
func TestDottedKeysInTheFile(t *testing.T) {
	cfg := defaults()
	require.NoError(t, config.Load(cfg, write(t, "rabbitmq.url: amqp://dotted/\nworkers: 4\n"), true, nil))
	require.Equal(t, "amqp://dotted/", cfg.RabbitMQ.URL)
	require.Equal(t, 4, cfg.Workers)
}

func TestFileThatIsAbsent(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "config.yaml")

	require.NoError(t, config.Load(defaults(), missing, false, nil))
	require.NoError(t, config.Load(defaults(), "", false, nil))

	err := config.Load(defaults(), missing, true, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, missing)
}

// compose passes ${VAR} on as an empty string when it is not set.
func TestEmptyVariableIsNotSet(t *testing.T) {
	cfg := defaults()
	require.NoError(t, config.Load(cfg, "", false, []string{"HTTP_ADDR=", "WORKERS="}))
	require.Equal(t, ":8081", cfg.HTTP.Addr)
}

func TestEmptyFileAndEmptySections(t *testing.T) {
	for name, yaml := range map[string]string{
		"empty":         "",
		"comment":       "# nothing\n",
		"null section":  "http:\n  # addr: x\n",
		"empty section": "http: {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			cfg := defaults()
			require.NoError(t, config.Load(cfg, write(t, yaml), true, nil))
			require.Equal(t, ":8081", cfg.HTTP.Addr)
		})
	}
}

func TestMistakes(t *testing.T) {
	tests := map[string]struct {
		yaml    string
		environ []string
		want    string
	}{
		"unknown key":                 {"workerz: 3", nil, "workerz is not a known key"},
		"unknown key in a section":    {"http:\n  adr: x", nil, "http.adr is not a known key"},
		"unknown section":             {"htp:\n  addr: x", nil, "htp.addr is not a known key"},
		"unknown empty section":       {"htp: {}", nil, "htp is not a known key"},
		"go name":                     {"http:\n  BodyLimit: 5000", nil, "http.BodyLimit is not a known key"},
		"field without a key":         {"Ignored: x", nil, "Ignored is not a known key"},
		"below a value":               {"workers:\n  n: 1", nil, "workers (WORKERS) must be a value, not a section"},
		"value in place of a section": {"http: 5", nil, "http must be a section, not a value"},
		"null":                        {"workers:", nil, "workers (WORKERS) has no value"},
		"word for a number":           {"workers: many", nil, `workers (WORKERS) must be a whole number, not "many"`},
		"fraction for a number":       {"workers: 1.5", nil, `workers (WORKERS) must be a whole number, not "1.5"`},
		"list for a number":           {"workers: [1]", nil, `workers (WORKERS) must be a whole number, not "[1]"`},
		"list of durations":           {"", []string{"DELAYS=1s,2"}, `delays (DELAYS) must be a duration`},
		"number from the environment": {"", []string{"WORKERS=x"}, `workers (WORKERS) must be a whole number, not "x"`},
		"number too large":            {"max: 70000", nil, `max (MAX) must be a whole number that is not negative, not "70000"`},
		"bare number for a duration":  {"rabbitmq:\n  heartbeat: 30", nil, `rabbitmq.heartbeat (RABBITMQ_HEARTBEAT) must be a duration with a unit, such as 5s, not "30"`},
		"duration from environment":   {"", []string{"RABBITMQ_HEARTBEAT=30"}, `rabbitmq.heartbeat (RABBITMQ_HEARTBEAT) must be a duration`},
		"boolean":                     {"debug: perhaps", nil, `debug (DEBUG) must be true or false, not "perhaps"`},
		"float":                       {"ratio: x", nil, `ratio (RATIO) must be a number, not "x"`},
		"number for a string":         {"level: 0123", nil, "level (LEVEL) must be a string (put it in quotes)"},
		"list of numbers":             {"hosts: [1]", nil, "hosts (HOSTS) must be a list of strings"},
		"text":                        {"id: nope", nil, "id (ID) is not valid"},
		"required":                    {`rabbitmq: {url: ""}`, nil, "rabbitmq.url (RABBITMQ_URL) is required"},
		"too small":                   {"workers: 0", nil, `workers (WORKERS) must be at least 1, not "0"`},
		"too large":                   {"workers: 65", nil, `workers (WORKERS) must be at most 64, not "65"`},
		"duration too short":          {"rabbitmq: {heartbeat: 1ms}", nil, `rabbitmq.heartbeat (RABBITMQ_HEARTBEAT) must be at least 1s, not "1ms"`},
		"none of the choices":         {"level: loud", nil, `level (LEVEL) must be one of debug, info, not "loud"`},
		"address":                     {"http: {addr: localhost}", nil, `http.addr (HTTP_ADDR) must be an address with a port`},
		"address with a bad port":     {"http: {addr: ':99999'}", nil, `http.addr (HTTP_ADDR) must be an address with a port`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := config.Load(defaults(), write(t, tt.yaml), true, tt.environ)

			var mistakes *config.Error
			require.ErrorAs(t, err, &mistakes)
			require.Len(t, mistakes.Mistakes, 1, "%v", mistakes.Mistakes)
			require.Contains(t, mistakes.Mistakes[0], tt.want)
		})
	}
}

// contradictory has a rule that no key has on its own.
type contradictory struct {
	Limits struct {
		Low  int `koanf:"low" validate:"min=0"`
		High int `koanf:"high"`
	} `koanf:"limits"`
}

func (c *contradictory) Check() map[string]string {
	if c.Limits.Low > c.Limits.High {
		return map[string]string{"limits.low": "must not be above limits.high"}
	}
	return nil
}

func TestKeysThatContradictEachOther(t *testing.T) {
	require.NoError(t, config.Load(&contradictory{}, write(t, "limits: {low: 1, high: 1}"), true, nil))
	err := config.Load(&contradictory{}, write(t, "limits: {low: 1, high: 1}"), true, []string{"LIMITS_LOW=2"})
	require.ErrorContains(t, err, "limits.low (LIMITS_LOW) must not be above limits.high")
	err = config.Load(&contradictory{}, write(t, "limits: {low: -1, high: -2}"), true, nil)
	require.ErrorContains(t, err, "limits.low (LIMITS_LOW) must be at least 0")
	require.NotContains(t, err.Error(), "above", "a key that is wrong on its own contradicts nothing")
}

// An operator should not have to start a service once per mistake.
func TestAllMistakesAreReportedTogether(t *testing.T) {
	err := config.Load(defaults(), write(t, "workerz: 1\nworkers: 99\nhttp: {adr: x, body_limit: big}\n"), true, []string{"RABBITMQ_HEARTBEAT=soon"})

	require.ErrorContains(t, err, "the configuration has mistakes:\n")
	lines := strings.Split(err.Error(), "\n")[1:]
	require.Len(t, lines, 5, err)
	for i, key := range []string{"http.adr ", "workerz ", "rabbitmq.heartbeat (", "http.body_limit (", "workers ("} {
		require.Contains(t, lines[i], key)
	}
}

func TestAddressesThatAreGood(t *testing.T) {
	for _, addr := range []string{":8081", "127.0.0.1:0", "localhost:80", "[::1]:8081", "0.0.0.0:65535"} {
		cfg := defaults()
		require.NoError(t, config.Load(cfg, "", false, []string{"HTTP_ADDR=" + addr}), addr)
		require.Equal(t, addr, cfg.HTTP.Addr)
	}
}

func TestBrokenYAMLNamesTheFile(t *testing.T) {
	path := write(t, "http: [\n")
	err := config.Load(defaults(), path, true, nil)
	require.ErrorContains(t, err, path)
}

func TestMistakesDoNotShowSecrets(t *testing.T) {
	err := config.Load(defaults(), "", false, []string{"AUTH_SECRET=hunter2"})
	require.ErrorContains(t, err, "auth.secret (AUTH_SECRET) must be at least 32 characters long")
	require.NotContains(t, err.Error(), "hunter2")

	err = config.Load(defaults(), write(t, "auth: {secret: 12345678}\n"), true, nil)
	require.ErrorContains(t, err, "auth.secret (AUTH_SECRET) must be a string")
	require.NotContains(t, err.Error(), "12345678")
}

func TestStructsThatCannotBeConfigured(t *testing.T) {
	require.ErrorContains(t, config.Load(sample{}, "", false, nil), "is not a pointer")
	require.ErrorContains(t, config.Load(new(int), "", false, nil), "is not a struct")
	require.ErrorContains(t, config.Load(&struct{}{}, "", false, nil), "has no keys")
	require.ErrorContains(t, config.Load(&struct {
		C chan int `koanf:"c"`
	}{}, "", false, nil), "can't be configured")
	require.ErrorContains(t, config.Load(&struct {
		A struct {
			B int `koanf:"b"`
		} `koanf:"a"`
		AB int `koanf:"a_b"`
	}{}, "", false, nil), "same environment variable A_B")
}

func TestMaskedCanBeLoadedAgainAndHidesSecrets(t *testing.T) {
	cfg := defaults()
	cfg.RabbitMQ.URL = "amqp://user:hunter2@broker:5672/vhost"
	cfg.Auth.Secret = "0123456789abcdef0123456789abcdef"
	cfg.Hosts = []string{"nats://a:hunter2@h1:4222", "plain"}

	out := config.Masked(cfg)

	require.NotContains(t, string(out), "hunter2")
	require.NotContains(t, string(out), "0123456789abcdef")
	require.Contains(t, string(out), "amqp://user:***@broker:5672/vhost")
	require.Contains(t, string(out), "heartbeat: 10s")

	again := defaults()
	again.Auth.Secret = ""
	text := strings.ReplaceAll(string(out), "secret: '***'", "secret: ''")
	require.NoError(t, config.Load(again, write(t, text), true, nil), text)
	require.Equal(t, 3, again.Workers)
	require.Equal(t, 10*time.Second, again.RabbitMQ.Heartbeat)
}

func TestMaskURL(t *testing.T) {
	tests := map[string]string{
		"":                      "",
		"plain":                 "plain",
		"amqp://h/":             "amqp://h/",
		"amqp://guest@h/":       "amqp://guest@h/",
		"amqp://u:p@h:1/v":      "amqp://u:***@h:1/v",
		"amqp://u:@h":           "amqp://u:***@h",
		"amqp://:p@h":           "amqp://:***@h",
		"postgres://u:p@ss@h/d": "postgres://u:***@h/d",
		"postgres://u:p/a?s#s@h/d?sslmode=disable":    "postgres://u:***@h/d?sslmode=disable",
		"postgres://h/d?user=u&password=p&x=1":        "postgres://h/d?user=u&password=***&x=1",
		"postgres://h/d?sslpassword=p":                "postgres://h/d?sslpassword=***",
		"host=h user=u password=p dbname=d":           "host=h user=u password=*** dbname=d",
		`host=h password='a b\'c' dbname=d`:           "host=h password=*** dbname=d",
		"host=h password = p dbname=d":                "host=h password = *** dbname=d",
		"nats://a:p,x@h1:1,nats://b:q@h2:2":           "nats://a:***@h1:1,nats://b:***@h2:2",
		"nats://a:p@h1:1, tls://b:q@h2:2,nats://h3:3": "nats://a:***@h1:1, tls://b:***@h2:2,nats://h3:3",
		"nats://sometoken@h:1":                        "nats://***@h:1",
	}
	for in, want := range tests {
		require.Equal(t, want, config.MaskURL(in), in)
	}
}

func TestKeysAndHelp(t *testing.T) {
	cfg := defaults()
	cfg.Auth.Secret = "hunter2"

	keys := config.Keys(*cfg)

	require.Equal(t, config.Key{Name: "rabbitmq.url", Env: "RABBITMQ_URL", Default: "amqp://guest:***@localhost:5672/", Usage: "broker address"}, keys[0])
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.Name
	}
	require.Equal(t, []string{
		"rabbitmq.url", "rabbitmq.heartbeat", "http.addr", "http.body_limit", "auth.secret",
		"workers", "max", "ratio", "debug", "hosts", "delays", "level", "id",
	}, names)

	help := config.Help(cfg)
	require.Contains(t, help, "KEY")
	require.Regexp(t, `(?m)^http\.body_limit +HTTP_BODY_LIMIT +1048576 +bytes$`, help)
	require.NotContains(t, help, "hunter2")
	require.Nil(t, config.Keys(5))
}
