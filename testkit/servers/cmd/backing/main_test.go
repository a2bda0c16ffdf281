package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/urfave/cli/v3"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/build"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/servers"
)

// TestMain makes the test binary the program, which starts itself again: see [servers.Commands].
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.ContainsFunc(servers.Commands(), func(c *cli.Command) bool { return c.Name == os.Args[1] }) {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// invoke runs the command line and returns what it prints, and the status it would end with.
func invoke(t *testing.T, arguments ...string) (output string, status int, err error) {
	t.Helper()
	var printed bytes.Buffer
	root := command()
	root.Writer = &printed
	err = root.Run(t.Context(), append([]string{"backing"}, arguments...))
	if ended, ok := errors.AsType[*exitError](err); ok {
		return printed.String(), ended.status, nil
	}
	return printed.String(), 0, err
}

func TestACommandRunsWithServersAndItsStatusIsOurs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	_, status, err := invoke(t, "run", "--", "sh", "-c", `test -d "$`+backing.RunEnv+`" || exit 1; env > `+file+"; exit 7")
	require.NoError(t, err)
	require.Equal(t, 7, status)
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, variable := range []string{"DATABASE_URL", "RABBITMQ_URL", "RABBITMQ_MANAGEMENT_URL", "NATS_URL", backing.RunEnv} {
		require.Contains(t, string(body), "\n"+variable+"=")
	}
	_, shared, _ := strings.Cut(string(body), "\n"+backing.RunEnv+"=")
	shared, _, _ = strings.Cut(shared, "\n")
	require.NoDirExists(t, shared, "it goes with the run")
}

func TestTheEndOfACommandIsToldAsAShellDoes(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 128 + int(syscall.SIGTERM)} {
		t.Run(script, func(t *testing.T) {
			status, err := runWith(t.Context(), nil, []string{"sh", "-c", script}, nil)
			require.NoError(t, err)
			require.Equal(t, want, status)
		})
	}
	_, err := runWith(t.Context(), nil, []string{"/no/such/command"}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestSignalsArePassedOn(t *testing.T) {
	// Ctrl-C in make test: go test ends its tests, and the servers go after it.
	ready := filepath.Join(t.TempDir(), "ready")
	require.NoError(t, syscall.Mkfifo(ready, 0o600))
	told := make(chan struct{})
	go func() {
		defer close(told)
		body, err := os.ReadFile(ready) // until the command has set its trap
		if err == nil && strings.HasPrefix(string(body), "ready") {
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		}
	}()
	script := "trap 'exit 5' TERM; echo ready > " + ready + "; while :; do sleep 0.05; done"
	status, err := runWith(t.Context(), nil, []string{"sh", "-c", script}, nil)
	<-told
	require.NoError(t, err)
	require.Equal(t, 5, status)
}

func TestServersOfAFolderComeAndGo(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it starts all servers")
	}
	t.Setenv("BACKING", "native")
	dir := filepath.Join(t.TempDir(), "local")
	t.Cleanup(func() {
		_, _, err := invoke(t, "reset", "--dir", dir)
		require.NoError(t, err)
	})
	output, _, err := invoke(t, "status", "--dir", dir)
	require.NoError(t, err)
	require.Empty(t, output)
	output, _, err = invoke(t, "up", "--dir", dir)
	require.NoError(t, err)
	require.Contains(t, output, "DATABASE_URL=postgres://")
	output, _, err = invoke(t, "status", "--dir", dir)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(output, "running"), output)
	_, _, err = invoke(t, "down", "--dir", dir)
	require.NoError(t, err)
	output, _, err = invoke(t, "status", "--dir", dir)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(output, "stopped"), output)
}

func TestVersion(t *testing.T) {
	output, _, err := invoke(t, "--version")
	require.NoError(t, err)
	require.Equal(t, "backing version "+build.Read().String()+"\n", output)
}

func TestRunNeedsACommand(t *testing.T) {
	_, _, err := invoke(t, "run")
	require.ErrorContains(t, err, "COMMAND")
}
