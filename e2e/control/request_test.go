package control_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Instances ask each other while NATS comes and goes: a request has an answer or fails, at once where nobody can answer it, and
// whoever serves goes on after the server was away, also when it began before the server was there.
func TestRequestsBetweenInstances(t *testing.T) {
	server := backing.StartNATS(t)
	server.Stop()
	a, b := connect(t, client(server), nil), connect(t, client(server), nil)
	require.False(t, a.Connected())
	stop, err := a.Serve("mtm.test.a", func(request []byte) []byte {
		if string(request) == "silence" {
			return nil
		}
		return append([]byte("to "), request...)
	})
	require.NoError(t, err)
	ask := func(request string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		answer, err := b.Request(ctx, "mtm.test.a", []byte(request))
		return string(answer), err
	}
	_, err = ask("nobody")
	require.Error(t, err)
	answers := func() bool { answer, err := ask("you"); return err == nil && answer == "to you" }
	server.Start()
	require.Eventually(t, answers, waitLimit, 20*time.Millisecond)
	require.True(t, b.Connected())
	_, err = ask("silence")
	require.ErrorIs(t, err, context.DeadlineExceeded)

	server.Stop()
	require.Eventually(t, func() bool { return !b.Connected() }, waitLimit, 20*time.Millisecond)
	server.Start()
	require.Eventually(t, answers, waitLimit, 20*time.Millisecond)
	stop()
	_, err = ask("nobody")
	require.Error(t, err)
}
