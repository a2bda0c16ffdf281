// Package port finds free TCP ports on the loopback interface for servers that are about to be started.
//
// The ports lie below 32768, where Linux begins to hand out ports to the client side of connections: a server that is
// restarted on its port above that may find it taken by somebody's outgoing connection.
//
// A port is free when it is looked at, and is then reserved: as long as the process that has asked for it lives, no other that
// asks here, of the same user, is given that port, also while its server is stopped. Programs that do not ask here may take it.
package port

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// First and Last bound the ports that [Free] chooses from. Well-known services and the ports of the platform's own
// services lie outside.
const (
	First = 20000
	Last  = 31999
)

// attempts is how many ports are tried for one that is free, before the machine is taken to have none.
const attempts = 200

// ErrNone says that no free port was found.
var ErrNone = errors.New("no free port between " + strconv.Itoa(First) + " and " + strconv.Itoa(Last))

// Free returns n different ports that nobody listens on, and reserves them for this process.
func Free(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, 0, n)
	chosen := map[int]bool{}
	for range attempts * n {
		if len(ports) == n {
			break
		}
		port := First + rand.IntN(Last-First+1) //nolint:gosec // nobody gains from foreseeing a local port
		if chosen[port] || InUse(ctx, port) || !reserve(port) {
			continue
		}
		chosen[port] = true
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, fmt.Errorf("choose %d ports: %w", n, ErrNone)
	}
	return ports, nil
}

// reserve locks the file of a port until this process ends, and reports false if another process, or this one, has done so. The
// descriptor is left open on purpose: the kernel gives the lock back with it. A machine without such files has no reservations.
func reserve(port int) bool {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("mtm-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return true
	}
	fd, err := syscall.Open(filepath.Join(dir, strconv.Itoa(port)), syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return true
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = syscall.Close(fd)
		return false
	}
	return true
}

// InUse reports whether port cannot be listened on, on 127.0.0.1 or on all interfaces.
func InUse(ctx context.Context, port int) bool {
	for _, host := range []string{"127.0.0.1", ""} {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return true
		}
		if err := listener.Close(); err != nil {
			return true
		}
	}
	return false
}
