package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// The whole life of a tenant, each step waited for by the request itself.
func TestLifeOfATenant(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	ingest := startInstance(t, r.cfg.NATS.URL, "one")
	id := uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")

	created := r.require(http.StatusCreated, request{
		method: http.MethodPost, path: "/tenants", prefer: "wait=20",
		body: `{"id":"0197A3C2-8F0E-7CC1-9D39-5D2A3F0F7A11","name":"  ACME, production ","workers":4,"max_attempts":8}`,
	})
	require.Equal(t, path(id, ""), created.header.Get("Location"))
	require.Equal(t, "wait=20", created.header.Get("Preference-Applied"))
	got := created.tenant
	require.Equal(t, id.String(), got.ID)
	require.Equal(t, "ACME, production", got.Name)
	require.Equal(t, "active", got.State)
	require.Equal(t, 4, got.Workers)
	require.Equal(t, 8, got.MaxAttempts)
	require.EqualValues(t, 1, got.Generation)
	require.WithinDuration(t, time.Now(), got.CreatedAt.Time, time.Minute)
	require.Equal(t, got.CreatedAt, got.UpdatedAt)
	require.Equal(t, "running", got.Status.State)
	require.Equal(t, 4, got.Status.Workers)
	require.EqualValues(t, 1, got.Status.ObservedGeneration)
	require.EqualValues(t, 12, *got.Status.Queue.Ready)
	require.Nil(t, got.Status.Queue.Unacked, "not known")
	require.Len(t, got.Status.Instances, 1)
	require.Equal(t, "one", got.Status.Instances[0].Instance)
	require.Contains(t, string(created.body), `"unacked":null`)

	shown := r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")})
	require.JSONEq(t, string(created.body), string(shown.body))

	resized := r.require(http.StatusOK, request{
		method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":9}`, prefer: "wait=20",
	})
	require.Equal(t, 9, resized.tenant.Workers)
	require.Equal(t, 9, resized.tenant.Status.Workers)
	require.EqualValues(t, 2, resized.tenant.Generation)

	suspended := r.require(http.StatusOK, request{method: http.MethodPost, path: path(id, "/suspend"), prefer: "wait=20"})
	require.Equal(t, "suspended", suspended.tenant.State)
	require.Equal(t, "suspended", suspended.tenant.Status.State)
	again := r.require(http.StatusOK, request{method: http.MethodPost, path: path(id, "/suspend")})
	require.Equal(t, suspended.tenant.Generation, again.tenant.Generation, "nothing has changed")

	resumed := r.require(http.StatusOK, request{method: http.MethodPost, path: path(id, "/resume"), prefer: "wait=20"})
	require.Equal(t, "running", resumed.tenant.Status.State)

	deleted := r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, ""), prefer: "wait=20"})
	require.Equal(t, "deleted", deleted.tenant.State)
	require.Equal(t, "deleted", deleted.tenant.Status.State)
	require.Equal(t, "wait=20", deleted.header.Get("Preference-Applied"))
	for _, q := range []request{
		{method: http.MethodGet, path: path(id, "")},
		{method: http.MethodDelete, path: path(id, "")},
		{method: http.MethodPost, path: path(id, "/suspend")},
		{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":9}`},
	} {
		require.Equal(t, "tenant_not_found", r.require(http.StatusNotFound, q).problem.Code)
	}
	retired := r.require(http.StatusConflict, request{method: http.MethodPost, path: "/tenants", body: fmt.Sprintf(`{"id":%q,"name":"a"}`, id)})
	require.Equal(t, "tenant_id_retired", retired.problem.Code)
	require.Eventually(t, func() bool { _, there := ingest.spec(id); return !there }, waitLimit, tick, "the key stays in the control channel")
}

// While a teardown is going on the tenant shows, and takes no more changes. It ends when the last instance is done.
func TestDeletionTakesItsTime(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	one, two := startInstance(t, r.cfg.NATS.URL, "one"), startInstance(t, r.cfg.NATS.URL, "two")
	id := r.create("a")
	r.eventually(id, func(c *assert.CollectT, got api.Tenant) { require.Len(c, got.Status.Instances, 2) })
	two.pause()

	deleting := r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, ""), prefer: "wait=1"})
	require.Equal(t, "deleting", deleting.tenant.State)
	require.EqualValues(t, 2, deleting.tenant.Generation)
	r.eventually(id, func(c *assert.CollectT, got api.Tenant) {
		require.Equal(c, "deleting", got.State)
		require.Equal(c, "running", got.Status.State, "the other instance still works")
		require.Equal(c, "deleted", got.Status.Instances[0].State)
	})
	again := r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, "")})
	require.EqualValues(t, 2, again.tenant.Generation)
	for _, q := range []request{
		{method: http.MethodPost, path: path(id, "/suspend")},
		{method: http.MethodPost, path: path(id, "/resume")},
		{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":9}`},
	} {
		require.Equal(t, "tenant_deleting", r.require(http.StatusConflict, q).problem.Code)
	}
	exists := r.require(http.StatusConflict, request{method: http.MethodPost, path: "/tenants", body: fmt.Sprintf(`{"id":%q,"name":"a"}`, id)})
	require.Equal(t, "tenant_exists", exists.problem.Code)

	two.resume()
	require.Eventually(t, func() bool {
		return r.do(request{method: http.MethodGet, path: path(id, "")}).status == http.StatusNotFound
	}, waitLimit, tick)
	_ = one
}

// Nobody consumes: a creation must be answered, at once or after the wait, and say so.
func TestWithoutInstances(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	got := r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: `{"name":"a"}`})
	require.Empty(t, got.header.Get("Preference-Applied"))
	require.Equal(t, 3, got.tenant.Workers, "the default of the installation")
	require.Equal(t, "unknown", got.tenant.Status.State)
	require.NotNil(t, got.tenant.Status.Instances, "an empty list, not null")
	got = r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: `{"name":"a"}`, prefer: "respond-async, wait=1"})
	require.Equal(t, "wait=1", got.header.Get("Preference-Applied"))
	require.Equal(t, "unknown", got.tenant.Status.State)
}

// A stop must not take as long as the longest wait, nor break off the answer.
func TestStopAnswersWhoWaits(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.ShutdownTimeout = 15 * time.Second // half of the wait: a stop that takes longer is an error
	r := start(t, cfg)
	r.requireReady(true)
	answered := make(chan answer, 1)
	go func() {
		got, err := r.try(request{method: http.MethodPost, path: "/tenants", body: `{"name":"a"}`, prefer: "wait=30"})
		if assert.NoError(t, err) {
			answered <- got
		}
		close(answered)
	}()
	// The request waits when its tenant is there.
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		got := r.do(request{method: http.MethodGet, path: "/tenants"})
		require.Contains(c, string(got.body), `"name":"a"`)
	}, waitLimit, tick)
	require.Empty(t, answered, "it waits")
	r.stop()
	require.Equal(t, http.StatusCreated, (<-answered).status)
}

// Two replicas on the same database and the same NATS: either may be asked anything.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	databaseURL, natsURL := backing.Postgres(t), backing.NATS(t)
	one, two := start(t, testConfig(t, databaseURL, natsURL)), start(t, testConfig(t, databaseURL, natsURL))
	one.requireReady(true)
	two.requireReady(true)
	startInstance(t, natsURL, "ingest")
	id := one.create("a")
	two.eventually(id, func(c *assert.CollectT, got api.Tenant) { require.Equal(c, "running", got.Status.State) })
	two.require(http.StatusOK, request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":9}`})
	one.eventually(id, func(c *assert.CollectT, got api.Tenant) {
		require.Equal(c, 9, got.Status.Workers)
		require.EqualValues(c, 2, got.Generation)
	})
	gone := two.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, ""), prefer: "wait=30"})
	require.Equal(t, "deleted", gone.tenant.State)
	one.require(http.StatusNotFound, request{method: http.MethodGet, path: path(id, "")})
}

// The teardown was reported while this service was down. The instance repeats it, and that is enough.
func TestDeletionEndsAfterRestart(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	ingest := startInstance(t, r.cfg.NATS.URL, "one")
	id := r.create("a")
	ingest.pause()
	r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(id, "")})
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec.State == contract.DesiredDeleting
	}, waitLimit, tick)
	r.stop()
	ingest.resume()
	r = start(t, r.cfg)
	require.Eventually(t, func() bool {
		got, err := r.try(request{method: http.MethodGet, path: path(id, "")})
		return err == nil && got.status == http.StatusNotFound
	}, waitLimit, tick)
	require.Eventually(t, func() bool { _, there := ingest.spec(id); return !there }, waitLimit, tick)
}
