package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open makes a store on a fresh database, acting as the role of this service. notified counts what it tells the relay.
func open(t *testing.T) (registry *store.Store, notified *atomic.Int64) {
	t.Helper()
	return openAt(t, backing.Postgres(t))
}

// openWithOperator is open with a second way into the database, past the rights of the service.
func openWithOperator(t *testing.T) (*store.Store, *pgxpool.Pool) {
	t.Helper()
	url := backing.Postgres(t)
	registry, _ := openAt(t, url)
	operator := pgtest.Operator(t, url)
	return registry, operator
}

func openAt(t *testing.T, url string) (registry *store.Store, notified *atomic.Int64) {
	t.Helper()
	pool := pgtest.As(t, url, postgres.RoleTenant)
	db := pgtest.Gorm(t, pool)
	notified = new(atomic.Int64)
	return store.New(db, func(tenant.Tenant) { notified.Add(1) }), notified
}

// draft makes a tenant that is not stored yet.
func draft(t *testing.T, name string) tenant.Tenant {
	t.Helper()
	drafted, err := tenant.Policy{DefaultWorkers: 3, MaxWorkers: 64}.New(tenant.Draft{Name: name, MaxAttempts: new(7)})
	require.NoError(t, err)
	return drafted
}

func create(t *testing.T, registry *store.Store, name string) tenant.Tenant {
	t.Helper()
	created := draft(t, name)
	require.NoError(t, registry.Create(t.Context(), &created, someone()))
	return created
}

// What was answered to the client of a creation is what is there.
func TestCreateAndFind(t *testing.T) {
	t.Parallel()
	registry, notified := open(t)
	created := create(t, registry, "ACME ß \U0001F680")
	require.EqualValues(t, 1, notified.Load(), "the relay was not told")
	found, err := registry.Find(t.Context(), created.ID)
	require.NoError(t, err)
	require.Equal(t, created, found)

	_, err = registry.Find(t.Context(), uuid.New())
	require.ErrorIs(t, err, tenant.ErrNotFound)
}

// An id that was used once never comes to mean another tenant: old tokens and messages would reach it.
func TestCreateRefusesUsedID(t *testing.T) {
	t.Parallel()
	registry, notified := open(t)
	first := create(t, registry, "first")
	again := draft(t, "second")
	again.ID = first.ID
	require.ErrorIs(t, registry.Create(t.Context(), &again, someone()), tenant.ErrExists)
	found, err := registry.Find(t.Context(), first.ID)
	require.NoError(t, err)
	require.Equal(t, "first", found.Name)

	retire(t, registry, first.ID)
	before := notified.Load()
	require.ErrorIs(t, registry.Create(t.Context(), &again, someone()), tenant.ErrRetired)
	require.Equal(t, before, notified.Load())
}

func retire(t *testing.T, registry *store.Store, id uuid.UUID) {
	t.Helper()
	_, err := registry.Change(t.Context(), id, someone(), audit.TenantDeleted, (*tenant.Tenant).Delete)
	require.NoError(t, err)
	gone, err := registry.Change(t.Context(), id, audit.System(), audit.TenantRetired, func(t *tenant.Tenant) error {
		t.Retire(t.Generation)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, tenant.Deleted, gone.State)
	require.NotNil(t, gone.DeletedAt)
}

// Every change is stored as it was answered, is told to the relay once, and what changes nothing is not written.
func TestChange(t *testing.T) {
	t.Parallel()
	registry, notified := open(t)
	created := create(t, registry, "a")
	steps := []struct {
		name    string
		action  audit.Action
		change  func(*tenant.Tenant) error
		state   tenant.State
		changed bool
	}{
		{"resize", audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(5) }, tenant.Active, true},
		{"resize again", audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(5) }, tenant.Active, false},
		{"suspend", audit.TenantSuspended, (*tenant.Tenant).Suspend, tenant.Suspended, true},
		{"resume", audit.TenantResumed, (*tenant.Tenant).Resume, tenant.Active, true},
		{"delete", audit.TenantDeleted, (*tenant.Tenant).Delete, tenant.Deleting, true},
		{"delete again", audit.TenantDeleted, (*tenant.Tenant).Delete, tenant.Deleting, false},
	}
	generation := created.Generation
	for _, step := range steps {
		before := notified.Load()
		changed, err := registry.Change(t.Context(), created.ID, someone(), step.action, step.change)
		require.NoError(t, err, step.name)
		found, err := registry.Find(t.Context(), created.ID)
		require.NoError(t, err, step.name)
		require.Equal(t, found, changed, step.name)
		require.Equal(t, step.state, changed.State, step.name)
		if step.changed {
			generation++
			before++
		}
		require.Equal(t, generation, changed.Generation, step.name)
		require.Equal(t, before, notified.Load(), step.name)
	}
	require.Equal(t, 7, mustFind(t, registry, created.ID).MaxAttempts)
}

func mustFind(t *testing.T, registry *store.Store, id uuid.UUID) tenant.Tenant {
	t.Helper()
	found, err := registry.Find(t.Context(), id)
	require.NoError(t, err)
	return found
}

func TestChangeRefused(t *testing.T) {
	t.Parallel()
	registry, notified := open(t)
	created := create(t, registry, "a")
	before := notified.Load()
	_, err := registry.Change(t.Context(), uuid.New(), someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.ErrorIs(t, err, tenant.ErrNotFound)
	_, err = registry.Change(t.Context(), created.ID, someone(), audit.TenantResized, func(t *tenant.Tenant) error {
		t.Workers = 60
		return tenant.ErrDeleting
	})
	require.ErrorIs(t, err, tenant.ErrDeleting)
	require.Equal(t, before, notified.Load())
	require.Equal(t, created, mustFind(t, registry, created.ID))

	retire(t, registry, created.ID)
	_, err = registry.Change(t.Context(), created.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.ErrorIs(t, err, tenant.ErrNotFound)
	_, err = registry.Find(t.Context(), created.ID)
	require.ErrorIs(t, err, tenant.ErrNotFound)
}

// Two operators at once: each change counts, and each has a generation of its own. Without the lock, one would be lost
// or two different states would travel under one generation.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	registry, _ := open(t)
	created := create(t, registry, "a")
	const writers, each = 8, 10
	var seen sync.Map
	errs := make(chan error, writers*each)
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				changed, err := registry.Change(t.Context(), created.ID, someone(), audit.TenantResized, func(t *tenant.Tenant) error {
					return t.Resize(t.Workers%64 + 1)
				})
				errs <- err
				if _, twice := seen.LoadOrStore(changed.Generation, true); twice {
					errs <- fmt.Errorf("generation %d was given twice", changed.Generation)
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.EqualValues(t, 1+writers*each, mustFind(t, registry, created.ID).Generation)
}

// Every tenant is on exactly one page, also where many were created in the same microsecond.
func TestList(t *testing.T) {
	t.Parallel()
	registry, _ := open(t)
	ctx := t.Context()
	empty, _, more, err := registry.List(ctx, tenant.Filter{}, tenant.Position{}, 10)
	require.NoError(t, err)
	require.Empty(t, empty)
	require.False(t, more)

	at := time.Now().UTC().Truncate(time.Microsecond)
	want := make(map[uuid.UUID]bool)
	for i := range 23 {
		drafted := draft(t, fmt.Sprintf("t%d", i))
		drafted.ID = uuid.New() // in no order
		drafted.CreatedAt = at.Add(time.Duration(i/10) * time.Second)
		require.NoError(t, registry.Create(ctx, &drafted, someone()))
		want[drafted.ID] = true
	}
	gone := create(t, registry, "gone")
	retire(t, registry, gone.ID)
	leaving := create(t, registry, "leaving")
	_, err = registry.Change(ctx, leaving.ID, someone(), audit.TenantDeleted, (*tenant.Tenant).Delete)
	require.NoError(t, err)
	want[leaving.ID] = true

	for _, limit := range []int{1, 5, 8, 24, 100} {
		seen := make(map[uuid.UUID]bool)
		var position tenant.Position
		for more := true; more; {
			var page []tenant.Tenant
			var next tenant.Position
			page, next, more, err = registry.List(ctx, tenant.Filter{}, position, limit)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page), limit)
			for _, listed := range page {
				require.False(t, seen[listed.ID], "twice")
				require.False(t, listed.CreatedAt.Before(position.CreatedAt), "out of order")
				seen[listed.ID] = true
				position = listed.Position()
			}
			require.Equal(t, position, next)
		}
		require.Equal(t, want, seen, "limit %d", limit)
	}
}

// The bookkeeping of the relay. If a change that came in meanwhile were marked as published, it would reach nobody.
func TestPublishing(t *testing.T) {
	t.Parallel()
	registry, _ := open(t)
	ctx := t.Context()
	a, b, c := create(t, registry, "a"), create(t, registry, "b"), create(t, registry, "c")
	waiting := func() map[uuid.UUID]int64 {
		batch, err := registry.Unpublished(ctx, 100)
		require.NoError(t, err)
		generations := make(map[uuid.UUID]int64)
		for _, one := range batch {
			generations[one.ID] = one.Generation
		}
		return generations
	}
	require.Equal(t, map[uuid.UUID]int64{a.ID: 1, b.ID: 1, c.ID: 1}, waiting())
	few, err := registry.Unpublished(ctx, 2)
	require.NoError(t, err)
	require.Len(t, few, 2)

	changed, err := registry.Change(ctx, b.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.NoError(t, err)
	require.NoError(t, registry.MarkPublished(ctx, []tenant.Tenant{a, b, c})) // b as it was before
	require.Equal(t, map[uuid.UUID]int64{b.ID: 2}, waiting())
	require.NoError(t, registry.MarkPublished(ctx, []tenant.Tenant{changed}))
	require.Empty(t, waiting())
	require.NoError(t, registry.MarkPublished(ctx, nil))

	retire(t, registry, c.ID)
	require.Empty(t, waiting(), "there is nothing to publish of a deleted tenant")
	require.EqualValues(t, 1, mustFind(t, registry, a.ID).PublishedGeneration)

	var all []uuid.UUID
	var after uuid.UUID
	for {
		batch, err := registry.Batch(ctx, after, 1)
		require.NoError(t, err)
		if len(batch) == 0 {
			break
		}
		after = batch[0].ID
		all = append(all, after)
	}
	require.ElementsMatch(t, []uuid.UUID{a.ID, b.ID}, all)

	counts, err := registry.Counts(ctx)
	require.NoError(t, err)
	require.Equal(t, map[tenant.State]int{tenant.Active: 1, tenant.Suspended: 1}, counts)
}

// A registry that is away must say so: the client is told to come back, and not that its request was wrong.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	pool := pgtest.As(t, "postgres://nobody@127.0.0.1:1/nothing?sslmode=disable", postgres.RoleTenant)
	db := pgtest.Gorm(t, pool)
	registry := store.New(db, func(tenant.Tenant) {})
	drafted := draft(t, "a")
	operations := map[string]func(context.Context) error{
		"create": func(ctx context.Context) error { return registry.Create(ctx, &drafted, someone()) },
		"find":   func(ctx context.Context) error { _, err := registry.Find(ctx, drafted.ID); return err },
		"change": func(ctx context.Context) error {
			_, err := registry.Change(ctx, drafted.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
			return err
		},
		"list": func(ctx context.Context) error {
			_, _, _, err := registry.List(ctx, tenant.Filter{}, tenant.Position{}, 1)
			return err
		},
		"search": func(ctx context.Context) error {
			_, _, _, err := registry.List(ctx, tenant.Filter{Name: "a"}, tenant.Position{}, 1)
			return err
		},
		"batch":         func(ctx context.Context) error { _, err := registry.Batch(ctx, uuid.Nil, 1); return err },
		"unpublished":   func(ctx context.Context) error { _, err := registry.Unpublished(ctx, 1); return err },
		"markPublished": func(ctx context.Context) error { return registry.MarkPublished(ctx, []tenant.Tenant{drafted}) },
		"counts":        func(ctx context.Context) error { _, err := registry.Counts(ctx); return err },
	}
	for name, operation := range operations {
		err := operation(t.Context())
		require.ErrorIs(t, err, tenant.ErrUnavailable, name)
		require.NotErrorIs(t, err, tenant.ErrNotFound, name)
	}
}
