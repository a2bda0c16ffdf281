// Package port finds free TCP ports on the loopback interface for servers that are about to be started.
//
// The ports lie below 32768, where Linux begins to hand out ports to the client side of connections: a server that is
// restarted on its port above that may find it taken by somebody's outgoing connection.
//
// A port is free when it is looked at. Nothing keeps it free until the server listens; that two starters choose the
// same one is made unlikely by choosing at random.
package port

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
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

// Free returns n different ports that nobody listens on.
func Free(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, 0, n)
	chosen := map[int]bool{}
	for range attempts * n {
		if len(ports) == n {
			break
		}
		port := First + rand.IntN(Last-First+1) //nolint:gosec // nobody gains from foreseeing a local port
		if chosen[port] || InUse(ctx, port) {
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
