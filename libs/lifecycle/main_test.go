package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// newProcess returns a process whose signals come from the channel and whose exit is recorded.
func newProcess() (p process, signals chan<- os.Signal, stderr *bytes.Buffer, exits <-chan int) {
	in, out, buf := make(chan os.Signal, 2), make(chan int, 1), &bytes.Buffer{}
	p = process{args: []string{"prog", "serve"}, stderr: buf, signals: in, exit: func(code int) { out <- code }}
	return p, in, buf, out
}

func TestMainPassesTheArgumentsAndReturnsZero(t *testing.T) {
	p, _, stderr, _ := newProcess()
	var got []string

	code := p.main(func(_ context.Context, args []string) error { got = args; return nil })

	require.Zero(t, code)
	require.Equal(t, []string{"prog", "serve"}, got)
	require.Empty(t, stderr.String())
}

func TestMainPrintsTheErrorAndReturnsOne(t *testing.T) {
	p, _, stderr, _ := newProcess()

	code := p.main(func(context.Context, []string) error { return errors.New("no key") })

	require.Equal(t, 1, code)
	require.Equal(t, "no key\n", stderr.String())
}

func TestFirstSignalEndsTheContext(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		p, signals, _, exits := newProcess()
		signals <- signal
		var cause error

		code := p.main(func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			cause = context.Cause(ctx)
			return nil
		})

		require.Zero(t, code, "a graceful stop is no failure")
		require.EqualError(t, cause, "signal: "+signal.String())
		require.Empty(t, exits)
	}
}

// A person who presses Ctrl-C twice does not want to wait for thirty seconds.
func TestSecondSignalExitsAtOnce(t *testing.T) {
	p, signals, stderr, exits := newProcess()
	release := make(chan struct{})
	done := make(chan int, 1)
	go func() {
		done <- p.main(func(ctx context.Context, _ []string) error {
			<-ctx.Done()
			<-release // does not stop without being killed
			return nil
		})
	}()

	signals <- syscall.SIGTERM
	signals <- syscall.SIGTERM

	require.Equal(t, 1, <-exits)
	close(release)
	<-done
	require.Contains(t, stderr.String(), "second signal")
}

// helperVariable makes this test binary behave like a service; its value says how that one stops.
const helperVariable = "LIFECYCLE_TEST_HELPER"

func TestHelperProcess(t *testing.T) {
	how := os.Getenv(helperVariable)
	if how == "" {
		return // not the child: there is nothing to test here
	}
	Main(func(ctx context.Context, _ []string) error {
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("stopping:", context.Cause(ctx))
		switch how {
		case "hangs":
			<-t.Context().Done() // never
		case "fails":
			return errors.New("could not flush")
		}
		return nil
	})
}

// What a supervisor sees: the status, after real signals to a real process.
func TestSignalsToARealProcess(t *testing.T) {
	tests := map[string]struct {
		how     string
		signals []os.Signal
		code    int
		stderr  string
	}{
		"SIGTERM":          {"stops", []os.Signal{syscall.SIGTERM}, 0, ""},
		"SIGHUP":           {"stops", []os.Signal{syscall.SIGHUP}, 0, ""},
		"SIGINT":           {"stops", []os.Signal{syscall.SIGINT}, 0, ""},
		"failure to stop":  {"fails", []os.Signal{syscall.SIGTERM}, 1, "could not flush\n"},
		"twice":            {"hangs", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}, 1, "second signal"},
		"one of each kind": {"hangs", []os.Signal{syscall.SIGTERM, syscall.SIGINT}, 1, "second signal"},
	}
	// A child does not inherit what is taken here: it would a SIGHUP that is ignored, as under nohup.
	taken := make(chan os.Signal, 1)
	signal.Notify(taken, syscall.SIGHUP)
	defer signal.Stop(taken)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcess$")
			cmd.Env = append(os.Environ(), helperVariable+"="+tt.how)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			lines := bufio.NewScanner(stdout)

			for i, signal := range tt.signals {
				require.True(t, lines.Scan())
				require.Equal(t, []string{"ready", "stopping"}[i], strings.Split(lines.Text(), ":")[0])
				require.NoError(t, cmd.Process.Signal(signal))
			}
			for lines.Scan() { // Wait closes the pipe
			}
			err = cmd.Wait()

			require.Equal(t, tt.code, cmd.ProcessState.ExitCode(), "%v %s", err, stderr.String())
			require.Contains(t, stderr.String(), tt.stderr)
		})
	}
}

// Standard error may be a pipe that nobody reads: the end of a process must not wait for it.
func TestTheEndDoesNotWaitForStandardError(t *testing.T) {
	p, _, _, _ := newProcess()
	reader, writer := io.Pipe()
	p.stderr = writer

	require.Equal(t, 1, p.main(func(context.Context, []string) error { return errors.New("no key") }))
	require.NoError(t, reader.Close()) // lets the goroutine end
}
