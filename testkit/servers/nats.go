package servers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

const (
	natsUser = "operator"
	// natsConfFile is the configuration in a container.
	natsConfFile = "/mtm-nats.conf"
)

type natsKind struct{}

func (natsKind) name() backing.Name { return backing.ServiceNATS }
func (natsKind) image() string      { return "nats:2" }

func (natsKind) accounts() []string { return nil }

func (natsKind) fromEnv(env func(string) string) (addr address, variable string) {
	return address{URL: env("NATS_URL")}, "NATS_URL"
}

func (natsKind) newRecord(ctx context.Context, source backing.Source) (record, error) {
	ports, err := port.Free(ctx, 1)
	if err != nil {
		return record{}, err
	}
	return record{Source: source, Password: newPassword(), Port: ports[0]}, nil
}

func (natsKind) address(rec record) address {
	u := url.URL{Scheme: "nats", User: url.UserPassword(natsUser, rec.Password), Host: hostPort(rec.Port)}
	return address{URL: u.String()}
}

// probe connects and asks for JetStream, without which there is no control channel.
func (natsKind) probe(ctx context.Context, addr address) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	connection, err := nats.Connect(addr.URL, nats.Timeout(probeTimeout), nats.NoReconnect())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer connection.Close()
	stream, err := jetstream.New(connection)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	if _, err := stream.AccountInfo(ctx); err != nil {
		return fmt.Errorf("ask JetStream: %w", err)
	}
	return nil
}

func (natsKind) repair(_ context.Context, _ address, probed error) error { return probed }

func (k natsKind) container(rec record, set settings) containerSpec {
	listen, ports := "", map[int]int{4222: rec.Port}
	if set.direct {
		listen, ports = fmt.Sprintf("listen: %q\n", hostPort(rec.Port)), nil
	}
	return containerSpec{
		image: k.image(),
		// Not as arguments, which everybody on the machine can read.
		cmd: []string{"-c", natsConfFile},
		files: map[string]string{natsConfFile: fmt.Sprintf(
			listen+"jetstream { store_dir: \"/data\", sync_interval: always }\nauthorization { user: %q, password: %q }\n", natsUser, rec.Password)},
		ports: ports,
		data:  "/data",
	}
}

// missing is nothing: the server is in this program, as one of [Commands].
func (natsKind) missing() []string { return nil }

func (natsKind) native(rec record, _ settings) nativeSpec {
	return nativeSpec{data: rec.Data, specs: func(context.Context) ([]process.Spec, error) {
		if err := os.MkdirAll(rec.Data, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", rec.Data, err)
		}
		return []process.Spec{{
			Name: string(backing.ServiceNATS), Path: ownProgram(), Title: "nats-server",
			Args:       []string{natsCommand, "--dir", rec.Data, "--port", strconv.Itoa(rec.Port)},
			Env:        []string{natsPasswordEnv + "=" + rec.Password, "HOME=" + rec.Data, "PATH=/usr/bin:/bin"},
			StopSignal: syscall.SIGTERM,
		}}, nil
	}}
}

// NATSConfig describes an embedded NATS server.
type NATSConfig struct {
	// Dir holds JetStream's data.
	Dir string
	// Port on 127.0.0.1; 0 means any free one.
	Port int
	// Password of the one login, "operator". Empty means that nobody needs to log in.
	Password string
	// ConfigFile has more of its configuration, such as users and TLS; "" for none.
	ConfigFile string
	// Log writes the server's log to stderr.
	Log bool
}

// natsReadyTimeout is how long an embedded server may take until it accepts connections; 2 to 7 ms are usual.
const natsReadyTimeout = 30 * time.Second

// ServeNATS runs a NATS server with JetStream in this process until ctx ends.
func ServeNATS(ctx context.Context, cfg NATSConfig) error {
	running, err := startNATS(cfg)
	if err != nil {
		return err
	}
	<-ctx.Done()
	running.Shutdown()
	running.WaitForShutdown()
	return nil
}

func startNATS(cfg NATSConfig) (*natsserver.Server, error) {
	options := &natsserver.Options{}
	if cfg.ConfigFile != "" {
		var err error
		if options, err = natsserver.ProcessConfigFile(cfg.ConfigFile); err != nil {
			return nil, fmt.Errorf("read the configuration of the NATS server: %w", err)
		}
	}
	options.ServerName, options.Host, options.Port, options.NoSigs = "mtm", loopback, cfg.Port, true
	options.NoLog, options.Logtime, options.LogtimeUTC = !cfg.Log, true, true
	options.JetStream, options.StoreDir = true, filepath.Clean(cfg.Dir)
	options.SyncAlways = true // what is acknowledged is on disk; by default that is up to two minutes later
	if cfg.Port == 0 {
		options.Port = natsserver.RANDOM_PORT
	}
	if cfg.Password != "" {
		options.Username, options.Password = natsUser, cfg.Password
	}
	running, err := natsserver.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("make the NATS server: %w", err)
	}
	running.ConfigureLogger()
	running.Start()
	if !running.ReadyForConnections(natsReadyTimeout) {
		running.Shutdown()
		return nil, errors.New("the NATS server does not accept connections; its log says why")
	}
	if !running.JetStreamEnabled() {
		running.Shutdown()
		return nil, errors.New("the NATS server could not enable JetStream in " + cfg.Dir)
	}
	return running, nil
}
