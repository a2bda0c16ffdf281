package signals

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// wait is the limit of every wait; none takes nearly as long.
const wait = 60 * time.Second

// binaries is the folder of the services.
var binaries string //nolint:gochecknoglobals // they take a minute to build, and belong to the process

func TestMain(m *testing.M) {
	var err error
	if binaries, err = stack.Binaries(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// service is a running process.
type service struct {
	*exec.Cmd
	url, ops  string
	transport *http.Transport
	done      chan struct{} // closed when it has ended
}

// some are the services that a test is about: one of them with -short, since all have their log and their end from the same code.
func some(short bool) []string {
	if short {
		return []string{stack.QueryService}
	}
	return stack.Names()
}

// start runs a binary whose standard output and standard error are the file given, as "service 2>&1 | reader" does.
func start(t *testing.T, path string, log *os.File) *service {
	t.Helper()
	ports, err := port.Free(t.Context(), 2)
	require.NoError(t, err)
	s := &service{
		Cmd: exec.CommandContext(t.Context(), path), done: make(chan struct{}),
		url: "http://127.0.0.1:" + strconv.Itoa(ports[0]), ops: "http://127.0.0.1:" + strconv.Itoa(ports[1]),
		transport: &http.Transport{},
	}
	s.Dir = t.TempDir()
	s.Env = []string{
		"HTTP_ADDR=" + strings.TrimPrefix(s.url, "http://"), "OPS_ADDR=" + strings.TrimPrefix(s.ops, "http://"),
		"DATABASE_URL=postgres://nobody@127.0.0.1:1/none", "RABBITMQ_URL=amqp://nobody:none@127.0.0.1:1", "NATS_URL=nats://127.0.0.1:1",
		"AUTH_SECRET=a secret of thirty-two bytes, at least", "LOG_LEVEL=info",
	}
	s.Stdout, s.Stderr = log, log
	require.NoError(t, s.Start())
	go func() {
		defer close(s.done)
		_ = s.Wait() // its status is looked at
	}()
	t.Cleanup(func() {
		s.transport.CloseIdleConnections()
		_ = s.Process.Kill() // unless it has ended
		<-s.done
	})
	require.Eventually(t, func() bool {
		status, err := s.get(t.Context(), s.url+"/nothing")
		return err == nil && status == http.StatusNotFound
	}, wait, 10*time.Millisecond)
	return s
}

func (s *service) get(ctx context.Context, url string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	got, err := raw.Do(ctx, s.transport, raw.Request{URL: url})
	return got.Status, err
}

// serves requires that so many requests, each of which is a line of the log, are answered.
func (s *service) serves(t *testing.T, requests int) {
	t.Helper()
	for range requests {
		status, err := s.get(t.Context(), s.url+"/nothing/"+strings.Repeat("x", 100))
		require.NoError(t, err)
		require.Equal(t, http.StatusNotFound, status)
	}
	status, err := s.get(t.Context(), s.ops+"/healthz")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
}

// ends requires that the process ends with a status.
func (s *service) ends(t *testing.T, status int) {
	t.Helper()
	select {
	case <-s.done:
		require.Equal(t, status, s.ProcessState.ExitCode(), s.ProcessState.String())
	case <-time.After(wait):
		require.Fail(t, "it does not end")
	}
}

func (s *service) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	require.NoError(t, s.Process.Signal(sig))
}

func pipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = reader.Close()
		_ = writer.Close()
	})
	return reader, writer
}

// The collector of logs is restarted, or a person who typed "| less" has seen enough: the service continues.
func TestAClosedLogPipe(t *testing.T) {
	for _, name := range some(testing.Short()) {
		path := filepath.Join(binaries, name)
		t.Run(name, func(t *testing.T) {
			reader, writer := pipe(t)
			s := start(t, path, writer)
			require.NoError(t, writer.Close())
			_, err := bufio.NewReader(reader).ReadString('\n')
			require.NoError(t, err)
			require.NoError(t, reader.Close())
			s.serves(t, 100)
			s.signal(t, syscall.SIGPIPE) // from elsewhere it means as little
			s.serves(t, 10)
			s.signal(t, syscall.SIGTERM)
			s.ends(t, 0)
		})
	}
}

// A collector that hangs lets the pipe fill up. Requests are answered all the same, and a reader that comes back is told how many lines
// there were.
func TestAFullLogPipe(t *testing.T) {
	for _, name := range some(testing.Short()) {
		path := filepath.Join(binaries, name)
		t.Run(name, func(t *testing.T) {
			reader, writer := pipe(t)
			s := start(t, path, writer)
			require.NoError(t, writer.Close())
			s.serves(t, 2000) // of more than 100 bytes each; a pipe holds 64 KiB

			lines := make(chan string)
			go func() {
				defer close(lines)
				for scanner := bufio.NewScanner(reader); scanner.Scan(); {
					select {
					case lines <- scanner.Text():
					case <-t.Context().Done():
						return
					}
				}
			}()
			told := false
			require.Eventually(t, func() bool {
				s.serves(t, 1)
				for {
					select {
					case line := <-lines:
						told = told || strings.Contains(line, "log lines were dropped")
						continue
					case <-time.After(10 * time.Millisecond):
					}
					return told
				}
			}, wait, time.Millisecond)
			s.signal(t, syscall.SIGTERM)
			for range lines { // until it has ended
			}
			s.ends(t, 0)
		})
	}
}

// Nobody reads, and the process is to stop: it does.
func TestStopWithAFullLogPipe(t *testing.T) {
	for _, name := range some(testing.Short()) {
		path := filepath.Join(binaries, name)
		t.Run(name, func(t *testing.T) {
			_, writer := pipe(t)
			s := start(t, path, writer)
			s.serves(t, 2000)
			s.signal(t, syscall.SIGTERM)
			s.ends(t, 0)
		})
	}
}

// A terminal that is closed sends SIGHUP: the service ends in order, unless it was started with nohup.
func TestHangup(t *testing.T) {
	for _, name := range some(testing.Short()) {
		path := filepath.Join(binaries, name)
		t.Run(name, func(t *testing.T) {
			log, err := os.Create(filepath.Join(t.TempDir(), "log"))
			require.NoError(t, err)
			defer func() { require.NoError(t, log.Close()) }()

			taken := make(chan os.Signal, 1) // a child inherits what is ignored and not what is taken
			signal.Notify(taken, syscall.SIGHUP)
			s := start(t, path, log)
			s.signal(t, syscall.SIGHUP)
			s.ends(t, 0)
			signal.Stop(taken)
			text, err := os.ReadFile(log.Name())
			require.NoError(t, err)
			require.Contains(t, string(text), "signal: hangup")

			signal.Ignore(syscall.SIGHUP)
			defer signal.Reset(syscall.SIGHUP)
			s = start(t, path, log)
			s.signal(t, syscall.SIGHUP)
			s.serves(t, 10)
			s.signal(t, syscall.SIGTERM)
			s.ends(t, 0)
		})
	}
}

// SIGQUIT is for a person who wants to know what a process that hangs is doing.
func TestQuitDumpsGoroutines(t *testing.T) {
	for _, name := range some(testing.Short()) {
		path := filepath.Join(binaries, name)
		t.Run(name, func(t *testing.T) {
			log, err := os.Create(filepath.Join(t.TempDir(), "log"))
			require.NoError(t, err)
			defer func() { require.NoError(t, log.Close()) }()
			s := start(t, path, log)
			s.signal(t, syscall.SIGQUIT)
			s.ends(t, 2)
			text, err := os.ReadFile(log.Name())
			require.NoError(t, err)
			require.Contains(t, string(text), "SIGQUIT: quit")
			require.Contains(t, string(text), fmt.Sprintf("goroutine %d ", 1))
		})
	}
}
