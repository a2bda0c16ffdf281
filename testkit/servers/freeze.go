package servers

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ory/dockertest/v3/docker"

	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// freezeTimeout is how long the processes of a server may take to stop: only uninterruptible I/O holds them up.
const freezeTimeout = 10 * time.Second

// freezeProcesses stops the processes of a container with SIGSTOP, as those of a native server are. That is preferred to
// the engine's own way, which stops them through a control group: on many a machine that fails ("unable to freeze") more
// often than not. false means that it cannot be done from here, and that nothing was changed: the engine is on another
// machine or in a virtual one, or its processes are not ours to signal.
func freezeProcesses(ctx context.Context, container *docker.Container) bool {
	pid, local := hostPID(container)
	if !local {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	if process.Freeze(ctx, pid) == nil {
		return true
	}
	_ = process.Thaw(pid) // what could be stopped can continue; the rest never stopped
	return false
}

// thawProcesses undoes [freezeProcesses]. Processes that run are not disturbed.
func thawProcesses(container *docker.Container) error {
	pid, local := hostPID(container)
	if !local {
		return nil
	}
	if err := process.Thaw(pid); err != nil && os.Geteuid() == 0 { // a process that may not do this has not stopped them, either
		return fmt.Errorf("thaw container %s: %w", container.Name, err)
	}
	return nil
}

// hostPID is the first process of a container as this machine knows it. The engine's word is not enough, since it may be
// on another machine: a process of the container has files mounted that the engine keeps under the container's id.
func hostPID(container *docker.Container) (pid int, local bool) {
	pid = container.State.Pid
	if pid <= 1 || container.ID == "" {
		return 0, false
	}
	mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	return pid, err == nil && bytes.Contains(mounts, []byte(container.ID))
}
