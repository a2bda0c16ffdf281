package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

func TestIssueToken(t *testing.T) {
	c, s := play(t, nil, answer(201, `{"id":"`+fixed(2).String()+`","tenant_id":"`+fixed(1).String()+`","name":"checkout","scopes":["messages:write"],
		"created_by":"ops","created_at":"2026-01-02T03:04:05.000006Z","expires_at":"2026-01-02T04:04:05.000000Z","token":"a.b.c"}`),
		refuse(409, "no_signing_key"))
	issued, err := c.IssueToken(t.Context(), fixed(1), client.NewToken{
		Name: "checkout", Scopes: []client.Scope{client.ScopeMessagesWrite}, Lifetime: time.Hour + time.Millisecond,
	})
	require.NoError(t, err)
	require.Equal(t, "a.b.c", issued.Token)
	require.Equal(t, fixed(2), issued.ID)
	require.Equal(t, []client.Scope{client.ScopeMessagesWrite}, issued.Scopes)
	require.Equal(t, time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC), issued.ExpiresAt)
	require.Nil(t, issued.RevokedAt)
	require.Equal(t, "POST /tenants/"+fixed(1).String()+"/tokens", s.sent[0].method+" "+s.sent[0].path)
	require.JSONEq(t, `{"name":"checkout","scopes":["messages:write"],"expires_in_seconds":3600}`, s.sent[0].body)

	_, err = c.IssueToken(t.Context(), fixed(1), client.NewToken{Name: "checkout", Scopes: []client.Scope{client.ScopeMessagesRead}})
	require.ErrorIs(t, err, client.ErrNoSigningKey)
	require.JSONEq(t, `{"name":"checkout","scopes":["messages:read"]}`, s.sent[1].body, "for as long as the installation has it")
}

func TestTokens(t *testing.T) {
	c, s := play(t, nil, answer(200, `{"data":[{"id":"`+fixed(2).String()+`","revoked_at":"2026-01-02T03:04:05.000006Z"},{"id":"`+fixed(3).String()+`"}],"next_cursor":"c","has_more":false}`))
	var revoked []bool
	for token, err := range c.Tokens(fixed(1), client.TokenQuery{Limit: 7}).All(t.Context()) {
		require.NoError(t, err)
		revoked = append(revoked, token.RevokedAt != nil)
	}
	require.Equal(t, []bool{true, false}, revoked)
	require.Equal(t, "/tenants/"+fixed(1).String()+"/tokens?limit=7", s.sent[0].path)
}

// Revoking can be repeated, and what was never there is told.
func TestRevokeToken(t *testing.T) {
	c, s := play(t, nil, cut, answer(204, ""), refuse(404, "token_not_found"))
	require.NoError(t, c.RevokeToken(t.Context(), fixed(1), fixed(2)))
	require.Equal(t, "DELETE /tenants/"+fixed(1).String()+"/tokens/"+fixed(2).String(), s.sent[1].method+" "+s.sent[1].path)
	require.ErrorIs(t, c.RevokeToken(t.Context(), fixed(1), fixed(2)), client.ErrTokenNotFound)
}
