package lifecycle_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// sharesOf waits until so many instances report on a tenant, which has workers in all, and returns their shares by name.
func (w *world) sharesOf(id uuid.UUID, instances, workers int) map[string]int {
	w.t.Helper()
	var shares map[string]int
	require.Eventually(w.t, func() bool {
		tenant, err := w.api.Tenant(w.t.Context(), client.ID(id))
		if err != nil {
			return false
		}
		shares = make(map[string]int)
		for _, report := range tenant.Status.Instances {
			shares[report.Instance] = report.Workers
		}
		return len(shares) == instances && tenant.Status.Workers == workers && tenant.Status.State == client.ConsumerRunning
	}, waitLimit, poll, "want %d workers on %d instances", workers, instances)
	return shares
}

// slow makes the database take its time for each batch of a tenant, so that it can be seen how many are written at once.
func (w *world) slow(id uuid.UUID) {
	w.t.Helper()
	_, err := w.operator.Exec(w.t.Context(), `
		CREATE OR REPLACE FUNCTION take_time() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
		CREATE TRIGGER slow AFTER INSERT ON messages_`+strings.ReplaceAll(id.String(), "-", "")+` FOR EACH STATEMENT EXECUTE FUNCTION take_time()`)
	require.NoError(w.t, err)
}

// atOnce publishes n messages of a slow tenant over an instance and returns how many batches were written at once, at most.
func (w *world) atOnce(instance *stack.Service, id uuid.UUID, n int) (most int) {
	w.t.Helper()
	messages := make([]client.Publishing, n)
	for i := range messages {
		messages[i].Payload = i
	}
	before := w.stored(id)
	published, over := make(chan error, 1), w.over(instance, id)
	go func() { // on a busy machine they are stored before the answer is here
		_, err := over.PublishBatch(w.t.Context(), messages)
		published <- err
	}()
	require.Eventually(w.t, func() bool {
		most = max(most, w.writing())
		return w.stored(id) >= before+n // there may be others
	}, waitLimit, 5*time.Millisecond)
	require.NoError(w.t, <-published)
	return most
}

// over is the administrator's client on behalf of a tenant, over one instance of ingest-service.
func (w *world) over(instance *stack.Service, id uuid.UUID) *client.Client {
	w.t.Helper()
	return w.at(client.URLs{Ingest: instance.URL}).With(client.WithTenant(client.ID(id)))
}

// writing is how many batches of slow tenants are being written.
func (w *world) writing() (n int) {
	w.t.Helper()
	require.NoError(w.t, w.operator.QueryRow(w.t.Context(), `
		SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`).Scan(&n))
	return n
}

func (w *world) stored(id uuid.UUID) (n int) {
	w.t.Helper()
	require.NoError(w.t, w.operator.QueryRow(w.t.Context(), `SELECT count(*) FROM messages WHERE tenant_id = $1`, id).Scan(&n))
	return n
}

// An operator scales ingest-service out, and the tenants keep the number of workers that they were given: four are four and one
// is one, seen where it counts, in the database. When an instance is killed, its share is another's within a heartbeat's
// lifetime, and when one is frozen and thaws, two write at once for moments only.
func TestWorkersAreTheTotalOfAllInstances(t *testing.T) {
	w := newWorld(t, backing.NATS(t), "INGEST_BATCH_MESSAGES=20")
	second, err := w.Add(t.Context(), stack.IngestService)
	require.NoError(t, err)
	four, one := uuid.New(), uuid.New()
	require.NoError(t, w.create(t.Context(), four, 4))
	require.NoError(t, w.create(t.Context(), one, 1))
	for name, share := range w.sharesOf(four, 2, 4) {
		require.Equal(t, 2, share, name)
	}
	shares := w.sharesOf(one, 2, 1)
	w.slow(four)
	w.slow(one)
	require.Equal(t, 4, w.atOnce(w.Ingest, four, 1600))
	require.Equal(t, 1, w.atOnce(w.Ingest, one, 200))

	// A change is divided at once, and the request waits for both.
	_, err = w.api.ResizeTenant(t.Context(), client.ID(four), 3)
	require.NoError(t, err)
	w.sharesOf(four, 2, 3)
	require.Equal(t, 3, w.atOnce(w.Ingest, four, 1200))
	if testing.Short() {
		return // NOT RUN with -short, by make test-long alone: what follows waits for heartbeats to expire
	}

	// The instance that has the one worker is frozen: the other one takes over, and gives it back.
	owner := w.owner(one, shares, second)
	require.NoError(t, owner.Signal(syscall.SIGSTOP))
	began := time.Now()
	w.sharesOf(one, 1, 1)
	t.Logf("a frozen instance is replaced after %v", time.Since(began))
	w.sharesOf(four, 1, 3)
	require.Equal(t, 1, w.atOnce(w.survivor(owner, second), one, 200))
	ctx, cancel := context.WithCancel(t.Context())
	published, surviving := make(chan error, 1), w.over(w.survivor(owner, second), one)
	go func() { // messages to be written while it thaws
		for ctx.Err() == nil {
			if _, err := surviving.Publish(ctx, client.Publishing{Payload: 1}); err != nil && ctx.Err() == nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	require.NoError(t, owner.Signal(syscall.SIGCONT))
	w.sharesOf(one, 2, 1)
	cancel()
	require.NoError(t, <-published)
	require.Equal(t, 1, w.atOnce(w.survivor(owner, second), one, 200), "two wrote at once for moments only")

	// One is killed.
	require.NoError(t, owner.Kill(t.Context()))
	w.sharesOf(four, 1, 3)
	w.sharesOf(one, 1, 1)
	require.NoError(t, w.remove(t.Context(), four))
	require.NoError(t, w.remove(t.Context(), one))
}

// survivor is the other one of the two instances of ingest-service.
func (w *world) survivor(owner, second *stack.Service) *stack.Service {
	if owner == second {
		return w.Ingest
	}
	return second
}

// owner is the instance of ingest-service that consumes a tenant of one worker.
func (w *world) owner(id uuid.UUID, shares map[string]int, second *stack.Service) *stack.Service {
	w.t.Helper()
	require.Len(w.t, shares, 2)
	has := fmt.Sprintf(`mtm_workers_desired{service="ingest-service",tenant_id=%q} 1`, id)
	for _, candidate := range []*stack.Service{w.Ingest, second} {
		metrics := string(w.get(w.t, candidate.OpsURL+"/metrics"))
		if strings.Contains(metrics, has) || strings.Contains(metrics, fmt.Sprintf(`mtm_workers_desired{tenant_id=%q} 1`, id)) {
			return candidate
		}
	}
	require.Fail(w.t, "no instance has the worker")
	return nil
}
