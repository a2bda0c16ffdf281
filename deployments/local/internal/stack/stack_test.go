package stack

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTestStack is a stack in an empty folder whose tenant-service is the given shell script.
func newTestStack(t *testing.T, script string, environ ...string) (*Stack, service) {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "bin"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "go.work"), nil, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin", "tenant-service"), []byte(script), 0o700))
	environ = append([]string{"PATH=" + os.Getenv("PATH"), "TENANT_HTTP_ADDR=127.0.0.1:0", "TENANT_OPS_ADDR=127.0.0.1:0"}, environ...)
	s, err := New(root, environ, t.Output())
	require.NoError(t, err)
	unlock, err := s.lock()
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.stopService(context.WithoutCancel(t.Context()), "tenant-service"))
		unlock()
	})
	return s, s.services()[0]
}

const sleeper = "#!/bin/sh\nexec sleep 300\n"

// A second `make up` must not interrupt what runs, and has to bring back what died, was built anew or got new settings.
func TestStartOnlyWhatNeedsIt(t *testing.T) {
	s, v := newTestStack(t, sleeper)
	start := func() int {
		running, err := s.start(t.Context(), v, s.spec(v, map[string]string{"DATABASE_URL": "one"}))
		require.NoError(t, err)
		return running.PID()
	}
	first := start()
	require.Equal(t, first, start())

	s.environ = append(s.environ, "TERM=other") // nothing that a service reads
	require.Equal(t, first, start())

	s.environ = append(s.environ, "LOG_LEVEL=debug")
	second := start()
	require.NotEqual(t, first, second)

	require.NoError(t, os.WriteFile(filepath.Join(s.root, "bin", v.name), []byte(sleeper+"# built anew\n"), 0o700))
	third := start()
	require.NotEqual(t, second, third)

	running, err := process.Find(s.dir, v.name)
	require.NoError(t, err)
	require.NoError(t, running.Kill(t.Context()))
	require.NotEqual(t, third, start())
}

// A newcomer whose port 8081 is taken has to learn which port, for what, and what to type.
func TestPortInUse(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)

	s, v := newTestStack(t, sleeper, "TENANT_HTTP_ADDR="+listener.Addr().String())
	_, err = s.start(t.Context(), v, s.spec(v, nil))
	require.ErrorContains(t, err, "port "+port)
	require.ErrorContains(t, err, "tenant-service")
	require.ErrorContains(t, err, "TENANT_HTTP_ADDR=")
}

// A service that refuses its configuration says why in its log; nobody should have to look for it.
func TestServiceThatDiesIsQuoted(t *testing.T) {
	s, v := newTestStack(t, "#!/bin/sh\necho 'workers: must be at least 1' >&2\nexit 1\n")
	running, err := s.start(t.Context(), v, s.spec(v, nil))
	require.NoError(t, err)
	err = s.awaitReady(t.Context(), []*starting{{service: v, process: running}})
	require.ErrorContains(t, err, "tenant-service has ended")
	require.ErrorContains(t, err, "workers: must be at least 1")
}

// Two `make up` at once would start everything twice.
func TestLockIsExclusive(t *testing.T) {
	s, _ := newTestStack(t, sleeper) // holds the lock
	_, err := s.lock()
	require.ErrorIs(t, err, errBusy)
}

// Addresses hold characters that mean something to a shell, and scripts source the file.
func TestEnvFile(t *testing.T) {
	s, _ := newTestStack(t, sleeper)
	want := map[string]string{}
	for _, key := range envKeys() {
		want[key] = "postgres://me:it's&$x@127.0.0.1:5432/mtm?sslmode=disable"
	}
	want["ADMIN_TOKEN"] = "plain.token_-"
	require.NoError(t, s.writeEnv(want))
	got, err := s.Env()
	require.NoError(t, err)
	require.Equal(t, want, got)

	s.environ = append(s.environ, "TENANT_URL=http://elsewhere:8081")
	got, err = s.Env()
	require.NoError(t, err)
	require.Equal(t, "http://elsewhere:8081", got["TENANT_URL"])
}

// Scripts of every language read the file: the virtual host "/" is named so that all of them understand it.
func TestTheDefaultVirtualHostHasNoPath(t *testing.T) {
	for given, want := range map[string]string{
		"amqp://u:p@h:5672/":        "amqp://u:p@h:5672",
		"amqp://u:p@h:5672":         "amqp://u:p@h:5672",
		"amqp://u:p@h:5672/%2F":     "amqp://u:p@h:5672/%2F",
		"amqp://u:p@h:5672/v":       "amqp://u:p@h:5672/v",
		"amqps://u:p%2F@h/?verify=": "amqps://u:p%2F@h?verify=",
		"":                          "",
	} {
		require.Equal(t, want, defaultVHost(given))
	}
}

func TestEnvWithoutStack(t *testing.T) {
	s, _ := newTestStack(t, sleeper)
	_, err := s.Env()
	require.ErrorIs(t, err, errNotUp)
}

// A token that a service would refuse in any case is refused here, with a reason.
func TestToken(t *testing.T) {
	s, _ := newTestStack(t, sleeper)
	_, err := s.Token(uuid.Nil, []auth.Scope{auth.ScopeTenantsAdmin}, time.Hour)
	require.ErrorIs(t, err, errNotUp)
	secret, err := s.secret(true)
	require.NoError(t, err)
	again, err := s.secret(true)
	require.NoError(t, err)
	require.Equal(t, secret, again)
	require.GreaterOrEqual(t, len(secret), 32)

	tests := map[string]struct {
		tenant uuid.UUID
		scopes []auth.Scope
		wrong  string
	}{
		"admin":          {uuid.Nil, []auth.Scope{auth.ScopeTenantsAdmin}, ""},
		"of a tenant":    {uuid.New(), []auth.Scope{auth.ScopeMessagesRead, auth.ScopeMessagesWrite}, ""},
		"no scope":       {uuid.New(), nil, "at least one scope"},
		"unknown scope":  {uuid.New(), []auth.Scope{"messages:delete"}, "no scope"},
		"without tenant": {uuid.Nil, []auth.Scope{auth.ScopeMessagesRead}, "bound to a tenant"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			token, err := s.Token(test.tenant, test.scopes, time.Hour)
			if test.wrong != "" {
				require.ErrorContains(t, err, test.wrong)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(token, "."))
		})
	}
}

// Tokens can be issued at once, the same key is used after a restart, only its owner can read it, and the services that do not sign
// do not get it.
func TestSigningKeys(t *testing.T) {
	s, _ := newTestStack(t, sleeper)
	keys, err := s.signingKeys()
	require.NoError(t, err)
	private := keys["tenant-service"]["AUTH_SIGNING_KEY_FILE"]
	info, err := os.Stat(private)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	made, err := os.ReadFile(private)
	require.NoError(t, err)
	signing := auth.DefaultConfig()
	signing.SigningKeyFile = private
	issuing, err := auth.New(t.Context(), signing, zap.NewNop())
	require.NoError(t, err)
	for _, name := range []string{"ingest-service", "query-service"} {
		verifying := auth.DefaultConfig()
		verifying.IssuedKeysFile = keys[name]["AUTH_ISSUED_KEYS_FILE"]
		require.Len(t, keys[name], 1)
		verifier, err := auth.New(t.Context(), verifying, zap.NewNop())
		require.NoError(t, err)
		require.Equal(t, issuing.PublicKeys(), verifier.PublicKeys())
	}

	again, err := s.signingKeys()
	require.NoError(t, err)
	require.Equal(t, keys, again)
	kept, err := os.ReadFile(private)
	require.NoError(t, err)
	require.Equal(t, made, kept)

	s.environ = append(s.environ, "AUTH_SIGNING_KEY_FILE=/elsewhere.pem")
	keys, err = s.signingKeys()
	require.NoError(t, err)
	require.Empty(t, keys, "the environment has one")
}

func TestReachable(t *testing.T) {
	for addr, want := range map[string]string{
		":8081": "127.0.0.1:8081", "0.0.0.0:8081": "127.0.0.1:8081", "[::]:8081": "127.0.0.1:8081",
		"10.0.0.5:8081": "10.0.0.5:8081", "localhost:8081": "localhost:8081",
	} {
		require.Equal(t, want, reachable(addr), addr)
	}
}

// A log that grew for weeks is looked at from its end.
func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	lines, end, err := tail(path, 3)
	require.NoError(t, err)
	require.Empty(t, lines)
	require.Zero(t, end)

	body := strings.Repeat(strings.Repeat("x", 99)+"\n", 2000) + "a\nb\nc\n"
	require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
	lines, end, err = tail(path, 2)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("b"), []byte("c")}, lines)
	require.EqualValues(t, len(body), end)
}
