package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

const (
	rabbitUser = "operator"
	rabbitNode = "mtm@localhost"
	// helperEPMD is Erlang's port mapper. A node starts one as a daemon where it finds none, and that would outlive us.
	helperEPMD backing.Name = "epmd"
	// rabbitManagementPort is where RabbitMQ's management listens by default.
	rabbitManagementPort = "15672"
)

type rabbitKind struct{}

func (rabbitKind) name() backing.Name { return backing.ServiceRabbitMQ }
func (rabbitKind) image() string      { return "rabbitmq:4-management" }

func (rabbitKind) accounts() []string { return []string{"rabbitmq", "postgres", "nobody"} }

// fromEnv needs RABBITMQ_URL alone: the management API is then looked for on its default port, and logged in to as AMQP
// is.
func (rabbitKind) fromEnv(env func(string) string) (addr address, variable string) {
	addr = address{URL: env("RABBITMQ_URL"), ManagementURL: env("RABBITMQ_MANAGEMENT_URL")}
	broker, err := url.Parse(addr.URL)
	if err != nil || addr.URL == "" {
		return addr, "RABBITMQ_URL" // the probe says what is wrong with it
	}
	if addr.ManagementURL == "" {
		addr.ManagementURL = "http://" + net.JoinHostPort(broker.Hostname(), rabbitManagementPort)
	}
	if management, err := url.Parse(addr.ManagementURL); err == nil && management.User == nil {
		management.User = broker.User
		addr.ManagementURL = management.String()
	}
	return addr, "RABBITMQ_URL"
}

func (rabbitKind) newRecord(ctx context.Context, source backing.Source) (record, error) {
	ports, err := port.Free(ctx, 4)
	if err != nil {
		return record{}, err
	}
	return record{
		Source: source, Password: newPassword(),
		Port: ports[0], ManagementPort: ports[1], DistributionPort: ports[2], EPMDPort: ports[3],
	}, nil
}

func (rabbitKind) address(rec record) address {
	login := url.UserPassword(rabbitUser, rec.Password)
	// Without a path it is the virtual host "/" to every client; with the path "/" it is one without a name to strict ones
	// (https://www.rabbitmq.com/docs/uri-spec).
	broker := url.URL{Scheme: "amqp", User: login, Host: hostPort(rec.Port)}
	management := url.URL{Scheme: "http", User: login, Host: hostPort(rec.ManagementPort)}
	return address{URL: broker.String(), ManagementURL: management.String()}
}

// probe connects over AMQP and asks the management API for the name of the user.
func (rabbitKind) probe(ctx context.Context, addr address) error {
	deadline := time.Now().Add(probeTimeout)
	connection, err := amqp.DialConfig(addr.URL, amqp.Config{
		Heartbeat: 10 * time.Second,
		Dial: func(network, address string) (net.Conn, error) {
			connection, err := (&net.Dialer{Deadline: deadline}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// A port that Docker forwards accepts before anybody in the container does.
			return connection, connection.SetDeadline(deadline)
		},
	})
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if err := connection.CloseDeadline(deadline); err != nil {
		return fmt.Errorf("disconnect: %w", err)
	}
	api, err := management.New(addr.ManagementURL, addr.URL)
	if err != nil {
		return err
	}
	return api.Do(ctx, http.MethodGet, "/api/whoami", nil, nil)
}

func (rabbitKind) repair(_ context.Context, _ address, probed error) error { return probed }

func (k rabbitKind) container(rec record, set settings) containerSpec {
	spec := containerSpec{
		image: k.image(),
		env:   []string{"RABBITMQ_DEFAULT_USER=" + rabbitUser, "RABBITMQ_DEFAULT_PASS=" + rec.Password},
		data:  "/var/lib/rabbitmq",
	}
	if !set.direct {
		spec.ports = map[int]int{5672: rec.Port, 15672: rec.ManagementPort}
		spec.hostname = "mtm" // part of the node's name, and that of the folder with its data
		return spec
	}
	spec.env = append(spec.env, "RABBITMQ_NODENAME="+rabbitNode)
	spec.env = append(spec.env, erlangEnv(rec)...)
	spec.files = map[string]string{
		"/etc/rabbitmq/conf.d/20-mtm.conf": strings.Join(listeners(rec), "\n") + "\n",
		"/etc/rabbitmq/enabled_plugins":    rabbitPlugins(set),
	}
	return spec
}

// rabbitPlugins leaves out the exporter for Prometheus, which has a port of its own.
func rabbitPlugins(set settings) string {
	return "[" + strings.Join(append([]string{"rabbitmq_management"}, set.plugins...), ",") + "].\n"
}

// erlangEnv keeps a node that shares the network of this machine to its own ports on 127.0.0.1.
func erlangEnv(rec record) []string {
	return []string{
		"ERL_EPMD_ADDRESS=" + loopback,
		"ERL_EPMD_PORT=" + strconv.Itoa(rec.EPMDPort),
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(rec.DistributionPort),
		// The distribution listens on all interfaces otherwise.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
	}
}

// listeners are the lines of rabbitmq.conf that do the same.
func listeners(rec record) []string {
	return []string{
		"listeners.tcp.1 = " + hostPort(rec.Port),
		"management.tcp.ip = " + loopback,
		"management.tcp.port = " + strconv.Itoa(rec.ManagementPort),
	}
}

// rabbitScript starts a node without Debian's wrapper, which insists on being root or rabbitmq.
func rabbitScript() string {
	if _, err := os.Stat("/usr/lib/rabbitmq/bin/rabbitmq-server"); err == nil {
		return "/usr/lib/rabbitmq/bin/rabbitmq-server"
	}
	var found []string
	for _, pattern := range []string{
		"/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin", "/opt/rabbitmq/sbin", "/opt/homebrew/opt/rabbitmq/sbin",
	} {
		scripts, err := filepath.Glob(filepath.Join(pattern, "rabbitmq-server"))
		if err != nil {
			continue // only a malformed pattern
		}
		found = append(found, scripts...)
	}
	return newest(found)
}

func (rabbitKind) missing() []string {
	if rabbitScript() == "" {
		return []string{"rabbitmq-server"}
	}
	if _, err := exec.LookPath("epmd"); err != nil {
		return []string{"erlang-base"}
	}
	return nil
}

func (k rabbitKind) native(rec record, set settings) nativeSpec {
	return nativeSpec{data: rec.Data, helpers: []backing.Name{helperEPMD}, tool: k.tool(rec), specs: func(context.Context) ([]process.Spec, error) {
		account, err := unprivileged(k.accounts())
		if err != nil {
			return nil, err
		}
		script := rabbitScript()
		epmd, err := exec.LookPath("epmd")
		if script == "" || err != nil {
			return nil, errors.New("RabbitMQ is not installed")
		}
		node := rabbitFiles{root: rec.Data, rec: rec, set: set, account: account}
		if err := node.write(); err != nil {
			return nil, err
		}
		return []process.Spec{{
			Name: string(helperEPMD), Path: epmd, Args: []string{"-port", strconv.Itoa(rec.EPMDPort), "-address", loopback},
			Env: node.env(), WorkDir: rec.Data, User: account,
		}, {
			Name: string(backing.ServiceRabbitMQ), Path: script,
			Env: node.env(), WorkDir: rec.Data, User: account,
			StopSignal: syscall.SIGTERM, StopTimeout: 30 * time.Second,
		}}, nil
	}}
}

// tool runs rabbitmqctl and its like as the account of the node, whose cookie they need.
func (k rabbitKind) tool(rec record) func(context.Context, string, []string) (*exec.Cmd, error) {
	return func(ctx context.Context, name string, args []string) (*exec.Cmd, error) {
		account, err := unprivileged(k.accounts())
		if err != nil {
			return nil, err
		}
		script := rabbitScript()
		if script == "" {
			return nil, errors.New("RabbitMQ is not installed")
		}
		command := exec.CommandContext(ctx, filepath.Join(filepath.Dir(script), name), args...)
		command.Env, command.Dir = rabbitFiles{root: rec.Data, rec: rec}.env(), rec.Data
		if account != nil {
			command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: account.UID, Gid: account.GID}}
		}
		return command, nil
	}
}

// rabbitFiles are the folder of a native node: home (with Erlang's cookie), mnesia (data), conf, plugins.
type rabbitFiles struct {
	root    string
	rec     record
	set     settings
	account *process.User
}

func (f rabbitFiles) path(elements ...string) string {
	return filepath.Join(append([]string{f.root}, elements...)...)
}

func (f rabbitFiles) write() error {
	for _, dir := range []string{f.root, f.path("home"), f.path("mnesia"), f.path("conf"), f.path("log"), f.path("plugins")} {
		if err := ownedDir(dir, f.account); err != nil {
			return err
		}
	}
	conf := strings.Join(append(listeners(f.rec),
		"default_user = "+rabbitUser,
		"default_pass = "+f.rec.Password,
		// The default counts free memory of a machine that is shared with everything else here.
		"disk_free_limit.absolute = 64MB",
		"log.console.level = info",
	), "\n") + "\n"
	if err := ownedFile(f.path("conf", "rabbitmq.conf"), conf, f.account); err != nil {
		return err
	}
	return ownedFile(f.path("conf", "enabled_plugins"), rabbitPlugins(f.set), f.account)
}

// env keeps the node away from everything that the machine configures for its own one.
func (f rabbitFiles) env() []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/homebrew/bin",
		"LANG=C.UTF-8",
		"HOME=" + f.path("home"),
		"RABBITMQ_NODENAME=" + rabbitNode,
		"RABBITMQ_MNESIA_BASE=" + f.path("mnesia"),
		"RABBITMQ_LOG_BASE=" + f.path("log"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + f.path("conf", "enabled_plugins"),
		"RABBITMQ_CONFIG_FILE=" + f.path("conf", "rabbitmq.conf"),
		"RABBITMQ_CONF_ENV_FILE=" + f.path("conf", "no-such-file"),
		"RABBITMQ_PLUGINS_EXPAND_DIR=" + f.path("plugins"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + f.path("conf"),
		// Makes the script become the node instead of waiting for it, so that the pid is that of the node.
		"NOTIFY_SOCKET=" + f.path("no-such-socket"),
	}, erlangEnv(f.rec)...)
}
