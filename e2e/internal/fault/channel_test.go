package fault

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
)

// Reports count by the rule of tenant-service: as long as the process that made them has a heartbeat.
func TestObserved(t *testing.T) {
	t.Parallel()
	const tenant = "8d1f3b1c-6f0b-4c57-9f3c-2a8f2a6f7d10"
	want := []contract.TenantSpec{{TenantID: tenant, State: contract.DesiredActive, Workers: 1, Generation: 3}}
	beat := func(run string) control.Entry[contract.TenantStatus] {
		return control.Entry[contract.TenantStatus]{Value: contract.TenantStatus{Run: run}}
	}
	report := func(run string, generation int64) control.Entry[contract.TenantStatus] {
		return control.Entry[contract.TenantStatus]{Value: contract.TenantStatus{TenantID: tenant, Run: run, ObservedGeneration: generation}}
	}
	living, dead := contract.InstanceKey("living"), contract.InstanceKey("dead")
	ofLiving, ofDead := contract.StatusKey(tenant, "living"), contract.StatusKey(tenant, "dead")
	type statuses = map[string]control.Entry[contract.TenantStatus]
	require.NoError(t, observed(want, statuses{living: beat("a"), ofLiving: report("a", 3)}))
	require.NoError(t, observed(want, statuses{living: beat("a"), ofLiving: report("a", 3), ofDead: report("b", 2)}), "it has expired")
	require.NoError(t, observed(want, statuses{living: beat("a"), ofLiving: report("a", 3), dead: beat("c"), ofDead: report("b", 2)}), "of a process before")
	require.Error(t, observed(want, statuses{living: beat("a"), ofLiving: report("a", 3), dead: beat("b"), ofDead: report("b", 2)}))
	require.ErrorContains(t, observed(want, statuses{living: beat("a"), ofLiving: report("a", 2)}), "generation 3")
	require.ErrorContains(t, observed(want, statuses{ofDead: report("b", 3)}), "no running instance")
	require.ErrorContains(t, observed(want, nil), "no running instance")
	require.NoError(t, observed(nil, statuses{living: beat("a")}))
}
