package tenant

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// The status decides when "Prefer: wait" answers, and it is where an operator looks first: one failing instance among
// healthy ones must show.
func TestSummarize(t *testing.T) {
	report := func(instance string, state contract.ConsumerState, generation int64) contract.TenantStatus {
		return contract.TenantStatus{Instance: instance, State: state, ObservedGeneration: generation, Workers: 3, QueueReady: -1, QueueUnacked: -1}
	}
	standby := func(instance string, generation int64) contract.TenantStatus {
		return contract.TenantStatus{Instance: instance, State: contract.StateRunning, ObservedGeneration: generation}
	}
	for name, tc := range map[string]struct {
		desired State
		reports []contract.TenantStatus
		state   string
		reached bool // at generation 5
	}{
		"nobody":                            {Active, nil, "unknown", false},
		"gone":                              {Deleted, nil, "deleted", false},
		"running":                           {Active, []contract.TenantStatus{report("a", "running", 5)}, "running", true},
		"running, newer":                    {Active, []contract.TenantStatus{report("a", "running", 6)}, "running", true},
		"running an older generation":       {Active, []contract.TenantStatus{report("a", "running", 4)}, "running", false},
		"one of two older":                  {Active, []contract.TenantStatus{report("a", "running", 5), report("b", "running", 4)}, "running", false},
		"one of two failed":                 {Active, []contract.TenantStatus{report("a", "failed", 5), report("b", "running", 5)}, "failed", false},
		"failed before paused":              {Active, []contract.TenantStatus{report("a", "paused", 5), report("b", "failed", 5)}, "failed", false},
		"storage full":                      {Active, []contract.TenantStatus{report("a", "storage_full", 5)}, "storage_full", true},
		"storage full, of an older limit":   {Active, []contract.TenantStatus{report("a", "running", 5), report("b", "storage_full", 4)}, "storage_full", false},
		"storage full, as one knows":        {Active, []contract.TenantStatus{standby("a", 5), report("b", "storage_full", 5)}, "storage_full", true},
		"paused before storage full":        {Active, []contract.TenantStatus{report("a", "storage_full", 5), report("b", "paused", 5)}, "paused", false},
		"storage full, not yet suspended":   {Suspended, []contract.TenantStatus{report("a", "suspended", 5), report("b", "storage_full", 4)}, "storage_full", false},
		"one still provisioning":            {Active, []contract.TenantStatus{report("a", "running", 5), report("b", "provisioning", 5)}, "provisioning", false},
		"one still suspended":               {Active, []contract.TenantStatus{report("a", "running", 5), report("b", "suspended", 4)}, "suspended", false},
		"suspended":                         {Suspended, []contract.TenantStatus{report("a", "suspended", 5)}, "suspended", true},
		"one not yet suspended":             {Suspended, []contract.TenantStatus{report("a", "suspended", 5), report("b", "running", 4)}, "running", false},
		"deleting":                          {Deleting, []contract.TenantStatus{report("a", "deleted", 5), report("b", "deleting", 5)}, "deleting", false},
		"torn down":                         {Deleting, []contract.TenantStatus{report("a", "deleted", 5)}, "deleted", true},
		"one of two stands by":              {Active, []contract.TenantStatus{report("a", "running", 5), standby("b", 5)}, "running", true},
		"both stand by":                     {Active, []contract.TenantStatus{standby("a", 5), standby("b", 5)}, "provisioning", false},
		"the one that consumes is to begin": {Active, []contract.TenantStatus{standby("a", 5), report("b", "provisioning", 5)}, "provisioning", false},
		"the one that consumes is paused":   {Active, []contract.TenantStatus{standby("a", 5), report("b", "paused", 5)}, "paused", false},
		"running although to be deleted":    {Deleting, []contract.TenantStatus{report("a", "running", 4), report("b", "deleted", 5)}, "running", false},
		"a state that a newer version made": {Active, []contract.TenantStatus{report("a", "levitating", 5)}, "levitating", false},
	} {
		t.Run(name, func(t *testing.T) {
			sum := Summarize(tc.desired, tc.reports)
			require.Equal(t, tc.state, sum.State)
			require.Equal(t, tc.reached, sum.Reached(Tenant{State: tc.desired, Generation: 5}))
		})
	}
}

// Instances that do not look at what a queue is held to say nothing, and of two that do the later one counts: the other has just stopped to.
func TestSummarizeQueueLimits(t *testing.T) {
	old, now := &contract.QueueLimits{Reason: contract.QueueLimitsUnavailable}, &contract.QueueLimits{Reason: contract.QueueLimitsArgument, MaxBytes: 5}
	at := time.Unix(1_800_000_000, 0)
	reports := []contract.TenantStatus{
		{Instance: "a", State: "running", ObservedAt: at.Add(time.Minute)},
		{Instance: "b", State: "running", ObservedAt: at.Add(time.Second), QueueLimits: now},
		{Instance: "c", State: "running", ObservedAt: at, QueueLimits: old},
	}
	require.Equal(t, now, Summarize(Active, reports).QueueLimits)
	require.Nil(t, Summarize(Active, reports[:1]).QueueLimits)
	require.Nil(t, Summarize(Active, nil).QueueLimits)
}

func TestSummarizeNumbers(t *testing.T) {
	sum := Summarize(Active, []contract.TenantStatus{
		{Instance: "b", State: "paused", Workers: 2, QueueReady: 10, QueueUnacked: -1, ObservedGeneration: 4, Error: "no database"},
		{Instance: "a", State: "running", Workers: 3, QueueReady: 12, QueueUnacked: 4, ObservedGeneration: 5},
	})
	require.Equal(t, 5, sum.Workers)
	require.Equal(t, int64(12), sum.QueueReady)
	require.Equal(t, int64(4), sum.QueueUnacked)
	both := Summarize(Active, []contract.TenantStatus{
		{Instance: "a", State: "running", Workers: 1, QueueReady: 7, QueueUnacked: 40}, {Instance: "b", State: "running", Workers: 2, QueueReady: 9, QueueUnacked: 60},
	})
	require.Equal(t, int64(9), both.QueueReady, "they look at the same queue")
	require.Equal(t, int64(100), both.QueueUnacked, "each works on messages of its own")
	require.Equal(t, int64(4), sum.ObservedGeneration)
	require.Equal(t, "no database", sum.Error)
	require.Equal(t, "a", sum.Instances[0].Instance)

	nobody := Summarize(Active, nil)
	require.Equal(t, int64(-1), nobody.QueueReady)
	require.Equal(t, int64(-1), nobody.QueueUnacked)
}
