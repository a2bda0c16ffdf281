package api

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// Every request that changes dead letters is in the audit log, under its token and its id, and says nothing of what the messages had in
// them. What is refused, or only looks, is not.
func TestChangesOfDeadLettersAreAudited(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	const private = "private"
	of := func(n int) uuid.UUID {
		return s.deadLetter(t, active, n, `{"a":"`+private+`"}`, contract.ReasonRejected).ID
	}
	one, two := of(1), of(2)
	for n := range 3 {
		of(3 + n)
	}
	signed, err := auth.Sign(secret, auth.Claims{
		Issuer: auth.DefaultConfig().Issuer, Audience: auth.DefaultConfig().Audience, Subject: "alice", TokenID: "t-1",
		Scopes: []auth.Scope{auth.ScopeDeadLettersManage}, TenantID: active,
	})
	require.NoError(t, err)
	var want []audit.Origin
	for i, c := range []struct {
		method, path, body string
		status             int
		event              bool
	}{
		{http.MethodGet, "/dead-letters", "", 200, false},
		{http.MethodGet, "/dead-letters/" + one.String(), "", 200, false},
		{http.MethodPost, "/dead-letters/replay?all=true&dry_run=true", "", 200, false},
		{http.MethodDelete, "/dead-letters/" + uuid.NewString(), "", 404, false},
		{http.MethodDelete, "/dead-letters", "", 400, false},
		{http.MethodDelete, "/dead-letters?reason=too_deep", "", 200, false},
		{http.MethodDelete, "/dead-letters/" + one.String(), "", 204, true},
		{http.MethodPost, "/dead-letters/" + two.String() + "/replay", `{"payload":"` + private + `"}`, 202, true},
		{http.MethodPost, "/dead-letters/replay?failed_before=2026-01-02T03:04:09Z", "", 200, true},
		{http.MethodDelete, "/dead-letters?all=true", "", 200, true},
	} {
		id := fmt.Sprintf("r-%d", i)
		r := raw.Request{Method: c.method, URL: s.url + c.path, Token: signed, Body: []byte(c.body), Header: map[string]string{"X-Request-ID": id}}
		if c.body != "" {
			r.ContentType = "application/json"
		}
		answer := s.do(t, r)
		require.Equal(t, c.status, answer.status, "%s %s: %s", c.method, c.path, answer.body)
		if c.event {
			want = append(want, audit.Origin{Actor: "alice", TokenID: "t-1", RequestID: id})
		}
	}
	rows, err := s.operator.Query(t.Context(), `SELECT actor, token_id, request_id, tenant_id, to_jsonb(e)::text FROM audit_events e ORDER BY epoch, xid, id`)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (by audit.Origin, err error) {
		var tenant uuid.UUID
		var text string
		err = row.Scan(&by.Actor, &by.TokenID, &by.RequestID, &tenant, &text)
		require.Equal(t, active, tenant)
		require.NotContains(t, text, private)
		require.NotContains(t, text, "refused", "the error quotes from payloads")
		require.NotContains(t, text, signed)
		return by, err
	})
	require.NoError(t, err)
	require.Equal(t, want, got)
}
