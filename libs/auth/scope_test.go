package auth_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
)

func TestScopeClaim(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	tests := map[string]struct {
		scope any
		read  int // GET /read
		write int // GET /write
	}{
		"one":                    {"messages:read", 200, 403},
		"two":                    {"messages:read messages:write", 200, 200},
		"more white space":       {"  messages:write \t messages:read ", 200, 200},
		"a list":                 {[]string{"messages:read"}, 200, 403},
		"of other systems":       {"openid profile messages:read", 200, 403},
		"only of other systems":  {"openid", 403, 403},
		"absent":                 {nil, 403, 403},
		"empty":                  {"", 403, 403},
		"empty list":             {[]string{}, 403, 403},
		"prefix":                 {"messages:readx messages:", 403, 403},
		"other case":             {"Messages:Read", 403, 403},
		"commas":                 {"messages:read,messages:write", 403, 403},
		"a no-break space":       {"messages:read\u00a0messages:write", 403, 403},
		"after a no-break space": {"messages:write x\u00a0messages:read", 403, 200},
		"a tab":                  {"messages:read\tmessages:write", 403, 403},
		"a line break":           {"openid\nmessages:read messages:write", 403, 200},
		"a carriage return":      {"messages:read\r", 403, 403},
		"a vertical tab":         {"messages:read\vtenants:admin", 403, 403},
		"a next line":            {"messages:read\u0085tenants:admin", 403, 403},
		"a line separator":       {"messages:read\u2028tenants:admin", 403, 403},
		"an ideographic space":   {"messages:read\u3000tenants:admin", 403, 403},
		"a zero-width space":     {"messages:read\u200btenants:admin", 403, 403},
		"a null character":       {"messages:read\x00 messages:write", 403, 200},
		"spaces":                 {"   messages:read   messages:write   ", 200, 200},
		"only spaces":            {"   ", 403, 403},
		"twice the same":         {"messages:read messages:read", 200, 403},
		"admin":                  {"tenants:admin", 200, 200},
		"number":                 {5, 401, 401},
		"object":                 {map[string]any{"messages:read": true}, 401, 401},
		"list of numbers":        {[]int{1}, 401, 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			token := hs256(t, jwt.MapClaims{"scope": tt.scope})
			require.Equal(t, tt.read, do(t, app, http.MethodGet, "/read", token).status)
			require.Equal(t, tt.write, do(t, app, http.MethodGet, "/write", token).status)
		})
	}
}

func TestRefusalForScopeNamesIt(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	got := do(t, app, http.MethodGet, "/deadletters", hs256(t, nil))
	require.Equal(t, 403, got.status)
	require.Equal(t, "insufficient_scope", got.code(t))
	require.Equal(t, `Bearer error="insufficient_scope", scope="deadletters:manage"`, got.header.Get("WWW-Authenticate"))
}

func TestHas(t *testing.T) {
	all := []auth.Scope{auth.ScopeTenantsAdmin, auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage}
	admin := auth.Identity{Scopes: []auth.Scope{auth.ScopeTenantsAdmin}}
	for _, scope := range all {
		require.True(t, admin.Has(scope), scope)
		require.False(t, auth.Identity{}.Has(scope), scope)
		require.Equal(t, scope == auth.ScopeMessagesRead, auth.Identity{Scopes: []auth.Scope{auth.ScopeMessagesRead}}.Has(scope), scope)
	}
}

// A claim that can't be read must never make an unbound token out of a bound one.
func TestTenantClaim(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	good := map[string]string{"lower case": tenantA, "upper case": strings.ToUpper(tenantA)}
	for name, claim := range good {
		got := do(t, app, http.MethodGet, "/whoami", hs256(t, jwt.MapClaims{"tenant_id": claim}))
		require.Equal(t, 200, got.status, name)
		require.Contains(t, string(got.body), tenantA, name)
	}
	bad := map[string]any{
		"empty":           "",
		"a word":          "acme",
		"without hyphens": strings.ReplaceAll(tenantA, "-", ""),
		"urn":             "urn:uuid:" + tenantA,
		"braces":          "{" + tenantA + "}",
		"white space":     " " + tenantA,
		"nil uuid":        uuid.Nil.String(),
		"number":          5,
		"list":            []string{tenantA},
		"null":            json.RawMessage("null"),
	}
	for name, claim := range bad {
		for _, scope := range []string{"messages:read", "tenants:admin"} {
			got := do(t, app, http.MethodGet, "/whoami", hs256(t, jwt.MapClaims{"tenant_id": claim, "scope": scope}))
			require.Equal(t, 401, got.status, name)
			require.Contains(t, got.header.Get("WWW-Authenticate"), "tenant_id is not a UUID", name)
		}
	}
}

// encoding/json matches keys in any case; claims that an issuer lets its users choose must not bind a token.
func TestClaimsAreMatchedExactly(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	got := do(t, app, http.MethodGet, "/whoami", hs256(t, jwt.MapClaims{"TENANT_ID": tenantB, "Scope": "tenants:admin", "Sub": "evil"}))
	require.JSONEq(t, `{"subject":"someone","scopes":["messages:read","messages:write"],"tenant_id":"`+tenantA+`","bound":true}`, string(got.body))
}

func TestTenantsAtLargeNeedAnUnboundToken(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	tests := map[string]struct {
		change jwt.MapClaims
		want   int
		code   string
	}{
		"administrator":       {jwt.MapClaims{"scope": "tenants:admin", "tenant_id": nil}, 200, ""},
		"bound administrator": {jwt.MapClaims{"scope": "tenants:admin"}, 403, "tenant_bound_token"},
		"bound":               {nil, 403, "insufficient_scope"},
		"without scopes":      {jwt.MapClaims{"scope": nil}, 403, "insufficient_scope"},
		"without anything":    {jwt.MapClaims{"scope": nil, "tenant_id": nil}, 403, "insufficient_scope"},
		"unbound, no admin":   {jwt.MapClaims{"tenant_id": nil}, 401, "invalid_token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				got := do(t, app, method, "/tenants", hs256(t, tt.change))
				require.Equal(t, tt.want, got.status)
				if tt.code != "" {
					require.Equal(t, tt.code, got.code(t))
				}
			}
		})
	}
}

func TestActingTenant(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	admin := jwt.MapClaims{"scope": "tenants:admin", "tenant_id": nil}
	boundAdmin := jwt.MapClaims{"scope": "tenants:admin"}
	tests := map[string]struct {
		change jwt.MapClaims
		query  string
		want   int
		result string // the tenant, or the code
	}{
		"bound":                          {nil, "", 200, tenantA},
		"bound, names itself":            {nil, "?tenant_id=" + tenantA, 200, tenantA},
		"bound, names itself louder":     {nil, "?tenant_id=" + strings.ToUpper(tenantA), 200, tenantA},
		"bound, names another":           {nil, "?tenant_id=" + tenantB, 403, "tenant_mismatch"},
		"bound, names nothing":           {nil, "?tenant_id=", 400, "invalid_uuid"},
		"bound, names nonsense":          {nil, "?tenant_id=x", 400, "invalid_uuid"},
		"bound admin":                    {boundAdmin, "", 200, tenantA},
		"bound admin, names another":     {boundAdmin, "?tenant_id=" + tenantB, 403, "tenant_mismatch"},
		"admin":                          {admin, "?tenant_id=" + tenantB, 200, tenantB},
		"admin, names none":              {admin, "", 400, "tenant_id_required"},
		"admin, names nothing":           {admin, "?tenant_id=", 400, "invalid_uuid"},
		"admin, without hyphens":         {admin, "?tenant_id=" + strings.ReplaceAll(tenantB, "-", ""), 400, "invalid_uuid"},
		"admin, urn":                     {admin, "?tenant_id=urn:uuid:" + tenantB, 400, "invalid_uuid"},
		"admin, nil uuid":                {admin, "?tenant_id=" + uuid.Nil.String(), 400, "invalid_uuid"},
		"admin, names two":               {admin, "?tenant_id=" + tenantA + "&tenant_id=" + tenantB, 400, "repeated_parameter"},
		"bound, names itself and others": {nil, "?tenant_id=" + tenantA + "&tenant_id=" + tenantB, 400, "repeated_parameter"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := do(t, app, http.MethodGet, "/read"+tt.query, hs256(t, tt.change))
			require.Equal(t, tt.want, got.status, string(got.body))
			if tt.want == 200 {
				require.Equal(t, tt.result, string(got.body))
				return
			}
			require.Equal(t, tt.result, got.code(t))
			if tt.want == 400 {
				require.Contains(t, string(got.body), `"field":"tenant_id"`)
			}
		})
	}
}

// A route on which somebody has forgotten Authenticate must not serve all tenants.
func TestWithoutAuthenticateThereIsNoTenant(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	require.Equal(t, 403, do(t, app, http.MethodGet, "/open-tenant?tenant_id="+tenantA, "").status)
	require.Contains(t, string(do(t, app, http.MethodGet, "/open", "").body), `"bound":false`)
}

func TestAuthorizationHeader(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	token := hs256(t, nil)
	tests := map[string]struct {
		header string
		want   int
		code   string
	}{
		"bearer":             {"Bearer " + token, 200, ""},
		"scheme in any case": {"bEARER " + token, 200, ""},
		"none":               {"", 401, "missing_token"},
		"another scheme":     {"Basic dXNlcjpwYXNz", 401, "missing_token"},
		"only the scheme":    {"Bearer", 401, "missing_token"},
		"empty token":        {"Bearer ", 401, "missing_token"},
		"only the token":     {token, 401, "missing_token"},
		"no space":           {"Bearer" + token, 401, "missing_token"},
		"twice":              {"Bearer Bearer " + token, 401, "invalid_token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := doHeader(t, app, http.MethodGet, "/read", tt.header)
			require.Equal(t, tt.want, got.status)
			if tt.code == "" {
				return
			}
			require.Equal(t, tt.code, got.code(t))
			// RFC 6750 section 3.1: no error code for a client that has not tried to authenticate.
			if tt.code == "missing_token" {
				require.Equal(t, "Bearer", got.header.Get("WWW-Authenticate"))
			} else {
				require.Contains(t, got.header.Get("WWW-Authenticate"), `Bearer error="invalid_token"`)
			}
		})
	}
	require.Equal(t, 401, do(t, app, http.MethodGet, "/read?access_token="+token, "").status, "URLs end up in logs")
}

// A client can act on "expired" and on "wrong audience"; it is told which it was.
func TestReasonsThatAreTold(t *testing.T) {
	app := newApp(newVerifier(t, auth.Config{Secret: secret}))
	for reason, change := range map[string]jwt.MapClaims{
		"the token has expired":                                     {"exp": 1},
		"the token is not valid yet":                                {"nbf": 1 << 40},
		"the token was issued in the future":                        {"iat": 1 << 40},
		"the token is from another issuer":                          {"iss": "x"},
		"the token is for another audience":                         {"aud": "x"},
		"the token lacks one of the claims exp, iss and aud":        {"exp": nil},
		"the claim tenant_id is missing":                            {"tenant_id": nil},
		"the claim sub is not a string":                             {"sub": 1},
		"the claim scope is neither a string nor a list of strings": {"scope": 1},
	} {
		got := do(t, app, http.MethodGet, "/read", hs256(t, change))
		require.Equal(t, 401, got.status, reason)
		require.Contains(t, string(got.body), reason)
		require.NotContains(t, string(got.body), "eyJ", "the token is not echoed")
	}
}
