package backing

import (
	"context"
	"testing"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// NATSServer is a NATS server with JetStream on 127.0.0.1 without a login. It runs in the program that starts servers, so
// that it is ready in milliseconds.
type NATSServer struct {
	// URL is its address.
	URL   string
	lease *agent.Lease
}

// StartNATS starts a server whose data lies in dir. It listens on port, or on any free one if that is 0.
func StartNATS(ctx context.Context, dir string, port int) (*NATSServer, error) {
	socket, err := program.socket(ctx)
	if err != nil {
		return nil, err
	}
	lease, reply, err := agent.Hold(ctx, socket, agent.Request{Do: agent.StartNATS, Data: dir, Port: port}, nil)
	if err != nil {
		return nil, err
	}
	return &NATSServer{URL: reply.URL, lease: lease}, nil
}

// Stop ends the server and returns when it has written its data.
func (s *NATSServer) Stop(ctx context.Context) error { return s.lease.Release(ctx) }

// NATS gives the test a NATS server of its own, with JetStream, that ends with the test.
//
// It is a [NATSServer], whatever NATS_URL says: the control channel uses buckets of fixed names, so two tests cannot share an
// account, and an account cannot be made on a server that we did not configure. With BACKING=docker it is a container of its
// own.
func NATS(tb testing.TB) string {
	tb.Helper()
	if mode, err := ModeFromEnv(); err != nil {
		tb.Fatalf("backing: %v", err)
	} else if mode == ModeDocker {
		return Dedicated(tb, ServiceNATS).NATSURL
	}
	server, err := StartNATS(tb.Context(), tb.TempDir(), 0)
	if err != nil {
		tb.Fatalf("backing: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), cleanupLimit)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			tb.Errorf("backing: stop the test's NATS server: %v", err)
		}
	})
	return server.URL
}
