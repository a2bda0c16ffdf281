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
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
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
	w.operator = pgtest.Operator(t, databaseURL)
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
		Scopes: []auth.Scope{auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage}, TenantID: tenant,
	})
	if err != nil {
		return raw.Response{}, err
	}
	return raw.Do(ctx, w.transport, raw.Request{
		Method: http.MethodPost, URL: w.urls[instance] + path, Token: token, ContentType: contentType, Body: []byte(body),
	})
}

// offer publishes batches over HTTP, through all instances, until want messages were accepted, and returns how many were accepted and
// refused.
func (w *rateWorld) offer(tenant uuid.UUID, payload string, lines int, want int64) (accepted, refused int64) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), waitLimit)
	defer cancel()
	var passed, over atomic.Int64
	var clients errgroup.Group
	for client := range 9 { // those that wait for a busy broker do not keep the bucket from overflowing
		clients.Go(func() error {
			for passed.Load() < want {
				n, err := w.post(ctx, client%len(w.urls), tenant, payload, lines)
				if err != nil {
					return err
				}
				passed.Add(n)
				over.Add(int64(lines) - n)
			}
			return nil
		})
	}
	require.NoError(w.t, clients.Wait())
	return passed.Load(), over.Load()
}

// post publishes a batch of so many messages over HTTP, and returns how many were accepted; the others are to be over the rate.
func (w *rateWorld) post(ctx context.Context, instance int, tenant uuid.UUID, payload string, lines int) (accepted int64, err error) {
	body := strings.Repeat("{\"payload\":\""+payload+"\"}\n", lines)
	answer, err := w.request(ctx, instance, "/messages/batch", "application/x-ndjson", tenant, body)
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

// The rate that an operator sets is that of all instances together. A tenant that offers more over HTTP, by whichever instances, and over
// AMQP gets it again and again, the rest is refused or waits, and what was accepted is stored, without having to pass a second time. How
// much it is in how long is held on a simulated clock (libs/rate TestSumHolds).
func TestRateOverInstances(t *testing.T) {
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			t.Parallel()
			w := newRateWorld(t, instances)
			const limit, offered = 50, 500
			overHTTP, overAMQP, inDebt := uuid.New(), uuid.New(), uuid.New()
			for _, tenant := range []uuid.UUID{overHTTP, overAMQP} {
				w.want(tenant, 1, contract.Limits{PublishRate: limit})
			}
			w.want(inDebt, 1, contract.Limits{PublishBytes: 1})
			w.send(overAMQP, offered)

			accepted, refused := w.offer(overHTTP, "over HTTP", limit/4, 2*limit) // several times what the bucket holds
			require.Positive(t, refused)
			require.Eventually(t, func() bool { return w.stored(overHTTP, `"over HTTP"`) >= accepted }, waitLimit, tick)
			require.Eventually(t, func() bool { return w.stored(overAMQP, `"over AMQP"`) >= 2*limit }, waitLimit, tick)

			// After one such message there is nothing for hours. An instance that does not reach the owner of the bucket has a share of its own.
			accepted, _ = w.offer(inDebt, strings.Repeat("x", 9000), 1, 1)
			require.LessOrEqual(t, accepted, int64(instances))

			// A change is in force on all instances once they have reported it, on what waits as well.
			w.want(overAMQP, 2, contract.Limits{})
			require.Eventually(t, func() bool { return w.stored(overAMQP, `"over AMQP"`) == offered }, waitLimit, tick)
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

// deadLetters records so many dead letters of a tenant, which can be replayed, a second apart from began on.
func (w *rateWorld) deadLetters(tenant uuid.UUID, n int, began time.Time) (ids []uuid.UUID) {
	w.t.Helper()
	cfg := postgres.DefaultConfig()
	cfg.URL = w.operator.Config().ConnString()
	pool, err := postgres.Open(w.t.Context(), cfg, postgres.RoleIngest)
	require.NoError(w.t, err)
	defer pool.Close()
	entries := make([]deadletter.Entry, n)
	for i := range entries {
		id, payload, at := uuid.New(), []byte(`"replayed"`), began.Add(time.Duration(i)*time.Second)
		entries[i] = deadletter.Entry{
			ID: uuid.New(), TenantID: tenant, MessageID: &id, OriginalMessageID: id.String(), Payload: payload, PayloadSize: int64(len(payload)),
			Headers: []byte(`{}`), Reason: contract.ReasonRejected, Attempts: 1, Version: 1, FirstFailedAt: at, LastFailedAt: at,
		}
		ids = append(ids, entries[i].ID)
	}
	_, err = deadletter.NewStore(pool, waitLimit).Record(w.t.Context(), entries)
	require.NoError(w.t, err)
	return ids
}

func (w *rateWorld) deadLettersLeft(tenant uuid.UUID) (n int64) {
	w.t.Helper()
	require.NoError(w.t, w.operator.QueryRow(w.t.Context(), `SELECT count(*) FROM dead_letters WHERE tenant_id = $1`, tenant).Scan(&n))
	return n
}

// The limit of replays is that of all instances together, one by one and many at a time; a limit that is taken away is in force for
// replays that are under way; and a tenant without one is replayed meanwhile as fast as the installation allows.
func TestReplayRateOverInstances(t *testing.T) {
	window := 3 * time.Second
	if !testing.Short() { // NOT RUN with -short, by make test-long alone: the whole ten seconds
		window = 10 * time.Second
	}
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances, " instances"), func(t *testing.T) {
			t.Parallel()
			w := newRateWorld(t, instances)
			const limit, letters = 10, 1000 // far fewer than even a busy machine can replay
			single, many, free := uuid.New(), uuid.New(), uuid.New()
			for tenant, perSecond := range map[uuid.UUID]int64{single: limit, many: limit, free: 0} {
				w.want(tenant, 1, contract.Limits{ReplayRate: perSecond})
			}
			ids := make(chan uuid.UUID, letters)
			first := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
			for _, id := range w.deadLetters(single, letters, first) {
				ids <- id
			}
			w.deadLetters(many, letters, first)
			w.deadLetters(free, 100, first)
			answer, err := w.request(t.Context(), 0, "/dead-letters/replay?all=true", "", free, "")
			require.NoError(t, err)
			require.Contains(t, string(answer.Body), `"replayed":100`)

			ctx, cancel := context.WithTimeout(t.Context(), window)
			defer cancel()
			began := time.Now()
			var refused atomic.Int64
			var clients sync.WaitGroup
			for client := range 9 {
				clients.Go(func() {
					for ctx.Err() == nil {
						id := <-ids
						answer, err := w.request(ctx, client%instances, "/dead-letters/"+id.String()+"/replay", "", single, "")
						switch {
						case ctx.Err() != nil:
						case err != nil:
							t.Error(err)
						case answer.Status == http.StatusTooManyRequests && answer.Header.Get("Retry-After") != "":
							refused.Add(1)
							ids <- id
						case answer.Status != http.StatusAccepted:
							t.Errorf("%d %s", answer.Status, answer.Body)
						}
					}
				})
			}
			var replays sync.WaitGroup
			for instance := range instances { // each has a part of them: two that replay the same ones pay twice
				at := func(part int) string {
					return first.Add(time.Duration(part*letters/instances) * time.Second).Format(time.RFC3339)
				}
				path := "/dead-letters/replay?failed_after=" + at(instance) + "&failed_before=" + at(instance+1)
				replays.Go(func() {
					for more := true; more; {
						answer, err := w.request(t.Context(), instance, path, "", many, "")
						if err != nil || answer.Status != http.StatusOK {
							t.Errorf("%v %d %s", err, answer.Status, answer.Body)
							return
						}
						more = strings.Contains(string(answer.Body), `"has_more":true`)
					}
				})
			}
			clients.Wait()
			oneByOne, together := letters-w.deadLettersLeft(single), letters-w.deadLettersLeft(many)
			elapsed := time.Since(began).Seconds()
			t.Logf("in %.1f s %d one by one, %d together, of %.0f; %d refused", elapsed, oneByOne, together, limit*elapsed, refused.Load())
			for _, n := range []int64{oneByOne, together} {
				require.LessOrEqual(t, float64(n), 1.05*limit*elapsed+0.25*limit+float64(instances))
				// How much less it may be is held on a simulated clock (libs/rate TestSumHolds): here it is the machine that decides.
				require.Positive(t, n)
			}
			require.Positive(t, refused.Load())
			w.want(many, 2, contract.Limits{})
			replays.Wait()
			require.Zero(t, w.deadLettersLeft(many))
		})
	}
}
