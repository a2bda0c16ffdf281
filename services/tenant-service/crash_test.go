package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/config"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/process"
)

// The environment of a test binary that is to be the service itself, in a process of its own.
const (
	// stepsEnv names the file into which the service writes every step that is done.
	stepsEnv = "MTM_TEST_STEPS"
	// deathEnv names the file that says at which step it dies; it dies at none while there is no such file.
	deathEnv = "MTM_TEST_DEATH"
)

// mortal runs the service as the binary does, and has it killed where it is told to.
func mortal(ctx context.Context, _ []string) error {
	cfg := defaultConfig()
	if err := config.Load(&cfg, "", false, os.Environ()); err != nil {
		return err
	}
	log, err := logging.New(cfg.Log, service, os.Stdout)
	if err != nil {
		return err
	}
	steps, err := os.OpenFile(os.Getenv(stepsEnv), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer steps.Close() //nolint:errcheck // every line was written by itself
	return serveWith(ctx, cfg, log, func(id uuid.UUID, step relay.Step) {
		line := stepLine(id, step)
		if _, err := fmt.Fprintln(steps, line); err != nil {
			panic(err)
		}
		if death, err := os.ReadFile(os.Getenv(deathEnv)); err == nil && strings.TrimSpace(string(death)) == line {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {} // not a single instruction more of this goroutine
		}
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
			state: tenant.Active, workers: workersBefore, steps: published,
		},
		"suspension": {
			before: tenant.Active, request: post("/suspend"), confirmed: http.StatusOK,
			state: tenant.Suspended, workers: workersBefore, steps: published,
		},
		"resumption": {
			before: tenant.Suspended, request: post("/resume"), confirmed: http.StatusOK,
			state: tenant.Active, workers: workersBefore, steps: published,
		},
		"resize": {
			before: tenant.Active, confirmed: http.StatusOK,
			request: func(id uuid.UUID) request {
				return request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: fmt.Sprintf(`{"workers":%d}`, workersAfter)}
			},
			state: tenant.Active, workers: workersAfter, steps: published,
		},
		"deletion": {
			before: tenant.Active, confirmed: http.StatusAccepted,
			request: func(id uuid.UUID) request { return request{method: http.MethodDelete, path: path(id, "")} },
			state:   tenant.Deleted, workers: workersBefore,
			steps: append(slices.Clone(published), relay.StepReported, relay.StepRetired, relay.StepWithdrawn),
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
					v.dieAt(step)
					v.begin()
					v.dies()
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
	dir      string
	env      []string
	service  *process.Process // the one that was started last
}

func newCrashWorld(t *testing.T) *crashWorld {
	t.Helper()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	w := &crashWorld{t: t, ingest: startInstance(t, cfg.NATS.URL, "one")}
	var err error
	w.operator, err = pgxpool.New(t.Context(), cfg.Database.URL)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	w.http = &running{
		t: t, url: "http://" + cfg.HTTP.Addr, ops: "http://" + cfg.Ops.Addr, cfg: cfg,
		client: &http.Client{Transport: openapi.Transport(&http.Transport{DisableKeepAlives: true})},
	}
	scratch, err := backing.NewScratch(t.Context())
	require.NoError(t, err)
	w.dir = scratch.Dir
	t.Cleanup(func() { w.close(scratch) })
	w.env = []string{
		"PATH=" + os.Getenv("PATH"),
		"DATABASE_URL=" + cfg.Database.URL, "NATS_URL=" + cfg.NATS.URL, "AUTH_SECRET=" + secret,
		"HTTP_ADDR=" + cfg.HTTP.Addr, "OPS_ADDR=" + cfg.Ops.Addr,
		stepsEnv + "=" + filepath.Join(w.dir, "steps"), deathEnv + "=" + filepath.Join(w.dir, "death"),
	}
	return w
}

// close ends the service in an orderly way, which must still work after all that has happened.
func (w *crashWorld) close(scratch *backing.Scratch) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), waitLimit)
	defer cancel()
	if w.service != nil && w.service.Alive() {
		if err := w.service.Stop(ctx); err != nil {
			w.t.Error(err)
		}
		status, _ := w.service.Status()
		assert.True(w.t, status.Exited() && status.ExitStatus() == 0, "the service ended with %v", status)
	}
	if w.t.Failed() {
		log, err := os.ReadFile(process.LogFile(w.dir, service))
		w.t.Logf("the log of the service ends with (%v):\n%s", err, log[max(0, len(log)-16<<10):])
	}
	if err := scratch.Remove(ctx); err != nil {
		w.t.Error(err)
	}
}

// start starts the service and waits until it is ready; nothing lets it die any more.
func (w *crashWorld) start() {
	w.t.Helper()
	require.NoError(w.t, os.RemoveAll(filepath.Join(w.dir, "death")))
	program, err := os.Executable()
	require.NoError(w.t, err)
	w.service, err = process.Start(w.dir, process.Spec{Name: service, Path: program, Env: w.env, StopTimeout: waitLimit})
	require.NoError(w.t, err)
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
	last       relay.Step
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
	}
	v.generation++
	v.from = int64(len(w.written(t)))
	return v
}

func (w *crashWorld) written(t *testing.T) []byte {
	t.Helper()
	lines, err := os.ReadFile(filepath.Join(w.dir, "steps"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	return lines
}

// steps are the steps of the operation, in the order in which they were done first.
func (v *victim) steps() []relay.Step {
	v.t.Helper()
	var steps []relay.Step
	for line := range strings.Lines(string(v.w.written(v.t)[v.from:])) {
		step, ours := strings.CutPrefix(strings.TrimSpace(line), stepLine(v.id, ""))
		if ours && !slices.Contains(steps, relay.Step(step)) {
			steps = append(steps, relay.Step(step))
		}
	}
	return steps
}

// dieAt has the service die at a step of the operation.
func (v *victim) dieAt(step relay.Step) {
	v.t.Helper()
	v.last = step
	file := filepath.Join(v.w.dir, "death")
	require.NoError(v.t, os.WriteFile(file+".new", []byte(stepLine(v.id, step)), 0o600))
	require.NoError(v.t, os.Rename(file+".new", file))
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

// dies waits until the service has killed itself.
func (v *victim) dies() {
	v.t.Helper()
	require.Eventually(v.t, func() bool { return !v.w.service.Alive() }, waitLimit, tick, "the step %q is never reached", v.last)
	status, known := v.w.service.Status()
	require.True(v.t, known && status.Signaled() && status.Signal() == syscall.SIGKILL, "%v", status)
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
		`SELECT id, name, workers, coalesce(max_attempts, 0), state, generation, published_generation, deleted_at FROM tenants WHERE id = $1`, v.id).
		Scan(&row.ID, &row.Name, &row.Workers, &row.MaxAttempts, &row.State, &row.Generation, &row.PublishedGeneration, &row.DeletedAt))
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
