package main

import (
	"context"
	"encoding/json"
	"errors"
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
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/port"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// rateWorld is several instances of the service, and the test as registry and producer.
type rateWorld struct {
	t        *testing.T
	operator *pgxpool.Pool
	link     *conn.Link
	producer *publish.Publisher
	// management is that of the broker.
	management *management.Client
	specs      *control.Bucket[contract.TenantSpec]
	statuses   *control.Bucket[contract.TenantStatus]
	names      []string
	urls       []string
	stops      []func() // of the instances
	transport  *http.Transport
}

func newRateWorld(t *testing.T, instances int, change ...func(*Config, backing.Broker)) *rateWorld {
	t.Helper()
	databaseURL, natsURL, broker := backing.Postgres(t), backing.NATS(t), backing.RabbitMQ(t)
	w := &rateWorld{t: t, transport: &http.Transport{}}
	t.Cleanup(w.transport.CloseIdleConnections)
	var err error
	w.operator, err = pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	w.management, err = management.New(broker.ManagementURL, broker.URL)
	require.NoError(t, err)
	w.link = conn.NewLink(conn.Config{URL: broker.URL}, "test", zap.NewNop(), nil)
	w.producer = publish.New(w.link, 1, zap.NewNop())
	component.Run(t, w.link.Run)
	component.Run(t, w.producer.Run)
	channel, err := control.Connect(control.Config{URL: natsURL}, "test", zap.NewNop(), nil)
	require.NoError(t, err)
	t.Cleanup(channel.Close)
	w.specs, w.statuses = control.Tenants(channel), control.Statuses(channel)
	ports, err := port.Free(t.Context(), 2*instances)
	require.NoError(t, err)
	for i := range instances {
		cfg := defaultConfig()
		cfg.Database.URL, cfg.RabbitMQ.URL, cfg.NATS.URL, cfg.Auth.Secret = databaseURL, broker.URL, natsURL, secret
		cfg.HTTP.Addr, cfg.Ops.Addr = "127.0.0.1:"+strconv.Itoa(ports[2*i]), "127.0.0.1:"+strconv.Itoa(ports[2*i+1])
		cfg.Ingest.Instance, cfg.Database.MaxConns = "ingest-"+strconv.Itoa(i+1), 4
		w.names, w.urls = append(w.names, cfg.Ingest.Instance), append(w.urls, "http://"+cfg.HTTP.Addr)
		for _, change := range change {
			change(&cfg, broker)
		}
		w.stops = append(w.stops, component.Run(t, func(ctx context.Context) error { return serve(ctx, cfg, zap.NewNop()) }))
	}
	return w
}

// want sets the desired state of a tenant, and waits until every instance has acted on it.
func (w *rateWorld) want(tenant uuid.UUID, generation int64, limits contract.Limits) {
	w.t.Helper()
	w.put(tenant, contract.DesiredActive, generation, limits)
	w.report(tenant, contract.StateRunning, generation)
}

// put sets the desired state of a tenant.
func (w *rateWorld) put(tenant uuid.UUID, state contract.DesiredState, generation int64, limits contract.Limits) {
	w.t.Helper()
	_, err := w.specs.Put(w.t.Context(), tenant.String(), contract.TenantSpec{
		TenantID: tenant.String(), State: state, Workers: len(w.names), Generation: generation, Limits: limits,
	})
	require.NoError(w.t, err)
}

// report waits until every instance reports a state of a generation. Where it runs, each has a worker.
func (w *rateWorld) report(tenant uuid.UUID, state contract.ConsumerState, generation int64) {
	w.t.Helper()
	for _, name := range w.names {
		var last contract.TenantStatus
		require.Eventually(w.t, func() bool {
			entry, err := w.statuses.Get(w.t.Context(), contract.StatusKey(tenant.String(), name))
			last = entry.Value
			return err == nil && last.State == state && last.ObservedGeneration >= generation && (last.Workers == 1) == (state == contract.StateRunning)
		}, waitLimit, tick, "want %s of %s, last seen %+v", state, name, &last)
	}
}

// request asks an instance as the application of a tenant.
func (w *rateWorld) request(ctx context.Context, instance int, path, contentType string, tenant uuid.UUID, body string) (raw.Response, error) {
	token, err := auth.Sign(secret, auth.Claims{
		Issuer: auth.DefaultConfig().Issuer, Audience: auth.DefaultConfig().Audience, Subject: "test",
		Scopes: []auth.Scope{auth.ScopeMessagesWrite}, TenantID: tenant,
	})
	if err != nil {
		return raw.Response{}, err
	}
	return raw.Do(ctx, w.transport, raw.Request{
		Method: http.MethodPost, URL: w.urls[instance] + path, Token: token, ContentType: contentType, Body: []byte(body),
	})
}

// post publishes a batch of so many messages over HTTP, and returns how many were accepted; the others are to be over the rate.
func (w *rateWorld) post(ctx context.Context, instance int, tenant uuid.UUID, lines int) (accepted int64, err error) {
	answer, err := w.request(ctx, instance, "/messages/batch", "application/x-ndjson", tenant, strings.Repeat("{\"payload\":\"over HTTP\"}\n", lines))
	if err != nil {
		return 0, err
	}
	var result struct {
		Accepted int64
		Results  []struct{ Code string }
	}
	if err := json.Unmarshal(answer.Body, &result); err != nil || answer.Status != http.StatusAccepted || answer.Header.Get("RateLimit-Policy") == "" {
		return 0, fmt.Errorf("%d %s: %w", answer.Status, answer.Body, err)
	}
	for _, line := range result.Results {
		if line.Code != "" && line.Code != "rate_limited" {
			return 0, errors.New(line.Code)
		}
	}
	return result.Accepted, nil
}

// send publishes n messages over AMQP.
func (w *rateWorld) send(tenant uuid.UUID, n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	messages := make([]publish.Message, n)
	for i := range messages {
		messages[i] = publish.Message{Exchange: contract.MessagesExchange, Key: tenant.String(), Publishing: amqp.Publishing{
			MessageId: uuid.NewString(), DeliveryMode: amqp.Persistent, Body: []byte(`"over AMQP"`),
		}}
	}
	for _, err := range w.producer.PublishBatch(ctx, messages) {
		require.NoError(w.t, err)
	}
}

func (w *rateWorld) stored(tenant uuid.UUID, payload string) (n int64) {
	w.t.Helper()
	require.NoError(w.t, w.operator.QueryRow(w.t.Context(),
		`SELECT count(*) FROM messages WHERE tenant_id = $1 AND payload = $2::jsonb`, tenant, payload).Scan(&n))
	return n
}

// The rate that an operator sets is that of all instances together: over ten seconds a tenant that offers more gets that, over HTTP, by
// whichever instances, and over AMQP; and what was accepted is stored, without having to pass a second time.
func TestRateOverInstances(t *testing.T) {
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			t.Parallel()
			w := newRateWorld(t, instances)
			const limit, window = 50, 10 * time.Second
			overHTTP, overAMQP := uuid.New(), uuid.New()
			for _, tenant := range []uuid.UUID{overHTTP, overAMQP} {
				w.want(tenant, 1, contract.Limits{PublishRate: limit})
			}
			w.send(overAMQP, 4*limit*int(window/time.Second))
			require.Eventually(t, func() bool { return w.stored(overAMQP, `"over AMQP"`) > limit }, waitLimit, tick)

			ctx, cancel := context.WithTimeout(t.Context(), window)
			defer cancel()
			before, began := w.stored(overAMQP, `"over AMQP"`), time.Now()
			var accepted atomic.Int64
			var clients sync.WaitGroup
			for client := range 9 { // those that wait for a busy broker do not keep the bucket from overflowing
				clients.Go(func() {
					for ctx.Err() == nil {
						n, err := w.post(ctx, client%instances, overHTTP, limit/4)
						if ctx.Err() != nil {
							return
						}
						if err != nil {
							t.Error(err)
							return
						}
						accepted.Add(n)
					}
				})
			}
			clients.Wait()
			passed := w.stored(overAMQP, `"over AMQP"`) - before // first: what passes later is not held against it
			elapsed := time.Since(began).Seconds()
			allowed := 1.05*limit*elapsed + limit/4
			t.Logf("in %.1f s %d over HTTP and %d over AMQP, of %.0f", elapsed, accepted.Load(), passed, limit*elapsed)
			require.LessOrEqual(t, float64(accepted.Load()), allowed)
			require.LessOrEqual(t, float64(passed), allowed+limit, "a second's worth was on its way")
			// How much less it may be is held on a simulated clock (libs/rate TestSumHolds): here it is the machine that decides.
			require.GreaterOrEqual(t, float64(accepted.Load()), 0.25*limit*elapsed)
			require.GreaterOrEqual(t, float64(passed), 0.25*limit*elapsed)
			require.Eventually(t, func() bool { return w.stored(overHTTP, `"over HTTP"`) >= accepted.Load() }, waitLimit, tick)

			// A change is in force on all instances once they have reported it, on what waits as well.
			w.want(overAMQP, 2, contract.Limits{})
			require.Eventually(t, func() bool { return w.stored(overAMQP, `"over AMQP"`) == 4*limit*int64(window/time.Second) }, waitLimit, tick)
		})
	}
}

// One message is refused with the header that says when to come back; a tenant without a limit is not told of any.
func TestOneMessageOverTheRate(t *testing.T) {
	t.Parallel()
	w := newRateWorld(t, 1)
	tenant := uuid.New()
	// Any message of this tenant is in debt for hours.
	w.want(tenant, 1, contract.Limits{PublishBytes: 1})
	publishOne := func() raw.Response {
		answer, err := w.request(t.Context(), 0, "/messages", "application/json", tenant, `{"payload":"`+strings.Repeat("x", 9000)+`"}`)
		require.NoError(t, err)
		return answer
	}
	require.Eventually(t, func() bool { return publishOne().Status == http.StatusAccepted }, waitLimit, tick)
	refused := publishOne()
	require.Equal(t, http.StatusTooManyRequests, refused.Status)
	after, err := strconv.Atoi(refused.Header.Get("Retry-After"))
	require.NoError(t, err)
	require.InDelta(t, 9000, after, 200)
	require.Equal(t, `"bytes";q=1;qu="content-bytes";w=1`, refused.Header.Get("RateLimit-Policy"))
	require.Equal(t, fmt.Sprintf(`"bytes";r=0;t=%d`, after), refused.Header.Get("RateLimit"))
}
