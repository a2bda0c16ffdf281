package port_test

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFreePortsAreDifferentAndBelowTheEphemeralOnes(t *testing.T) {
	ports, err := port.Free(t.Context(), 20)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, p := range ports {
		require.False(t, seen[p])
		seen[p] = true
		require.GreaterOrEqual(t, p, port.First)
		require.Less(t, p, 32768)
	}
}

// A port that was given away is not given to anybody else, not even while nobody listens on it.
func TestAPortIsGivenAwayOnce(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		ports, err := port.Free(t.Context(), 5)
		require.NoError(t, err)
		for _, p := range ports {
			require.False(t, seen[p])
			seen[p] = true
		}
	}
}

func TestAPortThatSomebodyListensOnIsInUse(t *testing.T) {
	ports, err := port.Free(t.Context(), 1)
	require.NoError(t, err)
	for _, host := range []string{"127.0.0.1", ""} {
		require.False(t, port.InUse(t.Context(), ports[0]))
		var config net.ListenConfig
		listener, err := config.Listen(t.Context(), "tcp", net.JoinHostPort(host, strconv.Itoa(ports[0])))
		require.NoError(t, err)
		require.True(t, port.InUse(t.Context(), ports[0]))
		require.NoError(t, listener.Close())
	}
}
