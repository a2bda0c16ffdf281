package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// hub is the control channel and the database as far as several instances meet in them. Time is that of a bubble.
type hub struct {
	poll     time.Duration // between two looks of a watch
	mu       sync.Mutex
	down     bool                // guarded by mu: the channel is away for everybody
	revision uint64              // guarded by mu
	entries  map[string]hubEntry // guarded by mu
	presence map[string]time.Time
	nodes    []*node // guarded by mu

	// What was seen since the last look, of all tenants: see sample.
	over, under map[uuid.UUID]time.Duration // guarded by mu
}

type hubEntry struct {
	value    contract.TenantStatus
	revision uint64
	expires  time.Time
}

var errAway = errors.New("the control channel is away")

// node is one instance.
type node struct {
	hub     *hub
	name    string
	channel *channel
	// leave stops the instance in order.
	leave func() error

	mu      sync.Mutex
	cut     bool               // guarded by mu: from the control channel
	frozen  bool               // guarded by mu: or dead; what it does counts no more
	blind   bool               // guarded by mu: cannot reach the database either
	workers map[uuid.UUID]*int // guarded by mu: of consumers that run
}

func newHub() *hub {
	return &hub{
		poll:    50 * time.Millisecond,
		entries: make(map[string]hubEntry), presence: make(map[string]time.Time),
		over: make(map[uuid.UUID]time.Duration), under: make(map[uuid.UUID]time.Duration),
	}
}

// join starts an instance that is to work for tenants.
func (h *hub) join(name string, specs []contract.TenantSpec) *node {
	n := &node{
		hub: h, name: name, workers: make(map[uuid.UUID]*int),
		channel: &channel{first: specs, updates: make(chan control.Entry[contract.TenantSpec])},
	}
	h.mu.Lock()
	h.nodes = append(h.nodes, n)
	h.mu.Unlock()
	p := newPlant() // partitions and queues are no concern here
	controller := tenants.New(tenants.Config{Instance: name, MaxAttempts: 3, Concurrency: 4}, tenants.Dependencies{
		Specs: n.channel, Statuses: n, Heartbeats: n, Presence: n, Partitions: p, Topology: p,
		NewConsumer: func(tenant uuid.UUID, state *consumer.State, onChange func(error)) tenants.Consumer {
			return &counted{node: n, tenant: tenant, state: state, onChange: onChange}
		},
		Synced: func() {}, Outage: func() error { return nil }, Log: zap.NewNop(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- controller.Run(ctx) }()
	n.leave = sync.OnceValue(func() error {
		cancel()
		err := <-done
		n.set(func() { n.frozen = true })
		return err
	})
	return n
}

func (n *node) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *node) reaches(h *hub) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !h.down && !n.cut && !n.frozen
}

// has is how many workers of a tenant an instance has.
func (n *node) has(tenant uuid.UUID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if workers := n.workers[tenant]; workers != nil && !n.frozen {
		return *workers
	}
	return 0
}

// total is how many workers of a tenant there are.
func (h *hub) total(tenant uuid.UUID) (sum int) {
	h.mu.Lock()
	nodes := h.nodes
	h.mu.Unlock()
	for _, n := range nodes {
		sum += n.has(tenant)
	}
	return sum
}

// counted is a consumer that works on nothing.
type counted struct {
	node     *node
	tenant   uuid.UUID
	state    *consumer.State
	onChange func(error)
	workers  int
}

func (c *counted) Configure(workers, _ int) {
	c.state.Workers.Store(int64(workers))
	c.node.set(func() { c.workers = workers })
}

func (*counted) Limit(contract.Limits) {}

func (c *counted) Run(ctx context.Context) error {
	c.node.set(func() { c.node.workers[c.tenant] = &c.workers })
	c.state.Consuming.Store(true)
	c.onChange(nil)
	<-ctx.Done()
	c.state.Consuming.Store(false)
	c.node.set(func() { delete(c.node.workers, c.tenant) })
	return nil
}

func (n *node) write(key string, value contract.TenantStatus, ttl time.Duration, condition func(hubEntry, bool) bool) (uint64, error) {
	h := n.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if !n.reaches(h) {
		return 0, errAway
	}
	last, there := h.entries[key]
	if !condition(last, there) {
		return 0, control.ErrConflict
	}
	h.revision++
	h.entries[key] = hubEntry{value: value, revision: h.revision, expires: time.Now().Add(ttl)}
	return h.revision, nil
}

func (n *node) Put(_ context.Context, key string, value contract.TenantStatus) (uint64, error) {
	return n.write(key, value, contract.StatusTTL, func(hubEntry, bool) bool { return true })
}

func (n *node) Renew(_ context.Context, key string, value contract.TenantStatus, ttl time.Duration, revision uint64) (uint64, error) {
	return n.write(key, value, ttl, func(last hubEntry, there bool) bool { return revision == 0 || there && last.revision == revision })
}

func (n *node) Delete(_ context.Context, key string) error {
	h := n.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if !n.reaches(h) {
		return errAway
	}
	delete(h.entries, key)
	return nil
}

// WatchKeys tells what has changed since the last look, as long as the instance reaches the channel.
func (n *node) WatchKeys(ctx context.Context, _ string, handle func(control.Entry[contract.TenantStatus]), synced func()) error {
	known := make(map[string]uint64)
	for told := false; ctx.Err() == nil; {
		var news []control.Entry[contract.TenantStatus]
		n.hub.mu.Lock()
		reached := n.reaches(n.hub)
		if reached {
			n.hub.expire()
			for key, entry := range n.hub.entries {
				if _, heartbeat := contract.ParseInstanceKey(key); heartbeat && known[key] != entry.revision {
					known[key] = entry.revision
					news = append(news, control.Entry[contract.TenantStatus]{Key: key, Value: entry.value})
				}
			}
			for key := range known {
				if _, there := n.hub.entries[key]; !there {
					delete(known, key)
					news = append(news, control.Entry[contract.TenantStatus]{Key: key, Deleted: true})
				}
			}
		}
		n.hub.mu.Unlock()
		for _, entry := range news {
			handle(entry)
		}
		if reached && !told {
			synced()
		}
		told = reached
		select {
		case <-ctx.Done():
		case <-time.After(n.hub.poll):
		}
	}
	return nil
}

// expire removes what has come to its end. The caller holds the lock.
func (h *hub) expire() {
	for key, entry := range h.entries {
		if !time.Now().Before(entry.expires) {
			delete(h.entries, key)
		}
	}
}

var errDatabase = errors.New("the database is away")

func (n *node) database() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blind || n.frozen {
		return errDatabase
	}
	return nil
}

func (n *node) MarkAlive(_ context.Context, instance string) error {
	if err := n.database(); err != nil {
		return err
	}
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	n.hub.presence[instance] = time.Now()
	return nil
}

func (n *node) OthersAlive(_ context.Context, instance string, within time.Duration) (bool, error) {
	if err := n.database(); err != nil {
		return false, err
	}
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	for other, at := range n.hub.presence {
		if other != instance && time.Since(at) < within {
			return true, nil
		}
	}
	return false, nil
}

func (n *node) RemoveMark(_ context.Context, instance string) error {
	if err := n.database(); err != nil {
		return err
	}
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	delete(n.hub.presence, instance)
	return nil
}

// watchTotals notes for how long tenants have more workers than they are to have, and for how long fewer, until ctx ends.
func (h *hub) watchTotals(ctx context.Context, specs []contract.TenantSpec) {
	const step = 50 * time.Millisecond
	ids := make([]uuid.UUID, len(specs))
	for i, spec := range specs {
		ids[i] = uuid.MustParse(spec.TenantID)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(step):
		}
		for i, spec := range specs {
			id := ids[i]
			total := h.total(id)
			h.mu.Lock()
			if total > spec.Workers {
				h.over[id] += step
			}
			if total < spec.Workers {
				h.under[id] += step
			}
			h.mu.Unlock()
		}
	}
}

// lapses returns the longest times for which a tenant had more, and fewer, workers than it was to have since the last call.
func (h *hub) lapses() (over, under time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.over {
		over = max(over, d)
	}
	for _, d := range h.under {
		under = max(under, d)
	}
	clear(h.over)
	clear(h.under)
	return over, under
}

// pass lets time go by, and then whatever is on its way arrive.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// manyTenants are n tenants of 1 to 5 workers.
func manyTenants(n int) []contract.TenantSpec {
	specs := make([]contract.TenantSpec, n)
	for i := range specs {
		id := uuid.NewSHA1(uuid.NameSpaceOID, fmt.Append(nil, i))
		specs[i] = contract.TenantSpec{TenantID: id.String(), State: contract.DesiredActive, Workers: i%5 + 1, Generation: 1}
	}
	return specs
}
