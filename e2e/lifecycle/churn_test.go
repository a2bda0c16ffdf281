package lifecycle_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

const (
	tenants = 1000
	// wave is how many of them live at the same time.
	wave = 100
	// few are the tenants of a short run, which live at the same time.
	few = 40
	// slack is how many goroutines and descriptors there may be more: those of connections, also from us, that are just
	// being closed or were opened to serve more requests at a time.
	slack = 5
	// heapAllowance is what a heap may have grown by, on top of a tenth: buffers and pools vary by as much. Two kilobytes
	// that a thousand tenants leave behind each are more.
	heapAllowance = 1 << 20
)

// traces are what tenants leave in the processes and servers while they live.
type traces struct {
	// Of the three services, by name.
	Goroutines, Descriptors, Series map[string]int
	// Of the virtual host.
	Connections, Channels, Queues, Bindings int
	// Of the database.
	Partitions, Messages int
	// Of the control channel.
	Desired, Reported int
}

// A thousand tenants are created, used and deleted through the public APIs. Whatever they had must go with them: a platform
// that keeps a goroutine, a channel, a partition or a metric series of each is one that has to be restarted.
func TestTenantsLeaveNothingBehind(t *testing.T) {
	// With few connections to the database, the first wave opens all of them; how many more a later one needs would be up to the machine.
	w := newWorld(t, backing.NATS(t), "DATABASE_MAX_CONNS=4")
	conn := w.connect()
	total, wave := tenants, wave
	if testing.Short() {
		total, wave = few, few
	}
	w.wave(wave) // connections, pools and caches are made once
	before, heap := w.stableTraces(conn), w.heaps()
	t.Logf("before: %+v, heaps %v", before, heap)
	began := time.Now()
	for range total / wave {
		w.wave(wave)
	}
	t.Logf("%d tenants came and went in %v", total, time.Since(began))

	var after traces
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		after = w.traces(c, conn)
		for _, name := range stack.Names() {
			require.LessOrEqual(c, after.Goroutines[name], before.Goroutines[name]+slack, "goroutines of %s", name)
			require.LessOrEqual(c, after.Descriptors[name], before.Descriptors[name]+slack, "descriptors of %s", name)
		}
		after.Goroutines, after.Descriptors = before.Goroutines, before.Descriptors
		require.Equal(c, before, after)
	}, waitLimit, 10*poll)
	for name, bytes := range w.heaps() {
		require.LessOrEqual(t, bytes, heap[name]+heap[name]/10+heapAllowance, "the heap of %s has grown", name)
		t.Logf("heap of %s: %d KiB, then %d KiB", name, heap[name]>>10, bytes>>10)
	}
}

// wave creates tenants, uses each, and deletes them, each step for all of them before the next.
func (w *world) wave(n int) {
	w.t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	took := make([]time.Duration, 0, 3)
	for _, step := range []func(context.Context, uuid.UUID) error{
		func(ctx context.Context, id uuid.UUID) error { return w.create(ctx, id, 2) }, w.use, w.remove,
	} {
		began := time.Now()
		w.each(ids, step)
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	w.t.Logf("%d tenants: created in %v, used in %v, deleted in %v", n, took[0], took[1], took[2])
}

// each does something with all tenants, some at a time.
func (w *world) each(ids []uuid.UUID, step func(context.Context, uuid.UUID) error) {
	w.t.Helper()
	next := make(chan uuid.UUID) // handed over one by one
	var working sync.WaitGroup
	for range clients {
		working.Go(func() {
			for id := range next {
				if err := step(w.t.Context(), id); err != nil {
					w.t.Errorf("tenant %s: %v", id, err)
				}
			}
		})
	}
	for _, id := range ids {
		next <- id
	}
	close(next)
	working.Wait()
	require.False(w.t, w.t.Failed())
}

// stableTraces are the traces once they do not change any more.
func (w *world) stableTraces(conn *control.Conn) (found traces) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		last := found
		found = w.traces(c, conn)
		require.Equal(c, last, found)
		require.Zero(c, found.Desired+found.Reported+found.Messages)
	}, waitLimit, time.Second)
	return found
}

func (w *world) services() []*stack.Service { return []*stack.Service{w.Tenant, w.Ingest, w.Query} }

// traces looks everywhere.
func (w *world) traces(c *assert.CollectT, conn *control.Conn) traces {
	w.closeConnections() // ours
	found := traces{Goroutines: map[string]int{}, Descriptors: map[string]int{}, Series: map[string]int{}}
	for _, s := range w.services() {
		metrics := string(w.get(c, s.OpsURL+"/metrics"))
		found.Goroutines[s.Name] = metric(c, metrics, "go_goroutines")
		for line := range strings.Lines(metrics) {
			// One route has the series of an answer that it has given once: how many there are is up to the routes.
			if !strings.HasPrefix(line, "#") && !strings.Contains(line, `route="`) {
				found.Series[s.Name]++
			}
		}
		require.NotContains(c, metrics, "tenant_id=", s.Name)
		found.Descriptors[s.Name] = descriptors(c, s.PID())
	}
	count := func(path string) int {
		var list []json.RawMessage
		require.NoError(c, json.Unmarshal(w.get(c, w.management(fmt.Sprintf(path, w.broker.VHost))), &list))
		return len(list)
	}
	found.Connections, found.Channels = count("/api/vhosts/%s/connections"), count("/api/vhosts/%s/channels")
	found.Queues, found.Bindings = count("/api/queues/%s"), count("/api/bindings/%s")
	for sql, n := range map[string]*int{
		`SELECT count(*) FROM pg_class WHERE relname LIKE 'messages%'`: &found.Partitions,
		`SELECT count(*) FROM messages`:                                &found.Messages,
	} {
		require.NoError(c, w.operator.QueryRow(w.t.Context(), sql).Scan(n))
	}
	specs, err := control.Tenants(conn).Snapshot(w.t.Context())
	require.NoError(c, err)
	statuses, err := control.Statuses(conn).Snapshot(w.t.Context())
	require.NoError(c, err)
	for key := range statuses {
		if _, heartbeat := contract.ParseInstanceKey(key); !heartbeat {
			found.Reported++
		}
	}
	found.Desired = len(specs)
	return found
}

// metric is the value of a metric without labels.
func metric(c require.TestingT, metrics, name string) int {
	for line := range strings.Lines(metrics) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			n, err := strconv.ParseFloat(value, 64)
			require.NoError(c, err)
			return int(n)
		}
	}
	require.Fail(c, "no metric "+name)
	return 0
}

// heaps are the bytes that live in the heap of each service, right after it was collected.
func (w *world) heaps() map[string]int {
	w.t.Helper()
	found := make(map[string]int)
	for _, s := range w.services() {
		for range 2 { // what a finalizer keeps goes with the second one
			w.get(w.t, s.OpsURL+"/debug/pprof/heap?gc=1")
		}
		found[s.Name] = metric(w.t, string(w.get(w.t, s.OpsURL+"/metrics")), "go_memstats_heap_alloc_bytes")
	}
	return found
}
