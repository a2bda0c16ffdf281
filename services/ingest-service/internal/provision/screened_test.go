package provision

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A broker that cannot bear x-death must never be without a screen because its version is written in a form that nobody has seen yet.
func TestScreenIsThereUnlessTheBrokerIsKnownToBearEverything(t *testing.T) {
	for version, screened := range map[string]bool{
		"3.10.8": true, "3.13.7": true, "3.8.0-rc.1": true, "2.8.7": true, "4.0.0-rc.1": false, "4.0.5": false, "4.3.6+deb": false, "4": false, "10.1": false,
		"": true, "unknown": true, "v4.0.5": true,
	} {
		require.Equal(t, screened, Screened(ScreenAuto, version), version)
		require.Equal(t, screened, Screened("", version), version)
		require.True(t, Screened(ScreenOn, version))
		require.False(t, Screened(ScreenOff, version))
	}
}
