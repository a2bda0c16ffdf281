package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// PullTimeout bounds how long an image may take to be pulled. A network that swallows packets must not hold up a test
// for longer than a slow one does.
const PullTimeout = 3 * time.Minute

const (
	pingTimeout = 5 * time.Second
	// engineTimeout bounds a request that the engine answers from what it has.
	engineTimeout = time.Minute
)

// engine is a Docker engine. It keeps no connection and no goroutine between requests (the client of dockertest has
// keep-alive turned off).
type engine struct{ pool *dockertest.Pool }

// openEngine finds a Docker engine that answers. A nil engine and an error say why there is none.
func openEngine(ctx context.Context) (*engine, error) {
	pool, err := dockertest.NewPool(engineEndpoint())
	if err != nil {
		return nil, fmt.Errorf("find a Docker engine: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := pool.Client.PingWithContext(ctx); err != nil {
		return nil, fmt.Errorf("no Docker engine answers: %w", err)
	}
	return &engine{pool: pool}, nil
}

// shares reports whether the engine gives containers the network of this machine: it is on it, not in a virtual machine and
// not in a network name space of its own.
func (e *engine) shares() bool {
	info, err := e.pool.Client.Info()
	if err != nil {
		return false
	}
	name, err := os.Hostname()
	kernel, unknown := os.ReadFile("/proc/sys/kernel/osrelease")
	mapped := slices.ContainsFunc(info.SecurityOptions, func(option string) bool {
		return strings.Contains(option, "rootless") || strings.Contains(option, "userns")
	})
	return err == nil && unknown == nil && info.Name == name && info.KernelVersion == strings.TrimSpace(string(kernel)) && !mapped
}

// engineEndpoint is empty, which makes dockertest look at DOCKER_HOST and the usual socket, unless neither is there but
// the socket of a rootless engine or of Docker Desktop is.
func engineEndpoint() string {
	sockets := []string{"/var/run/docker.sock"}
	if runtime := os.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
		sockets = append(sockets, filepath.Join(runtime, "docker.sock"))
	}
	if home, err := os.UserHomeDir(); err == nil {
		sockets = append(sockets, filepath.Join(home, ".docker", "run", "docker.sock"))
	}
	if os.Getenv("DOCKER_HOST") != "" || os.Getenv("DOCKER_URL") != "" || os.Getenv("DOCKER_MACHINE_NAME") != "" {
		return ""
	}
	for i, socket := range sockets {
		if _, err := os.Stat(socket); err == nil && i > 0 {
			return "unix://" + socket
		} else if err == nil {
			return ""
		}
	}
	return ""
}

// needImage makes sure that the engine has an image, and pulls it if not.
func (e *engine) needImage(ctx context.Context, image string, say func(string, ...any)) error {
	_, err := e.pool.Client.InspectImage(image)
	if err == nil {
		return nil
	}
	if !errors.Is(err, docker.ErrNoSuchImage) {
		return fmt.Errorf("look for image %s: %w", image, err)
	}
	say("pulling image %s (at most %s)", image, PullTimeout)
	ctx, cancel := context.WithTimeout(ctx, PullTimeout)
	defer cancel()
	name, tag := splitImage(image)
	var progress bytes.Buffer
	pull := docker.PullImageOptions{Repository: name, Tag: tag, OutputStream: &progress, Context: ctx}
	if err := e.pool.Client.PullImage(pull, docker.AuthConfiguration{}); err != nil {
		return fmt.Errorf("image %s is not there and cannot be pulled: %w", image, err)
	}
	// The engine reports some failures only in the progress.
	if _, err := e.pool.Client.InspectImage(image); err != nil {
		lines := strings.Split(strings.TrimSpace(progress.String()), "\n")
		return fmt.Errorf("image %s is not there and cannot be pulled: %s", image, lines[len(lines)-1])
	}
	return nil
}

// splitImage parts "host:port/name:tag" before the tag.
func splitImage(image string) (name, tag string) {
	at := strings.LastIndexByte(image, ':')
	if at < 0 || strings.Contains(image[at:], "/") {
		return image, "latest"
	}
	return image[:at], image[at+1:]
}

// inspect is the container of that name, or nil.
func (e *engine) inspect(ctx context.Context, name string) (*docker.Container, error) {
	container, err := e.pool.Client.InspectContainerWithContext(name, ctx)
	if _, absent := errors.AsType[*docker.NoSuchContainer](err); absent {
		return nil, nil //nolint:nilnil // no container is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("look at container %s: %w", name, err)
	}
	return container, nil
}

// remove removes a container and its anonymous volumes. One that is not there is fine.
func (e *engine) remove(ctx context.Context, name string) error {
	err := e.pool.Client.RemoveContainer(docker.RemoveContainerOptions{
		ID: name, Force: true, RemoveVolumes: true, Context: ctx,
	})
	if _, absent := errors.AsType[*docker.NoSuchContainer](err); err != nil && !absent {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	return nil
}

func (e *engine) removeVolume(ctx context.Context, name string) error {
	err := e.pool.Client.RemoveVolumeWithOptions(docker.RemoveVolumeOptions{Name: name, Context: ctx})
	if err != nil && !errors.Is(err, docker.ErrNoSuchVolume) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// expire has the engine end a container after a time, whatever becomes of us. It is
// [dockertest.Resource.Expire] without the goroutine that waits for it: the engine continues a request whose client
// has gone.
func (e *engine) expire(ctx context.Context, id string, after time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	// It always ends with that timeout. If the engine was not told, there is still the guard.
	_ = e.pool.Client.StopContainerWithContext(id, uint(after.Seconds()), ctx)
}

// isStatus reports whether the engine has answered with that HTTP status.
func isStatus(err error, status int) bool {
	answer, ok := errors.AsType[*docker.Error](err)
	return ok && answer.Status == status
}

// isConflict says that a name is taken, or that a container is not in the right state for what was asked.
func isConflict(err error) bool {
	_, stopped := errors.AsType[*docker.ContainerNotRunning](err)
	return stopped || errors.Is(err, docker.ErrContainerAlreadyExists) || isStatus(err, http.StatusConflict)
}
