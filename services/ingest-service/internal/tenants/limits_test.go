package tenants_test

import (
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// A change of limits alone is in force, and reported, without the consumer being started again: what is in flight would come twice.
func TestChangedLimitsRestartNoConsumer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var made atomic.Int64
	newConsumer := r.deps.NewConsumer
	r.deps.NewConsumer = func(tenant uuid.UUID, state *consumer.State, onChange func(error)) tenants.Consumer {
		made.Add(1)
		return newConsumer(tenant, state, onChange)
	}
	r.start()
	tenant := uuid.New()
	r.want(tenant, contract.DesiredActive, 2, 1)
	r.observed(tenant, contract.StateRunning, 1)
	for generation := int64(2); generation < 6; generation++ {
		spec := contract.TenantSpec{
			TenantID: tenant.String(), State: contract.DesiredActive, Workers: 2, Generation: generation,
			Limits: contract.Limits{Weight: generation, PublishRate: 1000 * generation, RetentionSeconds: 3600},
		}
		_, err := r.specs.Put(t.Context(), tenant.String(), spec)
		require.NoError(t, err)
		require.Equal(t, 2, r.observed(tenant, contract.StateRunning, generation).Workers)
		known, provisioned, ok := r.controller.Lookup(t.Context(), tenant)
		require.True(t, provisioned && ok)
		require.Equal(t, spec, known)
		r.publish(tenant, 10)
	}
	require.Eventually(t, func() bool { return r.stored(tenant) == 40 }, waitLimit, poll)
	require.EqualValues(t, 1, made.Load())
}

// Limits come from the registry as well, where the channel does not have them: a relay of the version before leaves them out.
func TestLimitsComeFromTheRegistry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.resync = often
	tenant := uuid.New()
	r.register(tenant, "active", 2, 3)
	_, err := r.operator.Exec(t.Context(), `UPDATE tenants SET limits = '{"workers": 2, "publish_rate": 7, "of_tomorrow": 9}' WHERE id = $1`, tenant)
	require.NoError(t, err)
	r.want(tenant, contract.DesiredActive, 2, 3)
	r.start()
	r.observed(tenant, contract.StateRunning, 3)
	require.Eventually(t, func() bool {
		spec, _, _ := r.controller.Lookup(t.Context(), tenant)
		return spec.Limits == contract.Limits{PublishRate: 7}
	}, waitLimit, poll)
}

// Retention goes on for a suspended tenant, and leaves one that is being deleted to its deletion.
func TestLimitsOfTenantsThatAreKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	want := make(map[uuid.UUID]contract.Limits)
	for state, observed := range map[contract.DesiredState]contract.ConsumerState{
		contract.DesiredActive: contract.StateRunning, contract.DesiredSuspended: contract.StateSuspended, contract.DesiredDeleting: contract.StateDeleted,
	} {
		spec := contract.TenantSpec{
			TenantID: uuid.NewString(), State: state, Workers: 1, Generation: 1, Limits: contract.Limits{RetentionSeconds: int64(len(want)) + 1},
		}
		_, err := r.specs.Put(t.Context(), spec.TenantID, spec)
		require.NoError(t, err)
		id := uuid.MustParse(spec.TenantID)
		r.observed(id, observed, 1)
		if state != contract.DesiredDeleting {
			want[id] = spec.Limits
		}
		require.Equal(t, spec.Limits, r.controller.Limits(id))
	}
	seen := make(map[uuid.UUID]contract.Limits)
	r.controller.EachLimits(func(tenant uuid.UUID, limits contract.Limits) { seen[tenant] = limits })
	require.Equal(t, want, seen)
}
