package backing

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
)

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
	return startNATS(tb, 0).URL
}

// NATSServer is a NATS server with JetStream of a test's own, on 127.0.0.1 and without a login. It runs in the program that
// starts servers, so that it is ready in milliseconds, and keeps its port and its data over restarts.
type NATSServer struct {
	// URL is its address.
	URL string

	tb     testing.TB
	dir    string
	port   int
	config string       // a file, "" for none
	lease  *agent.Lease // nil while it does not run
}

// StartNATS starts a server that the test may stop and start again. It ends with the test.
func StartNATS(tb testing.TB) *NATSServer {
	tb.Helper()
	ports, err := port.Free(tb.Context(), 1) // the port of a server that stops is not given to a connection
	if err != nil {
		tb.Fatalf("backing: %v", err)
	}
	return startNATS(tb, ports[0])
}

// StartNATSWith starts a server as [StartNATS] does, with more of its configuration in the server's own syntax, such as users and
// TLS. Its URL has no login then.
func StartNATSWith(tb testing.TB, config string) *NATSServer {
	tb.Helper()
	ports, err := port.Free(tb.Context(), 1)
	if err != nil {
		tb.Fatalf("backing: %v", err)
	}
	file := filepath.Join(tb.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatalf("backing: %v", err)
	}
	s := &NATSServer{tb: tb, dir: tb.TempDir(), port: ports[0], config: file}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

func startNATS(tb testing.TB, port int) *NATSServer {
	tb.Helper()
	s := &NATSServer{tb: tb, dir: tb.TempDir(), port: port}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// Start starts the server and returns when it accepts connections.
func (s *NATSServer) Start() {
	s.tb.Helper()
	socket, err := program.socket(s.tb.Context())
	if err != nil {
		s.tb.Fatalf("backing: %v", err)
	}
	lease, reply, err := agent.Hold(s.tb.Context(), socket, agent.Request{Do: agent.StartNATS, Data: s.dir, Port: s.port, Config: s.config}, nil)
	if err != nil {
		s.tb.Fatalf("backing: %v", err)
	}
	s.lease, s.URL = lease, reply.URL
}

// Stop ends the server, if it runs, and returns when it has written its data.
func (s *NATSServer) Stop() {
	s.tb.Helper()
	if s.lease == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.tb.Context()), cleanupLimit)
	defer cancel()
	if err := s.lease.Release(ctx); err != nil {
		s.tb.Errorf("backing: stop the test's NATS server: %v", err)
	}
	s.lease = nil
}

// Wipe removes all data of the stopped server.
func (s *NATSServer) Wipe() {
	s.tb.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.tb.Fatalf("backing: %v", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, entry.Name())); err != nil {
			s.tb.Fatalf("backing: %v", err)
		}
	}
}
