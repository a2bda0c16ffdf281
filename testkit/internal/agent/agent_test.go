package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs an agent until the test ends and returns its socket.
func serve(t *testing.T, handle Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), SocketFile)
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, handle) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return socket
}

func TestARequestIsAnswered(t *testing.T) {
	socket := serve(t, func(_ context.Context, request Request, progress func(string)) (Reply, func(context.Context) error, error) {
		progress("first")
		progress("second")
		if request.Do == Kill {
			return Reply{Output: "half"}, nil, errors.New("it cannot be killed")
		}
		return Reply{URL: request.Server}, nil, nil
	})
	reply, err := Call(t.Context(), socket, Request{Do: Start, Server: "nats"})
	require.NoError(t, err)
	require.Equal(t, "nats", reply.URL)

	var lines []string
	_, reply, err = Hold(t.Context(), socket, Request{Do: Kill}, func(line string) { lines = append(lines, line) })
	require.EqualError(t, err, "it cannot be killed")
	require.Equal(t, "half", reply.Output)
	require.Equal(t, []string{"first", "second"}, lines)
}

func TestALeaseEndsWithItsClient(t *testing.T) {
	released := make(chan struct{}, 2)
	failure := errors.New("something is left")
	socket := serve(t, func(_ context.Context, request Request, _ func(string)) (Reply, func(context.Context) error, error) {
		return Reply{}, func(context.Context) error {
			released <- struct{}{}
			if request.Do == StartNATS {
				return failure
			}
			return nil
		}, nil
	})
	orderly, _, err := Hold(t.Context(), socket, Request{Do: MakeScratch}, nil)
	require.NoError(t, err)
	require.Empty(t, released)
	require.NoError(t, orderly.Release(t.Context()))
	<-released

	failing, _, err := Hold(t.Context(), socket, Request{Do: StartNATS}, nil)
	require.NoError(t, err)
	require.EqualError(t, failing.Release(t.Context()), failure.Error())
	<-released

	killed, _, err := Hold(t.Context(), socket, Request{Do: MakeScratch}, nil)
	require.NoError(t, err)
	require.NoError(t, killed.close())
	<-released
}

func TestWhoGivesUpEndsTheRequest(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	socket := serve(t, func(ctx context.Context, _ Request, _ func(string)) (Reply, func(context.Context) error, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return Reply{}, nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	_, err := Call(ctx, socket, Request{Do: Start})
	require.ErrorIs(t, err, context.Canceled)
	<-ended
}
