package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/config"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/mortal"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// mortalService runs the service as the binary does, and has it killed where it is told to.
func mortalService(ctx context.Context, _ []string) error {
	cfg := defaultConfig()
	if err := config.Load(&cfg, "", false, os.Environ()); err != nil {
		return err
	}
	log, err := logging.New(cfg.Log, serviceName, os.Stdout)
	if err != nil {
		return err
	}
	return mortal.Steps(func(done func(string)) error {
		return serveWith(ctx, cfg, log, func(id uuid.UUID, step relay.Step) { done(stepLine(id, step)) })
	})
}

// stepLine is how a step is written down.
func stepLine(id uuid.UUID, step relay.Step) string { return fmt.Sprintf("%s %s", id, step) }

// operation is one request of an administrator, and the steps that it takes.
type operation struct {
	before    tenant.State // of a tenant that exists; "" if there is none yet
	request   func(id uuid.UUID) request
	confirmed int          // status of a repetition of a request that was carried out
	state     tenant.State // in the end
	events    []audit.Action
	workers   int
	steps     []relay.Step
}

const (
	workersBefore = 2
	workersAfter  = 5
)

func operations() map[string]operation {
	published := []relay.Step{relay.StepCommitted, relay.StepRead, relay.StepPublished, relay.StepMarked}
	post := func(action string) func(uuid.UUID) request {
		return func(id uuid.UUID) request { return request{method: http.MethodPost, path: path(id, action)} }
	}
	return map[string]operation{
		"creation": {
			request: creation, confirmed: http.StatusConflict,
			state: tenant.Active, workers: workersBefore, steps: published, events: []audit.Action{audit.TenantCreated},
		},
		"suspension": {
			before: tenant.Active, request: post("/suspend"), confirmed: http.StatusOK,
			state: tenant.Suspended, workers: workersBefore, steps: published, events: []audit.Action{audit.TenantCreated, audit.TenantSuspended},
		},
		"resumption": {
			before: tenant.Suspended, request: post("/resume"), confirmed: http.StatusOK,
			state: tenant.Active, workers: workersBefore, steps: published,
			events: []audit.Action{audit.TenantCreated, audit.TenantSuspended, audit.TenantResumed},
		},
		"resize": {
			before: tenant.Active, confirmed: http.StatusOK,
			request: func(id uuid.UUID) request {
				return request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: fmt.Sprintf(`{"workers":%d}`, workersAfter)}
			},
			state: tenant.Active, workers: workersAfter, steps: published, events: []audit.Action{audit.TenantCreated, audit.TenantResized},
		},
		"configuration": {
			before: tenant.Active, confirmed: http.StatusOK,
			request: func(id uuid.UUID) request {
				return request{method: http.MethodPatch, path: path(id, "/config"), body: fmt.Sprintf(`{"workers":%d,"publish_rate":7,"retention_seconds":3600}`, workersAfter)}
			},
			state: tenant.Active, workers: workersAfter, steps: published, events: []audit.Action{audit.TenantCreated, audit.ConfigChanged},
		},
		"deletion": {
			before: tenant.Active, confirmed: http.StatusAccepted,
			request: func(id uuid.UUID) request { return request{method: http.MethodDelete, path: path(id, "")} },
			state:   tenant.Deleted, workers: workersBefore,
			events: []audit.Action{audit.TenantCreated, audit.TenantDeleted, audit.TenantRetired},
			steps:  append(slices.Clone(published), relay.StepReported, relay.StepRetired, relay.StepWithdrawn),
		},
	}
}

func creation(id uuid.UUID) request {
	return request{method: http.MethodPost, path: "/tenants", body: fmt.Sprintf(`{"id":%q,"name":"a","workers":%d}`, id, workersBefore)}
}

// A step that is in no operation would be a place to die that nobody has looked at.
func TestEveryStepIsAPlaceToDie(t *testing.T) {
	t.Parallel()
	var met []relay.Step
	for _, o := range operations() {
		met = append(met, o.steps...)
	}
	require.ElementsMatch(t, relay.Steps(), slices.Compact(slices.Sorted(slices.Values(met))))
}

// The process is killed after every step of every request, by the step itself, and started again. The registry must say
// what was asked for, the bucket must say what the registry says, and nothing may be left over.
func TestKilledAtEveryStep(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills and starts the service dozens of times")
	}
	t.Parallel()
	for name, o := range operations() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newCrashWorld(t)
			w.start()
			t.Run("unharmed", func(t *testing.T) { // the steps that there are, told by the service itself
				v := w.victim(t, o)
				v.begin()
				v.converged()
				require.Equal(t, o.steps, v.steps())
			})
			for _, step := range o.steps {
				t.Run("after "+string(step), func(t *testing.T) {
					v := w.victim(t, o)
					v.w.service.DieAt(t, stepLine(v.id, step))
					v.begin()
					w.service.AwaitDeath(t)
					w.start()
					v.converged()
				})
			}
		})
	}
}

// crashWorld is one service in a process of its own; the test plays an instance of ingest-service.
type crashWorld struct {
	t        *testing.T
	operator *pgxpool.Pool
	ingest   *instance
	http     *running // without its process
	service  *mortal.Service
}

func newCrashWorld(t *testing.T) *crashWorld {
	t.Helper()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	w := &crashWorld{t: t, ingest: startInstance(t, cfg.NATS.URL, "one")}
	w.operator = pgtest.Operator(t, cfg.Database.URL)
	w.http = &running{
		t: t, url: "http://" + cfg.HTTP.Addr, ops: "http://" + cfg.Ops.Addr, cfg: cfg,
		transport: openapi.Transport(&http.Transport{DisableKeepAlives: true}),
	}
	w.service = mortal.New(t, serviceName,
		"DATABASE_URL="+cfg.Database.URL, "NATS_URL="+cfg.NATS.URL, "AUTH_SECRET="+secret,
		"HTTP_ADDR="+cfg.HTTP.Addr, "OPS_ADDR="+cfg.Ops.Addr)
	return w
}

// start starts the service and waits until it is ready; nothing lets it die any more.
func (w *crashWorld) start() {
	w.t.Helper()
	w.service.Start()
	w.http.requireReady(true)
}

// victim is a tenant at whose change the service dies.
type victim struct {
	t          *testing.T
	w          *crashWorld
	http       running
	id         uuid.UUID
	o          operation
	generation int64 // in the end, but for the one of its retirement
	from       int64 // where the steps of the operation begin
}

// victim brings a tenant to where the operation begins.
func (w *crashWorld) victim(t *testing.T, o operation) *victim {
	t.Helper()
	v := &victim{t: t, w: w, http: *w.http, id: uuid.New(), o: o}
	v.http.t = t
	before := []request(nil)
	if o.before != "" {
		before = append(before, creation(v.id))
	}
	if o.before == tenant.Suspended {
		before = append(before, request{method: http.MethodPost, path: path(v.id, "/suspend")})
	}
	for _, q := range before {
		require.Less(t, v.http.do(q).status, 300)
		v.generation++
		v.published()
		// The registry says so before the step is done: its end must not be taken for the one of the operation.
		require.Eventually(t, func() bool { return v.marks() >= v.generation }, waitLimit, tick)
	}
	v.generation++
	v.from = int64(len(w.service.Written(t)))
	return v
}

// steps are the steps of the operation, in the order in which they were done first.
func (v *victim) steps() []relay.Step {
	v.t.Helper()
	var steps []relay.Step
	for line := range strings.Lines(string(v.w.service.Written(v.t)[v.from:])) {
		step, ours := strings.CutPrefix(strings.TrimSpace(line), stepLine(v.id, ""))
		if ours && !slices.Contains(steps, relay.Step(step)) {
			steps = append(steps, relay.Step(step))
		}
	}
	return steps
}

// marks counts how often a change of the tenant was marked as published.
func (v *victim) marks() (n int64) {
	v.t.Helper()
	for line := range strings.Lines(string(v.w.service.Written(v.t))) {
		if strings.TrimSpace(line) == stepLine(v.id, relay.StepMarked) {
			n++
		}
	}
	return n
}

// begin makes the request, whose answer may get lost. The instance reports once the change is published for good, so that
// the steps of a deletion have an order.
func (v *victim) begin() {
	v.t.Helper()
	v.w.ingest.pause()
	got, err := v.http.try(v.o.request(v.id))
	require.True(v.t, err != nil || got.status < 300, "%s", got.body)
	require.Eventually(v.t, func() bool {
		return slices.Contains(v.steps(), relay.StepMarked) || !v.w.service.Alive()
	}, waitLimit, tick)
	v.w.ingest.resume()
}

// published waits until the bucket says what the registry says, and the registry knows that.
func (v *victim) published() {
	v.t.Helper()
	require.EventuallyWithT(v.t, func(c *assert.CollectT) {
		entry, err := v.w.ingest.tenants.Get(v.t.Context(), v.id.String())
		require.NoError(c, err)
		row := v.row()
		require.Equal(c, v.generation, entry.Value.Generation)
		require.Equal(c, row.Spec(), entry.Value)
		require.Equal(c, row.Generation, row.PublishedGeneration)
	}, waitLimit, tick)
}

func (v *victim) row() (row tenant.Tenant) {
	v.t.Helper()
	require.NoError(v.t, v.w.operator.QueryRow(v.t.Context(),
		`SELECT id, name, workers, coalesce(max_attempts, 0), limits, state, generation, published_generation, deleted_at FROM tenants WHERE id = $1`, v.id).
		Scan(&row.ID, &row.Name, &row.Workers, &row.MaxAttempts, &row.Config, &row.State, &row.Generation, &row.PublishedGeneration, &row.DeletedAt))
	return row
}

// converged waits until everybody says what was asked for, demands that there is nothing else, and repeats the request, as a
// client does that has lost the answer.
func (v *victim) converged() {
	v.t.Helper()
	if v.o.state == tenant.Deleted {
		v.isGone()
		return
	}
	v.published()
	row := v.row()
	require.Equal(v.t, v.o.state, row.State)
	require.Equal(v.t, v.o.workers, row.Workers)
	require.Equal(v.t, v.o.confirmed, v.http.do(v.o.request(v.id)).status)
	require.Equal(v.t, v.generation, v.row().Generation, "nothing has changed")
	require.Eventually(v.t, func() bool {
		got := v.http.do(request{method: http.MethodGet, path: path(v.id, "")})
		want := map[tenant.State]contract.ConsumerState{tenant.Active: contract.StateRunning, tenant.Suspended: contract.StateSuspended}[v.o.state]
		return got.tenant.Status.State == string(want) && got.tenant.Status.ObservedGeneration == v.generation
	}, waitLimit, tick)
	v.keys(1)
	v.audited()
}

// audited demands one event for each change, whenever the process died, and none for a repetition.
func (v *victim) audited() {
	v.t.Helper()
	rows, err := v.w.operator.Query(v.t.Context(), `SELECT action FROM audit_events WHERE tenant_id = $1 ORDER BY epoch, xid, id`, v.id)
	require.NoError(v.t, err)
	actions, err := pgx.CollectRows(rows, pgx.RowTo[audit.Action])
	require.NoError(v.t, err)
	require.Equal(v.t, v.o.events, actions)
}

// isGone waits for the end of a deletion, and demands that a tombstone is all that is left.
func (v *victim) isGone() {
	v.t.Helper()
	require.Eventually(v.t, func() bool {
		return v.http.do(request{method: http.MethodGet, path: path(v.id, "")}).status == http.StatusNotFound
	}, waitLimit, tick)
	v.keys(0)
	row := v.row()
	require.Equal(v.t, tenant.Deleted, row.State)
	require.NotNil(v.t, row.DeletedAt)
	require.Equal(v.t, v.generation+1, row.Generation)
	require.Equal(v.t, http.StatusNotFound, v.http.do(v.o.request(v.id)).status)
	require.Equal(v.t, "tenant_id_retired", v.http.do(creation(v.id)).problem.Code)
	v.audited()
}

// keys waits until each bucket has n keys of the tenant.
func (v *victim) keys(n int) {
	v.t.Helper()
	require.EventuallyWithT(v.t, func(c *assert.CollectT) {
		specs, err := v.w.ingest.tenants.Snapshot(v.t.Context())
		require.NoError(c, err)
		statuses, err := v.w.ingest.statuses.Snapshot(v.t.Context())
		require.NoError(c, err)
		require.Equal(c, strconv.Itoa(n)+" "+strconv.Itoa(n), strconv.Itoa(ours(specs, v.id))+" "+strconv.Itoa(ours(statuses, v.id)))
	}, waitLimit, tick)
}

// ours counts the keys of a tenant.
func ours[E any](bucket map[string]E, id uuid.UUID) (n int) {
	for key := range bucket {
		if strings.HasPrefix(key, id.String()) {
			n++
		}
	}
	return n
}
