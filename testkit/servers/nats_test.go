package servers

import (
	"os"
	"path/filepath"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// A change that NATS has acknowledged must not be lost with its power: neither by a server of ours, nor in a container, nor by
// what an operator copies from us.
func TestNATSSyncsWhatItAcknowledges(t *testing.T) {
	running, err := startNATS(NATSConfig{Dir: t.TempDir()})
	require.NoError(t, err)
	defer func() {
		running.Shutdown()
		running.WaitForShutdown()
	}()
	require.True(t, running.JetStreamConfig().SyncAlways)

	contained := filepath.Join(t.TempDir(), "nats.conf")
	spec := natsKind{}.container(record{Password: "secret", Port: 4222}, settings{})
	require.NoError(t, os.WriteFile(contained, []byte(spec.files[natsConfFile]), 0o600))
	for _, file := range []string{contained, "../../deployments/nats/nats.conf"} {
		options, err := natsserver.ProcessConfigFile(file)
		require.NoError(t, err, file)
		require.True(t, options.JetStream, file)
		require.True(t, options.SyncAlways, file)
		require.Equal(t, "/data", options.StoreDir, file)
	}
}
