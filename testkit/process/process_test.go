package process_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a shell script as a process that is killed at the end of the test, and returns when it has printed "up".
func start(t *testing.T, dir, name, script string) *process.Process {
	t.Helper()
	p, err := process.Start(dir, process.Spec{
		Name: name, Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ(), StopTimeout: time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Kill(context.WithoutCancel(t.Context()))) })
	require.Eventually(t, func() bool {
		body, err := os.ReadFile(process.LogFile(dir, name))
		return err == nil && strings.Contains(string(body), "up")
	}, 10*time.Second, 5*time.Millisecond)
	return p
}

func TestAProcessIsFoundAgainAndStopped(t *testing.T) {
	dir := t.TempDir()
	started := start(t, dir, "server", "echo up; while :; do sleep 1; done")

	pid, err := os.ReadFile(process.PIDFile(dir, "server"))
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(started.PID())+"\n", string(pid), "scripts read the pid file")

	found, err := process.Find(dir, "server")
	require.NoError(t, err)
	require.Equal(t, started.PID(), found.PID())
	_, err = process.Start(dir, process.Spec{Name: "server", Path: "/bin/true"})
	require.ErrorIs(t, err, process.ErrRunning, "a second one would fight over the same data")

	require.NoError(t, started.Stop(t.Context()))
	require.False(t, started.Alive())
	status, known := started.Status()
	require.True(t, known)
	require.Equal(t, syscall.SIGTERM, status.Signal())
	_, err = process.Find(dir, "server")
	require.ErrorIs(t, err, process.ErrNotRunning)
	require.NoFileExists(t, process.PIDFile(dir, "server"))
}

func TestARecycledPIDIsNeitherTakenNorKilled(t *testing.T) {
	// The record of a server that has died, whose pid now belongs to somebody else.
	dir := t.TempDir()
	p := start(t, dir, "server", "echo up; while :; do sleep 1; done")
	stranger := os.Getpid()

	file := filepath.Join(dir, "run", "server.json")
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, p.Kill(t.Context()))
	var record map[string]any
	require.NoError(t, json.Unmarshal(body, &record))
	record["pid"] = stranger
	body, err = json.Marshal(record)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, body, 0o600))

	_, err = process.Find(dir, "server")
	require.ErrorIs(t, err, process.ErrNotRunning)
}

func TestStoppingEndsEvenWhatDoesNotListen(t *testing.T) {
	for name, prepare := range map[string]struct {
		script string
		signal syscall.Signal
		ended  syscall.Signal
	}{
		"deaf to SIGTERM": {script: "trap '' TERM; echo up; while :; do sleep 1; done", ended: syscall.SIGKILL},
		"paused":          {script: "echo up; while :; do sleep 1; done", signal: syscall.SIGSTOP, ended: syscall.SIGTERM},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, t.TempDir(), "server", prepare.script)
			if prepare.signal != 0 {
				require.NoError(t, p.SignalTree(prepare.signal))
			}
			require.NoError(t, p.Stop(t.Context()))
			status, known := p.Status()
			require.True(t, known)
			require.Equal(t, prepare.ended, status.Signal())
			require.ErrorIs(t, p.Signal(syscall.SIGTERM), process.ErrNotRunning)
		})
	}
}

func TestKillTakesTheChildrenAlong(t *testing.T) {
	// PostgreSQL cannot be started again while processes of the one before are left.
	dir := t.TempDir()
	p := start(t, dir, "server", "sleep 60 & echo $! > "+dir+"/child; echo up; wait")
	body, err := os.ReadFile(filepath.Join(dir, "child"))
	require.NoError(t, err)
	child, err := strconv.Atoi(strings.TrimSpace(string(body)))
	require.NoError(t, err)
	require.False(t, process.Ended(child))

	require.NoError(t, p.Kill(t.Context()))
	require.True(t, process.Ended(child))
}

func TestStartTellsWhatIsWrong(t *testing.T) {
	_, err := process.Start(t.TempDir(), process.Spec{Name: "server", Path: "/no/such/program"})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "server")
}

func TestAllAreTheLivingOnes(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, "one", "echo up; while :; do sleep 1; done")
	gone := start(t, dir, "two", "echo up")
	require.NoError(t, gone.Wait(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run", "three.json"), []byte("{"), 0o600), "cut short by a crash")

	all, err := process.All(dir)
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "one", all[0].Name())
}
