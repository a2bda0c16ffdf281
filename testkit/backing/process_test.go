package backing

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/content"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

func TestOwnServersAreNeverThoseOfTheEnvironment(t *testing.T) {
	// A chaos run kills its servers: never those that somebody has named for something else.
	t.Setenv("NATS_URL", "nats://somebody.else.example:4222")
	t.Setenv("BACKING", "external")
	_, err := StartOwn(t.Context(), Options{Services: []Name{ServiceNATS}})
	require.ErrorIs(t, err, ErrExternal)
	require.ErrorContains(t, err, "docker or native")

	eachOwnMode(t, func(t *testing.T, mode Mode) {
		t.Helper()
		services, err := StartOwn(t.Context(), Options{Services: []Name{ServiceNATS}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, services.Stop(context.WithoutCancel(t.Context()))) })
		require.Equal(t, Source(mode), services.Process(ServiceNATS).Source())
	})
}

func TestAWipedServerStartsWithNothing(t *testing.T) {
	eachOwnMode(t, func(t *testing.T, _ Mode) {
		t.Helper()
		services := Dedicated(t, ServicePostgres, ServiceNATS)
		content.Execute(t, services.DatabaseURL, "CREATE TABLE keep AS SELECT 'kept'::text AS value")
		content.Put(t, services.NATSURL, content.Name)
		before := *services
		for _, name := range []Name{ServicePostgres, ServiceNATS} {
			p := services.Process(name)
			require.NoError(t, p.Wipe(t.Context()))
			running, err := p.Running(t.Context())
			require.NoError(t, err)
			require.False(t, running)
			require.NoError(t, p.Start(t.Context()))
		}
		require.Equal(t, before, *services, "addresses and logins stay")
		require.False(t, content.Query[bool](t, services.DatabaseURL, "SELECT to_regclass('keep') IS NOT NULL"))

		_, err := content.JetStream(t, services.NATSURL).KeyValue(t.Context(), content.Name)
		require.ErrorIs(t, err, jetstream.ErrBucketNotFound)
	})
	require.ErrorIs(t, (&Process{source: SourceEnv}).Wipe(t.Context()), ErrExternal)
}

func TestAPausedServerIsStillOnOpenConnections(t *testing.T) {
	// What a frozen machine looks like: connections stay, nobody answers, and afterwards they continue.
	eachOwnMode(t, func(t *testing.T, _ Mode) {
		t.Helper()
		p := Dedicated(t, ServicePostgres).Process(ServicePostgres)
		idle, err := pgx.Connect(t.Context(), p.URL())
		require.NoError(t, err)
		defer func() { _ = idle.Close(context.WithoutCancel(t.Context())) }() // its server has been killed
		for range 5 {
			require.NoError(t, p.Pause(t.Context()))
			answered := make(chan error, 1)
			go func() {
				_, err := idle.Exec(t.Context(), "SELECT 1")
				answered <- err
			}()
			select {
			case err := <-answered:
				require.Fail(t, "a paused server has answered", "%v", err)
			case <-time.After(100 * time.Millisecond):
			}
			running, err := p.Running(t.Context())
			require.NoError(t, err)
			require.True(t, running)
			require.NoError(t, p.Resume(t.Context()))
			require.NoError(t, <-answered)
		}
		require.NoError(t, p.Pause(t.Context()))
		require.NoError(t, p.Kill(t.Context()), "a paused server can be killed")
		require.NoError(t, p.Start(t.Context()))
		require.Equal(t, 1, content.Query[int](t, p.URL(), "SELECT 1"))
	})
}

func TestServersAreKilledPausedAndStartedAgain(t *testing.T) {
	// Chaos tests rely on it: a kill is a crash, data outlives it, and the addresses stay.
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts each server twice")
	}
	eachOwnMode(t, func(t *testing.T, mode Mode) {
		t.Helper()
		services := Dedicated(t)
		content.Keep(t, services.DatabaseURL, services.RabbitMQURL, services.NATSURL)
		before := *services
		for _, name := range Names() {
			p := services.Process(name)
			require.Equal(t, Source(mode), p.Source())

			require.NoError(t, p.Kill(t.Context()))
			running, err := p.Running(t.Context())
			require.NoError(t, err)
			require.False(t, running)
			require.Error(t, answers(t, p))
			require.NoError(t, p.Kill(t.Context()), "killing it twice")
			require.NoError(t, p.Start(t.Context()))
			require.NoError(t, p.Start(t.Context()), "starting it twice")

			require.NoError(t, p.Pause(t.Context()))
			require.Error(t, answers(t, p))
			require.NoError(t, p.Resume(t.Context()))
			require.Eventually(t, func() bool { return answers(t, p) == nil },
				30*time.Second, 50*time.Millisecond)
		}
		content.Kept(t, services.DatabaseURL, services.RabbitMQURL, services.NATSURL)
		require.Equal(t, before, *services)

		p := services.Process(ServicePostgres)
		require.NoError(t, p.Stop(t.Context()))
		require.NoError(t, p.Start(t.Context()))
		content.Kept(t, services.DatabaseURL, services.RabbitMQURL, services.NATSURL)
	})
}

// answers is nil if the server can be used.
func answers(t *testing.T, p *Process) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	switch p.Name() {
	case ServicePostgres:
		connection, err := pgx.Connect(ctx, p.URL())
		if err != nil {
			return err
		}
		return errors.Join(connection.Ping(ctx), connection.Close(ctx))
	case ServiceRabbitMQ:
		connection, err := amqp.DialConfig(p.URL(), amqp.Config{Dial: amqp.DefaultDial(3 * time.Second)})
		if err != nil {
			return err
		}
		return connection.Close()
	default:
		connection, err := nats.Connect(p.URL(), nats.Timeout(3*time.Second), nats.NoReconnect())
		if err != nil {
			return err
		}
		defer connection.Close()
		return connection.FlushTimeout(3 * time.Second)
	}
}

// eachOwnMode runs a test with servers of this machine, and with Docker where an engine has the images. A machine that can
// have one of them only is as good a place to develop on.
func eachOwnMode(t *testing.T, test func(t *testing.T, mode Mode)) {
	t.Helper()
	noEngine := unavailable(t, ModeDocker)
	for _, mode := range []Mode{ModeNative, ModeDocker} {
		t.Run(string(mode), func(t *testing.T) {
			switch {
			case mode == ModeDocker && noEngine != nil:
				t.Skipf("Docker is not tested here: %v", noEngine)
			case mode == ModeNative && noEngine == nil:
				if err := unavailable(t, ModeNative); err != nil {
					t.Skipf("native servers are not tested here: %v", err)
				}
			}
			t.Setenv("BACKING", string(mode))
			test(t, mode)
		})
	}
}

// unavailable is why PostgreSQL cannot be had that way, or nil.
func unavailable(t *testing.T, mode Mode) error {
	t.Helper()
	services, err := StartOwn(t.Context(), Options{Services: []Name{ServicePostgres}, Mode: mode})
	if err != nil {
		return err
	}
	return services.Stop(t.Context())
}

func TestServersEndWithATestThatIsKilled(t *testing.T) {
	// A second process of tests starts PostgreSQL and a program of its own, prints where, and hangs.
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHangsForAnother$", "-test.v")
	command.Env = append(os.Environ(), "MTM_BACKING_HANG=1", RunEnv+"=")
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	found := ""
	for lines := bufio.NewScanner(output); found == "" && lines.Scan(); {
		_, found, _ = strings.Cut(lines.Text(), "hanging with ")
	}
	require.NoError(t, command.Process.Kill())
	_ = command.Wait() // says that it was killed
	words := strings.Fields(found)
	require.Len(t, words, 3)
	url, dir := words[0], words[1]
	pid, err := strconv.Atoi(words[2])
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist) && process.Ended(pid)
	}, time.Minute, 50*time.Millisecond)
	require.Error(t, answers(t, &Process{name: ServicePostgres, url: url}))
}

// TestHangsForAnother is what the second process does.
func TestHangsForAnother(t *testing.T) {
	if os.Getenv("MTM_BACKING_HANG") == "" {
		t.Skip("only for TestServersEndWithATestThatIsKilled")
	}
	services, err := StartOwn(t.Context(), Options{Services: []Name{ServicePostgres}})
	require.NoError(t, err)
	scratch, err := NewScratch(t.Context())
	require.NoError(t, err)
	sleeping, err := process.Start(scratch.Dir, process.Spec{Name: "sleep", Path: "/bin/sleep", Args: []string{"600"}})
	require.NoError(t, err)
	t.Log("hanging with", services.DatabaseURL, scratch.Dir, sleeping.PID())
	<-t.Context().Done()
}

// The program that starts servers may have been started in another environment: by "backing run", or by an earlier test.
func TestTheEnvironmentIsThatOfTheTest(t *testing.T) {
	url := NATS(t)
	options := Options{Services: []Name{ServiceNATS}}
	t.Setenv("BACKING", "external")
	t.Setenv("NATS_URL", url)
	services, err := Start(t.Context(), options)
	require.NoError(t, err)
	require.Equal(t, url, services.NATSURL)
	require.ErrorIs(t, services.Process(ServiceNATS).Kill(t.Context()), ErrExternal)
	require.NoError(t, services.Stop(t.Context()))
	t.Setenv("NATS_URL", "")
	_, err = Start(t.Context(), options)
	require.ErrorContains(t, err, "NATS_URL is not set")
}
