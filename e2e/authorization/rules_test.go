package authorization_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
)

// reach says where the tenant that an operation acts on comes from.
type reach int

const (
	// reachAll is about tenants at large: a token that is bound to a tenant is 403 tenant_bound_token.
	reachAll reach = iota
	// reachPath acts on the tenant whose id is {id} in the path: another one is 404 for a bound token.
	reachPath
	// reachToken acts on the tenant of the token, or on the one that an administrator names with ?tenant_id=: another
	// one there is 403 tenant_mismatch, and what belongs to another one is 404.
	reachToken
)

// resource is what {id} in the path stands for, where it is not a tenant.
type resource int

const (
	none resource = iota
	message
	deadLetter
)

// rule is what an operation demands, and a request that would be carried out if nothing were demanded.
type rule struct {
	// public operations need no token.
	public bool
	// scope is the one that a token needs, beside tenants:admin, which includes it.
	scope auth.Scope
	// own operations are open to a tenant's own token, whatever scope it has.
	own   bool
	reach reach
	id    resource
	// query and body make the request valid; contentType is that of the body, JSON if it is empty.
	query, body, contentType string
	// foreign is the body with a field that names another tenant, which is %s in it, where an object is decoded.
	foreign string
}

// rules are the operations of api/openapi.yaml.
func rules() map[string]rule {
	const (
		admin, read = auth.ScopeTenantsAdmin, auth.ScopeMessagesRead
		write       = auth.ScopeMessagesWrite
		manage      = auth.ScopeDeadLettersManage
	)
	return map[string]rule{
		"createTenant": {scope: admin, reach: reachAll, body: `{"name":"intruder"}`, foreign: `{"name":"intruder","tenant_id":"%s"}`},
		"listTenants":  {scope: admin, reach: reachAll},
		"getTenant":    {scope: admin, reach: reachPath, own: true},
		"setTenantConcurrency": {
			scope: admin, reach: reachPath, body: `{"workers":9}`, foreign: `{"workers":9,"id":"%s"}`,
		},
		"suspendTenant": {scope: admin, reach: reachPath},
		"resumeTenant":  {scope: admin, reach: reachPath},
		"deleteTenant":  {scope: admin, reach: reachPath},

		"getTenantConfig":   {scope: admin, reach: reachPath, own: true},
		"patchTenantConfig": {scope: admin, reach: reachPath, body: `{"weight":2}`, foreign: `{"weight":2,"tenant_id":"%s"}`},
		"getTenantUsage":    {scope: admin, reach: reachPath, own: true},
		"issueToken": {
			scope: admin, reach: reachPath, body: `{"name":"intruder","scopes":["messages:read"]}`,
			foreign: `{"name":"intruder","scopes":["messages:read"],"tenant_id":"%s"}`,
		},
		"listTokens":       {scope: admin, reach: reachPath},
		"revokeToken":      {scope: admin, reach: reachPath},
		"getKeySet":        {public: true, reach: reachAll},
		"issueCredential":  {scope: admin, reach: reachPath, body: `{"name":"intruder"}`, foreign: `{"name":"intruder","tenant_id":"%s"}`},
		"listCredentials":  {scope: admin, reach: reachPath},
		"revokeCredential": {scope: admin, reach: reachPath},
		"listAuditEvents":  {scope: admin, reach: reachAll},

		"publishMessage": {scope: write, reach: reachToken, body: `{"payload":{"n":1}}`, foreign: `{"payload":{"n":1},"tenant_id":"%s"}`},
		"publishBatch":   {scope: write, reach: reachToken, body: `{"payload":{"n":1}}`, contentType: "application/x-ndjson"},
		"eraseMessage":   {scope: admin, reach: reachToken, id: message},
		"listMessages":   {scope: read, reach: reachToken},
		"getMessage":     {scope: read, reach: reachToken, id: message},

		"listDeadLetters":   {scope: manage, reach: reachToken},
		"getDeadLetter":     {scope: manage, reach: reachToken, id: deadLetter},
		"dropDeadLetter":    {scope: manage, reach: reachToken, id: deadLetter},
		"dropDeadLetters":   {scope: manage, reach: reachToken, query: "all=true"},
		"replayDeadLetters": {scope: manage, reach: reachToken, query: "all=true"},
		"replayDeadLetter": {
			scope: manage, reach: reachToken, id: deadLetter, body: `{"payload":{"n":1}}`, foreign: `{"payload":{"n":1},"tenant_id":"%s"}`,
		},
	}
}

// scopes are all that there are.
func scopes() []auth.Scope {
	return []auth.Scope{auth.ScopeTenantsAdmin, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeMessagesConsume, auth.ScopeDeadLettersManage}
}

// A new operation whose authorization nobody has thought about would be one that nobody tests.
func TestEveryOperationHasARule(t *testing.T) {
	document, err := openapi.Platform()
	require.NoError(t, err)
	table := rules()
	var missing []string
	for _, id := range document.Operations() {
		if _, ok := table[id]; !ok {
			missing = append(missing, id)
		}
		delete(table, id)
	}
	require.Empty(t, missing, "operations of api/openapi.yaml without a line in rules(): say which scope each needs, and where its tenant comes from")
	require.Empty(t, table, "lines of rules() without an operation in api/openapi.yaml")
	for _, route := range document.Routes() {
		rule := rules()[route.Operation]
		require.Contains(t, []string{"tenant-service", "ingest-service", "query-service"}, route.Service, "the service of %s", route.Operation)
		require.Equal(t, rule.body != "", route.Body, "%s has a body in the document, or in rules(), and not in the other", route.Operation)
		require.Equal(t, rule.reach == reachPath || rule.id != none, strings.Contains(route.Path, "{id}"), "what {id} of %s is", route.Operation)
		require.True(t, rule.public || slices.Contains(scopes(), rule.scope), "the scope of %s", route.Operation)
	}
}
