package servers

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/content"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// eachOwnMode runs a test with servers of this machine, and with Docker where an engine has the images, beside other tests:
// they wait for servers more than they compute.
func eachOwnMode(t *testing.T, test func(t *testing.T, mode backing.Mode)) {
	t.Helper()
	t.Parallel()
	for _, mode := range []backing.Mode{backing.ModeNative, backing.ModeDocker} {
		t.Run(string(mode), func(t *testing.T) {
			if mode == backing.ModeDocker {
				needEngine(t)
			} else {
				needPrograms(t)
			}
			test(t, mode)
		})
	}
}

// needEngine skips a test of Docker where there is none: a machine without one is as good a place to develop on.
func needEngine(t *testing.T) {
	t.Helper()
	if err := engineReady(t); err != nil {
		t.Skipf("Docker is not tested here: %v", err)
	}
}

// needPrograms skips a test of this machine's programs where there are none but a Docker engine instead. Without that,
// the test continues, to install them or to say what is missing.
func needPrograms(t *testing.T) {
	t.Helper()
	for _, k := range kinds() {
		if missing := k.missing(); len(missing) > 0 && engineReady(t) == nil {
			t.Skipf("native servers are not tested here: %v not installed", missing)
		}
	}
}

func engineReady(t *testing.T) error {
	t.Helper()
	e, err := openEngine(t.Context())
	for _, k := range kinds() {
		if err == nil {
			err = e.needImage(t.Context(), k.image(), t.Logf)
		}
	}
	return err
}

func keep(t *testing.T, services *Services) {
	t.Helper()
	content.Keep(t, services.DatabaseURL, services.RabbitMQURL, services.NATSURL)
}

func kept(t *testing.T, services *Services) {
	t.Helper()
	content.Kept(t, services.DatabaseURL, services.RabbitMQURL, services.NATSURL)
}

func TestPersistentServersAreFoundAgain(t *testing.T) {
	// make up, make up again, a crash, make down, make reset.
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts all servers twice")
	}
	eachOwnMode(t, func(t *testing.T, mode backing.Mode) {
		t.Helper()
		ctx, dir := t.Context(), persistentDir(t)
		options := Options{Dir: dir, Mode: mode, Durable: true, Log: func(line string) { t.Log(line) }}
		t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(ctx), dir)) })
		first, err := Start(ctx, options)
		require.NoError(t, err)
		keep(t, first)

		second, err := Start(ctx, options)
		require.NoError(t, err)
		require.Equal(t, first.Env(), second.Env())

		require.NoError(t, second.Process(backing.ServiceNATS).Kill(ctx))
		third, err := Start(ctx, options)
		require.NoError(t, err)
		for _, name := range []backing.Name{backing.ServicePostgres, backing.ServiceRabbitMQ} {
			require.Equal(t, first.Process(name).PID(), third.Process(name).PID(), "what runs is left alone")
		}
		kept(t, third)

		require.NoError(t, Stop(ctx, dir))
		for _, s := range inspect(t, dir) {
			require.False(t, s.Running)
			require.NoFileExists(t, process.PIDFile(dir, string(s.Name)))
		}
		require.NoError(t, Stop(ctx, dir), "stopping what does not run")
		fourth, err := Start(ctx, options)
		require.NoError(t, err)
		require.Equal(t, first.Env(), fourth.Env())
		kept(t, fourth)
		for _, s := range inspect(t, dir) {
			require.True(t, s.Running)
			require.Equal(t, backing.Source(mode), s.Source)
		}

		require.NoError(t, Reset(ctx, dir))
		require.Empty(t, inspect(t, dir))
		require.NoDirExists(t, dataDir(dir))
	})
}

// persistentDir is a folder that the accounts of servers can reach.
func persistentDir(t *testing.T) string {
	t.Helper()
	parent, err := scratchParent()
	require.NoError(t, err)
	scratch, err := newScratchDir(parent)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(scratch)) })
	return filepath.Join(scratch, "local")
}

// scratchFolder is a scratch folder that is removed with the test.
func scratchFolder(t *testing.T) *Scratch {
	t.Helper()
	scratch, err := NewScratch()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, scratch.Remove(context.WithoutCancel(t.Context()))) })
	return scratch
}

func inspect(t *testing.T, dir string) []Status {
	t.Helper()
	all, err := Inspect(t.Context(), dir)
	require.NoError(t, err)
	return all
}

func TestPasswordsAreForTheOwnerOnly(t *testing.T) {
	dir := persistentDir(t)
	options := Options{Services: []backing.Name{backing.ServiceNATS}, Mode: backing.ModeNative, Dir: dir}
	_, err := Start(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(t.Context()), dir)) })
	info, err := os.Stat(recordFile(dir, backing.ServiceNATS, backing.SourceNative))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestDataLiesElsewhereWhereOthersCannotGetThrough(t *testing.T) {
	// A clone in /root, as in many a CI: PostgreSQL runs as somebody else.
	if os.Geteuid() != 0 {
		t.Skip("only root starts servers as somebody else")
	}
	needPrograms(t)
	dir := filepath.Join(persistentDir(t), "closed")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	options := Options{Services: []backing.Name{backing.ServicePostgres}, Mode: backing.ModeNative, Dir: dir}
	services, err := Start(t.Context(), options)
	require.NoError(t, err)
	server, ok := services.Process(backing.ServicePostgres).server.(*nativeServer)
	require.True(t, ok)
	data := server.data
	require.True(t, strings.HasPrefix(data, "/var/tmp/"), data)
	require.NoError(t, Reset(t.Context(), dir))
	require.NoDirExists(t, filepath.Dir(data))
}

func TestScratchServersEndWithAProcessThatIsKilled(t *testing.T) {
	eachOwnMode(t, func(t *testing.T, mode backing.Mode) {
		t.Helper()
		// A second process starts PostgreSQL, prints the folder, and hangs.
		command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHangsForAnother$", "-test.v")
		command.Env = append(os.Environ(), "MTM_BACKING_HANG=1", "BACKING="+string(mode))
		output, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		dir := ""
		for lines := bufio.NewScanner(output); dir == "" && lines.Scan(); {
			_, dir, _ = strings.Cut(lines.Text(), "hanging in ")
		}
		require.NoError(t, command.Process.Kill())
		_ = command.Wait() // says that it was killed
		require.NotEmpty(t, dir)

		rec, found, err := currentRecord(dir, backing.ServicePostgres)
		if err == nil && found { // the guard may have been faster
			require.Equal(t, backing.Source(mode), rec.Source)
		}
		require.Eventually(t, func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, os.ErrNotExist)
		}, time.Minute, readyPoll)
		require.Error(t, postgresKind{}.probe(t.Context(), postgresKind{}.address(rec)))
	})
}

// TestHangsForAnother is what the second process does.
func TestHangsForAnother(t *testing.T) {
	if os.Getenv("MTM_BACKING_HANG") == "" {
		t.Skip("only for TestScratchServersEndWithAProcessThatIsKilled")
	}
	scratch, err := NewScratch()
	require.NoError(t, err)
	services, err := Start(t.Context(), Options{Scratch: scratch, Services: []backing.Name{backing.ServicePostgres}})
	require.NoError(t, err)
	t.Log("hanging in " + services.Dir())
	<-t.Context().Done()
}

// absentImage is PostgreSQL from a registry that refuses connections.
type absentImage struct{ postgresKind }

func (absentImage) image() string { return "127.0.0.1:1/absent:1" }

func TestAnEngineWithoutTheImageIsPassedOver(t *testing.T) {
	e, err := openEngine(t.Context())
	if err != nil {
		t.Skipf("Docker is not tested here: %v", err)
	}
	require.Error(t, e.needImage(t.Context(), absentImage{}.image(), t.Logf))

	var said []string
	s := &starter{opts: Options{Own: true, Log: func(line string) { said = append(said, line) }}}
	source, err := s.chooseOwn(t.Context(), absentImage{})
	require.NoError(t, err)
	require.Equal(t, backing.SourceNative, source)
	require.Contains(t, strings.Join(said, "\n"), "passing over the Docker engine")

	s.mode = backing.ModeDocker
	_, err = s.chooseOwn(t.Context(), absentImage{})
	require.ErrorContains(t, err, "BACKING=docker")
	require.ErrorContains(t, err, "127.0.0.1:1/absent:1")
}

func TestTheEnvironmentComesFirst(t *testing.T) {
	running, err := startNATS(NATSConfig{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() {
		running.Shutdown()
		running.WaitForShutdown()
	})
	url := running.ClientURL()
	t.Setenv("NATS_URL", url)
	for _, mode := range []string{"", "external"} {
		t.Setenv("BACKING", mode)
		services, err := Start(t.Context(), Options{Services: []backing.Name{backing.ServiceNATS}, Scratch: scratchFolder(t)})
		require.NoError(t, err)
		require.Equal(t, url, services.NATSURL)
		p := services.Process(backing.ServiceNATS)
		require.Equal(t, backing.SourceEnv, p.Source())
		require.ErrorIs(t, p.Kill(t.Context()), backing.ErrExternal)
		require.NoError(t, services.Stop(t.Context()))
		require.NoError(t, natsKind{}.probe(t.Context(), address{URL: url}), "what is not ours is left running")
	}
}

func TestOurOwnAddressInTheEnvironmentIsOurs(t *testing.T) {
	// After "source .local/stack.env", make up still restarts what has died.
	dir := persistentDir(t)
	options := Options{Services: []backing.Name{backing.ServiceNATS}, Mode: backing.ModeNative, Dir: dir}
	services, err := Start(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(t.Context()), dir)) })
	require.NoError(t, services.Process(backing.ServiceNATS).Kill(t.Context()))

	t.Setenv("NATS_URL", services.NATSURL)
	t.Setenv("BACKING", "")
	options.Mode = backing.ModeAuto
	services, err = Start(t.Context(), options)
	require.NoError(t, err)
	require.Equal(t, backing.SourceNative, services.Process(backing.ServiceNATS).Source())
}

func TestAServerWhosePortIsTakenMoves(t *testing.T) {
	eachOwnMode(t, func(t *testing.T, mode backing.Mode) {
		t.Helper()
		dir := persistentDir(t)
		options := Options{Services: []backing.Name{backing.ServiceNATS}, Mode: mode, Dir: dir}
		services, err := Start(t.Context(), options)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(t.Context()), dir)) })
		content.Put(t, services.NATSURL, content.Name)
		address, err := url.Parse(services.NATSURL)
		require.NoError(t, err)
		require.NoError(t, services.Process(backing.ServiceNATS).Kill(t.Context()))
		var config net.ListenConfig
		listener, err := config.Listen(t.Context(), "tcp", address.Host)
		require.NoError(t, err)
		defer func() { require.NoError(t, listener.Close()) }()

		services, err = Start(t.Context(), options)
		require.NoError(t, err)
		require.NotContains(t, services.NATSURL, address.Host)
		_, err = content.JetStream(t, services.NATSURL).KeyValue(t.Context(), content.Name)
		require.NoError(t, err, "its data goes with it")
	})
}

// unlucky is a server whose first choice of ports somebody else takes before it listens.
type unlucky struct {
	kind
	taken int
}

func (u *unlucky) newRecord(ctx context.Context, source backing.Source) (record, error) {
	rec, err := u.kind.newRecord(ctx, source)
	if u.taken != 0 {
		rec.Port, u.taken = u.taken, 0
	}
	return rec, err
}

func TestAPortTakenBeforeTheServerListensIsGivenUp(t *testing.T) {
	eachOwnMode(t, func(t *testing.T, mode backing.Mode) {
		t.Helper()
		dir := persistentDir(t)
		t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(t.Context()), dir)) })
		for _, k := range kinds() {
			if testing.Short() && k.name() != backing.ServiceNATS {
				continue // NOT RUN with -short, by make test-long alone: the others take seconds to start, twice
			}
			t.Run(string(k.name()), func(t *testing.T) {
				t.Parallel()
				var config net.ListenConfig
				listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
				require.NoError(t, err)
				defer func() { require.NoError(t, listener.Close()) }()
				address, ok := listener.Addr().(*net.TCPAddr)
				require.True(t, ok)
				s, err := newStarter(Options{Dir: dir, Mode: mode, Log: func(line string) { t.Log(line) }})
				require.NoError(t, err)
				started, err := s.launch(t.Context(), choice{kind: &unlucky{kind: k, taken: address.Port}, source: backing.Source(mode)})
				require.NoError(t, err)
				require.NoError(t, k.probe(t.Context(), started.address))
				require.NotContains(t, started.address.URL, address.String())
			})
		}
	})
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	for name, test := range map[string]struct {
		env     map[string]string
		service backing.Name
		want    string
	}{
		"unknown mode":        {map[string]string{"BACKING": "podman"}, backing.ServiceNATS, "BACKING=podman: want external, docker or native"},
		"external, no URL":    {map[string]string{"BACKING": "external", "RABBITMQ_URL": ""}, backing.ServiceRabbitMQ, "RABBITMQ_URL is not set"},
		"PostgreSQL, nobody":  {map[string]string{"DATABASE_URL": "postgres://u:secret@127.0.0.1:1/d"}, backing.ServicePostgres, "DATABASE_URL is set"},
		"RabbitMQ, nobody":    {map[string]string{"RABBITMQ_URL": "amqp://u:secret@127.0.0.1:1/"}, backing.ServiceRabbitMQ, "RABBITMQ_URL is set"},
		"NATS, nobody":        {map[string]string{"NATS_URL": "nats://u:secret@127.0.0.1:1"}, backing.ServiceNATS, "NATS_URL is set"},
		"no URL of anything":  {map[string]string{"RABBITMQ_URL": "127.0.0.1:5672"}, backing.ServiceRabbitMQ, "RABBITMQ_URL is set"},
		"a folder is missing": {map[string]string{"BACKING": "native"}, backing.ServiceNATS, "servers need a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("BACKING", "")
			for variable, value := range test.env {
				t.Setenv(variable, value)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // a service there may be on its way up
			defer cancel()
			options := Options{Services: []backing.Name{test.service}}
			if test.env["BACKING"] != "native" {
				options.Scratch = &Scratch{} // nothing is started
			}
			_, err := Start(ctx, options)
			require.ErrorContains(t, err, test.want)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestTwoStartersOfOneFolderDoNotCollide(t *testing.T) {
	dir := persistentDir(t)
	t.Cleanup(func() { require.NoError(t, Reset(context.WithoutCancel(t.Context()), dir)) })
	var group sync.WaitGroup
	pids := make([]int, 4)
	failures := make([]error, len(pids))
	for i := range pids {
		group.Go(func() {
			services, err := Start(t.Context(), Options{
				Services: []backing.Name{backing.ServiceNATS}, Mode: backing.ModeNative, Dir: dir,
			})
			if failures[i] = err; err == nil {
				pids[i] = services.Process(backing.ServiceNATS).PID()
			}
		})
	}
	group.Wait()
	require.NoError(t, errors.Join(failures...))
	for _, pid := range pids {
		require.NotZero(t, pid)
		require.Equal(t, pids[0], pid)
	}
}

func TestRabbitMQIsFoundByItsURLAlone(t *testing.T) {
	for name, test := range map[string]struct{ env, want map[string]string }{
		"the default port": {
			env:  map[string]string{"RABBITMQ_URL": "amqp://u:p@host:5673/v"},
			want: map[string]string{"management": "http://u:p@host:15672"},
		},
		"an address without login": {
			env:  map[string]string{"RABBITMQ_URL": "amqp://u:p@host/", "RABBITMQ_MANAGEMENT_URL": "https://other:1/x"},
			want: map[string]string{"management": "https://u:p@other:1/x"},
		},
		"an address with login": {
			env:  map[string]string{"RABBITMQ_URL": "amqp://u:p@host/", "RABBITMQ_MANAGEMENT_URL": "http://a:b@other:1"},
			want: map[string]string{"management": "http://a:b@other:1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := rabbitKind{}.fromEnv(func(variable string) string { return test.env[variable] })
			require.Equal(t, test.want["management"], addr.ManagementURL)
		})
	}
}

// Strict clients take a path of "/" for the virtual host without a name, which nobody has.
func TestTheURLOfRabbitMQNamesTheDefaultVirtualHost(t *testing.T) {
	addr := rabbitKind{}.address(record{Password: "secret", Port: 5673})
	require.Equal(t, "amqp://"+rabbitUser+":secret@127.0.0.1:5673", addr.URL)
}

func TestTheNewestPostgreSQLIsTaken(t *testing.T) {
	require.Equal(t, "/usr/lib/postgresql/17/bin", newest([]string{
		"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/17/bin", "/usr/lib/postgresql/15/bin",
	}))
}

func TestAPolicyThatForbidsStartsIsPutBack(t *testing.T) {
	for name, before := range map[string]string{"none": "", "one of the machine": "#!/bin/sh\nexit 0\n"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy-rc.d")
			if before != "" {
				require.NoError(t, os.WriteFile(path, []byte(before), 0o755))
			}
			// The first one is killed before it can put anything back.
			_, err := forbidStarts(path)
			require.NoError(t, err)
			restore, err := forbidStarts(path)
			require.NoError(t, err)
			command := exec.CommandContext(t.Context(), path, "postgresql", "start")
			var exit *exec.ExitError
			require.ErrorAs(t, command.Run(), &exit)
			require.Equal(t, 101, exit.ExitCode())
			require.NoError(t, restore())
			if before == "" {
				require.NoFileExists(t, path)
				return
			}
			body, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, before, string(body))
		})
	}
}
