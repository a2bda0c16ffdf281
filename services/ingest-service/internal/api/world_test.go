package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/erase"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/component"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

func TestMain(m *testing.M) {
	// fasthttp's clock never stops.
	goleak.VerifyTestMain(openapi.Checked(m), goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"))
}

const secret = "a secret of thirty-two bytes, at least"

// waitLimit is the limit of every wait in these tests; none of them takes nearly as long.
const waitLimit = 30 * time.Second

var (
	active       = uuid.MustParse("11111111-1111-4111-8111-111111111111") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	suspended    = uuid.MustParse("22222222-2222-4222-8222-222222222222") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	deleting     = uuid.MustParse("33333333-3333-4333-8333-333333333333") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	provisioning = uuid.MustParse("44444444-4444-4444-8444-444444444444") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	limited      = uuid.MustParse("66666666-6666-4666-8666-666666666666") //nolint:gochecknoglobals // a fixed value of a type that has no constants
	unknown      = uuid.MustParse("55555555-5555-4555-8555-555555555555") //nolint:gochecknoglobals // a fixed value of a type that has no constants
)

// directory knows the tenants above.
type directory struct{}

func (directory) Lookup(_ context.Context, tenant uuid.UUID) (spec contract.TenantSpec, provisioned, ok bool) {
	switch tenant {
	case active:
		return contract.TenantSpec{State: contract.DesiredActive}, true, true
	case limited:
		return contract.TenantSpec{State: contract.DesiredActive, Limits: limitsOfLimited}, true, true
	case suspended:
		return contract.TenantSpec{State: contract.DesiredSuspended}, true, true
	case deleting:
		return contract.TenantSpec{State: contract.DesiredDeleting}, true, true
	case provisioning:
		return contract.TenantSpec{State: contract.DesiredActive}, false, true
	}
	return contract.TenantSpec{}, false, false
}

// outlet stands for the broker where a fault is to be injected.
type outlet struct {
	mu        sync.Mutex
	published []publish.Message
	fail      func(ctx context.Context, m publish.Message) error
}

func (o *outlet) Publish(ctx context.Context, m publish.Message) error {
	return o.PublishBatch(ctx, []publish.Message{m})[0]
}

func (o *outlet) PublishBatch(ctx context.Context, ms []publish.Message) []error {
	errs := make([]error, len(ms))
	for i, m := range ms {
		if o.fail != nil {
			errs[i] = o.fail(ctx, m)
		}
		if errs[i] == nil {
			m.Publishing.Body = []byte(string(m.Publishing.Body)) // what is published may be overwritten afterwards
			o.mu.Lock()
			o.published = append(o.published, m)
			o.mu.Unlock()
		}
	}
	return errs
}

var limits = Config{MaxPayload: 4096, MessageBody: 5120, BatchBody: 64 << 10, BatchLines: 1000} //nolint:gochecknoglobals // fixed values of types that have no constants

// service is the API with what it needs.
type service struct {
	url         string
	transport   http.RoundTripper // checks what is answered
	metrics     *Metrics
	deadLetters *deadletter.Store
	rates       *tokens // of the limited tenant
	// operator sees the whole database; nil without one.
	operator *pgxpool.Pool
}

// serve starts the API. url is that of a database, or of none.
func serve(t *testing.T, publisher Publisher, url string, cfg Config) *service {
	t.Helper()
	return serveFor(t, publisher, url, cfg, 2*time.Second)
}

func serveFor(t *testing.T, publisher Publisher, url string, cfg Config, timeout time.Duration) *service {
	t.Helper()
	pools := postgres.DefaultConfig()
	pools.URL, pools.MaxConns = url, 4
	pool, err := postgres.Open(t.Context(), pools, postgres.RoleIngest)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	keys := auth.DefaultConfig()
	keys.Secret = secret
	verifier, err := auth.New(t.Context(), keys, zap.NewNop())
	require.NoError(t, err)
	web := rest.DefaultConfig()
	web.Addr, web.RequestTimeout, web.BodyLimit = "127.0.0.1:0", timeout, cfg.BodyLimit()
	reg := prometheus.NewPedanticRegistry()
	server := rest.New(web, "ingest-service", reg, zap.NewNop())
	deadLetters := deadletter.NewStore(pool, 5*time.Second)
	replayer := deadletter.NewReplayer(deadLetters, publisher, 10_000, cfg.MaxPayload, deadletter.NewMetrics(reg), zap.NewNop())
	connections := &http.Transport{}
	s := &service{transport: openapi.Transport(connections), deadLetters: deadLetters}
	s.metrics = NewMetrics(reg)
	s.rates = &tokens{t: t}
	Mount(server, verifier, Dependencies{
		Tenants: directory{}, Publisher: publisher, DeadLetters: deadLetters, Replayer: replayer, Rates: s.rates,
		Eraser: erase.New(store.New(pool, 5*time.Second), 100*time.Millisecond),
	}, cfg, s.metrics)
	addr, err := server.Listen()
	require.NoError(t, err)
	s.url = "http://" + addr.String()
	stop := component.Run(t, server.Run)
	t.Cleanup(func() {
		connections.CloseIdleConnections()
		stop()
	})
	return s
}

// nowhere is a database that is away.
const nowhere = "postgres://nobody@127.0.0.1:1/none?connect_timeout=1"

// serveFake starts the API without servers behind it.
func serveFake(t *testing.T) (*service, *outlet) {
	t.Helper()
	o := &outlet{}
	return serve(t, o, nowhere, limits), o
}

// serveDeadLetters starts the API on a database.
func serveDeadLetters(t *testing.T) (*service, *outlet) {
	t.Helper()
	o := &outlet{}
	url := backing.Postgres(t)
	s := serve(t, o, url, limits)
	var err error
	s.operator, err = pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(s.operator.Close)
	return s, o
}

// broker is a link and a publisher, with the shared topology and the queue of the active tenant.
func broker(t *testing.T) (*conn.Link, *publish.Publisher) {
	t.Helper()
	link := conn.NewLink(conn.Config{URL: backing.RabbitMQ(t).URL}, t.Name(), zap.NewNop(), nil)
	component.Run(t, link.Run)
	do(t, link, func(ch *amqp.Channel) error {
		if err := provision.DeclareShared(ch, nil, amqp.QueueTypeClassic); err != nil {
			return err
		}
		return provision.DeclareTenant(ch, active.String(), provision.QueueOptions{Type: amqp.QueueTypeClassic})
	})
	publisher := publish.New(link, 2, zap.NewNop())
	component.Run(t, publisher.Run)
	return link, publisher
}

func do(t *testing.T, link *conn.Link, fn func(ch *amqp.Channel) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	session, err := link.Session(ctx)
	require.NoError(t, err)
	require.NoError(t, session.Do(ctx, fn))
}

// drain takes everything out of the active tenant's queue.
func drain(t *testing.T, link *conn.Link) (deliveries []amqp.Delivery) {
	t.Helper()
	do(t, link, func(ch *amqp.Channel) error {
		queue := contract.QueueName(active.String())
		first, ok, err := ch.Get(queue, true) // it tells how many follow, where a declaration may be late
		if err != nil || !ok {
			return err
		}
		deliveries = append(deliveries, first)
		const tag = "drain"
		following, err := ch.Consume(queue, tag, true, false, false, false, nil)
		if err != nil {
			return err
		}
		for range first.MessageCount {
			deliveries = append(deliveries, <-following)
		}
		return ch.Cancel(tag, false) // before anything else is published
	})
	return deliveries
}

func token(t *testing.T, tenant uuid.UUID, scopes ...auth.Scope) string {
	t.Helper()
	text, err := auth.Sign(secret, auth.Claims{
		Issuer: auth.DefaultConfig().Issuer, Audience: auth.DefaultConfig().Audience, Subject: "test", Scopes: scopes, TenantID: tenant,
	})
	require.NoError(t, err)
	return text
}

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
}

type call struct {
	method, path, contentType, body, token string
}

func (s *service) call(t *testing.T, c call) answer {
	t.Helper()
	return s.do(t, raw.Request{Method: c.method, URL: s.url + c.path, Token: c.token, ContentType: c.contentType, Body: []byte(c.body)})
}

func (s *service) do(t *testing.T, r raw.Request) answer {
	t.Helper()
	got, err := raw.Do(t.Context(), s.transport, r)
	require.NoError(t, err)
	return answer{got.Status, got.Header, string(got.Body)}
}

// publish posts one message as the tenant's own application.
func (s *service) publish(t *testing.T, tenant uuid.UUID, body string) answer {
	t.Helper()
	return s.call(t, call{http.MethodPost, "/messages", "application/json", body, token(t, tenant, auth.ScopeMessagesWrite)})
}

func (s *service) publishBatch(t *testing.T, tenant uuid.UUID, body string) answer {
	t.Helper()
	return s.call(t, call{http.MethodPost, "/messages/batch", "application/x-ndjson", body, token(t, tenant, auth.ScopeMessagesWrite)})
}

// manage asks for dead letters.
func (s *service) manage(t *testing.T, tenant uuid.UUID, method, path, body string) answer {
	t.Helper()
	return s.call(t, call{method, path, "application/json", body, token(t, tenant, auth.ScopeDeadLettersManage)})
}

func (a answer) into(t *testing.T, status int, into any) {
	t.Helper()
	require.Equal(t, status, a.status, a.body)
	require.NoError(t, json.Unmarshal([]byte(a.body), into), a.body)
}

func (a answer) problem(t *testing.T, status int, code string) problem.Problem {
	t.Helper()
	var p problem.Problem
	a.into(t, status, &p)
	require.Equal(t, problem.ContentType, a.header.Get("Content-Type"))
	require.Equal(t, code, p.Code, a.body)
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.RequestID)
	comesBack := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
	require.Equal(t, comesBack, a.header.Get("Retry-After") != "", "429 and 503 say when to come back")
	return p
}

// field returns what a problem says of a field.
func field(t *testing.T, p problem.Problem, name string) string {
	t.Helper()
	for _, f := range p.Errors {
		if f.Field == name {
			return f.Detail
		}
	}
	require.Fail(t, fmt.Sprintf("the problem does not name %s", name), "%+v", p)
	return ""
}
