package queuelimit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/queuelimit"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
)

const (
	// interval makes a second of the enforcer short. What the broker tells of its queues is still up to five seconds old.
	interval  = 100 * time.Millisecond
	waitLimit = time.Minute // a limit for a machine that is busy with other packages; nothing takes nearly as long
	poll      = 20 * time.Millisecond
)

// registry is what operators want, which is the test's to say.
type registry struct {
	mu      sync.Mutex
	reads   int // of all tenants, to the end
	version int
	limits  map[uuid.UUID]contract.Limits
}

func (r *registry) set(change func(map[uuid.UUID]contract.Limits)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	change(r.limits)
}

func (r *registry) RegistryVersion(context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.version), nil
}

func (r *registry) Registered(_ context.Context, behind uuid.UUID) (page []store.Registration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, limits := range r.limits {
		if id.String() > behind.String() {
			page = append(page, store.Registration{Spec: contract.TenantSpec{TenantID: id.String(), Limits: limits}})
		}
	}
	if len(page) == 0 {
		r.reads++
	}
	slices.SortFunc(page, func(a, b store.Registration) int { return strings.Compare(a.Spec.TenantID, b.Spec.TenantID) })
	return page[:min(len(page), 100)], nil
}

// world is a broker, behind a management API that may have faults, and an enforcer.
type world struct {
	t         *testing.T
	broker    backing.Broker
	url       string // of the management API with faults
	link      *conn.Link
	publisher *publish.Publisher
	api       *management.Client // without faults
	registry  *registry
	metrics   *prometheus.Registry
	enforcer  *queuelimit.Enforcer

	mu       *sync.Mutex
	fault    http.HandlerFunc // guarded by mu: answers instead of the API, unless nil
	changes  int              // guarded by mu: requests that change something
	degraded error            // guarded by mu
	leads    bool             // guarded by mu
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, backing.RabbitMQ(t))
}

func newWorldOn(t *testing.T, broker backing.Broker) *world {
	t.Helper()
	w := &world{
		t: t, broker: broker, registry: &registry{limits: make(map[uuid.UUID]contract.Limits)},
		metrics: prometheus.NewRegistry(), mu: &sync.Mutex{}, leads: true,
	}
	target, err := url.Parse(w.broker.ManagementURL)
	require.NoError(t, err)
	login := target.User
	target.User = nil
	transport := &http.Transport{DisableKeepAlives: true}
	proxy := &httputil.ReverseProxy{Transport: transport, ErrorLog: zap.NewStdLog(zap.NewNop()), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.URL.Path, r.Out.URL.RawPath = r.In.URL.Path, r.In.URL.RawPath
	}}
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		w.mu.Lock()
		fault := w.fault
		if request.Method != http.MethodGet {
			w.changes++
		}
		w.mu.Unlock()
		if fault != nil {
			fault(answer, request)
			return
		}
		proxy.ServeHTTP(answer, request)
	}))
	t.Cleanup(server.Close)
	with, err := url.Parse(server.URL)
	require.NoError(t, err)
	with.User = login
	w.url = with.String()
	w.api, err = management.New(w.broker.ManagementURL, w.broker.URL)
	require.NoError(t, err)

	w.link = conn.NewLink(conn.Config{URL: w.broker.URL}, "test", zap.NewNop(), nil)
	w.publisher = publish.New(w.link, 1, zap.NewNop())
	component.Run(t, w.link.Run)
	component.Run(t, w.publisher.Run)
	w.do(func(ch *amqp.Channel) error { return provision.DeclareShared(ch, nil, amqp.QueueTypeClassic) })
	return w
}

// start runs an enforcer, which the world has from then on.
func (w *world) start() (stop func()) {
	w.t.Helper()
	metrics := prometheus.NewRegistry()
	enforcer, err := queuelimit.New(queuelimit.Config{
		ManagementURL: w.url, URL: w.broker.URL,
		Leads: func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.leads
		},
		Changed: func(uuid.UUID) {},
		Degrade: func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.degraded = err
		},
		Interval: interval,
	}, w.registry, metrics, zap.NewNop())
	require.NoError(w.t, err)
	w.enforcer, w.metrics = enforcer, metrics
	return component.Run(w.t, enforcer.Run)
}

func (w *world) setFault(fault http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = fault
}

func (w *world) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changes
}

func (w *world) lastDegraded() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.degraded
}

// do works on a channel.
func (w *world) do(work func(*amqp.Channel) error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	session, err := w.link.Session(ctx)
	require.NoError(w.t, err)
	require.NoError(w.t, session.Do(ctx, work))
}

// tenant makes a queue.
func (w *world) tenant(options provision.QueueOptions) uuid.UUID {
	w.t.Helper()
	id := uuid.New()
	w.declare(id, options)
	return id
}

func (w *world) declare(id uuid.UUID, options provision.QueueOptions) {
	w.t.Helper()
	w.do(func(ch *amqp.Channel) error { return provision.DeclareTenant(ch, id.String(), options) })
}

// limit sets the limits of a tenant.
func (w *world) limit(id uuid.UUID, limits contract.Limits) {
	w.registry.set(func(all map[uuid.UUID]contract.Limits) { all[id] = limits })
}

// get asks the management API, without faults.
func (w *world) get(path string, into any) {
	w.t.Helper()
	require.NoError(w.t, w.api.Do(w.t.Context(), http.MethodGet, path, nil, into))
}

// put changes something by it.
func (w *world) put(path string, body any) {
	w.t.Helper()
	require.NoError(w.t, w.api.Do(w.t.Context(), http.MethodPut, path, body, nil))
}

// inForce is what policies hold a queue to, in messages and bytes.
func (w *world) inForce(id uuid.UUID) (messages, bytes int64) {
	w.t.Helper()
	var q struct {
		Effective any `json:"effective_policy_definition"`
	}
	w.get("/api/queues/"+w.api.VHost()+"/"+contract.QueueName(id.String()), &q)
	definition, _ := q.Effective.(map[string]any)
	m, _ := definition["max-length"].(float64)
	b, _ := definition["max-length-bytes"].(float64)
	return int64(m), int64(b)
}

func (w *world) awaitInForce(id uuid.UUID, messages, bytes int64) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		m, b := w.inForce(id)
		return m == messages && b == bytes
	}, waitLimit, poll, "%d messages, %d bytes", messages, bytes)
}

// awaitReason waits until the status of a tenant would give a reason, "" for none.
func (w *world) awaitReason(id uuid.UUID, reason contract.QueueLimitsReason) (last contract.QueueLimits) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		w.registry.mu.Lock()
		limits := w.registry.limits[id]
		w.registry.mu.Unlock()
		last = contract.QueueLimits{}
		if found := w.enforcer.Of(id, limits); found != nil {
			last = *found
		}
		return last.Reason == reason
	}, waitLimit, poll, "want %q", reason)
	return last
}

// publish publishes messages of so many bytes one after the other until one is refused, or n were accepted, and returns how many were.
func (w *world) publish(id uuid.UUID, n, size int) (accepted int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	for ; accepted < n; accepted++ {
		err := w.publisher.Publish(ctx, publish.Message{Exchange: contract.MessagesExchange, Key: id.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: bytes.Repeat([]byte("1"), size),
		}})
		if errors.Is(err, publish.ErrRejected) {
			return accepted
		}
		require.NoError(w.t, err)
	}
	return accepted
}

// depth is how many messages wait in the queue of a tenant.
func (w *world) depth(id uuid.UUID) (n int) {
	w.t.Helper()
	answer := make(chan int, 1)
	w.do(func(ch *amqp.Channel) error {
		q, err := ch.QueueDeclarePassive(contract.QueueName(id.String()), true, false, false, false, nil)
		answer <- q.Messages
		return err
	})
	return <-answer
}

// metric is the value of a metric, summed up over its series.
func (w *world) metric(name string) (sum float64) {
	w.t.Helper()
	families, err := w.metrics.Gather()
	require.NoError(w.t, err)
	for _, family := range families {
		if family.GetName() == name {
			for _, m := range family.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// policyNames are the names of all policies of the virtual host.
func (w *world) policyNames() (names []string) {
	w.t.Helper()
	var all []struct{ Name string }
	w.get("/api/policies/"+w.api.VHost(), &all)
	for _, p := range all {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// answering is a management API that gives one answer.
func answering(status int, body string) http.HandlerFunc {
	return func(answer http.ResponseWriter, _ *http.Request) {
		answer.WriteHeader(status)
		_, _ = io.WriteString(answer, body)
	}
}

// second is another instance on the same broker, which does not lead.
func (w *world) second() *world {
	second := *w
	second.mu, second.leads = &sync.Mutex{}, false
	return &second
}

func (w *world) lead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leads = true
}

// tenants makes queues, several at a time.
func (w *world) tenants(n int) []uuid.UUID {
	w.t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.New()
	}
	session, err := w.link.Session(w.t.Context())
	require.NoError(w.t, err)
	var group errgroup.Group
	const parts = 8
	for part := range parts {
		group.Go(func() error {
			for i := part; i < n; i += parts {
				err := session.Do(w.t.Context(), func(ch *amqp.Channel) error {
					return provision.DeclareTenant(ch, ids[i].String(), provision.QueueOptions{MaxLengthBytes: 1 << 30})
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(w.t, group.Wait())
	return ids
}
