// Package lifecycle_test holds what must not pile up, and what must not be lost, over the lives of many tenants: a thousand
// of them come and go and leave nothing behind, and a control channel that loses, repeats and reorders what it is told
// changes nothing of what is desired.
package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(openapi.Checked(m)) }

const (
	waitLimit = 90 * time.Second // on a busy machine
	poll      = 50 * time.Millisecond
	// clients are the requests at a time.
	clients = 32
)

// world is a platform of the test's own, and what looks behind it.
type world struct {
	*stack.Stack
	t         *testing.T
	transport http.RoundTripper // checks what is answered
	admin     string
	api       *client.Client
	broker    backing.Broker
	operator  *pgxpool.Pool
	natsURL   string
}

// newWorld starts the platform, with more settings for all services. The control channel is that of natsURL.
func newWorld(t *testing.T, natsURL string, settings ...string) *world {
	t.Helper()
	return newWorldOn(t, backing.Postgres(t), natsURL, settings...)
}

// newWorldOn is newWorld on a database that the test has prepared.
func newWorldOn(t *testing.T, databaseURL, natsURL string, settings ...string) *world {
	t.Helper()
	w := &world{t: t, broker: backing.RabbitMQ(t), natsURL: natsURL}
	w.transport = openapi.Transport(&http.Transport{MaxIdleConnsPerHost: clients})
	t.Cleanup(w.closeConnections)
	env := make(map[string]string)
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		env[name] = value
	}
	w.Stack = stack.Start(t, stack.Options{DatabaseURL: databaseURL, RabbitMQURL: w.broker.URL, NATSURL: natsURL, Env: env})
	var err error
	w.admin, err = w.AdminToken()
	require.NoError(t, err)
	w.api = w.at(client.URLs{Tenant: w.Tenant.URL, Ingest: w.Ingest.URL, Query: w.Query.URL})
	config, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	config.ConnConfig.RuntimeParams["idle_session_timeout"] = "0" // one that was opened in advance is not ended by a hostile default
	w.operator, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	return w
}

// closeConnections closes those that are kept for later requests.
func (w *world) closeConnections() { (&http.Client{Transport: w.transport}).CloseIdleConnections() }

// at is the administrator's client of some services. It repeats nothing: a request that fails fails the test.
func (w *world) at(services client.URLs) *client.Client {
	w.t.Helper()
	api, err := client.New(services, client.StaticToken(w.admin),
		client.WithTransport(w.transport), client.WithRetry(client.Retry{MaxAttempts: 1}))
	require.NoError(w.t, err)
	return api
}

// of is the administrator's client on behalf of a tenant.
func (w *world) of(id uuid.UUID) *client.Client { return w.api.With(client.WithTenant(client.ID(id))) }

// until repeats what fails because it is too early, until it does not or ctx ends.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// create makes a tenant and waits until its consumer runs.
func (w *world) create(ctx context.Context, id uuid.UUID, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	tenant := client.NewTenant{ID: client.ID(id), Name: "tenant " + id.String(), Workers: workers}
	_, err := w.api.CreateTenant(ctx, tenant, client.Wait())
	return err
}

// await waits until a tenant looks as wanted.
func (w *world) await(ctx context.Context, id uuid.UUID, as func(client.Tenant) bool) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return until(ctx, func() error {
		tenant, err := w.api.Tenant(ctx, client.ID(id))
		if err != nil {
			return err
		}
		if !as(tenant) {
			return fmt.Errorf("tenant %s is %+v", id, tenant)
		}
		return nil
	})
}

// use publishes one message and waits until it can be read.
func (w *world) use(ctx context.Context, id uuid.UUID) error {
	of := w.of(id)
	message, err := of.Publish(ctx, client.Publishing{Payload: map[string]uuid.UUID{"of": id}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return until(ctx, func() error {
		_, err := of.Message(ctx, message)
		return err
	})
}

// remove deletes a tenant and waits until it is gone.
func (w *world) remove(ctx context.Context, id uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	if err := w.api.DeleteTenant(ctx, client.ID(id), client.Wait()); err != nil {
		return err
	}
	return w.gone(ctx, id)
}

// gone waits until a tenant is gone.
func (w *world) gone(ctx context.Context, id uuid.UUID) error {
	return until(ctx, func() error {
		if _, err := w.api.Tenant(ctx, client.ID(id)); !errors.Is(err, client.ErrTenantNotFound) {
			return fmt.Errorf("tenant %s is not gone: %w", id, err)
		}
		return nil
	})
}

// management is a path of the broker's management API.
func (w *world) management(path string) string { return w.broker.ManagementURL + path }

// get reads what needs no token of ours.
func (w *world) get(t require.TestingT, target string) []byte {
	got, err := raw.Do(w.t.Context(), w.transport, raw.Request{URL: target})
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, got.Status, "%s", got.Body)
	return got.Body
}

// descriptors is the number of files and connections that a process has open.
func descriptors(t require.TestingT, pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}
