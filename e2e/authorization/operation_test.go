package authorization_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
)

// The answers that refuse an attack.
const (
	noScope        = "403 insufficient_scope"
	boundToken     = "403 tenant_bound_token"
	otherTenant    = "403 tenant_mismatch"
	contradiction  = "400 tenant_mismatch"
	unknownQuery   = "400 unknown_parameter"
	repeatedQuery  = "400 repeated_parameter"
	repeatedHeader = "400 repeated_header"
	noTenantNamed  = "400 tenant_id_required"
	noUUID         = "400 invalid_uuid"
	unknownField   = "400 unknown_field"
	noTenant       = "404 tenant_not_found"
	noMessage      = "404 not_stored"
	noDeadLetter   = "404 dead_letter_not_found"
	noRoute        = "404 route_not_found"
	noMethod       = "405 method_not_allowed"
	headerTooLarge = "431 header_too_large"
)

// operation makes the attacks on one operation.
type operation struct {
	*world
	route openapi.Route
	rule  rule
}

// request is one that would be carried out for an administrator: on the victim, with ?tenant_id= where the tenant is named so.
func (o *operation) request(name string, want ...string) attack {
	query := o.rule.query
	if o.rule.reach == reachToken {
		query = join(query, "tenant_id="+o.victim.String())
	}
	return o.with(name, o.path(o.victim), query, want...)
}

// with is a request to a path with a query.
func (o *operation) with(name, path, query string, want ...string) attack {
	a := attack{
		name: o.route.Operation + ": " + name, method: o.route.Method, url: o.urls[o.route.Service] + path,
		header: http.Header{}, body: o.rule.body, want: want,
	}
	if query != "" {
		a.url += "?" + query
	}
	switch {
	case o.rule.contentType != "":
		a.header.Set("Content-Type", o.rule.contentType)
	case o.rule.body != "":
		a.header.Set("Content-Type", "application/json")
	}
	return a
}

// path is that of the operation, for what belongs to the victim; {id} is tenant where it stands for one. Parameters that are
// not known here are ids that nothing has.
func (o *operation) path(tenant uuid.UUID) string {
	id := tenant
	if o.rule.reach != reachPath {
		id = o.ids[o.rule.id]
	}
	segments := strings.Split(o.route.Path, "/")
	for i, segment := range segments {
		switch {
		case segment == "{id}":
			segments[i] = id.String()
		case strings.HasPrefix(segment, "{"):
			segments[i] = uuid.NewString()
		}
	}
	return strings.Join(segments, "/")
}

// as gives the request a token.
func (a attack) as(token string) attack {
	a.header.Set("Authorization", "Bearer "+token)
	return a
}

// unauthenticated are requests without a good token.
func (o *operation) unauthenticated() []attack {
	refused := []string{"401 missing_token", "401 invalid_token"}
	var all []attack
	for name, token := range o.bad() {
		all = append(all, o.request("a token "+name, refused...).as(token))
	}
	for name, value := range map[string]string{
		"an empty header Authorization":  "",
		"a scheme alone":                 "Bearer",
		"an empty token":                 "Bearer ",
		"a token without a scheme":       o.admin,
		"a token of another scheme":      "Token " + o.admin,
		"two tokens in a header":         "Bearer " + o.admin + " " + o.admin,
		"two credentials in a header":    "Bearer " + o.admin + ", Bearer " + o.admin,
		"a password":                     "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+o.admin)),
		"a token in quotes":              `Bearer "` + o.admin + `"`,
		"a token with a no-break space":  "Bearer\u00a0" + o.admin,
		"a token with a space behind it": "Bearer " + o.admin + "\u2003",
	} {
		a := o.request(name, refused...)
		a.header.Set("Authorization", value)
		all = append(all, a)
	}
	bare := o.request("no token", refused...)
	cookie := o.request("a token in a cookie", refused...)
	cookie.header.Set("Cookie", "token="+o.admin+"; jwt="+o.admin+"; access_token="+o.admin)
	proxy := o.request("what a proxy might have checked", refused...)
	for _, name := range []string{"Proxy-Authorization", "X-Authorization", "X-Forwarded-Authorization"} {
		proxy.header.Set(name, "Bearer "+o.admin)
	}
	proxy.header.Set("X-Forwarded-For", "127.0.0.1")
	all = append(all, bare, cookie, proxy, o.with("a token in the query", o.path(o.victim), join(o.rule.query, "access_token="+o.admin), refused...))
	long := o.request("a header over the limit", headerTooLarge)
	all = append(all, long.as(strings.Repeat("a", 20<<10)))
	for name, tokens := range map[string][2]string{
		"a bad token and a good one": {"x", o.admin}, "a good token and a bad one": {o.admin, "x"}, "the same token twice": {o.admin, o.admin},
	} {
		a := o.request(name, repeatedHeader)
		a.header["Authorization"] = []string{"Bearer " + tokens[0], "Bearer " + tokens[1]}
		all = append(all, a)
	}
	return all
}

// unauthorized are requests with good tokens that lack the scope: the victim's own, and such as are not bound.
func (o *operation) unauthorized() []attack {
	all := []attack{
		o.request("no scopes", noScope).as(o.token(o.victim)),
		o.request("no scopes and no tenant", noScope).as(o.token(uuid.Nil)),
		o.request("scopes of other systems", noScope).as(o.token(o.victim, "openid", "*", "admin", "tenants:*", "messages")),
		o.request("scopes in capitals", noScope).as(o.token(o.victim, "TENANTS:ADMIN", auth.Scope(strings.ToUpper(string(o.rule.scope))))),
		o.request("scopes with more behind", noScope).as(o.token(o.victim, o.rule.scope+"x", "tenants:admin:x")),
		o.request("scopes with commas", noScope).as(o.token(o.victim, o.rule.scope+",tenants:admin")),
	}
	for _, scope := range scopes() {
		if scope != o.rule.scope && scope != auth.ScopeTenantsAdmin && !o.rule.own {
			all = append(all, o.request("the scope "+string(scope), noScope).as(o.token(o.victim, scope)))
		}
	}
	return all
}

// foreign are requests of the attacker, whose token is good, for what is the victim's.
func (o *operation) foreign() []attack {
	boundAdmin := o.token(o.attacker, scopes()...)
	var all []attack
	switch o.rule.reach {
	case reachAll:
		all = append(all,
			o.request("a bound token", noScope).as(o.token(o.attacker, scopes()[1:]...)),
			o.request("a bound administrator", boundToken).as(boundAdmin),
			o.with("a bound administrator who names his tenant", o.path(o.victim), "tenant_id="+o.attacker.String(), boundToken).as(boundAdmin),
			o.with("a bound administrator who names another tenant", o.path(o.victim), "tenant_id="+o.victim.String(), boundToken).as(boundAdmin),
		)
	case reachPath:
		all = append(all, o.foreignPath(boundAdmin)...)
	case reachToken:
		own := o.token(o.attacker, o.rule.scope)
		all = append(all, o.foreignQuery("its own scope, ", own)...)
		all = append(all, o.foreignQuery("a bound administrator, ", boundAdmin)...)
		all = append(all, o.with("an administrator who names no tenant", o.path(o.victim), o.rule.query, noTenantNamed).as(o.admin))
	}
	if o.rule.foreign != "" {
		for name, token := range map[string]string{"a bound administrator": boundAdmin, "an administrator": o.admin} {
			a := o.with(name+", another tenant in the body", o.path(o.attacker), "", unknownField, boundToken, noDeadLetter, noTenantNamed).as(token)
			a.body = fmt.Sprintf(o.rule.foreign, o.victim)
			all = append(all, a)
		}
	}
	return all
}

// foreignPath are requests for a tenant that the path names.
func (o *operation) foreignPath(boundAdmin string) []attack {
	victim, attacker := "tenant_id="+o.victim.String(), "tenant_id="+o.attacker.String()
	all := []attack{
		o.request("a bound administrator", noTenant).as(boundAdmin),
		o.with("a tenant that is none", o.path(uuid.New()), "", noTenant).as(boundAdmin), // the same as for the victim
		o.with("in capitals", strings.ToUpper(o.path(o.victim)), "", noTenant, noRoute).as(boundAdmin),
		o.with("the query names the token's tenant", o.path(o.victim), attacker, contradiction, unknownQuery).as(boundAdmin),
		o.with("the query names the path's tenant", o.path(o.victim), victim, otherTenant, unknownQuery).as(boundAdmin),
		o.with("only the query names another tenant", o.path(o.attacker), victim, otherTenant, unknownQuery).as(boundAdmin),
		o.with("the query names both", o.path(o.attacker), attacker+"&"+victim, repeatedQuery, unknownQuery).as(boundAdmin),
		o.with("an administrator contradicts himself", o.path(o.victim), attacker, contradiction, unknownQuery).as(o.admin),
		o.with("two tenants in the path", strings.Replace(o.path(o.attacker), o.attacker.String(), o.attacker.String()+","+o.victim.String(), 1), "", noUUID).as(boundAdmin),
		o.with("a slash that is escaped", strings.Replace(o.path(o.attacker), o.attacker.String(), o.attacker.String()+"%2f..%2f"+o.victim.String(), 1), "", noUUID, noRoute).as(boundAdmin),
		o.with("a step up", strings.Replace(o.path(o.attacker), o.attacker.String(), o.attacker.String()+"/../"+o.victim.String(), 1), "", noTenant, noRoute).as(boundAdmin),
	}
	want := noScope
	if o.rule.own {
		want = noTenant
	}
	for _, scope := range scopes()[1:] {
		all = append(all, o.request("a bound token with "+string(scope), want).as(o.token(o.attacker, scope)))
	}
	return all
}

// foreignQuery are requests with another tenant in the query, or with the id of what belongs to another one.
func (o *operation) foreignQuery(by, token string) []attack {
	victim, attacker := o.victim.String(), o.attacker.String()
	own := map[resource][]string{message: {noMessage}, deadLetter: {noDeadLetter}}[o.rule.id]
	spoofed := o.with(by+"a header names another tenant", o.path(o.victim), o.rule.query, own...)
	for _, name := range []string{"X-Tenant-ID", "Tenant-ID", "Tenant_id", "X-Original-URL"} {
		spoofed.header.Set(name, victim)
	}
	all := []attack{
		spoofed.as(token),
		o.with(by+"no tenant named", o.path(o.victim), o.rule.query, own...).as(token),
	}
	for _, c := range []struct {
		name, query string
		want        []string
	}{
		{"its own tenant", "tenant_id=" + attacker, own},
		{"an empty tenant", "tenant_id=", own},
		{"another tenant", "tenant_id=" + victim, []string{otherTenant}},
		{"another tenant in capitals", "tenant_id=" + strings.ToUpper(victim), []string{otherTenant}},
		{"another tenant in an escaped parameter", "tenant%5fid=" + victim, []string{otherTenant}},
		{"both tenants", "tenant_id=" + attacker + "&tenant_id=" + victim, []string{repeatedQuery}},
		{"both tenants, its own last", "tenant_id=" + victim + "&tenant_id=" + attacker, []string{repeatedQuery}},
		{"both tenants in one", "tenant_id=" + attacker + "," + victim, []string{noUUID}},
		{"another tenant as a list", "tenant_id[]=" + victim, []string{unknownQuery}},
		{"another tenant in another case", "Tenant_ID=" + victim, []string{unknownQuery}},
		{"a pattern", "tenant_id=%25", []string{noUUID}},
		{"the nil UUID", "tenant_id=" + uuid.Nil.String(), []string{noUUID, otherTenant}},
	} {
		all = append(all, o.with(by+c.name, o.path(o.victim), join(o.rule.query, c.query), c.want...).as(token))
	}
	return all
}

// methods are requests with methods that a path does not have, and for paths that a service does not have, for nobody and for an
// administrator.
func (w *world) methods(routes []openapi.Route) []attack {
	has := func(service, method, path string) bool {
		for _, r := range routes {
			same := r.Method == method || method == "" || method == http.MethodHead && r.Method == http.MethodGet
			if r.Service == service && same && fits(r.Path, path) {
				return true
			}
		}
		return false
	}
	var all []attack
	for _, route := range routes {
		path := (&operation{world: w, route: route, rule: rules()[route.Operation]}).path(w.victim)
		for service, base := range w.urls {
			want := []string{noMethod}
			if !has(service, "", path) {
				want = []string{noRoute}
			}
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"} {
				if has(service, method, path) {
					continue
				}
				for name, token := range map[string]string{"nobody": "", "an administrator": w.admin} {
					a := attack{name: name, method: method, url: base + path, header: http.Header{}, want: want}
					if method == http.MethodHead {
						a.want = []string{want[0][:3]}
					}
					a.header.Set("X-Http-Method-Override", route.Method)
					if token != "" {
						a = a.as(token)
					}
					all = append(all, a)
				}
			}
		}
	}
	return all
}

// fits tells whether a path is one of a template.
func fits(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i, segment := range want {
		if segment != got[i] && !strings.HasPrefix(segment, "{") {
			return false
		}
	}
	return true
}

// join joins parts of a query.
func join(parts ...string) string {
	var query string
	for _, part := range parts {
		if query != "" && part != "" {
			query += "&"
		}
		query += part
	}
	return query
}

// code is the code of a problem document.
func code(body []byte) string {
	var problem struct {
		Code string `json:"code"`
	}
	if err := json.Unmarshal(body, &problem); err != nil {
		return "(no problem document)"
	}
	return problem.Code
}
