package build

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// A report of a fault names the build, also one that was made in an image or by hand.
func TestDescribe(t *testing.T) {
	stamped := &debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "v0.1.1-0.20260101000000-1a2b3c"}, Settings: []debug.BuildSetting{
		{Key: "-trimpath", Value: "true"}, {Key: "vcs.revision", Value: "1a2b3c"}, {Key: "vcs.modified", Value: "true"},
	}}
	for name, tt := range map[string]struct {
		stamped           *debug.BuildInfo
		version, revision string
		want              Info
		text              string
	}{
		"in a checkout": {stamped, "", "", Info{"v0.1.1-0.20260101000000-1a2b3c", "1a2b3c", true, "go1.26.0"}, "v0.1.1-0.20260101000000-1a2b3c, revision 1a2b3c with changes, go1.26.0"},
		"in an image":   {&debug.BuildInfo{GoVersion: "go1.26.0", Main: debug.Module{Version: "(devel)"}}, "0.1.0", "4d5e6f", Info{"0.1.0", "4d5e6f", false, "go1.26.0"}, "0.1.0, revision 4d5e6f, go1.26.0"},
		"both":          {stamped, "0.1.0", "4d5e6f", Info{"0.1.0", "4d5e6f", false, "go1.26.0"}, "0.1.0, revision 4d5e6f, go1.26.0"},
		"neither":       {&debug.BuildInfo{}, "", "", Info{"unknown", "unknown", false, "unknown"}, "unknown, revision unknown, unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			got := describe(tt.stamped, tt.version, tt.revision)
			require.Equal(t, tt.want, got)
			require.Equal(t, tt.text, got.String())
		})
	}
	require.Equal(t, runtime.Version(), Read().Go)
}
