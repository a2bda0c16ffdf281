package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/workspace"
)

// BinEnv names a folder with binaries that are built already: of the three services, each under its name. It is for
// runs of several test processes, each of which would build its own.
const BinEnv = "MTM_STACK_BIN"

// buildTimeout is for a build from nothing, with the race detector, on two cores.
const buildTimeout = 10 * time.Minute

// built are the binaries of this process. It is global because a build takes seconds, belongs to the process and not to
// any of its tests, and is removed with the process, by the guard of its folder; under "backing run" it is that of the run.
var built build //nolint:gochecknoglobals // see above

type build struct {
	once sync.Once
	// scratch is kept: were it collected, its pipe would be closed, and its guard would remove the folder.
	scratch *backing.Scratch
	dir     string
	err     error
}

// Binaries is the folder with the binaries of the three services, each under its name, built if need be.
func Binaries(ctx context.Context) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		return filepath.Abs(dir)
	}
	built.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTimeout)
		defer cancel()
		if run := os.Getenv(backing.RunEnv); run != "" {
			built.dir, built.err = buildOnce(ctx, run)
			return
		}
		if built.scratch, built.err = backing.NewScratch(ctx); built.err == nil {
			built.dir, built.err = built.scratch.Dir, buildAll(ctx, built.scratch.Dir)
		}
	})
	return built.dir, built.err
}

// buildOnce has the first process of a run build for all: linking the services with the race detector takes as long as
// many a package of tests.
func buildOnce(ctx context.Context, run string) (dir string, err error) {
	dir = filepath.Join(run, "services")
	if race {
		dir += "-race"
	}
	unlock, err := workspace.Lock(ctx, dir+".lock", func() {})
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	unfinished := dir + ".new"
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of the services: %w", err)
	}
	if err := buildAll(ctx, unfinished); err != nil {
		return "", err
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return "", fmt.Errorf("finish the folder of the services: %w", err)
	}
	return dir, nil
}

func buildAll(ctx context.Context, dir string) error {
	// Symbols and DWARF are a third of the linking, and no stack trace needs them.
	arguments := []string{"-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	if race {
		arguments = append(arguments, "-race")
	}
	for _, name := range Names() {
		arguments = append(arguments, "./services/"+name)
	}
	if err := workspace.Build(ctx, arguments...); err != nil {
		return fmt.Errorf("build the services: %w", err)
	}
	return nil
}
