package store_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// someone is who asks for what these tests do.
func someone() audit.Origin {
	return audit.Origin{Actor: "alice", TokenID: "t-1", RequestID: "r-1"}
}

// noted is an audit event as an operator finds it.
type noted struct {
	by                            audit.Origin
	action, target, before, after string
}

// events are the audit events of a tenant, in their order.
func events(t *testing.T, operator *pgxpool.Pool, id uuid.UUID) []noted {
	t.Helper()
	rows, err := operator.Query(t.Context(), `SELECT action, target, coalesce(before::text, ''), coalesce(after::text, ''), actor, token_id, request_id
		FROM audit_events WHERE tenant_id = $1 ORDER BY epoch, xid, id`, id)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e noted, err error) {
		err = row.Scan(&e.action, &e.target, &e.before, &e.after, &e.by.Actor, &e.by.TokenID, &e.by.RequestID)
		return e, err
	})
	require.NoError(t, err)
	return list
}

// Every change is one event, with who has made it and what it has changed. What changes nothing, or is refused, is none.
func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	created := create(t, registry, "ACME")
	again := created
	require.ErrorIs(t, registry.Create(t.Context(), &again, someone()), tenant.ErrExists)
	for _, step := range []struct {
		action audit.Action
		change func(*tenant.Tenant) error
	}{
		{audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(5) }},
		{audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(5) }},
		{audit.TenantSuspended, (*tenant.Tenant).Suspend},
		{audit.TenantSuspended, (*tenant.Tenant).Suspend},
		{audit.TenantResumed, (*tenant.Tenant).Resume},
		{audit.TenantRaised, func(t *tenant.Tenant) error { t.RaiseAboveObserved(9); return nil }},
		{audit.TenantDeleted, (*tenant.Tenant).Delete},
		{audit.TenantDeleted, (*tenant.Tenant).Delete},
	} {
		_, err := registry.Change(t.Context(), created.ID, someone(), step.action, step.change)
		require.NoError(t, err)
	}
	_, err := registry.Change(t.Context(), created.ID, someone(), audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(7) })
	require.ErrorIs(t, err, tenant.ErrDeleting)
	retire(t, registry, created.ID)
	_, err = registry.Change(t.Context(), created.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.ErrorIs(t, err, tenant.ErrNotFound)
	require.ErrorIs(t, registry.Create(t.Context(), &again, someone()), tenant.ErrRetired)

	target := "/tenants/" + created.ID.String()
	require.Equal(t, []noted{
		{someone(), "tenant.created", target, "", `{"name": "ACME", "state": "active", "workers": 3, "override": {"max_attempts": 7}, "generation": 1, "max_attempts": 7}`},
		{someone(), "tenant.resized", target, `{"workers": 3, "generation": 1}`, `{"workers": 5, "override": {"workers": 5}, "generation": 2}`},
		{someone(), "tenant.suspended", target, `{"state": "active", "generation": 2}`, `{"state": "suspended", "generation": 3}`},
		{someone(), "tenant.resumed", target, `{"state": "suspended", "generation": 3}`, `{"state": "active", "generation": 4}`},
		{someone(), "tenant.generation_raised", target, `{"generation": 4}`, `{"generation": 10}`},
		{someone(), "tenant.deleted", target, `{"state": "active", "generation": 10}`, `{"state": "deleting", "generation": 11}`},
		{audit.System(), "tenant.retired", target, `{"state": "deleting", "generation": 11}`, `{"state": "deleted", "generation": 12}`},
	}, events(t, operator, created.ID))
}

// A change and its event are one: where either cannot be committed neither is, and where both are tried again there is one event.
func TestAChangeThatIsRolledBackIsNoEvent(t *testing.T) {
	t.Parallel()
	registry, operator := openWithOperator(t)
	there := create(t, registry, "there")
	exec := func(sql string) {
		_, err := operator.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	for name, fault := range map[string]string{
		"commit":        `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON tenants DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
		"event":         `CREATE TRIGGER refuse BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse()`,
		"event, commit": `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'`)
		exec(fault)
		drafted := draft(t, "refused")
		require.ErrorContains(t, registry.Create(t.Context(), &drafted, someone()), "refused", name)
		_, err := registry.Change(t.Context(), there.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
		require.ErrorContains(t, err, "refused", name)
		exec(`DROP FUNCTION refuse CASCADE`)
		_, err = registry.Find(t.Context(), drafted.ID)
		require.ErrorIs(t, err, tenant.ErrNotFound, name)
		require.Empty(t, events(t, operator, drafted.ID), name)
		require.Equal(t, there, mustFind(t, registry, there.ID), name)
		require.Len(t, events(t, operator, there.ID), 1, name)
	}
	for _, sql := range refuse("40P01", "3") {
		exec(sql)
	}
	_, err := registry.Change(t.Context(), there.ID, someone(), audit.TenantSuspended, (*tenant.Tenant).Suspend)
	require.NoError(t, err)
	require.Len(t, events(t, operator, there.ID), 2, "it was tried four times")
}
