package tenant

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

func limited() Policy {
	return Policy{
		DefaultWorkers: 3, MaxWorkers: 64, DefaultMaxAttempts: 6,
		DefaultLimits: contract.Limits{Weight: 2, PublishRate: 100, MaxPayload: 1000, StoredMaxBytes: 50_000},
	}
}

// made is a tenant of a policy with overrides.
func made(t require.TestingT, p Policy, own Overrides) *Tenant {
	tenant, err := p.New(Draft{Name: "a"})
	require.NoError(t, err)
	require.NoError(t, p.Configure(&tenant, patchOf(own)))
	return &tenant
}

func patchOf(values map[string]int64) Patch {
	patch := make(Patch)
	for name, value := range values {
		patch[name] = &value
	}
	return patch
}

// What a patch does not name stays as it is, and null follows the defaults again: a tenant whose other limits were zeroed by a change
// of one would be without protection.
func TestConfigure(t *testing.T) {
	for name, tc := range map[string]struct {
		own   Overrides
		patch Patch
		want  Overrides
		force contract.Limits
	}{
		"first override": {
			nil,
			Patch{"publish_rate": new(int64(5))},
			Overrides{"publish_rate": 5},
			contract.Limits{Weight: 2, PublishRate: 5, MaxPayload: 1000, StoredMaxBytes: 50_000},
		},
		"another one stays": {
			Overrides{"publish_rate": 5},
			Patch{"read_bytes": new(int64(7))},
			Overrides{"publish_rate": 5, "read_bytes": 7},
			contract.Limits{Weight: 2, PublishRate: 5, MaxPayload: 1000, StoredMaxBytes: 50_000, ReadBytes: 7},
		},
		"back to the default": {
			Overrides{"publish_rate": 5, "read_bytes": 7},
			Patch{"publish_rate": nil},
			Overrides{"read_bytes": 7},
			contract.Limits{Weight: 2, PublishRate: 100, MaxPayload: 1000, StoredMaxBytes: 50_000, ReadBytes: 7},
		},
		"no limit at all": {
			nil,
			Patch{"publish_rate": new(int64(0))},
			Overrides{"publish_rate": 0},
			contract.Limits{Weight: 2, MaxPayload: 1000, StoredMaxBytes: 50_000},
		},
		"the weight of most tenants": {
			nil,
			Patch{"weight": new(int64(1))},
			Overrides{"weight": 1},
			contract.Limits{PublishRate: 100, MaxPayload: 1000, StoredMaxBytes: 50_000},
		},
		"as the default says": {
			nil,
			Patch{"publish_rate": new(int64(100))},
			Overrides{"publish_rate": 100},
			contract.Limits{Weight: 2, PublishRate: 100, MaxPayload: 1000, StoredMaxBytes: 50_000},
		},
		"of a newer version": {
			Overrides{"nobody_knows": 9},
			Patch{"weight": nil, "publish_rate": new(int64(1))},
			Overrides{"nobody_knows": 9, "publish_rate": 1},
			contract.Limits{Weight: 2, PublishRate: 1, MaxPayload: 1000, StoredMaxBytes: 50_000},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := made(t, limited(), tc.own)
			before := *tenant
			require.NoError(t, limited().Configure(tenant, tc.patch))
			require.Equal(t, tc.want, tenant.Own())
			require.Equal(t, tc.force, tenant.Spec().Limits)
			require.Equal(t, before.Generation+1, tenant.Generation)
			require.Equal(t, before.Workers, tenant.Workers)
			require.Equal(t, 6, tenant.MaxAttempts)
			after := *tenant
			require.NoError(t, limited().Configure(tenant, tc.patch))
			require.Equal(t, after, *tenant, "again, it changes nothing")
		})
	}
	tenant := made(t, limited(), Overrides{"workers": 9, "max_attempts": 10})
	require.Equal(t, []int{9, 10}, []int{tenant.Workers, tenant.MaxAttempts})
	require.NoError(t, limited().Configure(tenant, Patch{"workers": nil, "max_attempts": nil}))
	require.Equal(t, []int{3, 6}, []int{tenant.Workers, tenant.MaxAttempts})
}

// A patch in every state, whether or not it changes anything.
func TestConfigureInEveryState(t *testing.T) {
	for state, want := range map[State]error{Active: nil, Suspended: nil, Deleting: ErrDeleting, Deleted: ErrNotFound} {
		for name, patch := range map[string]Patch{"a change": {"publish_rate": new(int64(5))}, "nothing": {}, "no change": {"publish_rate": nil}} {
			tenant := Tenant{State: state, Workers: 3, Generation: 7}
			require.ErrorIs(t, limited().Configure(&tenant, patch), want, "%s, %s", state, name)
			changed := want == nil && name == "a change"
			require.Equal(t, changed, tenant.Generation == 8, "%s, %s", state, name)
			require.Equal(t, state, tenant.State)
		}
		tenant := Tenant{State: state, Workers: 3, Generation: 7}
		limited().Refresh(&tenant)
		require.Equal(t, want == nil, tenant.Generation == 8, "refresh, %s", state)
	}
}

// The edges of every range.
func TestCheckPatch(t *testing.T) {
	for _, l := range limited().limits() {
		for value, good := range map[int64]bool{
			l.min: true, l.max: true, l.min - 1: false, l.max + 1: false, -1: false, math.MinInt64: false, math.MaxInt64: false,
		} {
			err := limited().CheckPatch(Patch{l.name: &value})
			if good {
				require.NoError(t, err, "%s %d", l.name, value)
				continue
			}
			var wrong *ValidationError
			require.ErrorAs(t, err, &wrong, "%s %d", l.name, value)
			require.Equal(t, l.name, wrong.Fields[0].Field)
		}
		require.NoError(t, limited().CheckPatch(Patch{l.name: nil}))
		require.Less(t, l.max, int64(1)<<53, "exact where numbers are of double precision")
	}
}

// Limits of which one lets through what the other never does.
func TestContradictions(t *testing.T) {
	p := Policy{DefaultWorkers: 3, MaxWorkers: 64}
	for _, pair := range contradictions() {
		low, high := pair[0], pair[1]
		for name, own := range map[string]Overrides{"equal": {low: 7, high: 7}, "no limit above": {low: 7, high: 0}, "no limit below": {low: 0, high: 7}} {
			require.NoError(t, p.Configure(made(t, p, nil), patchOf(own)), "%s, %s: %s", low, high, name)
		}
		for name, tc := range map[string]struct {
			own   Overrides
			patch Patch
		}{
			"both":      {nil, Patch{low: new(int64(8)), high: new(int64(7))}},
			"the first": {Overrides{high: 7}, Patch{low: new(int64(8))}},
			"the other": {Overrides{low: 8}, Patch{high: new(int64(7))}},
		} {
			tenant := made(t, p, tc.own)
			before := *tenant
			var wrong *ValidationError
			require.ErrorAs(t, p.Configure(tenant, tc.patch), &wrong, "%s, %s: %s", low, high, name)
			require.Equal(t, low, wrong.Fields[0].Field)
			require.Contains(t, wrong.Fields[0].Detail, high)
			require.Contains(t, wrong.Fields[0].Detail, "8 and 7")
			require.Equal(t, before, *tenant, "nothing has changed")
		}
		// By a default.
		defaults := p
		c := Config{}
		*find(high).of(&c) = 7
		defaults.DefaultLimits = c.Limits
		require.Error(t, defaults.Configure(made(t, defaults, nil), Patch{low: new(int64(8))}), "%s, %s", low, high)
		*find(low).of(&c) = 8
		defaults.DefaultLimits = c.Limits
		require.Error(t, defaults.Check(), "%s, %s", low, high)
		// A tenant that is in contradiction by a change of the defaults can still be given other limits.
		torn := made(t, p, Overrides{low: 8})
		changed := p
		c = Config{}
		*find(high).of(&c) = 7
		changed.DefaultLimits = c.Limits
		changed.Refresh(torn)
		require.Error(t, changed.Contradictions(torn), "%s, %s", low, high)
		require.NoError(t, changed.Configure(torn, Patch{"replay_rate": new(int64(1))}))
		require.Error(t, changed.Configure(torn, Patch{low: new(int64(9))}))
		require.NoError(t, changed.Configure(torn, Patch{low: nil}))
	}
}

func find(name string) limit {
	for _, l := range limited().limits() {
		if l.name == name {
			return l
		}
	}
	panic(name)
}

func TestPolicyCheck(t *testing.T) {
	require.NoError(t, limited().Check())
	require.NoError(t, Policy{DefaultWorkers: 1, MaxWorkers: 1}.Check())
	for name, tc := range map[string]struct {
		policy Policy
		field  string
	}{
		"negative":          {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultLimits: contract.Limits{PublishRate: -1}}, "publish_rate"},
		"too much":          {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultLimits: contract.Limits{MaxStreams: 101}}, "max_streams"},
		"weight":            {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultLimits: contract.Limits{Weight: 101}}, "weight"},
		"negative weight":   {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultLimits: contract.Limits{Weight: -1}}, "weight"},
		"attempts":          {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultMaxAttempts: 101}, "max_attempts"},
		"negative attempts": {Policy{DefaultWorkers: 1, MaxWorkers: 1, DefaultMaxAttempts: -1}, "max_attempts"},
		"no workers":        {Policy{MaxWorkers: 1}, "workers"},
	} {
		var wrong *ValidationError
		require.ErrorAs(t, tc.policy.Check(), &wrong, name)
		require.Equal(t, tc.field, wrong.Fields[0].Field, name)
	}
}

// A version of the registry that knows of no limits changes the columns that it knows. What an operator has set there must not be taken
// back by the next change here.
func TestChangesOfAnOlderVersion(t *testing.T) {
	p := limited()
	created := Tenant{State: Active, Workers: 3, Generation: 1} // by the older version, without limits
	require.Equal(t, Overrides{"workers": 3}, created.Own())
	p.Refresh(&created)
	require.Equal(t, Overrides{"workers": 3}, created.Own())
	require.Equal(t, p.DefaultLimits, created.Spec().Limits)
	require.Equal(t, 6, created.MaxAttempts)

	tenant := made(t, p, Overrides{"publish_rate": 5})
	tenant.Workers = 9 // by the older version
	require.Equal(t, Overrides{"workers": 9, "publish_rate": 5}, tenant.Own())
	require.NoError(t, tenant.Suspend())
	require.NoError(t, p.Configure(tenant, Patch{"publish_rate": new(int64(6))}))
	require.Equal(t, 9, tenant.Workers)
	tenant.Workers = 4 // and again
	p.DefaultLimits.ReadBytes = 1
	p.Refresh(tenant)
	require.Equal(t, Overrides{"workers": 4, "publish_rate": 6}, tenant.Own())
	require.Equal(t, 4, tenant.Workers)
	require.Equal(t, int64(1), tenant.Spec().Limits.ReadBytes)
	tenant.MaxAttempts = 7
	require.Equal(t, Overrides{"workers": 4, "publish_rate": 6, "max_attempts": 7}, tenant.Own())
}

// An upgrade of an installation without limits changes no tenant.
func TestTenantsWithoutLimitsNeedNoChange(t *testing.T) {
	p := Policy{DefaultWorkers: 3, MaxWorkers: 64, DefaultLimits: contract.Limits{Weight: 1}}
	for _, tenant := range []Tenant{{State: Active, Workers: 3, Generation: 7}, {State: Suspended, Workers: 9, MaxAttempts: 5, Generation: 7}} {
		before := tenant
		p.Refresh(&tenant)
		require.Equal(t, before, tenant)
		require.Equal(t, contract.Limits{}, tenant.Spec().Limits)
	}
}

// Whatever patches and defaults come after each other, what is in force is what the overrides say and the defaults otherwise, after a
// way through the database as well.
func TestConfigureAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{DefaultWorkers: 3, MaxWorkers: 64}
		tenant := made(t, p, nil)
		model := map[string]int64{}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			l := rapid.SampledFrom(p.limits()).Draw(t, "limit")
			value := rapid.Int64Range(l.min, min(l.max, l.min+2)).Draw(t, "value")
			before := *tenant
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				if p.Configure(tenant, Patch{l.name: &value}) == nil {
					model[l.name] = value
				} else {
					require.Equal(t, before, *tenant)
				}
			case 1:
				if p.Configure(tenant, Patch{l.name: nil}) == nil {
					delete(model, l.name)
				} else {
					require.Equal(t, before, *tenant)
				}
			default:
				c := Config{Workers: int64(p.DefaultWorkers), MaxAttempts: int64(p.DefaultMaxAttempts), Limits: p.DefaultLimits}
				*l.of(&c) = value
				p.DefaultWorkers, p.DefaultMaxAttempts, p.DefaultLimits = int(c.Workers), int(c.MaxAttempts), c.Limits
				p.Refresh(tenant)
			}
			require.GreaterOrEqual(t, tenant.Generation, before.Generation)
			if before.Spec() != tenant.Spec() {
				require.Greater(t, tenant.Generation, before.Generation, "another state needs another generation")
			}
			text, err := json.Marshal(tenant.Config)
			require.NoError(t, err)
			tenant.Config = Config{}
			require.NoError(t, json.Unmarshal(text, &tenant.Config))

			require.Equal(t, Overrides(model), tenant.Own())
			defaults := p.Values(p.inForce(nil))
			for name, got := range p.Values(tenant.InForce()) {
				want, ok := model[name]
				if !ok {
					want = defaults[name]
				}
				require.Equal(t, want, got, name)
			}
		}
	})
}
