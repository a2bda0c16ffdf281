package backing

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/testkit/internal/agent"
)

// cleanupLimit bounds what is done after a test: its own context has ended by then.
const cleanupLimit = time.Minute

// shared are the servers that the tests of this process share. It is global because it belongs to the process, not to
// any of its tests: the functions below are all that tests know, and the servers end with the process, since nobody in it
// can say which test is the last.
var shared = &sharedServers{servers: map[Name]*sharedServer{}} //nolint:gochecknoglobals // see above

type sharedServers struct {
	mu      sync.Mutex
	servers map[Name]*sharedServer
}

// sharedServer is started once. A failure is kept, too: every test that needs the server fails with the same line.
type sharedServer struct {
	once     sync.Once
	services *Services
	err      error

	template templates // of PostgreSQL
}

// use returns the shared server, started if this is the first time, and fails the test if it cannot be had.
func (s *sharedServers) use(tb testing.TB, name Name) *sharedServer {
	tb.Helper()
	srv, err := s.server(name, func(line string) { tb.Log("backing:", line) })
	if err != nil {
		tb.Fatalf("backing: %v", err)
	}
	return srv
}

// server returns the shared server, started if this is the first time; log is told of that, and may be nil.
func (s *sharedServers) server(name Name, log func(line string)) (*sharedServer, error) {
	s.mu.Lock()
	srv := s.servers[name]
	if srv == nil {
		srv = &sharedServer{}
		s.servers[name] = srv
	}
	s.mu.Unlock()
	srv.once.Do(func() {
		// Not the context of the test, with which the server would end.
		ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
		defer cancel()
		if os.Getenv(RunEnv) != "" {
			srv.services, srv.err = fromRun()
			return
		}
		srv.services, srv.err = Start(ctx, Options{Services: []Name{name}, Log: log})
	})
	return srv, srv.err
}

// sharedTimeout is how long a shared server may take to start, with the pull of its image.
const sharedTimeout = StartTimeout + 3*time.Minute

// Postgres gives the test a database of its own, with all migrations applied, and returns the address under which an
// operator (a superuser) reaches it. The database is removed when the test ends.
//
// Roles are shared by all databases of a server: a test that makes some has to name them apart from those of others.
func Postgres(tb testing.TB) string {
	tb.Helper()
	srv := shared.use(tb, ServicePostgres)
	database, err := srv.template.clone(tb.Context(), srv.services.DatabaseURL)
	if err != nil {
		tb.Fatalf("backing: make a database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), cleanupLimit)
		defer cancel()
		if err := database.drop(ctx); err != nil {
			tb.Logf("backing: the database of the test stays behind: %v", err)
		}
	})
	return database.url
}

// Broker is a virtual host of RabbitMQ.
type Broker struct {
	// URL is for AMQP, and names the virtual host.
	URL string
	// ManagementURL is that of the whole broker, with login.
	ManagementURL string
	VHost         string
}

// RabbitMQ gives the test a virtual host of its own. It is removed, with everything in it, when the test ends.
func RabbitMQ(tb testing.TB) Broker {
	tb.Helper()
	services := shared.use(tb, ServiceRabbitMQ).services
	broker, err := newVHost(tb.Context(), services)
	if err != nil {
		tb.Fatalf("backing: make a virtual host: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), cleanupLimit)
		defer cancel()
		if err := broker.remove(ctx); err != nil {
			tb.Logf("backing: the virtual host of the test stays behind: %v", err)
		}
	})
	return broker
}

// Dedicated starts servers for this test alone, which it may kill, pause and start again through
// [Services.Process]: all three, or those named. They are durable, and never those from the environment. What is
// running when the test ends is stopped.
//
// PostgreSQL holds an empty database; services under test bring their schema along.
func Dedicated(tb testing.TB, names ...Name) *Services {
	tb.Helper()
	return DedicatedWith(tb, Options{Services: names, Durable: true})
}

// DedicatedWith is [Dedicated] with options, of which Log is set here.
func DedicatedWith(tb testing.TB, opts Options) *Services {
	tb.Helper()
	opts.own, opts.Log = true, func(line string) { tb.Log("backing:", line) }
	services, err := Start(tb.Context(), opts)
	if err != nil {
		tb.Fatalf("backing: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), cleanupLimit)
		defer cancel()
		if tb.Failed() {
			services.logTails(ctx, tb)
		}
		if err := services.Stop(ctx); err != nil {
			tb.Errorf("backing: stop the test's servers: %v", err)
		}
	})
	return services
}

// logTails shows the ends of the servers' logs, which go with the servers.
func (s *Services) logTails(ctx context.Context, tb testing.TB) {
	tb.Helper()
	for _, name := range Names() {
		if p := s.processes[name]; p != nil && p.source != SourceEnv {
			reply, err := p.call(ctx, agent.Request{Do: agent.Tail})
			tb.Logf("backing: the log of %s ends with (%v):\n%s", name, err, reply.Output)
		}
	}
}

// testName names what belongs to a test: when it was made, and something that no other has.
func testName(prefix string) string {
	return fmt.Sprintf("%s%d_%s", prefix, time.Now().Unix(), strings.ReplaceAll(uuid.NewString(), "-", "")[:12])
}

// leftBehind are those of names that tests have left behind: made with prefix, and longer ago than any run of tests
// takes.
func leftBehind(names []string, prefix string, now time.Time) []string {
	const longest = 24 * time.Hour
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		rest, ours := strings.CutPrefix(name, prefix)
		var made int64
		if _, err := fmt.Sscanf(rest, "%d_", &made); !ours || err != nil {
			return true
		}
		return now.Sub(time.Unix(made, 0)) < longest
	})
}
