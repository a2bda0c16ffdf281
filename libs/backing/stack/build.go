package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/srireskianita/multi-tenant-messaging/libs/backing"
)

// BinEnv names a folder with binaries that are built already: of the three services, each under its name. It is for
// runs of several test processes, each of which would build its own.
const BinEnv = "MTM_STACK_BIN"

// buildTimeout is for a build from nothing, with the race detector, on two cores.
const buildTimeout = 10 * time.Minute

// built are the binaries of this process. It is global because a build takes seconds, belongs to the process and not to
// any of its tests, and is removed with the process, by the guard of its folder.
var built build //nolint:gochecknoglobals // see above

type build struct {
	once sync.Once
	// scratch is kept: were it collected, its pipe would be closed, and its guard would remove the folder.
	scratch *backing.Scratch
	dir     string
	err     error
}

// binaries is the folder with the binaries of the services.
func binaries(ctx context.Context) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		return filepath.Abs(dir)
	}
	built.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), buildTimeout)
		defer cancel()
		if built.scratch, built.err = buildAll(ctx); built.err == nil {
			built.dir = built.scratch.Dir
		}
	})
	return built.dir, built.err
}

func buildAll(ctx context.Context) (*backing.Scratch, error) {
	root, err := workspace()
	if err != nil {
		return nil, err
	}
	scratch, err := backing.NewScratch()
	if err != nil {
		return nil, err
	}
	arguments := []string{"build", "-o", scratch.Dir + string(filepath.Separator)}
	if race {
		arguments = append(arguments, "-race")
	}
	for _, name := range Names() {
		arguments = append(arguments, "./services/"+name)
	}
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = root
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		err = fmt.Errorf("build the services: %w: %s", err, strings.TrimSpace(output.String()))
		return nil, errors.Join(err, scratch.Remove(ctx))
	}
	return scratch, nil
}

// workspace is the folder with go.work, at or above the one we are in.
func workspace() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the workspace: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the workspace: no go.work in this folder or above it")
		}
		dir = parent
	}
}
