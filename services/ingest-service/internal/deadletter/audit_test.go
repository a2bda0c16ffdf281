package deadletter

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// someone is who asks for what these tests do.
func someone() audit.Origin {
	return audit.Origin{Actor: "alice", TokenID: "t-1", RequestID: "r-1"}
}

// noted is an audit event as an operator finds it.
type noted struct {
	action, target, before, after string
}

// events are the audit events of a tenant, in their order. All are by someone.
func events(t *testing.T, operator *pgxpool.Pool, tenant uuid.UUID) []noted {
	t.Helper()
	rows, err := operator.Query(t.Context(), `SELECT action, target, coalesce(before::text, ''), coalesce(after::text, ''), actor, token_id, request_id
		FROM audit_events WHERE tenant_id = $1 ORDER BY epoch, xid, id`, tenant)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e noted, err error) {
		var by audit.Origin
		err = row.Scan(&e.action, &e.target, &e.before, &e.after, &by.Actor, &by.TokenID, &by.RequestID)
		require.Equal(t, someone(), by)
		return e, err
	})
	require.NoError(t, err)
	return list
}

// entryJSON is what the audit log tells of a dead letter.
func entryJSON(l Entry) string {
	return fmt.Sprintf(`{"reason": "rejected", "attempts": 1, "message_id": "%s"}`, l.MessageID)
}

func path(l Entry) string { return "/dead-letters/" + l.ID.String() }

// Whoever loses a message wants to know who dropped its dead letter. What nobody dropped is no event, and another tenant's is none of
// this one.
func TestDropsAreAudited(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	one := newTestEntry(tenantA, 1)
	record(t, s, one, newTestEntry(tenantB, 1))
	require.NoError(t, s.Drop(t.Context(), tenantA, one.ID, someone()))
	require.ErrorIs(t, s.Drop(t.Context(), tenantA, one.ID, someone()), ErrNotFound)
	require.Equal(t, []noted{{"deadletter.dropped", path(one), entryJSON(one), ""}}, events(t, operator, tenantA))
	require.Empty(t, events(t, operator, tenantB))
}

// Many are dropped in steps, each with an event of its own: a request that ends in the middle has as many as it has dropped.
func TestDropsOfManyAreAudited(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	var many []Entry
	for n := range dropChunk + 10 {
		many = append(many, newTestEntry(tenantA, n))
	}
	record(t, s, many...)
	other := newTestEntry(tenantB, 1)
	other.Reason = contract.ReasonNotJSON
	record(t, s, other)

	_, err := s.DropAll(t.Context(), tenantA, Filter{Reason: contract.ReasonNotJSON}, someone())
	require.NoError(t, err)
	require.Empty(t, events(t, operator, tenantA), "nothing matched")
	_, err = s.DropAll(t.Context(), tenantA, Filter{}, someone())
	require.NoError(t, err)
	require.Equal(t, []noted{
		{"deadletters.dropped", "/dead-letters", "", `{"filter": {"all": true}, "dropped": 1000}`},
		{"deadletters.dropped", "/dead-letters", "", `{"filter": {"all": true}, "dropped": 10}`},
	}, events(t, operator, tenantA))
	_, err = s.DropAll(t.Context(), tenantB, Filter{Reason: contract.ReasonNotJSON, After: epoch, Before: epoch.AddDate(1, 0, 0)}, someone())
	require.NoError(t, err)
	require.Equal(t, []noted{{
		"deadletters.dropped", "/dead-letters", "",
		`{"filter": {"reason": "not_json", "failed_after": "2026-01-02T03:04:05.000000Z", "failed_before": "2027-01-02T03:04:05.000000Z"}, "dropped": 1}`,
	}},
		events(t, operator, tenantB))
}

// A replay is an event whatever became of the dead letter, and none where nothing was published.
func TestReplaysAreAudited(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	plain, stored, again, refused, unpublished := newTestEntry(tenantA, 1), newTestEntry(tenantA, 2), newTestEntry(tenantA, 3), newTestEntry(tenantA, 4), newTestEntry(tenantA, 5)
	refused.Payload = []byte("{secret")
	record(t, s, plain, stored, again, refused, unpublished)
	storeMessage(t, operator, tenantA, *stored.MessageID)
	replay := func(o *outlet, l Entry, edited []byte) error {
		_, err := replayer(t, s, o, 100).Replay(t.Context(), tenantA, l.ID, Edit{Payload: edited}, someone())
		return err
	}
	require.NoError(t, replay(&outlet{}, plain, nil))
	require.NoError(t, replay(&outlet{}, stored, nil))
	require.NoError(t, replay(&outlet{during: func() { record(t, s, again) }}, again, nil))
	require.Error(t, replay(&outlet{}, refused, nil))
	require.ErrorIs(t, replay(&outlet{fail: func(publish.Message) error { return conn.ErrBlocked }}, unpublished, nil), conn.ErrBlocked)
	require.NoError(t, replay(&outlet{}, refused, []byte(`{"secret":2}`)))
	require.ErrorIs(t, replay(&outlet{}, plain, nil), ErrNotFound)
	got := events(t, operator, tenantA)
	require.Equal(t, []noted{
		{"deadletter.replayed", path(plain), entryJSON(plain), `{"result": "replayed"}`},
		{"deadletter.replayed", path(stored), entryJSON(stored), `{"result": "already_stored"}`},
		{"deadletter.replayed", path(again), entryJSON(again), `{"kept": true, "result": "replayed"}`},
		{"deadletter.replayed", path(refused), entryJSON(refused), `{"edited": true, "result": "replayed"}`},
	}, got)
	require.NotContains(t, fmt.Sprint(got), "secret", "of a payload")
}

// Many are replayed in steps. What each has come to is in its event, and all events together count what was done.
func TestReplaysOfManyAreAudited(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	var all []Entry
	for n := range 250 {
		l := newTestEntry(tenantA, n)
		switch n % 50 {
		case 0:
			l.Payload = []byte("{")
		case 1:
			storeMessage(t, operator, tenantA, *l.MessageID)
		}
		all = append(all, l)
	}
	record(t, s, all...)
	o := outlet{}
	o.during = func() {
		o.during = nil
		record(t, s, all[2]) // it fails again before it is removed
	}
	outcome, err := replayer(t, s, &o, 10_000).ReplayAll(t.Context(), tenantA, Filter{Reason: contract.ReasonRejected}, Position{}, someone())
	require.NoError(t, err)
	require.Equal(t, []int{240, 5, 5}, []int{outcome.Replayed, outcome.AlreadyStored, outcome.Refused})
	var sum auditedStep
	var kept []int64
	for _, e := range events(t, operator, tenantA) {
		require.Equal(t, []string{"deadletters.replayed", "/dead-letters", ""}, []string{e.action, e.target, e.before})
		require.True(t, strings.HasPrefix(e.after, `{"filter": {"reason": "rejected"}, `) || strings.Contains(e.after, `"filter": {"reason": "rejected"}`), e.after)
		var step auditedStep
		require.NoError(t, json.Unmarshal([]byte(e.after), &step))
		sum.Replayed, sum.AlreadyStored = sum.Replayed+step.Replayed, sum.AlreadyStored+step.AlreadyStored
		kept = append(kept, step.Kept)
	}
	require.Equal(t, []int64{240, 5}, []int64{sum.Replayed, sum.AlreadyStored})
	require.Equal(t, []int64{1, 0, 0}, kept)

	outcome, err = replayer(t, s, &o, 10_000).ReplayAll(t.Context(), tenantB, Filter{}, Position{}, someone())
	require.NoError(t, err)
	require.Zero(t, outcome.Replayed)
	require.Empty(t, events(t, operator, tenantB), "nothing was replayed")
}

// A drop and its event are one: where either cannot be committed, neither is.
func TestADropThatIsRolledBackIsNoEvent(t *testing.T) {
	t.Parallel()
	s, operator := database(t)
	l := newTestEntry(tenantA, 1)
	record(t, s, l)
	for _, fault := range []string{
		`CREATE CONSTRAINT TRIGGER refuse AFTER DELETE ON dead_letters DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
		`CREATE TRIGGER refuse BEFORE INSERT ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse()`,
	} {
		_, err := operator.Exec(t.Context(), `CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END'`)
		require.NoError(t, err)
		_, err = operator.Exec(t.Context(), fault)
		require.NoError(t, err)
		require.Error(t, s.Drop(t.Context(), tenantA, l.ID, someone()))
		_, err = s.DropAll(t.Context(), tenantA, Filter{}, someone())
		require.Error(t, err)
		o := outlet{}
		_, err = replayer(t, s, &o, 100).Replay(t.Context(), tenantA, l.ID, Edit{}, someone())
		require.NoError(t, err)
		require.Len(t, o.published, 1, "that is done, and its dead letter stays")
		require.Len(t, list(t, s, tenantA, Filter{}), 1)
		require.Empty(t, events(t, operator, tenantA))
		_, err = operator.Exec(t.Context(), `DROP FUNCTION refuse CASCADE`)
		require.NoError(t, err)
	}
	require.NoError(t, s.Drop(t.Context(), tenantA, l.ID, someone()))
	require.Len(t, events(t, operator, tenantA), 1)
}
