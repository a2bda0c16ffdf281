package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// stored stores a message of a tenant that has a partition.
func (s *service) stored(t *testing.T, tenant uuid.UUID) string {
	t.Helper()
	id := uuid.New()
	_, err := s.operator.Exec(t.Context(), `SELECT tenant_attach($1)`, tenant)
	require.NoError(t, err)
	_, err = s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '"private"')`, tenant, id)
	require.NoError(t, err)
	return id.String()
}

// erase is a request of an administrator.
func (s *service) erase(t *testing.T, tenant uuid.UUID, path string) answer {
	t.Helper()
	return s.call(t, call{method: http.MethodDelete, path: path + "?tenant_id=" + tenant.String(), token: token(t, uuid.Nil, auth.ScopeTenantsAdmin)})
}

// requireErased erases what is there. Tests of the same server may hold up the counting.
func (s *service) requireErased(t *testing.T, tenant uuid.UUID, path string) {
	t.Helper()
	require.Eventually(t, func() bool {
		got := s.erase(t, tenant, path)
		return got.status == http.StatusNoContent && got.body == ""
	}, waitLimit, time.Millisecond)
}

// A message is erased once, for an administrator and by an administrator's token of its own tenant; another tenant's is not there.
func TestErasingMessages(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	one, two := s.stored(t, active), s.stored(t, active)
	s.stored(t, suspended)
	s.erase(t, suspended, "/messages/"+one).problem(t, http.StatusNotFound, "not_stored")
	s.requireErased(t, active, "/messages/"+strings.ToUpper(one))
	s.erase(t, active, "/messages/"+one).problem(t, http.StatusNotFound, "not_stored")
	bound := token(t, active, auth.ScopeTenantsAdmin)
	require.Eventually(t, func() bool {
		return s.call(t, call{method: http.MethodDelete, path: "/messages/" + two, token: bound}).status == http.StatusNoContent
	}, waitLimit, time.Millisecond)

	l := s.deadLetter(t, active, 1, `"private"`, contract.ReasonRejected)
	require.Equal(t, http.StatusNoContent, s.erase(t, active, "/messages/"+l.MessageID.String()).status, "a dead letter alone")
	s.manage(t, active, http.MethodGet, "/dead-letters/"+l.ID.String(), "").problem(t, http.StatusNotFound, "dead_letter_not_found")

	var events []string
	rows, err := s.operator.Query(t.Context(), `SELECT concat_ws(' ', action, target, before) FROM audit_events WHERE tenant_id = $1 ORDER BY epoch, xid, id`, active)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var event string
		require.NoError(t, rows.Scan(&event))
		events = append(events, event)
	}
	require.Equal(t, []string{
		`message.erased /messages/` + one + ` {"stored": true, "dead_letters": 0}`,
		`message.erased /messages/` + two + ` {"stored": true, "dead_letters": 0}`,
		`message.erased /messages/` + l.MessageID.String() + ` {"stored": false, "dead_letters": 1}`,
	}, events)
}

// A client that forgets an id, or says more than one, erases nothing.
func TestErasingRefusesBadRequests(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	id := s.stored(t, active)
	admin := token(t, active, auth.ScopeTenantsAdmin)
	for _, c := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/messages", "", http.StatusMethodNotAllowed, "method_not_allowed"},
		{"/messages/", "", http.StatusNotFound, "route_not_found"},
		{"/messages//", "", http.StatusNotFound, "route_not_found"},
		{"/messages/" + id + "/", "", http.StatusNotFound, "route_not_found"},
		{"/messages/batch", "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/*", "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/%20", "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/null", "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/" + id + "," + id, "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/%7B" + id + "%7D", "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/" + strings.ReplaceAll(id, "-", ""), "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/" + uuid.Nil.String(), "", http.StatusBadRequest, "invalid_uuid"},
		{"/messages/" + id + "?all=true", "", http.StatusBadRequest, "unknown_parameter"},
		{"/messages/" + id + "?id=" + id, "", http.StatusBadRequest, "unknown_parameter"},
		{"/messages/" + id + "?tenant_id=" + suspended.String(), "", http.StatusForbidden, "tenant_mismatch"},
		{"/messages/" + id, `{"id":"` + id + `"}`, http.StatusBadRequest, "unexpected_body"},
		{"/messages/" + id, `[]`, http.StatusBadRequest, "unexpected_body"},
	} {
		s.call(t, call{http.MethodDelete, c.path, "application/json", c.body, admin}).problem(t, c.status, c.code)
	}
	for _, scope := range []auth.Scope{auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeMessagesConsume, auth.ScopeDeadLettersManage} {
		s.call(t, call{method: http.MethodDelete, path: "/messages/" + id, token: token(t, active, scope)}).
			problem(t, http.StatusForbidden, "insufficient_scope")
	}
	s.requireErased(t, active, "/messages/"+id) // it is still there
}

// What cannot be erased at the moment says when to come back: a message that is not counted yet, as an older transaction is open, and
// one in a database that is away.
func TestErasingAtTheWrongMoment(t *testing.T) { // not beside others, which it would hold up
	s, _ := serveDeadLetters(t)
	open, err := s.operator.Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), `SELECT pg_current_xact_id()`)
	require.NoError(t, err)
	id := s.stored(t, active)
	p := s.erase(t, active, "/messages/"+id).problem(t, http.StatusServiceUnavailable, "message_uncounted")
	require.Contains(t, p.Detail, "not erased")
	require.NoError(t, open.Rollback(t.Context()))
	s.requireErased(t, active, "/messages/"+id)

	away, _ := serveFake(t)
	away.erase(t, active, "/messages/"+id).problem(t, http.StatusServiceUnavailable, "database_unavailable")
}
