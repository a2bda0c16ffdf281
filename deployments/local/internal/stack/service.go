package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// stopTimeout is how long a service may take to end: its own shutdown_timeout of 30 s and a little more.
const stopTimeout = 35 * time.Second

// service is one of the three services.
type service struct {
	name   string
	prefix string // of the variables that set its addresses: <prefix>_HTTP_ADDR, <prefix>_OPS_ADDR
	http   string // address of the API
	ops    string // address of metrics and health
}

func (s *Stack) services() []service {
	all := []service{
		{name: "tenant-service", prefix: "TENANT", http: "127.0.0.1:8081", ops: "127.0.0.1:9081"},
		{name: "ingest-service", prefix: "INGEST", http: "127.0.0.1:8082", ops: "127.0.0.1:9082"},
		{name: "query-service", prefix: "QUERY", http: "127.0.0.1:8083", ops: "127.0.0.1:9083"},
	}
	for i := range all {
		all[i].http = s.setting(all[i].prefix+"_HTTP_ADDR", all[i].http)
		all[i].ops = s.setting(all[i].prefix+"_OPS_ADDR", all[i].ops)
	}
	return all
}

// setting is the value of an environment variable, or fallback where it is not set or empty.
func (s *Stack) setting(name, fallback string) string {
	for _, entry := range s.environ {
		if key, value, _ := strings.Cut(entry, "="); key == name && value != "" {
			fallback = value // the last one counts
		}
	}
	return fallback
}

func (v service) url() string    { return "http://" + reachable(v.http) }
func (v service) opsURL() string { return "http://" + reachable(v.ops) }

// reachable is where a client on this machine reaches a listener at addr.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // the service will say what is wrong with it
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// spec is how a service is started: with the environment of the caller, and the settings of this stack over it.
func (s *Stack) spec(v service, settings ...map[string]string) process.Spec {
	own := map[string]string{"HTTP_ADDR": v.http, "OPS_ADDR": v.ops}
	for _, some := range settings {
		maps.Copy(own, some)
	}
	env := slices.DeleteFunc(slices.Clone(s.environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, replaced := own[name]
		return replaced
	})
	for name, value := range own {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return process.Spec{
		// Not in the root of the repository: a config.yaml there would be read by all three services.
		Name: v.name, Path: filepath.Join(s.root, "bin", v.name), Args: []string{"serve"}, Env: env, WorkDir: s.dir,
		StopTimeout: stopTimeout,
	}
}

// readByServices reports whether a service may read its configuration from the environment variable name. Others, such
// as those that describe a terminal, must not make a running service look out of date.
func readByServices(name string) bool {
	if slices.Contains(envKeys(), name) {
		return slices.Contains([]string{"DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL"}, name)
	}
	section, _, _ := strings.Cut(name, "_")
	return slices.Contains([]string{
		"AUTH", "DATABASE", "HTTP", "INGEST", "LOG", "MAX", "NATS", "OPS", "QUERY", "RABBITMQ", "SHUTDOWN", "WORKERS",
	}, section)
}

// fingerprint tells a service that was started from this program with these settings from any other. It is a hash:
// settings hold secrets.
func fingerprint(spec process.Spec) (string, error) {
	program, err := os.Open(spec.Path)
	if err != nil {
		return "", fmt.Errorf("open the program of %s (has it been built?): %w", spec.Name, err)
	}
	hash := sha256.New()
	_, err = io.Copy(hash, program)
	if err := errors.Join(err, program.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", spec.Path, err)
	}
	for _, entry := range spec.Env { // sorted
		if name, _, _ := strings.Cut(entry, "="); readByServices(name) {
			fmt.Fprintf(hash, "%d %s\n", len(entry), entry) //nolint:errcheck // a hash takes everything
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func (s *Stack) fingerprintFile(name string) string {
	return filepath.Join(s.dir, "run", name+".fingerprint")
}

// start makes sure that a service runs as spec says, and leaves it alone if it does already.
func (s *Stack) start(ctx context.Context, v service, spec process.Spec) (*process.Process, error) {
	want, err := fingerprint(spec)
	if err != nil {
		return nil, err
	}
	running, err := process.Find(s.dir, v.name)
	if err != nil && !errors.Is(err, process.ErrNotRunning) {
		return nil, fmt.Errorf("look for %s: %w", v.name, err)
	}
	if running != nil {
		have, err := os.ReadFile(s.fingerprintFile(v.name))
		if err == nil && string(have) == want {
			s.say("%-14s runs already (pid %d)", v.name, running.PID())
			return running, nil
		}
		s.say("%-14s its program or its settings have changed, starting it again", v.name)
		if err := running.Stop(ctx); err != nil {
			return nil, fmt.Errorf("stop %s: %w", v.name, err)
		}
	}
	if err := v.portsFree(ctx); err != nil {
		return nil, err
	}
	started, err := process.Start(s.dir, spec)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", v.name, err)
	}
	if err := os.WriteFile(s.fingerprintFile(v.name), []byte(want), 0o600); err != nil {
		return nil, fmt.Errorf("record what %s was started from: %w", v.name, err)
	}
	s.say("%-14s started (pid %d, log %s)", v.name, started.PID(), s.relative(process.LogFile(s.dir, v.name)))
	return started, nil
}

// relative is path as a person in the root of the repository would write it.
func (s *Stack) relative(path string) string {
	short, err := filepath.Rel(s.root, path)
	if err != nil {
		return path
	}
	return short
}

// portsFree is an error that names the port, the service and the way out if somebody else listens where v is to.
func (v service) portsFree(ctx context.Context) error {
	for _, port := range []struct{ addr, variable, what, example string }{
		{v.http, v.prefix + "_HTTP_ADDR", "API", "127.0.0.1:18080"},
		{v.ops, v.prefix + "_OPS_ADDR", "ops listener", "127.0.0.1:19080"},
	} {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", port.addr)
		if errors.Is(err, syscall.EADDRINUSE) {
			_, number, _ := net.SplitHostPort(port.addr)
			return fmt.Errorf("port %s, which the %s of %s needs (%s), is in use by another program: "+
				"stop that program (`make down` in another clone?) or choose another address: %s=%s make up",
				number, port.what, v.name, port.addr, port.variable, port.example)
		}
		if err != nil {
			return fmt.Errorf("%s=%s: %w", port.variable, port.addr, err)
		}
		if err := listener.Close(); err != nil {
			return fmt.Errorf("%s=%s: %w", port.variable, port.addr, err)
		}
	}
	return nil
}
