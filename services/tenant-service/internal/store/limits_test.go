package store_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

func policy() tenant.Policy {
	return tenant.Policy{DefaultWorkers: 3, MaxWorkers: 64, DefaultLimits: contract.Limits{Weight: 2, PublishRate: 100}}
}

// Every limit is stored, reads the same in every way in which tenants are read, and is what ingest-service compares with.
func TestLimitsAreStored(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	ctx := t.Context()
	created, err := policy().New(tenant.Draft{Name: "a", Workers: new(5)})
	require.NoError(t, err)
	require.NoError(t, registry.Create(ctx, &created, someone()))
	require.Equal(t, created, mustFind(t, registry, created.ID))
	patch := tenant.Patch{"weight": nil, "max_attempts": new(int64(7)), "retention_seconds": new(int64(1) << 31), "stored_max_bytes": new(int64(1) << 50), "publish_rate": new(int64(0))}
	changed, err := registry.Change(ctx, created.ID, someone(), audit.ConfigChanged, func(t *tenant.Tenant) error { return policy().Configure(t, patch) })
	require.NoError(t, err)
	require.Equal(t, changed, mustFind(t, registry, created.ID))
	require.Equal(t, tenant.Overrides{"workers": 5, "max_attempts": 7, "retention_seconds": 1 << 31, "stored_max_bytes": 1 << 50, "publish_rate": 0}, changed.Own())
	want := contract.TenantSpec{
		TenantID: created.ID.String(), State: contract.DesiredActive, Workers: 5, MaxAttempts: 7, Generation: 2,
		Limits: contract.Limits{Weight: 2, RetentionSeconds: 1 << 31, StoredMaxBytes: 1 << 50},
	}
	require.Equal(t, want, changed.Spec())
	unpublished, err := registry.Unpublished(ctx, 10)
	require.NoError(t, err)
	batch, err := registry.Batch(ctx, uuid.Nil, 10)
	require.NoError(t, err)
	listed, _, _, err := registry.List(ctx, tenant.Filter{}, tenant.Position{}, 10)
	require.NoError(t, err)
	for _, read := range [][]tenant.Tenant{unpublished, batch, listed} {
		require.Equal(t, want, read[0].Spec())
		require.Equal(t, changed.Own(), read[0].Own())
	}
	var limits contract.Limits
	require.NoError(t, operator.QueryRow(ctx, `SELECT limits FROM registered_among(ARRAY[$1::uuid])`, created.ID).Scan(&limits))
	require.Equal(t, want.Limits, limits)

	refused, err := registry.Change(ctx, created.ID, someone(), audit.ConfigChanged, func(t *tenant.Tenant) error {
		return policy().Configure(t, tenant.Patch{"retention_bytes": new(int64(1) << 50), "stored_max_bytes": new(int64(1))})
	})
	var wrong *tenant.ValidationError
	require.ErrorAs(t, err, &wrong)
	require.Zero(t, refused)
	require.Equal(t, changed, mustFind(t, registry, created.ID))
}

// While the version before runs beside this one, its statements go on, and what they change is kept.
func TestVersionWithoutLimitsRunsBeside(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	ctx, id := t.Context(), uuid.New()
	older := func(sql string, args ...any) {
		t.Helper()
		_, err := operator.Exec(ctx, `SET ROLE mtm_tenant; `)
		require.NoError(t, err)
		_, err = operator.Exec(ctx, sql, args...)
		require.NoError(t, err)
		_, err = operator.Exec(ctx, `RESET ROLE`)
		require.NoError(t, err)
	}
	older(`INSERT INTO tenants (id, name, workers, max_attempts, state, generation, published_generation, created_at, updated_at, deleted_at)
		VALUES ($1, 'a', 4, 0, 'active', 1, 0, now(), now(), NULL) ON CONFLICT DO NOTHING`, id)
	found := mustFind(t, registry, id)
	require.Equal(t, tenant.Overrides{"workers": 4}, found.Own())
	require.Zero(t, found.Spec().Limits)

	_, err := registry.Change(ctx, id, someone(), audit.ConfigChanged, func(t *tenant.Tenant) error { return policy().Configure(t, tenant.Patch{"read_bytes": new(int64(9))}) })
	require.NoError(t, err)
	older(`UPDATE tenants SET name = 'a', workers = 7, max_attempts = 0, state = 'active', generation = 3, updated_at = now(), deleted_at = NULL WHERE id = $1`, id)
	found = mustFind(t, registry, id)
	require.Equal(t, tenant.Overrides{"workers": 7, "read_bytes": 9}, found.Own())
	suspended, err := registry.Change(ctx, id, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.NoError(t, err)
	require.Equal(t, 7, suspended.Workers)
	back, err := registry.Change(ctx, id, someone(), audit.ConfigChanged, func(t *tenant.Tenant) error { return policy().Configure(t, tenant.Patch{"workers": nil}) })
	require.NoError(t, err)
	require.Equal(t, 3, back.Workers)
	require.Equal(t, tenant.Overrides{"read_bytes": 9}, back.Own())
}

// A newer version adds columns while this one runs, whose prepared statements must go on.
func TestColumnsOfANewerVersion(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	created := create(t, registry, "a")
	read := func() {
		t.Helper()
		for range 20 { // connections
			require.Equal(t, created.ID, mustFind(t, registry, created.ID).ID)
			_, err := registry.Batch(t.Context(), uuid.Nil, 10)
			require.NoError(t, err)
			_, err = registry.Change(t.Context(), created.ID, someone(), audit.ConfigChanged, func(*tenant.Tenant) error { return nil })
			require.NoError(t, err)
		}
	}
	read()
	_, err := operator.Exec(t.Context(), `ALTER TABLE tenants ADD COLUMN newer text`)
	require.NoError(t, err)
	read()
}

// What is not an object is refused by the table: an instance that cannot read one row could not compare with any.
func TestLimitsAreObjects(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	created := create(t, registry, "a")
	for _, column := range []string{"overrides", "limits"} {
		for _, value := range []string{`[]`, `"x"`, `1`, `null`} {
			_, err := operator.Exec(t.Context(), `UPDATE tenants SET `+column+` = $2 WHERE id = $1`, created.ID, value)
			require.ErrorContains(t, err, "23514", "%s %s", column, value)
		}
	}
	_, err := operator.Exec(t.Context(), `UPDATE tenants SET limits = NULL`)
	require.ErrorContains(t, err, "23502")
}

// Operators who change different limits at once must not undo each other's change.
func TestConcurrentPatches(t *testing.T) {
	t.Parallel()
	registry, _ := open(t)
	created := create(t, registry, "a")
	names := []string{"publish_rate", "publish_bytes", "read_bytes", "replay_rate", "max_streams", "workers"}
	var operators errgroup.Group
	for i, name := range names {
		operators.Go(func() error {
			for n := range int64(10) {
				value := n + int64(i) + 1
				_, err := registry.Change(t.Context(), created.ID, someone(), audit.ConfigChanged, func(t *tenant.Tenant) error { return policy().Configure(t, tenant.Patch{name: &value}) })
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, operators.Wait())
	found := mustFind(t, registry, created.ID)
	want := tenant.Overrides{"max_attempts": 7}
	for i, name := range names {
		want[name] = 10 + int64(i)
	}
	require.Equal(t, want, found.Own())
	require.EqualValues(t, 1+10*len(names), found.Generation)
}

// A part of a name finds each tenant that has it, once, wherever the pages end; an id and a state likewise.
func TestListWithFilter(t *testing.T) {
	t.Parallel()
	registry, _ := open(t)
	ctx := t.Context()
	var ids []uuid.UUID
	for i, name := range []string{"ACME, production", "Acme (test)", "globex", "100% acme", `back\slash_`, "under_score", "Globex acme"} {
		one := create(t, registry, name)
		ids = append(ids, one.ID)
		if i%2 == 1 {
			_, err := registry.Change(ctx, one.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
			require.NoError(t, err)
		}
	}
	gone := create(t, registry, "acme, gone")
	retire(t, registry, gone.ID)
	for name, tc := range map[string]struct {
		filter tenant.Filter
		want   []int
	}{
		"a part":               {tenant.Filter{Name: "acme"}, []int{0, 1, 3, 6}},
		"in capitals":          {tenant.Filter{Name: "ACME"}, []int{0, 1, 3, 6}},
		"a whole name":         {tenant.Filter{Name: "globex acme"}, []int{6}},
		"percent is a sign":    {tenant.Filter{Name: "%"}, []int{3}},
		"underscore is a sign": {tenant.Filter{Name: "_"}, []int{4, 5}},
		"backslash is a sign":  {tenant.Filter{Name: `\`}, []int{4}},
		"a space":              {tenant.Filter{Name: " "}, []int{0, 1, 3, 6}},
		"none":                 {tenant.Filter{Name: "initech"}, nil},
		"no SQL":               {tenant.Filter{Name: "' OR true --"}, nil},
		"state":                {tenant.Filter{State: tenant.Suspended}, []int{1, 3, 5}},
		"state and name":       {tenant.Filter{State: tenant.Suspended, Name: "acme"}, []int{1, 3}},
		"state of none":        {tenant.Filter{State: tenant.Deleting}, nil},
		"id":                   {tenant.Filter{ID: ids[2]}, []int{2}},
		"id, other state":      {tenant.Filter{ID: ids[2], State: tenant.Suspended}, nil},
		"id of a deleted one":  {tenant.Filter{ID: gone.ID}, nil},
	} {
		for _, limit := range []int{1, 2, 100} {
			var got []int
			var position tenant.Position
			for more := true; more; {
				page, next, again, err := registry.List(ctx, tc.filter, position, limit)
				require.NoError(t, err, name)
				require.LessOrEqual(t, len(page), limit)
				for _, one := range page {
					for i, id := range ids {
						if id == one.ID {
							got = append(got, i)
						}
					}
				}
				position, more = next, again
			}
			require.Equal(t, tc.want, got, "%s, %d a page", name, limit)
		}
	}
}

// However many tenants there are, a page looks at a bounded number of them, and the next one goes on there.
func TestSearchIsBounded(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	ctx := t.Context()
	const searched = 10_000
	fill := func(from, to int) {
		_, err := operator.Exec(ctx, `INSERT INTO tenants (id, name, workers, state, created_at)
			SELECT gen_random_uuid(), 'tenant ' || n, 1, 'active', timestamptz '2026-01-01' + n / 3 * interval '1 second' FROM generate_series($1::int, $2::int) AS n`, from, to)
		require.NoError(t, err)
	}
	fill(1, searched)
	filter := tenant.Filter{Name: fmt.Sprintf("tenant %d", 2*searched+5)}
	page, _, more, err := registry.List(ctx, filter, tenant.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, page)
	require.False(t, more, "all of them were looked at")

	fill(searched+1, 2*searched+5)
	var position tenant.Position
	var pages []int
	for more := true; more; {
		before := position
		page, position, more, err = registry.List(ctx, filter, position, 10)
		require.NoError(t, err)
		require.NotEqual(t, before, position)
		pages = append(pages, len(page))
	}
	require.Equal(t, []int{0, 0, 1}, pages)

	_, err = operator.Exec(ctx, `ANALYZE tenants; SET ROLE mtm_tenant; SET plan_cache_mode = force_custom_plan`)
	require.NoError(t, err)
	rows, err := operator.Query(ctx, `EXPLAIN SELECT id FROM tenants WHERE state <> 'deleted' AND state = 'suspended' ORDER BY created_at, id LIMIT 101`)
	require.NoError(t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Contains(t, strings.Join(plan, "\n"), "tenants_state", "the few of one state are not searched for among all")
}
