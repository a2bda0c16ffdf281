// Package control_test holds the control channel (libs/control) against a real NATS server that is stopped, restarted
// and wiped. It lives here and not beside the package because a server is no dependency that the libraries may have.
package control_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// waitLimit is how long a test waits for what must happen soon.
const waitLimit = time.Minute

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is the configuration of a client of the server.
func client(n *backing.NATSServer) control.Config {
	return control.Config{URL: n.URL, Replicas: 1, Resync: 2 * time.Second}
}

// connect makes a connection that is closed with the test. report may be nil.
func connect(t *testing.T, cfg control.Config, report func(error)) *control.Conn {
	t.Helper()
	conn, err := control.Connect(cfg, t.Name(), zap.NewNop(), report)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// recorder is the handler of a watch that keeps what it is told.
type recorder struct {
	mu      sync.Mutex
	entries []control.Entry[contract.TenantSpec]
	synced  int
}

// watch runs a watch of bucket until the end of the test and returns what it sees.
func watch(t *testing.T, bucket *control.Bucket[contract.TenantSpec]) *recorder {
	t.Helper()
	r := &recorder{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- bucket.Watch(ctx, func(e control.Entry[contract.TenantSpec]) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.entries = append(r.entries, e)
		}, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.synced++
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return r
}

// of returns all that was told about key.
func (r *recorder) of(key string) []control.Entry[contract.TenantSpec] {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []control.Entry[contract.TenantSpec]
	for _, e := range r.entries {
		if e.Key == key {
			found = append(found, e)
		}
	}
	return found
}

// generations returns the generations told of key in order, with -1 for a deletion.
func (r *recorder) generations(key string) []int64 {
	var all []int64
	for _, e := range r.of(key) {
		if e.Deleted {
			all = append(all, -1)
			continue
		}
		all = append(all, e.Value.Generation)
	}
	return all
}

func (r *recorder) snapshots() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced
}

func (r *recorder) requireGenerations(t *testing.T, key string, want ...int64) {
	t.Helper()
	require.Eventually(t, func() bool { return slices.Equal(r.generations(key), want) }, waitLimit, 5*time.Millisecond,
		"generations of %s", key)
}

func (r *recorder) requireSnapshots(t *testing.T, atLeast int) {
	t.Helper()
	require.Eventually(t, func() bool { return r.snapshots() >= atLeast }, waitLimit, 5*time.Millisecond)
}

func spec(tenantID string, generation int64) contract.TenantSpec {
	return contract.TenantSpec{TenantID: tenantID, State: contract.DesiredActive, Workers: 3, Generation: generation}
}
