package client_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// A producer is set up with what one answer says.
func TestIssueCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, refuse(503, "tenant_provisioning"), answer(201, `{"id":"`+fixed(2).String()+`","username":"u","password":"p","url":"amqp://u:p@h",
			"exchange":"tenant.x","routing_key":"x"}`))
		issued, err := c.IssueCredential(t.Context(), fixed(1), `a "name"`)
		require.NoError(t, err)
		require.Equal(t, client.IssuedCredential{ID: fixed(2), Username: "u", Password: "p", URL: "amqp://u:p@h", Exchange: "tenant.x", RoutingKey: "x"}, issued)
		require.Equal(t, "POST /tenants/"+fixed(1).String()+`/credentials {"name":"a \"name\""}`, s.sent[1].method+" "+s.sent[1].path+" "+s.sent[1].body)
	})
	for status, code := range map[string]client.Code{"no_broker_management": client.ErrNoBrokerManagement, "too_many_credentials": client.ErrTooManyCredentials} {
		c, _ := play(t, nil, refuse(409, status))
		_, err := c.IssueCredential(t.Context(), fixed(1), "a")
		require.ErrorIs(t, err, code)
	}
}

func TestListCredentials(t *testing.T) {
	c, s := play(t, nil,
		answer(200, `{"data":[{"id":"`+fixed(2).String()+`","name":"a","username":"u","state":"active","created_at":"2026-01-02T03:04:05.000006Z"}],"next_cursor":"c1","has_more":true}`),
		answer(200, `{"data":[{"id":"`+fixed(3).String()+`","name":"a","username":"v","state":"missing","created_at":"2026-01-02T03:04:05.000006Z"}],"next_cursor":"c2","has_more":false}`))
	var states []client.CredentialState
	for one, err := range c.Credentials(fixed(1), client.CredentialQuery{Limit: 1}).All(t.Context()) {
		require.NoError(t, err)
		states = append(states, one.State)
	}
	require.Equal(t, []client.CredentialState{client.CredentialActive, client.CredentialMissing}, states)
	require.Equal(t, "/tenants/"+fixed(1).String()+"/credentials?cursor=c1&limit=1", s.sent[1].path)
}

// A revocation whose answer was lost has been done; one of a credential that was never there has not.
func TestRevokeCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, cut, refuse(404, "credential_not_found"))
		require.NoError(t, c.RevokeCredential(t.Context(), fixed(1), fixed(2)))
		require.Equal(t, "DELETE /tenants/"+fixed(1).String()+"/credentials/"+fixed(2).String(), s.sent[1].method+" "+s.sent[1].path)
		c, _ = play(t, nil, refuse(404, "credential_not_found"))
		require.ErrorIs(t, c.RevokeCredential(t.Context(), fixed(1), fixed(2)), client.ErrCredentialNotFound)
		c, _ = play(t, nil, refuse(503, "broker_management_unavailable"), answer(204, ""))
		require.NoError(t, c.RevokeCredential(t.Context(), fixed(1), fixed(2)))
	})
}
