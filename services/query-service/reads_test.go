package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

const (
	tick = 10 * time.Millisecond
)

// readWorld is several instances of the service, and the test as registry and reader.
type readWorld struct {
	t         *testing.T
	database  string
	operator  *pgxpool.Pool
	nats      *backing.NATSServer
	specs     *control.Bucket[contract.TenantSpec]
	instances []Config
	transport http.RoundTripper
}

func newReadWorld(t *testing.T, instances int) *readWorld {
	t.Helper()
	connections := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(connections.CloseIdleConnections)
	w := &readWorld{t: t, database: backing.Postgres(t), nats: backing.StartNATS(t), transport: openapi.Transport(connections)}
	var err error
	w.operator, err = pgxpool.New(t.Context(), w.database)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	channel, err := control.Connect(control.Config{URL: w.nats.URL}, "test", zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(channel.Close)
	w.specs = control.Tenants(channel)
	for range instances {
		w.start()
	}
	for i := range instances {
		w.ready(i)
	}
	return w
}

// start runs one more instance.
func (w *readWorld) start() {
	w.t.Helper()
	cfg := defaultConfig()
	cfg.HTTP.Addr, cfg.Ops.Addr = freeAddr(w.t), freeAddr(w.t)
	cfg.Database.URL, cfg.NATS.URL, cfg.NATS.Resync, cfg.Auth.Secret = w.database, w.nats.URL, time.Second, secret
	cfg.Query.Instance = "query-" + strconv.Itoa(len(w.instances)+1)
	w.instances = append(w.instances, cfg)
	component.Run(w.t, func(ctx context.Context) error { return serve(ctx, cfg, zap.NewNop()) })
}

// ready waits until an instance is.
func (w *readWorld) ready(instance int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.ops(instance, "/readyz").Status == http.StatusOK }, waitLimit, tick)
}

func (w *readWorld) ops(instance int, path string) raw.Response {
	got, err := raw.Do(w.t.Context(), http.DefaultTransport, raw.Request{URL: "http://" + w.instances[instance].Ops.Addr + path})
	if err != nil {
		return raw.Response{}
	}
	return got
}

// want sets the desired state of a tenant.
func (w *readWorld) want(tenant uuid.UUID, generation, readBytes int64) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		_, err := w.specs.Put(w.t.Context(), tenant.String(), contract.TenantSpec{
			TenantID: tenant.String(), State: contract.DesiredActive, Workers: 1, Generation: generation, Limits: contract.Limits{ReadBytes: readBytes},
		})
		return err == nil
	}, waitLimit, tick)
}

// tenant makes a tenant with so many messages of a kilobyte, and that limit.
func (w *readWorld) tenant(messages int, readBytes int64) uuid.UUID {
	w.t.Helper()
	tenant := uuid.New()
	_, err := w.operator.Exec(w.t.Context(), `SELECT tenant_attach($1)`, tenant)
	require.NoError(w.t, err)
	_, err = w.operator.Exec(w.t.Context(), `INSERT INTO messages (tenant_id, id, payload, epoch, xid, ord)
		SELECT $1, gen_random_uuid(), to_jsonb(repeat('x', 900)), 0, '1000', n FROM generate_series(1, $2) n`, tenant, messages)
	require.NoError(w.t, err)
	w.want(tenant, 1, readBytes)
	return tenant
}

// read reads a page on an instance.
func (w *readWorld) read(ctx context.Context, instance int, tenant uuid.UUID, query string) (raw.Response, error) {
	token, err := auth.Sign(secret, auth.Claims{
		Issuer: auth.DefaultConfig().Issuer, Audience: auth.DefaultConfig().Audience, Subject: "test",
		Scopes: []auth.Scope{auth.ScopeMessagesRead}, TenantID: tenant,
	})
	if err != nil {
		return raw.Response{}, err
	}
	return raw.Do(ctx, w.transport, raw.Request{URL: "http://" + w.instances[instance].HTTP.Addr + "/messages" + query, Token: token})
}

// status is that of one page.
func (w *readWorld) status(instance int, tenant uuid.UUID) int {
	w.t.Helper()
	got, err := w.read(w.t.Context(), instance, tenant, "?limit=1")
	require.NoError(w.t, err)
	return got.Status
}

// limited waits until an instance refuses reads of a tenant whose limit is so low that one page takes minutes.
func (w *readWorld) limited(instance int, tenant uuid.UUID) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { return w.status(instance, tenant) == http.StatusTooManyRequests }, waitLimit, tick)
}

// The rate that an operator sets is that of all instances together: a tenant whose readers want more gets that, wherever they read, and
// another tenant is read meanwhile as if it were alone.
func TestReadRateOverInstances(t *testing.T) {
	window := 3 * time.Second
	if !testing.Short() { // NOT RUN with -short, by make test-long alone: the whole ten seconds
		window = 10 * time.Second
	}
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			w := newReadWorld(t, instances)
			const limit, page = 200_000, 10_000
			tenant, other := w.tenant(100, limit), w.tenant(100, 0)
			for i := range instances { // the limit is known everywhere, and so are the instances
				require.Eventually(t, func() bool {
					for range 30 {
						if w.status(i, tenant) == http.StatusTooManyRequests {
							return true
						}
					}
					_, err := w.read(t.Context(), i, tenant, "?limit=1000")
					return err != nil
				}, waitLimit, tick)
			}
			ctx, cancel := context.WithTimeout(t.Context(), window)
			defer cancel()
			began := time.Now()
			var read, neighbour, refused atomic.Int64
			var clients sync.WaitGroup
			for client := range 9 {
				clients.Go(func() {
					for ctx.Err() == nil {
						got, err := w.read(ctx, client%instances, tenant, "?limit=10")
						switch {
						case ctx.Err() != nil:
						case err != nil:
							t.Error(err)
						case got.Status == http.StatusOK:
							read.Add(int64(len(got.Body)))
						case got.Status != http.StatusTooManyRequests || got.Header.Get("Retry-After") != "1":
							t.Errorf("%d %s %s", got.Status, got.Header, got.Body)
						default:
							refused.Add(1)
							select { // earlier than it is told to, and not as fast as it can
							case <-time.After(5 * time.Millisecond):
							case <-ctx.Done():
							}
						}
					}
				})
			}
			clients.Go(func() {
				for ctx.Err() == nil {
					got, err := w.read(ctx, 0, other, "?limit=10")
					if ctx.Err() == nil && (err != nil || got.Status != http.StatusOK) {
						t.Errorf("%v %d %s", err, got.Status, got.Body)
					}
					neighbour.Add(int64(len(got.Body)))
				}
			})
			clients.Wait()
			elapsed := time.Since(began).Seconds()
			t.Logf("in %.1f s %d bytes of %.0f, %d reads refused; another tenant %d", elapsed, read.Load(), limit*elapsed, refused.Load(), neighbour.Load())
			require.LessOrEqual(t, float64(read.Load()), 1.05*limit*elapsed+limit/4+float64(instances*page))
			// How much less it may be is held on a simulated clock (libs/rate TestSumOfReadsHolds): here it is the machine that decides.
			require.Positive(t, read.Load())
			require.Positive(t, refused.Load())
			require.Positive(t, neighbour.Load())
			metrics := string(w.ops(0, "/metrics").Body)
			require.Contains(t, metrics, `mtm_reads_refused_total{reason="rate_limited",tenant_id="`+tenant.String()+`"}`)
			require.NotContains(t, metrics, other.String())

			w.want(tenant, 2, 0)
			for i := range instances {
				require.Eventually(t, func() bool {
					for range 50 {
						if w.status(i, tenant) != http.StatusOK {
							return false
						}
					}
					return true
				}, waitLimit, tick, "without a limit")
			}
		})
	}
}

// A limit holds while NATS is away, and the service stays ready; what changes meanwhile is in force once it is back. An instance that
// starts meanwhile serves, and learns of the limits then.
func TestReadLimitsWhileNATSIsAway(t *testing.T) {
	w := newReadWorld(t, 2)
	tenant, other := w.tenant(100, 1), w.tenant(1, 0)
	for i := range 2 { // one page passes, once there is a byte, and is paid for a byte a second, on either instance
		require.Eventually(t, func() bool {
			got, err := w.read(t.Context(), i, tenant, "?limit=1")
			require.NoError(t, err)
			after, err := strconv.Atoi(got.Header.Get("Retry-After"))
			return err == nil && got.Status == http.StatusTooManyRequests && after > 500
		}, waitLimit, tick)
	}

	w.nats.Stop()
	require.Eventually(t, func() bool { return strings.Contains(string(w.ops(0, "/readyz").Body), `"status":"degraded"`) }, waitLimit, tick)
	w.ready(0)
	for i := range 2 {
		w.limited(i, tenant) // its part of a byte may have come together
		require.Equal(t, http.StatusOK, w.status(i, other))
	}
	w.start()
	w.ready(2)
	require.Equal(t, http.StatusOK, w.status(2, tenant), "nobody has told it of a limit")

	w.nats.Start()
	w.limited(2, tenant)
	w.want(tenant, 2, 1<<40)
	for i := range w.instances {
		require.Eventually(t, func() bool { return w.status(i, tenant) == http.StatusOK }, waitLimit, tick)
		require.Contains(t, string(w.ops(i, "/readyz").Body), `"status":"ready"`)
	}
}

// A bucket that is wiped takes no limit away, and an old state that comes late changes nothing; a tenant that is deleted leaves nothing.
func TestReadLimitsAndTheControlChannel(t *testing.T) {
	w := newReadWorld(t, 1)
	tenant := w.tenant(10, 1)
	w.limited(0, tenant)
	require.NoError(t, w.specs.Delete(t.Context(), tenant.String()))
	w.want(uuid.New(), 1, 1) // has been seen after it
	w.limited(0, tenant)
	w.want(tenant, 0, 0)
	late := w.tenant(10, 1)
	w.limited(0, late)
	w.limited(0, tenant)

	series := func() bool { return strings.Contains(string(w.ops(0, "/metrics").Body), tenant.String()) }
	require.True(t, series())
	_, err := w.specs.Put(t.Context(), tenant.String(), contract.TenantSpec{TenantID: tenant.String(), State: contract.DesiredDeleting, Workers: 1, Generation: 2})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.status(0, tenant) == http.StatusOK }, waitLimit, tick)
	require.NoError(t, w.specs.Delete(t.Context(), tenant.String()))
	require.Eventually(t, func() bool { return !series() }, waitLimit, tick)
	require.Equal(t, http.StatusOK, w.status(0, tenant))
}

// An installation of the version before has no nats.url for query-service: it works as it did.
func TestReadingWithoutNATS(t *testing.T) {
	p := startProcess(t, backing.Postgres(t))
	p.await(p.cfg.Ops.Addr, "/readyz", http.StatusOK)
	p.await(p.cfg.HTTP.Addr, "/messages", http.StatusOK)
	_, _, metrics := p.get(p.cfg.Ops.Addr, "/metrics")
	require.NotContains(t, metrics, `mtm_backing_up{service="nats"}`)
	p.stop()
	require.NoError(t, <-p.done)
}
