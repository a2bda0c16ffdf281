package rate

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// readers are the instances of a cluster that read.
type readers struct {
	*cluster

	reads map[string]*Reads
}

func newReaders(t *testing.T, names ...string) *readers {
	t.Helper()
	r := &readers{newCluster(t, names...), make(map[string]*Reads)}
	for _, name := range names {
		r.reads[name] = NewReads(r.nodes[name].Limiter)
	}
	return r
}

// tenant is one with a limit of bytes a second.
func (r *readers) tenant(limit int64) uuid.UUID {
	tenant := uuid.New()
	r.set(func() { r.limits[tenant] = Amounts{Bytes: limit} })
	return tenant
}

// read reads so many bytes on an instance, which take the database a moment, or returns the wait.
func (r *readers) read(instance string, tenant uuid.UUID, bytes int) (wait time.Duration) {
	r.mu.Lock()
	limit := r.limits[tenant][Bytes]
	r.mu.Unlock()
	end, wait := r.reads[instance].Begin(r.t.Context(), tenant, limit)
	if wait > 0 {
		return wait
	}
	pass(5 * time.Millisecond)
	end(bytes)
	r.set(func() {
		if r.passed[tenant] == nil {
			r.passed[tenant] = make(map[int64]int64)
		}
		r.passed[tenant][tenth(time.Now())] += int64(bytes)
	})
	return 0
}

// page reads pages of those sizes in turn, with so many readers, who do not wait as they are told.
func (r *readers) page(clients *sync.WaitGroup, instance string, tenant uuid.UUID, number int, sizes []int, during time.Duration) {
	end := time.Now().Add(during)
	for reader := range number {
		clients.Go(func() {
			for i := reader; time.Now().Before(end); {
				if r.read(instance, tenant, sizes[i%len(sizes)]) > 0 {
					pass(20 * time.Millisecond)
					continue
				}
				i++
			}
		})
	}
}

const bytesPerSecond = 1 << 20

// A tenant that reads more than it may gets what it may, to within a twentieth over any ten seconds: with however many readers on
// whichever instances, though no read knows before its end what it costs.
func TestSumOfReadsHolds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		instances []string
		readers   []int // by instance
	}{
		"one instance":   {[]string{"a"}, []int{8}},
		"three, even":    {[]string{"a", "b", "c"}, []int{8, 8, 8}},
		"all on another": {[]string{"a", "b", "c"}, []int{0, 8, 0}},
		"uneven":         {[]string{"a", "b", "c"}, []int{1, 8, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReaders(t, test.instances...)
				tenant := r.tenant(bytesPerSecond)
				var clients sync.WaitGroup
				began := time.Now()
				for i, number := range test.readers {
					r.page(&clients, test.instances[i], tenant, number, []int{20_000, 300, 64_000, 5_000, 40_000}, 14*time.Second)
				}
				clients.Wait()
				r.end()
				least, most := r.sums(tenant, began.Add(time.Second))
				t.Logf("%d to %d of %d", least, most, 10*bytesPerSecond)
				require.InEpsilon(t, 10*bytesPerSecond, least, 0.05)
				require.InEpsilon(t, 10*bytesPerSecond, most, 0.05)
			})
		})
	}
}

// Pages that take seconds of the limit each are given, and paid for: over a long time it is the limit, and on each instance one page that
// is not paid for yet.
func TestPagesLargerThanTheLimit(t *testing.T) {
	t.Parallel()
	for _, instances := range [][]string{{"a"}, {"a", "b", "c"}} {
		t.Run(fmt.Sprint(len(instances)), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newReaders(t, instances...)
				defer r.end()
				pass(time.Second)
				tenant := r.tenant(bytesPerSecond)
				const size = 8 << 20
				var clients sync.WaitGroup
				began := time.Now()
				for _, instance := range instances {
					r.page(&clients, instance, tenant, 4, []int{size}, 2*time.Minute)
				}
				clients.Wait()
				read := r.between(tenant, began, time.Now().Add(time.Second))
				t.Logf("%d pages, of %d", read/size, 120*bytesPerSecond/size)
				require.InDelta(t, 120*bytesPerSecond/size, read/size, 4)
			})
		})
	}
}

// A page larger than the bucket is given once; whoever reads next, here or on another instance, waits for as long as the limit needs for
// it, however long nobody asks meanwhile.
func TestDebtStays(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		for _, next := range []string{"a", "b"} {
			synctest.Test(t, func(t *testing.T) {
				r := newReaders(t, "a", "b")
				defer r.end()
				pass(time.Second)
				tenant := r.tenant(1000)
				require.Zero(t, r.read(instance, tenant, 100_000))
				pass(keepBorrower + 10*time.Second)
				wait := r.read(next, tenant, 1)
				require.InDelta(t, 30, wait.Seconds(), 2)
				pass(wait)
				require.Zero(t, r.read(next, tenant, 1))
			})
		}
	}
}

// A reader below its limit waits for nothing, and a read that fails or sends nothing costs nothing.
func TestReadsBelowTheLimit(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			r := newReaders(t, "a", "b")
			defer r.end()
			pass(time.Second)
			tenant, failing := r.tenant(bytesPerSecond), r.tenant(1000)
			for range 200 { // 0.8 of the limit
				require.Zero(t, r.read(instance, tenant, 80_000))
				pass(95 * time.Millisecond)
			}
			require.Zero(t, r.read(instance, failing, 100))
			for range 1000 {
				require.Zero(t, r.read(instance, failing, 0))
			}
		})
	}
}

// While NATS is away each instance has its part, and a debt is paid from that.
func TestReadsWithoutNATS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReaders(t, "a", "b", "c")
		defer r.end()
		tenant := r.tenant(bytesPerSecond)
		var clients sync.WaitGroup
		for instance := range r.reads {
			r.page(&clients, instance, tenant, 8, []int{20_000, 64_000}, 40*time.Second)
		}
		pass(5 * time.Second)
		r.set(func() { r.down = true })
		away := time.Now()
		clients.Wait()
		least, most := r.sums(tenant, away)
		t.Logf("%d to %d of %d", least, most, 10*bytesPerSecond)
		require.InEpsilon(t, 10*bytesPerSecond, least, 0.05)
		require.InEpsilon(t, 10*bytesPerSecond, most, 0.05)
	})
}

// Memory is kept for tenants that read.
func TestForgottenReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newReaders(t, "a", "b")
		defer r.end()
		pass(time.Second)
		tenant := r.tenant(1000)
		require.Zero(t, r.read("b", tenant, 1<<20))
		r.set(func() { delete(r.limits, tenant) })
		r.reads["b"].Forget(tenant)
		pass(keepIdle + time.Minute)
		require.Empty(t, r.reads["b"].last)
		for _, n := range r.nodes {
			require.Empty(t, n.borrowers)
			n.lender.mu.Lock()
			require.Empty(t, n.lender.buckets)
			n.lender.mu.Unlock()
		}
	})
}
