package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// convergence is longer than the controller needs for anything here, in the time of the bubble: faults end soon, and the
// longest pause between two tries is 15 seconds.
const convergence = time.Minute

// plant is what a controller acts on: it does in memory what database and broker do, fails on demand, and notes what must
// not happen.
type plant struct {
	mu         sync.Mutex
	partitions map[uuid.UUID]bool          // guarded by mu
	retired    map[uuid.UUID]bool          // guarded by mu
	queues     map[uuid.UUID]chan struct{} // guarded by mu: closed when the queue goes
	consumers  map[uuid.UUID]*puppet       // guarded by mu
	statuses   map[string]contract.TenantStatus
	puts       int                 // guarded by mu: statuses that were written
	beat       uint64              // guarded by mu: revision of the heartbeat
	begun      map[uuid.UUID]int64 // guarded by mu: the generation that was acted on last
	faults     []fault             // guarded by mu: calls that are still to fail
	wrong      []string            // guarded by mu
}

var errFault = errors.New("a fault that passes")

func newPlant() *plant {
	return &plant{
		partitions: make(map[uuid.UUID]bool), retired: make(map[uuid.UUID]bool), queues: make(map[uuid.UUID]chan struct{}),
		consumers: make(map[uuid.UUID]*puppet), statuses: make(map[string]contract.TenantStatus),
		begun: make(map[uuid.UUID]int64),
	}
}

// fault has calls fail: so many, after so many that do not, of one kind or, if kind is empty, of all.
type fault struct {
	kind         string
	after, times int
}

// do runs one call, unless it is one of those that fail.
func (p *plant) do(kind string, call func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.faults {
		switch f := &p.faults[i]; {
		case f.kind != "" && f.kind != kind:
		case f.after > 0:
			f.after--
		case f.times > 0:
			f.times--
			return errFault
		}
	}
	return call()
}

// require notes what is wrong. The caller holds the lock.
func (p *plant) require(fine bool, format string, args ...any) {
	if !fine {
		p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
	}
}

func (p *plant) Attach(_ context.Context, tenant uuid.UUID) error {
	return p.do("attach", func() error {
		if p.retired[tenant] {
			return store.ErrRetired
		}
		p.partitions[tenant] = true
		return nil
	})
}

func (p *plant) Attached(_ context.Context, tenant uuid.UUID) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.partitions[tenant], nil
}

func (p *plant) AttachedLongerThan(context.Context, time.Duration) (tenants []uuid.UUID, err error) {
	return tenants, p.do("list", func() error {
		tenants = slices.Collect(maps.Keys(p.partitions))
		return nil
	})
}

func (p *plant) Drop(_ context.Context, tenant uuid.UUID) error {
	return p.do("drop", func() error {
		p.require(p.consumers[tenant] == nil, "a partition is dropped under its consumer")
		delete(p.partitions, tenant)
		p.retired[tenant] = true
		return nil
	})
}

func (*plant) Bind(context.Context, uuid.UUID) error { return nil }

func (p *plant) Declare(_ context.Context, tenant uuid.UUID) error {
	return p.do("declare", func() error {
		p.require(p.partitions[tenant], "a queue without a partition")
		if p.queues[tenant] == nil {
			p.queues[tenant] = make(chan struct{})
		}
		return nil
	})
}

func (p *plant) Delete(_ context.Context, tenant uuid.UUID) error {
	return p.do("delete", func() error {
		p.require(p.consumers[tenant] == nil, "a queue is deleted under its consumer")
		p.loseLocked(tenant)
		return nil
	})
}

// lose deletes a queue behind the controller's back.
func (p *plant) lose(tenant uuid.UUID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseLocked(tenant)
}

func (p *plant) loseLocked(tenant uuid.UUID) {
	if p.queues[tenant] != nil {
		close(p.queues[tenant])
		delete(p.queues, tenant)
	}
}

func (p *plant) Depths(_ context.Context, tenants []uuid.UUID, observe func(uuid.UUID, int64)) error {
	for _, tenant := range tenants {
		p.mu.Lock()
		ready := int64(0)
		if p.queues[tenant] == nil {
			ready = -1
		}
		p.mu.Unlock()
		observe(tenant, ready)
	}
	return nil
}

// puppet is a consumer that works on nothing.
type puppet struct {
	plant    *plant
	tenant   uuid.UUID
	state    *consumer.State
	onChange func(error)
}

func (c *puppet) Configure(workers, _ int) { c.state.Workers.Store(int64(workers)) }

func (*puppet) Limit(contract.Limits) {}

func (c *puppet) Run(ctx context.Context) error {
	c.plant.mu.Lock()
	queue := c.plant.queues[c.tenant]
	c.plant.require(c.plant.consumers[c.tenant] == nil, "two consumers of one tenant")
	c.plant.consumers[c.tenant] = c
	c.plant.mu.Unlock()
	defer func() {
		c.state.Consuming.Store(false)
		c.plant.mu.Lock()
		defer c.plant.mu.Unlock()
		delete(c.plant.consumers, c.tenant)
	}()
	if queue == nil {
		return consumer.ErrQueueMissing
	}
	c.state.Consuming.Store(true)
	c.onChange(nil)
	select {
	case <-ctx.Done():
		return nil
	case <-queue:
		return consumer.ErrQueueMissing
	}
}

// reports is the bucket of observed states.
type reports struct{ *plant }

func (r reports) Put(_ context.Context, key string, value contract.TenantStatus) (uint64, error) {
	return 1, r.do("put", func() error {
		r.puts++
		r.statuses[key] = value
		return nil
	})
}

func (r reports) Renew(_ context.Context, _ string, _ contract.TenantStatus, _ time.Duration, revision uint64) (beat uint64, err error) {
	return beat, r.do("renew", func() error {
		if revision != 0 && revision != r.beat {
			return control.ErrConflict
		}
		r.beat++
		beat = r.beat
		return nil
	})
}

func (reports) WatchKeys(ctx context.Context, _ string, _ func(control.Entry[contract.TenantStatus]), synced func()) error {
	synced()
	<-ctx.Done()
	return nil
}

func (r reports) Delete(_ context.Context, key string) error {
	return r.do("withdraw", func() error { delete(r.statuses, key); return nil })
}

// channel is the bucket of desired states, as one instance sees it: what it is told, in which order ever.
type channel struct {
	first   []contract.TenantSpec
	updates chan control.Entry[contract.TenantSpec]
}

func (c *channel) Watch(ctx context.Context, handle func(control.Entry[contract.TenantSpec]), synced func()) error {
	for _, spec := range c.first {
		handle(control.Entry[contract.TenantSpec]{Key: spec.TenantID, Value: spec})
	}
	synced()
	for {
		select {
		case <-ctx.Done():
			return nil
		case entry := <-c.updates:
			handle(entry)
		}
	}
}

func (c *channel) Get(context.Context, string) (control.Entry[contract.TenantSpec], error) {
	return control.Entry[contract.TenantSpec]{}, control.ErrNotFound
}

// life is what the registry has ever wanted of one tenant: generation g is life[g-1].
type life []contract.TenantSpec

func drawLife(t *rapid.T) life {
	spec := contract.TenantSpec{TenantID: uuid.NewString(), State: contract.DesiredActive, Workers: 1, Generation: 1}
	l := life{spec}
	for _, change := range rapid.SliceOfN(rapid.SampledFrom([]string{"suspend", "resume", "resize", "delete"}), 0, 6).Draw(t, "life") {
		switch change {
		case "suspend":
			spec.State = contract.DesiredSuspended
		case "resume":
			spec.State = contract.DesiredActive
		case "resize":
			spec.Workers = spec.Workers%7 + 1
		case "delete":
			spec.State = contract.DesiredDeleting
		}
		if spec == l[len(l)-1] {
			continue
		}
		spec.Generation++
		if l = append(l, spec); spec.State == contract.DesiredDeleting {
			break // for ever
		}
	}
	return l
}

// event is one thing that happens. Which fields count depends on what it is.
type event struct {
	what    string
	tenant  int
	updates [][2]int // tenant and place in its life, of updates that arrive one right after the other
	faults  []fault
	// snapshot is the place in its life at which a starting instance finds each tenant, -1 if the key is missing.
	snapshot []int
}

func drawEvent(t *rapid.T, lives []life) event {
	e := event{what: rapid.SampledFrom([]string{"updates", "updates", "updates", "vanish", "restart", "lose", "fault"}).Draw(t, "what")}
	e.tenant = rapid.IntRange(0, len(lives)-1).Draw(t, "tenant")
	switch e.what {
	case "updates":
		for range rapid.IntRange(1, 8).Draw(t, "updates") {
			tenant := rapid.IntRange(0, len(lives)-1).Draw(t, "of")
			e.updates = append(e.updates, [2]int{tenant, rapid.IntRange(0, len(lives[tenant])-1).Draw(t, "place")})
		}
	case "restart":
		for _, l := range lives {
			e.snapshot = append(e.snapshot, rapid.IntRange(-1, len(l)-1).Draw(t, "snapshot"))
		}
	case "fault":
		for range rapid.IntRange(1, 3).Draw(t, "faults") { // no more of them together than pass while everything converges
			e.faults = append(e.faults, fault{
				kind:  rapid.SampledFrom([]string{"", "", "attach", "declare", "delete", "drop", "put", "renew", "list", "withdraw"}).Draw(t, "of"),
				after: rapid.IntRange(0, 3).Draw(t, "after"), times: rapid.IntRange(1, 2).Draw(t, "times"),
			})
		}
	}
	return e
}

// expected is what has to become of one tenant, in the simplest words.
type expected struct {
	known     bool // to this instance
	spec      contract.TenantSpec
	vanished  bool // from the control channel
	retired   bool
	partition bool
	queue     bool
}

// next is the rule: the highest generation wins, in whatever order they arrive.
func (m *expected) next(spec contract.TenantSpec) {
	if !m.known || spec.Generation >= m.spec.Generation {
		m.known, m.spec, m.vanished = true, spec, false
	}
}

// converge is what is true once everything was done that there is to do.
func (m *expected) converge() {
	switch {
	case !m.known:
	case m.spec.State == contract.DesiredDeleting, m.retired && m.vanished:
		m.retired, m.partition, m.queue = true, false, false
		m.known = !m.vanished
	case !m.retired:
		m.partition, m.queue = true, true
	}
}

// state is what is to be reported.
func (m *expected) state() contract.ConsumerState {
	switch {
	case m.spec.State == contract.DesiredDeleting:
		return contract.StateDeleted
	case m.retired:
		return contract.StateFailed
	case m.spec.State == contract.DesiredSuspended:
		return contract.StateSuspended
	default:
		return contract.StateRunning
	}
}

// run has one instance meet the events, and returns the first thing that is wrong. It is called in a bubble.
func run(lives []life, events []event) error {
	p := newPlant()
	model := make([]expected, len(lives))
	in := &instanceUnderTest{plant: p}
	in.start(nil)
	defer func() { in.stop() }()
	for i, e := range events {
		switch e.what {
		case "updates":
			for _, u := range e.updates {
				spec := lives[u[0]][u[1]]
				in.tell(control.Entry[contract.TenantSpec]{Key: spec.TenantID, Value: spec})
				model[u[0]].next(spec)
			}
		case "vanish":
			in.tell(control.Entry[contract.TenantSpec]{Key: lives[e.tenant][0].TenantID, Deleted: true})
			model[e.tenant].vanished = true
		case "restart":
			in.stop()
			var first []contract.TenantSpec
			for tenant, place := range e.snapshot {
				model[tenant].known, model[tenant].vanished = false, false
				if place >= 0 {
					first = append(first, lives[tenant][place])
					model[tenant].next(lives[tenant][place])
				}
			}
			in.start(first)
		case "lose":
			p.lose(uuid.MustParse(lives[e.tenant][0].TenantID))
			model[e.tenant].queue = false // and made again if somebody knows the tenant
		case "fault":
			p.mu.Lock()
			p.faults = e.faults
			p.mu.Unlock()
			continue // it is the next event that meets them
		}
		<-time.After(convergence)
		synctest.Wait()
		for tenant := range lives {
			model[tenant].converge()
			if err := in.check(lives[tenant][0].TenantID, model[tenant]); err != nil {
				return fmt.Errorf("event %d (%+v), tenant %d (%+v): %w", i, e, tenant, model[tenant], err)
			}
		}
	}
	return nil
}

// instanceUnderTest is a controller that is restarted now and then.
type instanceUnderTest struct {
	plant      *plant
	channel    *channel
	controller *tenants.Controller
	cancel     context.CancelFunc
	done       chan error
}

func (in *instanceUnderTest) start(first []contract.TenantSpec) {
	p := in.plant
	p.mu.Lock()
	clear(p.begun)
	p.mu.Unlock()
	in.channel = &channel{first: first, updates: make(chan control.Entry[contract.TenantSpec])}
	in.controller = tenants.New(tenants.Config{Instance: instance, MaxAttempts: 3, Concurrency: 2}, tenants.Dependencies{
		Specs: in.channel, Statuses: reports{p}, Partitions: p, Topology: p,
		NewConsumer: func(tenant uuid.UUID, state *consumer.State, onChange func(error)) tenants.Consumer {
			return &puppet{plant: p, tenant: tenant, state: state, onChange: onChange}
		},
		Heartbeats: reports{p}, Synced: func() {}, Outage: func() error { return nil },
		Log:  zap.NewNop(),
		Step: p.step,
	})
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel, in.done = cancel, make(chan error, 1)
	go func() { in.done <- in.controller.Run(ctx) }()
}

// step demands that no tenant is ever taken back to an older generation.
func (p *plant) step(tenant uuid.UUID, generation int64, done step.Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch done {
	case step.Begun:
		p.require(generation >= p.begun[tenant], "generation %d is acted on after %d", generation, p.begun[tenant])
		p.begun[tenant] = generation
	case step.Released:
		delete(p.begun, tenant)
	default:
	}
}

func (in *instanceUnderTest) tell(entry control.Entry[contract.TenantSpec]) {
	in.channel.updates <- entry
}

func (in *instanceUnderTest) stop() {
	in.cancel()
	if err := <-in.done; err != nil {
		in.plant.mu.Lock()
		defer in.plant.mu.Unlock()
		in.plant.require(false, "the controller ended with %v", err)
	}
}

// check compares a tenant with what is expected of it.
func (in *instanceUnderTest) check(id string, want expected) error {
	tenant := uuid.MustParse(id)
	spec, provisioned, ok := in.controller.Lookup(context.Background(), tenant)
	p := in.plant
	p.mu.Lock()
	defer p.mu.Unlock()
	runs := want.known && want.state() == contract.StateRunning
	p.require(p.partitions[tenant] == want.partition, "partition: %v", p.partitions[tenant])
	p.require((p.queues[tenant] != nil) == want.queue, "queue: %v", p.queues[tenant] != nil)
	p.require((p.consumers[tenant] != nil) == runs, "consumer: %v", p.consumers[tenant] != nil)
	if runs && p.consumers[tenant] != nil {
		workers := p.consumers[tenant].state.Workers.Load()
		p.require(workers == int64(want.spec.Workers), "workers: %d", workers)
	}
	switch status := p.statuses[contract.StatusKey(id, instance)]; {
	case want.known:
		p.require(status.State == want.state() && status.ObservedGeneration == want.spec.Generation, "status: %+v", status)
		p.require(spec == want.spec && ok == (want.state() != contract.StateDeleted), "lookup: %+v %v", spec, ok)
		p.require(provisioned == (runs || want.state() == contract.StateSuspended), "provisioned: %v", provisioned)
	default:
		p.require(ok == want.partition && !provisioned, "lookup of a tenant that is not known: %v %v", ok, provisioned)
	}
	if len(p.wrong) > 0 {
		return errors.New(strings.Join(slices.Clone(p.wrong), "; "))
	}
	return nil
}

// Generations arrive late, twice, in any order, after a deletion or a restart, while calls fail and queues get lost. What
// runs must always be what the highest generation that has arrived says, a deletion must never be taken back, and nothing
// of a deleted tenant may come back.
func TestGenerationsAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		lives := make([]life, 3)
		for i := range lives {
			lives[i] = drawLife(rt)
		}
		events := make([]event, rapid.IntRange(1, 12).Draw(rt, "events"))
		for i := range events {
			events[i] = drawEvent(rt, lives)
		}
		var err error
		synctest.Test(t, func(*testing.T) { err = run(lives, events) })
		require.NoError(rt, err)
	})
}
