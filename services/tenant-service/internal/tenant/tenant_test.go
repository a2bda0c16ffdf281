package tenant

import (
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func policy() Policy { return Policy{DefaultWorkers: 3, MaxWorkers: 64} }

// A wrong value that gets past here reaches every instance; a right one that does not is a customer turned away.
func TestPolicyNew(t *testing.T) {
	id := uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	for name, tc := range map[string]struct {
		draft Draft
		want  Tenant   // its name, workers and max attempts
		wrong []string // fields
	}{
		"least":                {draft: Draft{Name: "a"}, want: Tenant{Name: "a", Workers: 3}},
		"all":                  {draft: Draft{ID: &id, Name: "a", Workers: new(64), MaxAttempts: new(100)}, want: Tenant{Name: "a", Workers: 64, MaxAttempts: 100}},
		"one worker":           {draft: Draft{Name: "a", Workers: new(1), MaxAttempts: new(1)}, want: Tenant{Name: "a", Workers: 1, MaxAttempts: 1}},
		"white space around":   {draft: Draft{Name: " \t a b\n"}, want: Tenant{Name: "a b", Workers: 3}},
		"200 characters":       {draft: Draft{Name: strings.Repeat("ß", 200)}, want: Tenant{Name: strings.Repeat("ß", 200), Workers: 3}},
		"emoji":                {draft: Draft{Name: "Café 👩‍👩‍👧 \U0001F680"}, want: Tenant{Name: "Café 👩‍👩‍👧 \U0001F680", Workers: 3}},
		"Persian":              {draft: Draft{Name: "می\u200cخواهم"}, want: Tenant{Name: "می\u200cخواهم", Workers: 3}},
		"201 characters":       {draft: Draft{Name: strings.Repeat("x", 201)}, wrong: []string{"name"}},
		"no name":              {draft: Draft{}, wrong: []string{"name"}},
		"only white space":     {draft: Draft{Name: " \u00a0\t"}, wrong: []string{"name"}},
		"NUL":                  {draft: Draft{Name: "a\x00b"}, wrong: []string{"name"}},
		"line break":           {draft: Draft{Name: "a\nb"}, wrong: []string{"name"}},
		"line separator":       {draft: Draft{Name: "a\u2028b"}, wrong: []string{"name"}},
		"C1 control":           {draft: Draft{Name: "a\u0085b"}, wrong: []string{"name"}},
		"not UTF-8":            {draft: Draft{Name: "a\xffb"}, wrong: []string{"name"}},
		"no worker":            {draft: Draft{Name: "a", Workers: new(0)}, wrong: []string{"workers"}},
		"negative workers":     {draft: Draft{Name: "a", Workers: new(-1)}, wrong: []string{"workers"}},
		"too many workers":     {draft: Draft{Name: "a", Workers: new(65)}, wrong: []string{"workers"}},
		"absurd workers":       {draft: Draft{Name: "a", Workers: new(math.MaxInt)}, wrong: []string{"workers"}},
		"no attempt":           {draft: Draft{Name: "a", MaxAttempts: new(0)}, wrong: []string{"max_attempts"}},
		"too many attempts":    {draft: Draft{Name: "a", MaxAttempts: new(101)}, wrong: []string{"max_attempts"}},
		"nil id":               {draft: Draft{ID: new(uuid.Nil), Name: "a"}, wrong: []string{"id"}},
		"everything at a time": {draft: Draft{ID: new(uuid.Nil), Workers: new(0), MaxAttempts: new(0)}, wrong: []string{"name", "workers", "max_attempts", "id"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := policy().New(tc.draft)
			if tc.wrong != nil {
				var invalid *ValidationError
				require.ErrorAs(t, err, &invalid)
				var fields []string
				for _, f := range invalid.Fields {
					fields = append(fields, f.Field)
				}
				require.Equal(t, tc.wrong, fields)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, Tenant{Name: got.Name, Workers: got.Workers, MaxAttempts: got.MaxAttempts})
			require.Equal(t, Active, got.State)
			require.Equal(t, int64(1), got.Generation)
			require.Zero(t, got.PublishedGeneration)
			require.NotEqual(t, uuid.Nil, got.ID)
			require.Equal(t, got.CreatedAt, got.UpdatedAt)
			if tc.draft.ID != nil {
				require.Equal(t, id, got.ID)
			}
		})
	}
}

func TestPolicyCheckWorkers(t *testing.T) {
	require.NoError(t, policy().CheckWorkers(1))
	require.NoError(t, policy().CheckWorkers(64))
	require.Error(t, policy().CheckWorkers(0))
	require.EqualError(t, policy().CheckWorkers(65), "workers must be between 1 and 64")
}

// Every request in every state. A change that does not raise the generation never reaches an instance; one that does
// without need makes all of them reconcile.
func TestStateMachine(t *testing.T) {
	type outcome struct {
		state   State
		changed bool
		err     error
	}
	suspend, resume, remove := (*Tenant).Suspend, (*Tenant).Resume, (*Tenant).Delete
	resize := func(t *Tenant) error { return t.Resize(5) }
	same := func(t *Tenant) error { return t.Resize(3) }
	for name, tc := range map[string]struct {
		change func(*Tenant) error
		want   map[State]outcome
	}{
		"suspend": {suspend, map[State]outcome{
			Active: {Suspended, true, nil}, Suspended: {Suspended, false, nil}, Deleting: {Deleting, false, ErrDeleting}, Deleted: {Deleted, false, ErrNotFound},
		}},
		"resume": {resume, map[State]outcome{
			Active: {Active, false, nil}, Suspended: {Active, true, nil}, Deleting: {Deleting, false, ErrDeleting}, Deleted: {Deleted, false, ErrNotFound},
		}},
		"delete": {remove, map[State]outcome{
			Active: {Deleting, true, nil}, Suspended: {Deleting, true, nil}, Deleting: {Deleting, false, nil}, Deleted: {Deleted, false, ErrNotFound},
		}},
		"resize": {resize, map[State]outcome{
			Active: {Active, true, nil}, Suspended: {Suspended, true, nil}, Deleting: {Deleting, false, ErrDeleting}, Deleted: {Deleted, false, ErrNotFound},
		}},
		"resize to the same": {same, map[State]outcome{
			Active: {Active, false, nil}, Suspended: {Suspended, false, nil}, Deleting: {Deleting, false, ErrDeleting}, Deleted: {Deleted, false, ErrNotFound},
		}},
	} {
		for state, want := range tc.want {
			t.Run(name+" "+string(state), func(t *testing.T) {
				tenant := Tenant{State: state, Workers: 3, Generation: 7}
				require.ErrorIs(t, tc.change(&tenant), want.err)
				require.Equal(t, want.state, tenant.State)
				generation := int64(7)
				if want.changed {
					generation++
				}
				require.Equal(t, generation, tenant.Generation)
			})
		}
	}
}

// Retiring too early would leave a queue and a partition behind for ever.
func TestRetire(t *testing.T) {
	for name, tc := range map[string]struct {
		state    State
		observed int64
		want     bool
	}{
		"torn down":                        {Deleting, 7, true},
		"torn down, as seen later":         {Deleting, 8, true},
		"report about an older generation": {Deleting, 6, false},
		"active":                           {Active, 7, false},
		"suspended":                        {Suspended, 7, false},
		"again":                            {Deleted, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := Tenant{State: tc.state, Generation: 7}
			require.Equal(t, tc.want, tenant.Retire(tc.observed))
			require.Equal(t, tc.want, tenant.State == Deleted)
		})
	}
}

// After a restore from a backup instances know generations that the registry has yet to reach.
func TestRaiseAbove(t *testing.T) {
	base := Tenant{ID: uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"), State: Active, Workers: 3, Generation: 7}
	other := func(change func(*contract.TenantSpec)) contract.TenantSpec {
		s := base.Spec()
		change(&s)
		return s
	}
	for name, tc := range map[string]struct {
		state State
		seen  contract.TenantSpec
		want  int64
	}{
		"the same":                   {Active, base.Spec(), 7},
		"older":                      {Active, other(func(s *contract.TenantSpec) { s.Generation = 6; s.Workers = 9 }), 7},
		"newer":                      {Active, other(func(s *contract.TenantSpec) { s.Generation = 12 }), 13},
		"same generation, not equal": {Active, other(func(s *contract.TenantSpec) { s.Workers = 9 }), 8},
		"same generation, limits":    {Active, other(func(s *contract.TenantSpec) { s.Limits.PublishRate = 9 }), 8},
		"deleting and newer":         {Deleting, other(func(s *contract.TenantSpec) { s.Generation = 12 }), 13},
		"deleted":                    {Deleted, other(func(s *contract.TenantSpec) { s.Generation = 12 }), 7},
	} {
		t.Run(name, func(t *testing.T) {
			tenant := base
			tenant.State = tc.state
			tenant.RaiseAbove(tc.seen)
			require.Equal(t, tc.want, tenant.Generation)
		})
	}
}

// The same after the bucket was lost as well, when only the instances still know.
func TestOvertakeObserved(t *testing.T) {
	for observed, want := range map[int64]int64{0: 7, 6: 7, 7: 7, 8: 9, 20: 21} {
		tenant := Tenant{State: Active, Generation: 7}
		tenant.RaiseAboveObserved(observed)
		require.Equal(t, want, tenant.Generation, "observed %d", observed)
	}
}
