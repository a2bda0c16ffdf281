package fault

import (
	"context"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/e2e/internal/platform"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

const (
	// waitLimit is for a machine that is busy with something else.
	waitLimit = 3 * time.Minute
	poll      = 20 * time.Millisecond
)

// TestEveryFaultIsInjectedUndoneAndRecoveredFrom injects each kind once, shorter than a run does, all as soon as they may
// be, and then stops an injector in the middle of some.
func TestEveryFaultIsInjectedUndoneAndRecoveredFrom(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it injects every fault into a platform")
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	p, err := platform.Start(ctx, nil, t.Logf)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), waitLimit)
		defer cancel()
		if t.Failed() {
			showLogs(t, p)
		}
		require.NoError(t, p.Close(ctx))
		require.NoError(t, p.Close(ctx), "twice")
	})
	u := newUser(ctx, t, p)
	injector := New(p, u, u, t.Logf)

	var events []Event
	for n, kind := range Kinds() {
		events = append(events, Event{Kind: kind, Lasts: min(traitsOf(kind).least, 1500*time.Millisecond), Param: int64(n)})
	}
	pids := pids(p)
	results := injector.Run(t.Context(), events)
	require.Len(t, results, len(events))
	for n, result := range results {
		require.NoError(t, result.Err)
		require.Equal(t, events[n].Kind, result.Kind)
		require.GreaterOrEqual(t, result.Lasted, events[n].Lasts, "%s", result.Kind)
		require.Positive(t, result.Elapsed, "%s", result.Kind)
		require.LessOrEqual(t, result.Recovery, result.Elapsed, "%s", result.Kind)
		require.Equal(t, result.Kind == TenantChurn, result.Created > 0, "%s", result.Kind)
		if !result.Kind.concernsNATS() {
			require.Zero(t, result.Applied, "%s", result.Kind)
		}
	}
	require.Equal(t, int64(2), u.reconfigured.Load(), "a change is made after each fault of NATS")
	for n, pid := range pids {
		require.NotEqual(t, pid, p.Services()[n].PID(), "%s was started again", p.Services()[n].Name)
	}
	requireUndone(t, p, u)

	// A run that is interrupted leaves nothing frozen and nothing cut, and says which fault was cut short.
	stopped, stop := context.WithCancel(t.Context())
	defer stop()
	began := make(chan struct{}, 10)
	injector = New(p, u, u, func(format string, args ...any) {
		t.Logf(format, args...)
		began <- struct{}{}
	})
	ended := make(chan []Result, 1)
	go func() {
		ended <- injector.Run(stopped, []Event{
			{Kind: FreezePostgres, Lasts: time.Hour},
			{Kind: HalfOpen, Lasts: time.Hour, Param: int64(slices.Index(backing.Names(), backing.ServiceNATS))},
			{Kind: KillIngestService, Lasts: time.Hour, At: time.Second}, // there are two already
			{Kind: KillQueryService, At: time.Hour},
		})
	}()
	<-began
	<-began
	require.Eventually(t, func() bool { return u.RoundTrip(shortly(t)) != nil }, waitLimit, poll,
		"a frozen database stores nothing, once all of it is frozen")
	stop()
	results = <-ended
	for _, result := range results {
		require.ErrorIs(t, result.Err, context.Canceled)
		require.ErrorContains(t, result.Err, string(result.Kind))
	}
	for _, result := range results[2:] {
		require.ErrorContains(t, result.Err, "not begun")
		require.Zero(t, result.Lasted)
	}
	requireUndone(t, p, u)
}

func pids(p *platform.Platform) []int {
	var all []int
	for _, service := range p.Services() {
		all = append(all, service.PID())
	}
	return all
}

func shortly(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// requireUndone demands that everything runs, that no connection is disturbed, and that messages get through.
func requireUndone(t *testing.T, p *platform.Platform, u *user) {
	t.Helper()
	for _, name := range backing.Names() {
		running, err := p.Backing.Process(name).Running(t.Context())
		require.NoError(t, err)
		require.True(t, running, "%s runs", name)
		require.True(t, p.Proxies[name].Enabled, "%s is reached", name)
		require.Empty(t, p.Proxies[name].Toxics.GetToxicArray(), "%s is reached undisturbed", name)
	}
	require.Eventually(t, func() bool { return p.Ready(t.Context()) == nil }, waitLimit, poll)
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	defer cancel()
	require.NoError(t, u.RoundTrip(ctx))

	operator, err := pgx.Connect(ctx, p.Backing.DatabaseURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(ctx)) }()
	open := 0
	require.NoError(t, operator.QueryRow(ctx, `
		SELECT count(*) FROM pg_stat_activity
		WHERE datname = 'postgres' AND state LIKE 'idle in transaction%'`).Scan(&open))
	require.Zero(t, open, "no foreign transaction is left")
}

// showLogs shows how the logs of the services end.
func showLogs(t *testing.T, p *platform.Platform) {
	t.Helper()
	for _, service := range p.Services() {
		t.Logf("the log of %s ends with:\n%s", service.Name, tailOf(t, service.LogFile()))
	}
}

// user is a tenant that publishes and reads, and an operator, as plainly as can be.
type user struct {
	p             *platform.Platform
	tenant, other uuid.UUID
	client        *client.Client // repeats nothing
	reconfigured  atomic.Int64
}

func newUser(ctx context.Context, t *testing.T, p *platform.Platform) *user {
	t.Helper()
	u := &user{p: p, tenant: uuid.New(), other: uuid.New()}
	token, err := p.Stack.TenantToken(u.tenant)
	require.NoError(t, err)
	u.client, err = client.New(client.URLs{Ingest: p.Stack.Ingest.URL, Query: p.Stack.Query.URL}, client.StaticToken(token),
		client.WithTransport(&http.Transport{DisableKeepAlives: true}), client.WithRetry(client.Retry{MaxAttempts: 1}))
	require.NoError(t, err)
	for _, id := range []uuid.UUID{u.tenant, u.other} {
		require.NoError(t, p.Admin().Create(ctx, id, 1))
		require.NoError(t, p.Admin().AwaitState(ctx, id, client.ConsumerRunning, 1))
	}
	return u
}

// RoundTrip publishes a message and reads it back.
func (u *user) RoundTrip(ctx context.Context) error {
	id, err := u.client.Publish(ctx, client.Publishing{Payload: map[string]bool{"probe": true}})
	if err != nil {
		return err
	}
	for {
		_, err := u.client.Message(ctx, id)
		if err == nil {
			return nil
		}
		if retry.Sleep(ctx, poll) != nil {
			return err
		}
	}
}

func (u *user) ResizeStorm(ctx context.Context) error {
	for _, workers := range []int{4, 1, 3} {
		if err := u.p.Admin().Resize(ctx, u.tenant, workers); err != nil {
			return err
		}
	}
	return nil
}

// Reconfigure changes a tenant that nobody else changes meanwhile.
func (u *user) Reconfigure(ctx context.Context) error {
	seen, err := u.p.Admin().Tenant(ctx, u.other)
	if err != nil {
		return err
	}
	if err := u.p.Admin().Resize(ctx, u.other, seen.Workers+1); err != nil {
		return err
	}
	u.reconfigured.Add(1)
	return u.p.Admin().AwaitState(ctx, u.other, client.ConsumerRunning, seen.Workers+1)
}

func (u *user) CreateUseDelete(ctx context.Context) (time.Duration, error) {
	began, id := time.Now(), uuid.New()
	if err := u.p.Admin().Create(ctx, id, 1); err != nil {
		return 0, err
	}
	if err := u.p.Admin().AwaitState(ctx, id, client.ConsumerRunning, 1); err != nil {
		return 0, err
	}
	created := time.Since(began)
	if err := u.p.Admin().Delete(ctx, id); err != nil {
		return created, err
	}
	return created, u.p.Admin().AwaitDeleted(ctx, id)
}

func (u *user) SuspendResume(ctx context.Context) error {
	id := uuid.New()
	if err := u.p.Admin().Create(ctx, id, 1); err != nil {
		return err
	}
	if err := u.p.Admin().Suspend(ctx, id); err != nil {
		return err
	}
	if err := u.p.Admin().AwaitState(ctx, id, client.ConsumerSuspended, 0); err != nil {
		return err
	}
	if err := u.p.Admin().Resume(ctx, id); err != nil {
		return err
	}
	return u.p.Admin().AwaitState(ctx, id, client.ConsumerRunning, 1)
}

func (u *user) DeletedTenantInRetry(ctx context.Context) error {
	_, err := u.CreateUseDelete(ctx)
	return err
}

func tailOf(t *testing.T, file string) []byte {
	t.Helper()
	body, err := os.ReadFile(file)
	require.NoError(t, err)
	return body[max(0, len(body)-8<<10):]
}
