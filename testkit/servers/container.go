package servers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ory/dockertest/v3/docker"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	// containerStopTimeout is how long a server in Docker may take to end in an orderly way.
	containerStopTimeout = 30 * time.Second
	containerPoll        = 50 * time.Millisecond
	// scratchLifetime ends a scratch container whose starter and whose guard have both gone.
	scratchLifetime = 6 * time.Hour
	// recordLabel marks containers and volumes with the record that they belong to: what has the same name but belongs
	// to a record that was lost has a password that nobody knows.
	recordLabel = "mtm.backing.record"
)

// containerSpec is how one service runs in Docker.
type containerSpec struct {
	image    string
	env, cmd []string
	// files are put into the container, by their paths there.
	files map[string]string
	// ports maps those in the container to those on 127.0.0.1. Without any, the container has the network of this machine.
	ports map[int]int
	// data is the folder in the container that a volume is for.
	data       string
	hostname   string
	stopSignal syscall.Signal // SIGTERM if 0
	shm        int64          // bytes of /dev/shm; the engine's default if 0
}

// containerServer runs a service in Docker.
type containerServer struct {
	name       backing.Name
	rec        record
	spec       containerSpec
	persistent bool
}

// with calls do with the engine.
func (c *containerServer) with(ctx context.Context, do func(context.Context, *engine) error) error {
	ctx, cancel := context.WithTimeout(ctx, containerStopTimeout+engineTimeout)
	defer cancel()
	e, err := openEngine(ctx)
	if err != nil {
		return err
	}
	return do(ctx, e)
}

func (c *containerServer) label() map[string]string {
	return map[string]string{recordLabel: dirID(c.rec.Password)}
}

func (c *containerServer) start(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, e *engine) error {
		container, err := e.inspect(ctx, c.rec.Container)
		if err != nil {
			return err
		}
		if container != nil && container.Config.Labels[recordLabel] != c.label()[recordLabel] {
			if err := e.remove(ctx, c.rec.Container); err != nil {
				return err
			}
			container = nil
		}
		if container == nil {
			return c.create(ctx, e)
		}
		if container.State.Running {
			return c.unpause(ctx, e)
		}
		return c.launch(ctx, e, container.ID)
	})
}

func (c *containerServer) create(ctx context.Context, e *engine) error {
	host := &docker.HostConfig{PortBindings: map[docker.Port][]docker.PortBinding{}, ShmSize: c.spec.shm}
	exposed := map[docker.Port]struct{}{}
	for inside, outside := range c.spec.ports {
		port := docker.Port(strconv.Itoa(inside) + "/tcp")
		host.PortBindings[port] = []docker.PortBinding{{HostIP: loopback, HostPort: strconv.Itoa(outside)}}
		exposed[port] = struct{}{}
	}
	if len(c.spec.ports) == 0 {
		host.NetworkMode = "host"
	}
	if c.rec.Volume != "" {
		if err := c.needVolume(ctx, e); err != nil {
			return err
		}
		host.Binds = []string{c.rec.Volume + ":" + c.spec.data}
	}
	container, err := e.pool.Client.CreateContainer(docker.CreateContainerOptions{
		Name: c.rec.Container,
		Config: &docker.Config{
			Image: c.spec.image, Env: c.spec.env, Cmd: c.spec.cmd, Hostname: c.spec.hostname, ExposedPorts: exposed,
			Labels: c.label(), StopSignal: c.engineSignal(),
		},
		HostConfig: host, Context: ctx,
	})
	if err != nil {
		return fmt.Errorf("make container %s: %w", c.rec.Container, err)
	}
	if err := c.upload(ctx, e, container.ID); err != nil {
		return err
	}
	return c.launch(ctx, e, container.ID)
}

// upload puts the files of the spec into a container that has not started yet.
func (c *containerServer) upload(ctx context.Context, e *engine, id string) error {
	if len(c.spec.files) == 0 {
		return nil
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for path, body := range c.spec.files {
		// Readable by the account that the image runs its server as, whatever that is.
		header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o644, Size: int64(len(body))}
		if err := writer.WriteHeader(header); err != nil {
			return fmt.Errorf("pack %s: %w", path, err)
		}
		if _, err := writer.Write([]byte(body)); err != nil {
			return fmt.Errorf("pack %s: %w", path, err)
		}
	}
	if err := writer.Close(); err != nil {
		return fmt.Errorf("pack the files of %s: %w", c.rec.Container, err)
	}
	upload := docker.UploadToContainerOptions{InputStream: &archive, Path: "/", Context: ctx}
	if err := e.pool.Client.UploadToContainer(id, upload); err != nil {
		return fmt.Errorf("put files into container %s: %w", c.rec.Container, err)
	}
	return nil
}

// needVolume makes the volume, and replaces one of the same name that a lost record has left behind.
func (c *containerServer) needVolume(ctx context.Context, e *engine) error {
	volume, err := e.pool.Client.InspectVolume(c.rec.Volume)
	if err == nil && volume.Labels[recordLabel] == c.label()[recordLabel] {
		return nil
	}
	if err != nil && !errors.Is(err, docker.ErrNoSuchVolume) {
		return fmt.Errorf("look at volume %s: %w", c.rec.Volume, err)
	}
	if err == nil {
		if err := e.removeVolume(ctx, c.rec.Volume); err != nil {
			return err
		}
	}
	_, err = e.pool.Client.CreateVolume(docker.CreateVolumeOptions{Name: c.rec.Volume, Labels: c.label(), Context: ctx})
	if err != nil {
		return fmt.Errorf("make volume %s: %w", c.rec.Volume, err)
	}
	return nil
}

func (c *containerServer) launch(ctx context.Context, e *engine, id string) error {
	if err := e.pool.Client.StartContainerWithContext(id, nil, ctx); err != nil {
		return fmt.Errorf("start container %s: %w", c.rec.Container, err)
	}
	if !c.persistent {
		e.expire(ctx, id, scratchLifetime)
	}
	return nil
}

func (c *containerServer) running(ctx context.Context) (running bool, err error) {
	err = c.with(ctx, func(ctx context.Context, e *engine) error {
		container, err := e.inspect(ctx, c.rec.Container)
		running = container != nil && container.State.Running
		return err
	})
	return running, err
}

func (c *containerServer) kill(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, e *engine) error {
		if err := c.unpause(ctx, e); err != nil {
			return err
		}
		if err := c.send(ctx, e, syscall.SIGKILL); err != nil && !isConflict(err) {
			return err
		}
		return c.awaitEnd(ctx, e)
	})
}

// signal passes sig on to the server. SIGSTOP and SIGCONT, which its first process would not hear as we mean it, pause
// all processes of the container and let them continue.
func (c *containerServer) signal(ctx context.Context, sig syscall.Signal) error {
	return c.with(ctx, func(ctx context.Context, e *engine) error {
		switch sig {
		case syscall.SIGSTOP:
			return c.pause(ctx, e)
		case syscall.SIGCONT:
			return c.unpause(ctx, e)
		default:
			return c.send(ctx, e, sig)
		}
	})
}

// pauseTimeout bounds the tries of pausing a container.
const pauseTimeout = 15 * time.Second

// pause leaves it to the engine only where its processes cannot be stopped from here, and then tries again for a while:
// on a busy machine runc gives up freezing a container ("unable to freeze") that it freezes the next time.
func (c *containerServer) pause(ctx context.Context, e *engine) error {
	container, err := e.inspect(ctx, c.rec.Container)
	if err != nil {
		return err
	}
	if container != nil && freezeProcesses(ctx, container) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pauseTimeout)
	defer cancel()
	tick := time.NewTicker(containerPoll)
	defer tick.Stop()
	for {
		err := e.pool.Client.PauseContainer(c.rec.Container)
		if err == nil {
			return nil
		}
		if isStatus(err, http.StatusInternalServerError) {
			select {
			case <-ctx.Done():
			case <-tick.C:
				continue
			}
		}
		return fmt.Errorf("pause container %s: %w", c.rec.Container, err)
	}
}

func (c *containerServer) unpause(ctx context.Context, e *engine) error {
	container, err := e.inspect(ctx, c.rec.Container)
	if err != nil || container == nil || !container.State.Running {
		return err
	}
	if !container.State.Paused {
		return thawProcesses(container)
	}
	if err := e.pool.Client.UnpauseContainer(c.rec.Container); err != nil {
		return fmt.Errorf("unpause container %s: %w", c.rec.Container, err)
	}
	return nil
}

func (c *containerServer) send(ctx context.Context, e *engine, sig syscall.Signal) error {
	err := e.pool.Client.KillContainer(docker.KillContainerOptions{
		ID: c.rec.Container, Signal: docker.Signal(sig), Context: ctx,
	})
	if err != nil {
		return fmt.Errorf("signal container %s: %w", c.rec.Container, err)
	}
	return nil
}

// engineSignal is what the engine sends by default when it stops the container. A scratch container is told to stop as
// soon as it has started, see [engine.expire]; until its time is up it must not notice.
func (c *containerServer) engineSignal() string {
	sig := c.stopSignal()
	if !c.persistent {
		sig = syscall.SIGWINCH // ignored by all three servers; what dockertest does
	}
	return strconv.Itoa(int(sig))
}

func (c *containerServer) awaitEnd(ctx context.Context, e *engine) error {
	tick := time.NewTicker(containerPoll)
	defer tick.Stop()
	for {
		container, err := e.inspect(ctx, c.rec.Container)
		if err != nil || container == nil || !container.State.Running {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of container %s: %w", c.rec.Container, ctx.Err())
		case <-tick.C:
		}
	}
}

func (c *containerServer) stopSignal() syscall.Signal {
	if c.spec.stopSignal == 0 {
		return syscall.SIGTERM
	}
	return c.spec.stopSignal
}

func (c *containerServer) halt(ctx context.Context) error {
	return c.with(ctx, c.haltOn)
}

func (c *containerServer) haltOn(ctx context.Context, e *engine) error {
	if err := c.unpause(ctx, e); err != nil {
		return err
	}
	if err := c.send(ctx, e, c.stopSignal()); err != nil {
		if isConflict(err) { // it has ended already
			return nil
		}
		return err
	}
	grace, cancel := context.WithTimeout(ctx, containerStopTimeout)
	defer cancel()
	if c.awaitEnd(grace, e) == nil {
		return nil
	}
	if err := c.send(ctx, e, syscall.SIGKILL); err != nil && !isConflict(err) {
		return err
	}
	return c.awaitEnd(ctx, e)
}

// remove ends the server and removes its container. A scratch server has nothing that it would have to write down.
func (c *containerServer) remove(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, e *engine) error {
		container, err := e.inspect(ctx, c.rec.Container)
		if err != nil || container == nil {
			return err
		}
		if container.State.Running && c.rec.Volume != "" {
			if err := c.haltOn(ctx, e); err != nil {
				return err
			}
		}
		return e.remove(ctx, c.rec.Container)
	})
}

func (c *containerServer) discard(ctx context.Context) error {
	return c.with(ctx, func(ctx context.Context, e *engine) error {
		if err := e.remove(ctx, c.rec.Container); err != nil || c.rec.Volume == "" {
			return err
		}
		return e.removeVolume(ctx, c.rec.Volume)
	})
}

func (c *containerServer) pid() int { return 0 }

func (c *containerServer) tail(ctx context.Context) string {
	var output bytes.Buffer
	err := c.with(ctx, func(ctx context.Context, e *engine) error {
		return e.pool.Client.Logs(docker.LogsOptions{
			Container: c.rec.Container, OutputStream: &output, ErrorStream: &output, Stdout: true, Stderr: true, Tail: "20",
			Context: ctx,
		})
	})
	if err != nil {
		return ""
	}
	return strings.TrimSpace(output.String())
}
