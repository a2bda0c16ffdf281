package main

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
)

// operation is one change of a tenant, and the steps that it takes.
type operation struct {
	before contract.DesiredState // of a tenant that exists, as generation 1; "" if there is none yet
	want   contract.TenantSpec   // without the id
	steps  []step.Step           // in their order
}

const (
	workersBefore = 2
	workersAfter  = 5
)

func operations() map[string]operation {
	spec := func(state contract.DesiredState, workers int, generation int64) contract.TenantSpec {
		return contract.TenantSpec{State: state, Workers: workers, Generation: generation}
	}
	return map[string]operation{
		"creation": {
			want: spec(contract.DesiredActive, workersBefore, 1),
			steps: []step.Step{
				step.Begun, step.Attached, step.Declared, step.Bound,
				step.ConsumerStarted, step.Reported,
			},
		},
		"suspension": {
			before: contract.DesiredActive, want: spec(contract.DesiredSuspended, workersBefore, 2),
			steps: []step.Step{step.Begun, step.ConsumerStopped, step.Reported},
		},
		"resumption": {
			before: contract.DesiredSuspended, want: spec(contract.DesiredActive, workersBefore, 2),
			steps: []step.Step{step.Begun, step.ConsumerStarted, step.Reported},
		},
		"resize": {
			before: contract.DesiredActive, want: spec(contract.DesiredActive, workersAfter, 2),
			steps: []step.Step{step.Begun, step.ConsumerConfigured, step.Reported},
		},
		"deletion": {
			before: contract.DesiredActive, want: spec(contract.DesiredDeleting, workersBefore, 2),
			steps: []step.Step{
				step.Begun, step.ConsumerStopped, step.QueueDeleted, step.PartitionDropped,
				step.QueueGone, step.Forgotten, step.Reported, step.Released,
			},
		},
	}
}

// A step that is in no operation would be a place to die that nobody has looked at.
func TestEveryStepIsAPlaceToDie(t *testing.T) {
	var met []step.Step
	for _, o := range operations() {
		met = append(met, o.steps...)
	}
	require.ElementsMatch(t, step.All(), slices.Compact(slices.Sorted(slices.Values(met))))
}

// The process is killed after every step of every operation, by the step itself, and started again. What was desired must
// come about, every message that was accepted must be stored once, and nothing may be left over.
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
				done := slices.DeleteFunc(w.steps(t, v.id, o.want.Generation), func(done step.Step) bool {
					// A tenant may be reconciled once more, such as by the comparison with the registry, which finds its consumer running.
					return done == step.ConsumerConfigured && !slices.Contains(o.steps, done)
				})
				require.Equal(t, o.steps, done)
			})
			for _, last := range o.steps {
				t.Run("after "+string(last), func(t *testing.T) {
					v := w.victim(t, o)
					v.dieAt(last)
					v.begin()
					v.dies()
					w.start()
					v.converged()
				})
			}
			w.empty()
		})
	}
}

// The same inside of a step that is several changes in the database or the broker: what a process leaves there is made by
// hand while the process is away.
func TestKilledInTheMiddleOfAStep(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills and starts the service dozens of times")
	}
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	for name, c := range map[string]struct {
		operation string
		after     step.Step
		leave     func(v *victim)
	}{
		"queue bound for messages, not for retries": {"creation", step.Declared, func(v *victim) { v.bindHalf() }},
		"partition detached, not dropped":           {"deletion", step.QueueDeleted, func(v *victim) { v.dropOnce() }},
		"partition dropped, dead letters not": {"deletion", step.QueueDeleted, func(v *victim) {
			v.dropOnce()
			v.dropOnce()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := w.victim(t, operations()[c.operation])
			v.dieAt(c.after)
			v.begin()
			v.dies()
			c.leave(v)
			w.start()
			v.converged()
		})
	}
	w.empty()
}

// What is desired may change while the process is dead: what it had begun for the old desire must not stay.
func TestDeletedWhileDead(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: it kills and starts the service dozens of times")
	}
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	creation := operations()["creation"]
	for _, last := range creation.steps {
		t.Run("created up to "+string(last), func(t *testing.T) {
			v := w.victim(t, creation)
			v.dieAt(last)
			v.begin()
			v.dies()
			v.want(contract.TenantSpec{State: contract.DesiredDeleting, Workers: workersBefore, Generation: 2})
			w.start()
			v.converged()
		})
	}
	w.empty()
}

// A tenant must not need more than the broker and the database to be torn down: nobody reports for an instance that is
// dead, and the next one reports under its own name.
func TestTeardownGoesOnUnderAnotherName(t *testing.T) {
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	v := w.victim(t, operations()["deletion"])
	v.dieAt(step.QueueDeleted)
	v.begin()
	v.dies()
	w.instance = "ingest-" + uuid.NewString()[:8]
	w.start()
	v.converged()
	w.empty()
}

// What a tenant is billed for must not depend on when an instance died: it is killed while it stores and counts, again and again, and
// in the end every stored message is counted once. What is counted of a tenant outlives it.
func TestUsageIsExactAfterKills(t *testing.T) {
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	resize := operations()["resize"]
	v := w.victim(t, resize)
	for kill := range int64(3) {
		v.change.Generation, v.change.Workers = 2+kill, int(workersAfter+kill)
		v.dieAt(step.ConsumerConfigured)
		v.begin()
		v.dies()
		w.start()
		v.converged()
	}
	stored := w.count(t, `SELECT count(*) FROM messages WHERE tenant_id = $1`, v.id)
	v.want(contract.TenantSpec{State: contract.DesiredDeleting, Workers: workersBefore, Generation: 10})
	v.converged()
	require.Equal(t, stored, w.count(t, `SELECT sum(messages) FROM usage_hours WHERE tenant_id = $1`, v.id))
	w.empty()
}

// An instance is killed again and again while it removes what a tenant does not keep, under limits that change: in the end no more is kept
// than the last one allows, and what came in less what was removed is what is stored, to the row.
func TestRetentionGoesOnAfterKills(t *testing.T) {
	t.Parallel()
	w := newCrashWorld(t)
	w.start()
	v := w.victim(t, operations()["resize"])
	for kill, limit := range []int64{300, 200, 100} {
		v.change.Generation, v.change.Workers, v.change.Limits.RetentionBytes = int64(2+kill), workersAfter+kill, limit
		v.dieAt(step.ConsumerConfigured)
		v.begin()
		v.dies()
		w.start()
		v.observed()
		// What was stored and removed before it was acknowledged is redelivered, and stored again: messages is not less than was accepted.
		require.Eventually(t, func() bool {
			q, _ := v.queue()
			return q.Messages == 0 && w.count(t, `SELECT count(*) FROM usage_positions p WHERE tenant_id = $1
				AND (messages - removed_messages, bytes - removed_bytes) = (SELECT count(*), sum(bytes) FROM messages WHERE tenant_id = $1)
				AND messages >= $2 AND bytes - removed_bytes BETWEEN $3 - 2 AND $3`, v.id, len(v.accepted), limit) == 1
		}, waitLimit, tick)
	}
	v.want(contract.TenantSpec{State: contract.DesiredDeleting, Workers: workersBefore, Generation: 10})
	v.converged()
	require.GreaterOrEqual(t, w.count(t, `SELECT sum(messages) FROM usage_hours WHERE tenant_id = $1`, v.id), len(v.accepted))
	require.Zero(t, w.count(t, `SELECT count(*) FROM retention_positions WHERE tenant_id = $1`, v.id))
	w.empty()
}
