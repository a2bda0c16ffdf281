package servers

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// postgresSettings are the settings of every PostgreSQL that this package starts.
//
//go:embed postgresql.conf
var postgresSettings string

const (
	// postgresUser is the operator: the superuser that the cluster is made with.
	postgresUser     = "operator"
	postgresDatabase = "mtm"
	loopback         = "127.0.0.1"
	// probeTimeout bounds one look at a service.
	probeTimeout = 3 * time.Second
)

type postgresKind struct{}

func (postgresKind) name() backing.Name { return backing.ServicePostgres }
func (postgresKind) image() string      { return "postgres:17" }

func (postgresKind) accounts() []string { return []string{"postgres", "nobody"} }

func (postgresKind) fromEnv(env func(string) string) (addr address, variable string) {
	return address{URL: env("DATABASE_URL")}, "DATABASE_URL"
}

func (postgresKind) newRecord(ctx context.Context, source backing.Source) (record, error) {
	ports, err := port.Free(ctx, 1)
	if err != nil {
		return record{}, err
	}
	return record{Source: source, Password: newPassword(), Port: ports[0]}, nil
}

func (postgresKind) address(rec record) address {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, rec.Password), Host: hostPort(rec.Port),
		Path: "/" + postgresDatabase, RawQuery: "sslmode=disable",
	}
	return address{URL: u.String()}
}

// errNoDatabase is PostgreSQL's code for a database that does not exist.
const errNoDatabase = "3D000"

// probe connects. A database that is not there yet is [postgresKind.repair]'s business where the server is ours.
func (k postgresKind) probe(ctx context.Context, addr address) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	connection, err := pgx.Connect(ctx, addr.URL)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close(ctx) }() // nothing was asked of it
	return connection.Ping(ctx)
}

// repair makes the database that the address names, if that is what is missing.
func (k postgresKind) repair(ctx context.Context, addr address, probed error) error {
	if refused, ok := errors.AsType[*pgconn.PgError](probed); !ok || refused.Code != errNoDatabase {
		return probed
	}
	config, err := pgx.ParseConfig(addr.URL)
	if err != nil {
		return fmt.Errorf("read the address of PostgreSQL: %w", err)
	}
	database := config.Database
	config.Database = "postgres"
	connection, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to make the database: %w", err)
	}
	defer func() { _ = connection.Close(ctx) }() // its work is done or has failed
	_, err = connection.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{database}.Sanitize())
	if err != nil {
		return fmt.Errorf("make database %s: %w", database, err)
	}
	return nil
}

// flags are the settings as arguments of the server.
func (postgresKind) flags(set settings) []string {
	var flags []string
	for line := range strings.Lines(postgresSettings) {
		line = strings.TrimSpace(line)
		name, value, found := strings.Cut(line, "=")
		if !found || strings.HasPrefix(line, "#") {
			continue
		}
		flags = append(flags, "-c", strings.TrimSpace(name)+"="+strings.Trim(strings.TrimSpace(value), "'"))
	}
	if !set.durable {
		flags = append(flags, "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	}
	if !set.persistent {
		// Many packages of tests share one scratch server.
		flags = append(flags, "-c", "max_connections=400", "-c", "shared_buffers=128MB")
	}
	return flags
}

func (k postgresKind) container(rec record, set settings) containerSpec {
	initdb := "--encoding=UTF8 --locale=C" // as the native one: text sorts the same everywhere
	if !set.durable {
		initdb += " --no-sync"
	}
	cmd, ports := append([]string{"postgres"}, k.flags(set)...), map[int]int{5432: rec.Port}
	if set.direct {
		cmd, ports = append(cmd, "-c", "listen_addresses="+loopback, "-c", "port="+strconv.Itoa(rec.Port)), nil
	}
	return containerSpec{
		image: k.image(),
		env: []string{
			"POSTGRES_USER=" + postgresUser, "POSTGRES_PASSWORD=" + rec.Password, "POSTGRES_DB=postgres",
			"POSTGRES_INITDB_ARGS=" + initdb,
		},
		cmd:        cmd,
		ports:      ports,
		data:       "/var/lib/postgresql/data",
		stopSignal: syscall.SIGINT, // "fast"; SIGTERM waits until every client has left
		shm:        256 << 20,      // parallel queries; the default of 64 MiB is soon used up
	}
}

// postgresBins are the folders with PostgreSQL servers on this machine.
func postgresBins() []string {
	var bins []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"} {
		found, err := filepath.Glob(filepath.Join(pattern, "postgres"))
		if err != nil {
			continue // only a malformed pattern
		}
		for _, program := range found {
			bins = append(bins, filepath.Dir(program))
		}
	}
	if len(bins) == 0 {
		if program, err := exec.LookPath("postgres"); err == nil {
			bins = append(bins, filepath.Dir(program))
		}
	}
	return bins
}

func (postgresKind) missing() []string {
	if len(postgresBins()) == 0 {
		return []string{"postgresql"}
	}
	return nil
}

func (k postgresKind) native(rec record, set settings) nativeSpec {
	// SIGQUIT is its "immediate" shutdown: no checkpoint, but its shared memory is given back.
	return nativeSpec{data: rec.Data, abort: syscall.SIGQUIT, specs: func(ctx context.Context) ([]process.Spec, error) {
		account, err := unprivileged(k.accounts())
		if err != nil {
			return nil, err
		}
		cluster := filepath.Join(rec.Data, "cluster")
		bin, err := postgresBin(cluster)
		if err != nil {
			return nil, err
		}
		if err := makeCluster(ctx, bin, cluster, rec, account, set); err != nil {
			return nil, err
		}
		if err := clearLock(ctx, cluster); err != nil {
			return nil, err
		}
		arguments := []string{
			"-D", cluster, "-p", strconv.Itoa(rec.Port), "-c", "listen_addresses=" + loopback,
			"-c", "unix_socket_directories=",
		}
		return []process.Spec{{
			Name: string(backing.ServicePostgres), Path: filepath.Join(bin, "postgres"), Args: append(arguments, k.flags(set)...),
			Env: postgresEnv(rec.Data), WorkDir: cluster, User: account,
			StopSignal: syscall.SIGINT, StopTimeout: 30 * time.Second, // see the container
		}}, nil
	}}
}

func postgresEnv(home string) []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home, "LC_ALL=C", "TZ=UTC"}
}

// postgresBin is the folder of the server that fits the cluster: that of its major version, or the newest for a cluster
// that does not exist yet.
func postgresBin(cluster string) (string, error) {
	bins := postgresBins()
	body, err := os.ReadFile(filepath.Join(cluster, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		if bin := newest(bins); bin != "" {
			return bin, nil
		}
		return "", errors.New("PostgreSQL is not installed")
	}
	if err != nil {
		return "", fmt.Errorf("read the version of the data: %w", err)
	}
	major := strings.TrimSpace(string(body))
	for _, bin := range bins {
		if version := numbers(bin); len(version) == 1 && strconv.Itoa(version[0]) == major {
			return bin, nil
		}
	}
	if len(bins) == 1 && len(numbers(bins[0])) == 0 {
		return bins[0], nil // from the PATH, of a version that only it knows
	}
	return "", fmt.Errorf("the data in %s needs PostgreSQL %s, which is not installed", cluster, major)
}
