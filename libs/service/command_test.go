package service_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/certificate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type settings struct {
	Addr string         `koanf:"addr" validate:"required" usage:"where to listen"`
	Cert string         `koanf:"cert"`
	Key  string         `koanf:"key" secret:"true" usage:"a secret"`
	Log  logging.Config `koanf:"log"`
}

func (s settings) Common() service.Config {
	return service.Config{Log: s.Log, Ops: telemetry.Config{Addr: s.Addr, TLSCertFile: s.Cert}}
}

func binary(serve func(context.Context, settings, *zap.Logger) error) service.Command[settings] {
	return service.Command[settings]{
		Name: "test-service", Usage: "a service under test",
		Defaults: func() settings { return settings{Log: logging.DefaultConfig()} },
		Serve:    serve,
		More: map[string]service.Extra[settings]{
			"greet": {Usage: "say hello", Run: func(_ context.Context, s settings, log *zap.Logger) error {
				log.Info("hello " + s.Addr)
				return nil
			}},
		},
	}
}

func TestServeIsTheDefault(t *testing.T) {
	for _, args := range [][]string{{"x"}, {"x", "serve"}} {
		var got settings
		c := binary(func(_ context.Context, s settings, _ *zap.Logger) error {
			got = s
			return nil
		}).Line([]string{"ADDR=:1"}, &bytes.Buffer{})
		require.NoError(t, c.Run(t.Context(), args))
		require.Equal(t, ":1", got.Addr)
	}
}

// A report of a fault says which build it is about, without a configuration and without a service that starts.
func TestVersion(t *testing.T) {
	var out bytes.Buffer
	c := binary(func(context.Context, settings, *zap.Logger) error {
		t.Error("served")
		return nil
	}).Line(nil, &out)
	require.NoError(t, c.Run(t.Context(), []string{"x", "--version"}))
	require.Equal(t, "test-service version "+build.Read().String()+"\n", out.String())
	require.Contains(t, out.String(), runtime.Version())
}

// A typing mistake must not start a service.
func TestUnknownCommand(t *testing.T) {
	c := binary(func(context.Context, settings, *zap.Logger) error {
		t.Error("served")
		return nil
	}).Line([]string{"ADDR=:1"}, &bytes.Buffer{})
	require.ErrorContains(t, c.Run(t.Context(), []string{"x", "sevre"}), "sevre")
}

func TestConfigHidesSecrets(t *testing.T) {
	var out bytes.Buffer
	c := binary(nil).Line([]string{"ADDR=:1", "KEY=hunter2hunter2"}, &out)
	require.NoError(t, c.Run(t.Context(), []string{"x", "config"}))
	require.Contains(t, out.String(), ":1")
	require.NotContains(t, out.String(), "hunter2")
}

func TestMissingConfigurationNamesTheKey(t *testing.T) {
	c := binary(nil).Line(nil, &bytes.Buffer{})
	require.ErrorContains(t, c.Run(t.Context(), []string{"x", "config"}), "addr")
}

func TestExtraCommand(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, binary(nil).Line([]string{"ADDR=:1"}, &out).Run(t.Context(), []string{"x", "greet"}))
	require.Contains(t, out.String(), "hello :1")
}

// An orchestrator decides by this exit status whether to send traffic.
func TestHealthcheck(t *testing.T) {
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	run := func(addr string) error {
		return binary(nil).Line([]string{"ADDR=" + addr}, &bytes.Buffer{}).Run(t.Context(), []string{"x", "healthcheck"})
	}
	require.NoError(t, run(addr))
	status = http.StatusServiceUnavailable
	require.Error(t, run(addr))
	server.Close()
	require.Error(t, run(addr))
}

// A certificate need not have the name by which the health check reaches the listener, but has to be that of the service.
func TestHealthcheckBehindTLS(t *testing.T) {
	authority := certificate.NewAuthority(t)
	own, other := authority.Issue(t, "ops.example"), authority.Issue(t, "ops.example")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	run := func(pair tls.Certificate) error {
		file, _ := certificate.Files(t, pair)
		environ := []string{"ADDR=" + strings.TrimPrefix(server.URL, "https://"), "CERT=" + file}
		return binary(nil).Line(environ, &bytes.Buffer{}).Run(t.Context(), []string{"x", "healthcheck"})
	}
	require.NoError(t, run(own))
	require.ErrorContains(t, run(other), "not the one in the file")
}
