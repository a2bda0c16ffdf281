package rate

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// cluster is several instances. Time is that of a bubble.
type cluster struct {
	t *testing.T

	mu       sync.Mutex
	alive    []string                      // guarded by mu, never changed in place
	limits   map[uuid.UUID]Amounts         // guarded by mu
	down     bool                          // guarded by mu: NATS is away
	nodes    map[string]*node              // guarded by mu: all that run
	answers  map[string]answerer           // guarded by mu: those that serve
	requests map[[2]string]int             // guarded by mu: by sender and receiver
	passed   map[uuid.UUID]map[int64]int64 // guarded by mu: messages, by tenths of a second
}

type answerer func([]byte) []byte

// node is one instance.
type node struct {
	*Limiter

	name string
	stop func()
}

var errNobody = errors.New("nobody answers")

func newCluster(t *testing.T, names ...string) *cluster {
	t.Helper()
	c := &cluster{
		t: t, alive: names, limits: make(map[uuid.UUID]Amounts), nodes: make(map[string]*node), answers: make(map[string]answerer),
		requests: make(map[[2]string]int), passed: make(map[uuid.UUID]map[int64]int64),
	}
	for _, name := range names {
		c.start(name)
	}
	return c
}

// line is the way of one instance to the others.
type line struct {
	*cluster

	from string
}

func (l line) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.down
}

func (l line) Request(ctx context.Context, instance string, request []byte) ([]byte, error) {
	l.mu.Lock()
	answer := l.answers[instance]
	down := l.down
	l.requests[[2]string{l.from, instance}]++
	l.mu.Unlock()
	if answer == nil || down {
		return nil, errNobody
	}
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if got := answer(request); got != nil {
		return got, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (l line) Serve(instance string, answer func([]byte) []byte) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[instance] = answer
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.answers, instance)
	}, nil
}

// first is the owner of every tenant that the tests need: the first instance in the order.
func first(_ uuid.UUID, instances []string) string {
	if len(instances) == 0 {
		return ""
	}
	return slices.Min(instances)
}

// pass lets time go by.
func pass(d time.Duration) { <-time.After(d) }

func (c *cluster) start(name string) {
	n := &node{name: name}
	n.Limiter = New(Config{
		Self: name, Owner: first, Largest: Amounts{Messages: 1, Bytes: 1 << 30}, Transport: line{c, name},
		Instances: func() []string { c.mu.Lock(); defer c.mu.Unlock(); return c.alive },
		Limits:    func(tenant uuid.UUID) Amounts { c.mu.Lock(); defer c.mu.Unlock(); return c.limits[tenant] },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(c.t, <-done)
	})
	c.set(func() { c.nodes[name] = n })
}

func (c *cluster) end() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// take has an instance take for messages of a tenant.
func (c *cluster) take(instance string, tenant uuid.UUID, costs ...Amounts) (passed int) {
	c.mu.Lock()
	n, limits := c.nodes[instance], c.limits[tenant]
	c.mu.Unlock()
	passed, _ = n.Take(c.t.Context(), tenant, limits, costs)
	c.note(tenant, costs[:passed])
	return passed
}

func (c *cluster) note(tenant uuid.UUID, costs []Amounts) {
	c.set(func() {
		if c.passed[tenant] == nil {
			c.passed[tenant] = make(map[int64]int64)
		}
		c.passed[tenant][tenth(time.Now())] += sum(costs)[Messages]
	})
}

func tenth(at time.Time) int64 { return at.UnixMilli() / 100 }

// between is how much passed from one time to another.
func (c *cluster) between(tenant uuid.UUID, from, to time.Time) (n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := tenth(from); at < tenth(to); at++ {
		n += c.passed[tenant][at]
	}
	return n
}

// sums are the least and the most that passed in any ten seconds since began.
func (c *cluster) sums(tenant uuid.UUID, began time.Time) (least, most int64) {
	const window = 10 * time.Second
	least = -1
	for from := began; !from.Add(window).After(time.Now()); from = from.Add(100 * time.Millisecond) {
		n := c.between(tenant, from, from.Add(window))
		if most = max(most, n); least < 0 || n < least {
			least = n
		}
	}
	return least, most
}

// offer publishes perSecond messages for a time, evenly, as HTTP does, or as a queue that never is empty if that is negative.
func (c *cluster) offer(clients *sync.WaitGroup, instance string, tenant uuid.UUID, perSecond int, during time.Duration) {
	end := time.Now().Add(during)
	switch {
	case perSecond == 0:
	case perSecond > 0:
		clients.Go(func() {
			for time.Now().Before(end) {
				c.take(instance, tenant, Amounts{Messages: 1})
				pass(time.Second / time.Duration(perSecond))
			}
		})
	default:
		clients.Go(func() { c.drain(instance, tenant, end) })
	}
}

// drain takes as the consumer of a queue that never is empty.
func (c *cluster) drain(instance string, tenant uuid.UUID, end time.Time) {
	wake := make(chan struct{}, 1)
	for time.Now().Before(end) {
		c.mu.Lock()
		n, limits := c.nodes[instance], c.limits[tenant]
		c.mu.Unlock()
		again, ok := n.Try(tenant, limits, Amounts{Messages: 1}, Amounts{Messages: limits[Messages] - 1}, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		if ok {
			c.note(tenant, []Amounts{{Messages: 1}})
			continue
		}
		select {
		case <-wake:
		case <-time.After(again):
		}
	}
}

const perSecond = 1000

// A tenant that sends more than it may gets what it may, to within a twentieth over any ten seconds: from whichever instances, over HTTP
// or from its queue. It is the simulation of which the shares are the result; see docs/adr.
func TestSumHolds(t *testing.T) {
	t.Parallel()
	three := []string{"a", "b", "c"}
	for name, test := range map[string]struct {
		instances []string
		offers    func(phase int) []int // by instance, for each phase of two seconds
	}{
		"one instance":           {three[:1], func(int) []int { return []int{3000} }},
		"one instance, queue":    {three[:1], func(int) []int { return []int{-1} }},
		"even":                   {three, func(int) []int { return []int{800, 800, 800} }},
		"all on the owner":       {three, func(int) []int { return []int{3000, 0, 0} }},
		"all on another":         {three, func(int) []int { return []int{0, 3000, 0} }},
		"uneven":                 {three, func(int) []int { return []int{100, 2000, 300} }},
		"queues":                 {three, func(int) []int { return []int{-1, -1, -1} }},
		"queue of another":       {three, func(int) []int { return []int{0, 0, -1} }},
		"queue and HTTP":         {three, func(int) []int { return []int{600, -1, 600} }},
		"moves every two second": {three, func(phase int) []int { o := []int{0, 0, 0}; o[phase%3] = 3000; return o }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, test.instances...)
				tenant := uuid.New()
				c.limits[tenant] = Amounts{Messages: perSecond}
				var clients sync.WaitGroup
				began := time.Now()
				for phase := range 10 {
					for i, offered := range test.offers(phase) {
						c.offer(&clients, test.instances[i], tenant, offered, 2*time.Second)
					}
					clients.Wait()
				}
				c.end()
				least, most := c.sums(tenant, began.Add(time.Second))
				t.Logf("%d to %d of %d", least, most, 10*perSecond)
				require.InEpsilon(t, 10*perSecond, least, 0.05)
				require.InEpsilon(t, 10*perSecond, most, 0.05)
				for pair, n := range c.requests {
					require.LessOrEqual(t, n, 20*50+20, "requests from %s to %s in 20 s", pair[0], pair[1])
				}
			})
		})
	}
}

// A tenant that stays below its limit notices nothing of it, wherever its messages arrive and however they bunch; and what an instance
// that owns nothing asks for on its behalf is little.
func TestBelowTheLimitNothingIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		defer c.end()
		pass(time.Second)
		tenant, quiet := uuid.New(), uuid.New()
		c.limits[tenant], c.limits[quiet] = Amounts{Messages: perSecond}, Amounts{Messages: perSecond}
		var clients sync.WaitGroup
		for _, instance := range []string{"a", "b", "c"} {
			clients.Go(func() {
				for range 50 { // 300 a second
					require.Equal(t, 30, c.take(instance, tenant, slices.Repeat([]Amounts{{Messages: 1}}, 30)...))
					pass(100 * time.Millisecond)
				}
			})
		}
		clients.Wait()
		clear(c.requests)
		for range 250 { // 50 a second: less than a tenth
			require.Equal(t, 1, c.take("b", quiet, Amounts{Messages: 1}))
			pass(20 * time.Millisecond)
		}
		require.LessOrEqual(t, c.requests[[2]string{"b", "a"}], 5*15, "of 250 ticks")
	})
}

// However many tenants are at their limits, two instances exchange fifty messages a second.
func TestTrafficDoesNotGrowWithTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		defer c.end()
		var clients sync.WaitGroup
		for range 200 {
			c.limits[uuid.New()] = Amounts{Messages: 100}
		}
		for tenant := range maps.Clone(c.limits) {
			c.offer(&clients, "b", tenant, 150, time.Second)
		}
		clients.Wait()
		require.LessOrEqual(t, c.requests[[2]string{"b", "a"}], 50+2)
		require.Zero(t, c.requests[[2]string{"a", "b"}])
	})
}

// The owner dies: until its heartbeat has run out the others take their parts, then the next one begins with an empty bucket. It is
// never more than the limit.
func TestOwnerDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		defer c.end()
		tenant := uuid.New()
		c.limits[tenant] = Amounts{Messages: perSecond}
		var clients sync.WaitGroup
		began := time.Now()
		c.offer(&clients, "b", tenant, 1500, 60*time.Second)
		c.offer(&clients, "c", tenant, 1500, 60*time.Second)
		pass(15 * time.Second)
		c.nodes["a"].stop()
		died := time.Now()
		pass(20 * time.Second)
		c.set(func() { c.alive = []string{"b", "c"} })
		replaced := time.Now()
		clients.Wait()
		_, most := c.sums(tenant, began)
		require.LessOrEqual(t, most, int64(10*perSecond*105/100))
		least, _ := c.sums(tenant, replaced.Add(time.Second))
		require.GreaterOrEqual(t, least, int64(10*perSecond*95/100))
		require.InEpsilon(t, 19*perSecond*2/3, c.between(tenant, died.Add(time.Second), replaced), 0.05, "two of three parts")
	})
}

// An instance joins, and becomes the owner of what another one owned.
func TestOwnerChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "b", "c")
		defer c.end()
		tenant := uuid.New()
		c.limits[tenant] = Amounts{Messages: perSecond}
		var clients sync.WaitGroup
		began := time.Now()
		for _, instance := range []string{"b", "c"} {
			c.offer(&clients, instance, tenant, 1500, 40*time.Second)
		}
		for _, alive := range [][]string{{"a", "b", "c"}, {"b", "c"}, {"a", "b", "c"}} {
			pass(10 * time.Second)
			if len(alive) == 3 {
				c.start("a")
			} else {
				c.nodes["a"].stop()
			}
			c.set(func() { c.alive = alive })
		}
		clients.Wait()
		least, most := c.sums(tenant, began.Add(time.Second))
		t.Logf("%d to %d of %d", least, most, 10*perSecond)
		require.InEpsilon(t, 10*perSecond, least, 0.05)
		require.InEpsilon(t, 10*perSecond, most, 0.05)
	})
}

// While NATS is away each instance has its part: in sum the limit where the load is even, and never more.
func TestWithoutNATS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		defer c.end()
		even, uneven := uuid.New(), uuid.New()
		c.limits[even], c.limits[uneven] = Amounts{Messages: perSecond}, Amounts{Messages: perSecond}
		var clients sync.WaitGroup
		began := time.Now()
		for i, instance := range []string{"a", "b", "c"} {
			c.offer(&clients, instance, even, 800, 50*time.Second)
			c.offer(&clients, instance, uneven, []int{0, 3000, 0}[i], 50*time.Second)
		}
		pass(15 * time.Second)
		c.set(func() { c.down = true })
		away := time.Now()
		pass(20 * time.Second)
		c.set(func() { c.down = false })
		clients.Wait()
		least, most := c.sums(even, began.Add(time.Second))
		t.Logf("even: %d to %d of %d", least, most, 10*perSecond)
		require.InEpsilon(t, 10*perSecond, least, 0.05)
		require.InEpsilon(t, 10*perSecond, most, 0.05)
		least, most = c.sums(uneven, began.Add(time.Second))
		t.Logf("uneven: %d to %d of %d", least, most, 10*perSecond)
		require.InEpsilon(t, 10*perSecond/3, least, 0.05, "a third")
		require.InEpsilon(t, 10*perSecond, most, 0.05)
		least, _ = c.sums(uneven, away.Add(22*time.Second))
		require.InEpsilon(t, 10*perSecond, least, 0.05, "all of it again")
	})
}

// A large payload under a small limit of bytes passes, whichever instance it comes to, and is paid for before the next one: what comes in
// a minute is the limit, and one message.
func TestLargeMessageUnderASmallLimit(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			defer c.end()
			pass(time.Second)
			tenant, large := uuid.New(), Amounts{Messages: 1, Bytes: 50_000}
			c.limits[tenant] = Amounts{Bytes: 10_000}
			passed := 0
			for began := time.Now(); time.Since(began) < time.Minute; pass(50 * time.Millisecond) {
				passed += c.take(instance, tenant, large)
			}
			require.InDelta(t, 12, passed, 1)
		})
	}
}

// Of a batch over what the bucket holds the first lines pass, and the rest is refused with the time after which there is more.
func TestBatchPassesInPart(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			defer c.end()
			pass(time.Second)
			tenant, limits := uuid.New(), Amounts{Messages: 100, Bytes: 1000}
			c.limits[tenant] = limits
			n, q := c.nodes[instance].Take(t.Context(), tenant, limits, slices.Repeat([]Amounts{{1, 1}}, 60))
			require.Equal(t, 25, n)
			require.Equal(t, 10*time.Millisecond, q.Wait)
			require.Zero(t, q.Left[Messages])
			pass(time.Second)
			n, _ = c.nodes[instance].Take(t.Context(), tenant, limits, slices.Repeat([]Amounts{{1, 100}}, 60))
			require.Equal(t, 2, n, "the bytes of two")
			pass(time.Second)
			n, q = c.nodes[instance].Take(t.Context(), tenant, limits, slices.Repeat([]Amounts{{1, 1}}, 20))
			require.Equal(t, 20, n)
			require.Zero(t, q.Wait)
		})
	}
}

// A limit that was raised, lowered or taken away acts with the next message.
func TestLimitChanges(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			defer c.end()
			pass(time.Second)
			tenant := uuid.New()
			burst := slices.Repeat([]Amounts{{Messages: 1}}, 2000)
			c.limits[tenant] = Amounts{Messages: 1}
			require.Equal(t, 1, c.take(instance, tenant, burst...))
			c.set(func() { c.limits[tenant] = Amounts{Messages: 4000} })
			pass(250 * time.Millisecond)
			require.Equal(t, 1000, c.take(instance, tenant, burst...))
			c.set(func() { c.limits[tenant] = Amounts{Messages: 8} })
			pass(time.Minute)
			require.Equal(t, 2, c.take(instance, tenant, burst...))
			c.set(func() { c.limits[tenant] = Amounts{} })
			require.Equal(t, 2000, c.take(instance, tenant, burst...))
		})
	}
}

// Tokens of messages that were not accepted after all are there for the next ones.
func TestGivenBack(t *testing.T) {
	t.Parallel()
	for _, instance := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, "a", "b")
			defer c.end()
			pass(time.Second)
			tenant := uuid.New()
			c.limits[tenant] = Amounts{Messages: 8}
			require.Equal(t, 2, c.take(instance, tenant, slices.Repeat([]Amounts{{Messages: 1}}, 4)...))
			c.nodes[instance].GiveBack(tenant, Amounts{Messages: 2, Bytes: 100})
			require.Equal(t, 2, c.take(instance, tenant, slices.Repeat([]Amounts{{Messages: 1}}, 4)...))
		})
	}
}

// What anybody may send to the subject takes nothing from a tenant, and leaves nothing behind: asks for tenants that this instance does
// not own, or that have no such limit; for more than a message can cost; from nobody who is alive; and bytes.
func TestHostileRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		defer c.end()
		pass(time.Second)
		tenant := uuid.New()
		c.limits[tenant] = Amounts{Messages: 100, Bytes: 1 << 20}
		owner, other := c.nodes["a"], c.nodes["b"]
		require.Nil(t, owner.answer([]byte("hello")))
		require.Nil(t, owner.answer(nil))
		asks := []ask{{tenant: tenant, kind: Messages, need: 1, want: 10}}
		require.Nil(t, owner.answer(encodeRequest("nobody", asks)))
		require.Nil(t, owner.answer(encodeRequest("a", asks)))
		for what, request := range map[string]struct {
			at *node
			ask
		}{
			"not the owner":  {other, ask{tenant, Messages, 1, 10}},
			"unknown tenant": {owner, ask{uuid.New(), Messages, 1, 10}},
			"unknown kind":   {owner, ask{tenant, 77, 1, 10}},
			"huge need":      {owner, ask{tenant, Bytes, 1 << 60, 1 << 60}},
			"no need":        {owner, ask{tenant, Bytes, 0, 10}},
		} {
			from := map[bool]string{true: "a", false: "b"}[request.at == other]
			answer, err := decodeAnswer(request.at.answer(encodeRequest(from, []ask{request.ask})), 1)
			require.NoError(t, err, what)
			require.Equal(t, grant{status: unserved}, answer[0], what)
		}
		require.Empty(t, other.lender.buckets)
		require.LessOrEqual(t, len(owner.lender.buckets), 2)
		require.Equal(t, 25, c.take("a", tenant, slices.Repeat([]Amounts{{Messages: 1}}, 30)...), "nothing is missing")
	})
}

// A huge want gets what there is, and nothing more.
func TestHugeWant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		defer c.end()
		pass(time.Second)
		tenant := uuid.New()
		c.limits[tenant] = Amounts{Messages: 100}
		answer, err := decodeAnswer(c.nodes["a"].answer(encodeRequest("b", []ask{{tenant, Messages, 1, 1 << 62}})), 1)
		require.Error(t, err, "that is no number of version 1")
		require.Nil(t, answer)
		answer, err = decodeAnswer(c.nodes["a"].answer(encodeRequest("b", []ask{{tenant, Messages, 1, 1 << 61}})), 1)
		require.NoError(t, err)
		require.Equal(t, int64(25), answer[0].tokens)
	})
}

// While a bucket is short, no instance is left with nothing.
func TestInstancesShareWhatIsScarce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b", "c")
		defer c.end()
		tenant := uuid.New()
		c.limits[tenant] = Amounts{Messages: perSecond}
		var clients sync.WaitGroup
		var got [3]atomic.Int64
		end := time.Now().Add(20 * time.Second)
		for i, instance := range []string{"a", "b", "c"} {
			clients.Go(func() {
				for time.Now().Before(end) {
					got[i].Add(int64(c.take(instance, tenant, slices.Repeat([]Amounts{{Messages: 1}}, 10)...)))
					pass(time.Duration(5+5*i) * time.Millisecond)
				}
			})
		}
		clients.Wait()
		for i := range got {
			require.GreaterOrEqual(t, got[i].Load(), int64(20*perSecond/3*7/10), "instance %d", i)
		}
	})
}

// A call ends with its context, and the bucket forgets nothing and nobody.
func TestTakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		defer c.end()
		tenant, limits := uuid.New(), Amounts{Messages: 100}
		c.limits[tenant] = limits
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		passed, _ := c.nodes["b"].Take(ctx, tenant, limits, []Amounts{{Messages: 1}})
		require.Zero(t, passed)
		require.Empty(t, c.nodes["b"].borrower(tenant).waiters)
		c.nodes["b"].stop()
		passed, _ = c.nodes["b"].Take(t.Context(), tenant, limits, []Amounts{{Messages: 1}})
		require.LessOrEqual(t, passed, 1)
	})
}

// Memory is kept for tenants that need something.
func TestIdleTenantsAreLetGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "a", "b")
		defer c.end()
		pass(time.Second)
		for i := range 100 {
			tenant := uuid.New()
			c.set(func() { c.limits[tenant] = Amounts{Messages: 4} })
			require.Equal(t, 1, c.take(cmp.Or(map[int]string{0: "a"}[i%2], "b"), tenant, Amounts{Messages: 1}))
		}
		pass(keepIdle + time.Minute)
		for _, n := range c.nodes {
			n.mu.Lock()
			require.Empty(t, n.borrowers)
			n.mu.Unlock()
			n.lender.mu.Lock()
			require.Empty(t, n.lender.buckets)
			n.lender.mu.Unlock()
		}
	})
}
