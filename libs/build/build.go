// Package build says which build of a binary is running: what the Go tool stamps into it (version and revision of a checkout),
// or what a build without a checkout, that of an image, has the linker set:
//
//	go build -ldflags '-X github.com/srireskianita/multi-tenant-messaging/libs/build.version=0.1.0 -X ….revision=1a2b3c'
package build

import (
	"fmt"
	"runtime/debug"
)

// Set by the linker.
var version, revision string //nolint:gochecknoglobals // the linker sets nothing else

// unknown stands for what is not stamped.
const unknown = "unknown"

// Info describes a build. What is not known is "unknown".
type Info struct {
	// Version is "0.1.0", or a pseudo-version of the Go tool, or "(devel)".
	Version string
	// Revision is the hash of the commit.
	Revision string
	// Modified says that the checkout had changes that were not committed.
	Modified bool
	// Go is the version of the compiler.
	Go string
}

// Read returns what is known of the running binary.
func Read() Info {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return describe(info, version, revision)
}

// describe prefers what the linker has set.
func describe(stamped *debug.BuildInfo, version, revision string) Info {
	info := Info{Version: version, Revision: revision, Go: stamped.GoVersion}
	if info.Version == "" {
		info.Version = stamped.Main.Version
	}
	for _, s := range stamped.Settings {
		switch {
		case s.Key == "vcs.revision" && revision == "":
			info.Revision = s.Value
		case s.Key == "vcs.modified" && revision == "":
			info.Modified = s.Value == "true"
		}
	}
	for _, value := range []*string{&info.Version, &info.Revision, &info.Go} {
		if *value == "" {
			*value = unknown
		}
	}
	return info
}

// String is one line: "0.1.0, revision 1a2b3c, go1.26.0".
func (i Info) String() string {
	modified := ""
	if i.Modified {
		modified = " with changes"
	}
	return fmt.Sprintf("%s, revision %s%s, %s", i.Version, i.Revision, modified, i.Go)
}
