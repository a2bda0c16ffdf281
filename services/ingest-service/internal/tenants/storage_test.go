package tenants_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// wantLimited sets a desired state with a limit of what is stored.
func (r *rig) wantLimited(tenant uuid.UUID, state contract.DesiredState, bytes, generation int64) {
	r.t.Helper()
	_, err := r.specs.Put(r.t.Context(), tenant.String(), contract.TenantSpec{
		TenantID: tenant.String(), State: state, Workers: 2, Generation: generation, Limits: contract.Limits{StoredMaxBytes: bytes},
	})
	require.NoError(r.t, err)
}

// storageFull is the gauge of a tenant, and whether it exists.
func (r *rig) storageFull(tenant uuid.UUID) (value float64, exists bool) {
	r.t.Helper()
	families, err := r.registry.Gather()
	require.NoError(r.t, err)
	for _, family := range families {
		if family.GetName() != "mtm_tenant_storage_full" {
			continue
		}
		for _, metric := range family.GetMetric() {
			if metric.GetLabel()[0].GetValue() == tenant.String() {
				return metric.GetGauge().GetValue(), true
			}
		}
	}
	return 0, false
}

func (r *rig) requireStorageFull(tenant uuid.UUID, generation int64) {
	r.t.Helper()
	status := r.observed(tenant, contract.StateStorageFull, generation)
	require.Contains(r.t, status.Error, "stored as much as it may")
	require.Zero(r.t, status.Workers)
	value, exists := r.storageFull(tenant)
	require.True(r.t, exists)
	require.InDelta(r.t, 1, value, 0)
}

// A tenant that stores nothing because it may not must look neither like one that is stuck nor like one that is fine. It follows whatever
// is wanted of it like any other, and is itself again as soon as there is room.
func TestStatusOfAFullTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant, neighbour := uuid.New(), uuid.New()
	r.wantLimited(neighbour, contract.DesiredActive, 1<<20, 1)
	r.wantLimited(tenant, contract.DesiredActive, 50, 1)
	r.observed(tenant, contract.StateRunning, 1)
	_, exists := r.storageFull(tenant)
	require.False(t, exists)

	r.publish(tenant, 100) // 190 bytes
	r.requireStorageFull(tenant, 1)
	bytes := r.count(`SELECT sum(bytes) FROM messages WHERE tenant_id = $1`, tenant)
	require.GreaterOrEqual(t, bytes, 50)
	require.LessOrEqual(t, bytes, 51)
	r.wantLimited(tenant, contract.DesiredActive, 51, 2)
	r.requireStorageFull(tenant, 2)

	r.wantLimited(tenant, contract.DesiredSuspended, 51, 3)
	r.observed(tenant, contract.StateSuspended, 3)
	_, exists = r.storageFull(tenant)
	require.True(t, exists, "it refuses all the same")
	r.wantLimited(tenant, contract.DesiredActive, 51, 4)
	r.requireStorageFull(tenant, 4)

	r.publish(neighbour, 50)
	require.Eventually(t, func() bool { return r.stored(neighbour) == 50 }, waitLimit, poll)
	r.observed(neighbour, contract.StateRunning, 1)

	r.wantLimited(tenant, contract.DesiredActive, 1000, 5)
	require.Equal(t, 2, r.observed(tenant, contract.StateRunning, 5).Workers)
	require.Eventually(t, func() bool { return r.stored(tenant) == 100 }, waitLimit, poll)
	_, exists = r.storageFull(tenant)
	require.False(t, exists)

	r.wantLimited(tenant, contract.DesiredActive, 190, 6) // nothing waits, and yet nothing more is taken
	r.requireStorageFull(tenant, 6)
	_, err := r.operator.Exec(t.Context(), `INSERT INTO usage_positions VALUES ($1, 1, '1', 0, now(), 0, 0, 1, 1)
		ON CONFLICT (tenant_id) DO UPDATE SET removed_bytes = 1`, tenant) // a byte is removed
	require.NoError(t, err)
	r.observed(tenant, contract.StateRunning, 6)
	r.publish(tenant, 1)
	r.requireStorageFull(tenant, 6)
	r.wantLimited(tenant, contract.DesiredActive, 0, 7)
	r.observed(tenant, contract.StateRunning, 7)

	r.wantLimited(tenant, contract.DesiredActive, 1, 8)
	r.publish(tenant, 10)
	r.requireStorageFull(tenant, 8)
	r.wantLimited(tenant, contract.DesiredDeleting, 1, 9)
	r.observed(tenant, contract.StateDeleted, 9)
	require.Zero(t, r.series(tenant))
}

// A queue that is deleted under a tenant that waits for room, and so has no consumer that would notice, is made again.
func TestLostQueueOfAFullTenant(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start()
	tenant := uuid.New()
	r.wantLimited(tenant, contract.DesiredActive, 1, 1)
	r.observed(tenant, contract.StateRunning, 1)
	r.publish(tenant, 5)
	r.requireStorageFull(tenant, 1)
	require.NoError(t, r.deps.Topology.Delete(t.Context(), tenant))
	require.Eventually(t, func() bool { _, exists := r.queue(tenant); return exists }, waitLimit, poll)
	r.wantLimited(tenant, contract.DesiredActive, 0, 2)
	r.observed(tenant, contract.StateRunning, 2)
	r.publish(tenant, 5)
	require.Eventually(t, func() bool { return r.stored(tenant) >= 6 }, waitLimit, poll)
}
