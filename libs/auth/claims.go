package auth

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// leeway is how far the clocks of this machine and of the issuer may be apart. Ten seconds is much for
// clocks that are kept by NTP and little for a token that lives for minutes.
const leeway = 10 * time.Second

// Scope is a permission.
type Scope string

// The scopes of the APIs.
const (
	// ScopeTenantsAdmin includes all the others.
	ScopeTenantsAdmin      Scope = "tenants:admin"
	ScopeMessagesRead      Scope = "messages:read"
	ScopeMessagesWrite     Scope = "messages:write"
	ScopeDeadLettersManage Scope = "deadletters:manage"
)

// Identity is what a verified token says about its bearer.
type Identity struct {
	// Subject is the claim sub, "" if there is none.
	Subject string
	// TokenID is the claim jti, "" if there is none that is a string.
	TokenID string
	// Scopes may hold scopes of other systems.
	Scopes []Scope
	// TenantID is the tenant that the token is bound to, uuid.Nil if it is not bound.
	TenantID uuid.UUID
}

// Has tells whether the identity has a scope, which an administrator always has.
func (i Identity) Has(scope Scope) bool {
	return slices.Contains(i.Scopes, scope) || slices.Contains(i.Scopes, ScopeTenantsAdmin)
}

// Bound tells whether the token is bound to a tenant.
func (i Identity) Bound() bool { return i.TenantID != uuid.Nil }

// Claims that are present in the wrong form, or missing where they are needed.
var (
	errScope    = &claimError{"scope", "is neither a string nor a list of strings", "must be a string"}
	errTenantID = wrongType("tenant_id", "a UUID")
	errUnbound  = &claimError{"tenant_id", "is missing", "is required"}
)

// identity reads our own claims.
func identity(claims claimSet) (Identity, error) {
	var id Identity
	var err error
	if id.Subject, err = claims.GetSubject(); err != nil {
		return Identity{}, err
	}
	id.TokenID, _ = claims["jti"].(string)
	if raw, ok := claims["scope"]; ok {
		if id.Scopes, err = scopes(raw); err != nil {
			return Identity{}, err
		}
	}
	if raw, ok := claims["tenant_id"]; ok {
		// Whatever is there binds the token: one that can't be read must not become an unbound one.
		if id.TenantID, err = tenantID(raw); err != nil {
			return Identity{}, err
		}
	}
	// Without a tenant there is nothing that such a token could act on. One without any scopes is let
	// through to Require, which says what is missing.
	if !id.Bound() && len(id.Scopes) > 0 && !id.Has(ScopeTenantsAdmin) {
		return Identity{}, errUnbound
	}
	return id, nil
}

// scopes reads the form of RFC 8693 section 4.2, and the list that some issuers make of it. Scopes are separated by U+0020 and by
// nothing else (RFC 6749 section 3.3): a tab or a no-break space is a part of the name, which then is none of ours.
func scopes(claim any) ([]Scope, error) {
	var names []string
	switch claim := claim.(type) {
	case string:
		names = strings.FieldsFunc(claim, func(r rune) bool { return r == ' ' })
	case []any:
		for _, item := range claim {
			name, ok := item.(string)
			if !ok {
				return nil, errScope
			}
			names = append(names, name)
		}
	default:
		return nil, errScope
	}
	list := make([]Scope, len(names))
	for i, name := range names {
		list[i] = Scope(name)
	}
	return list, nil
}

func tenantID(claim any) (uuid.UUID, error) {
	s, ok := claim.(string)
	if !ok || len(s) != len(uuid.Nil.String()) {
		return uuid.Nil, errTenantID
	}
	id, err := uuid.Parse(s)
	if err != nil || id == uuid.Nil { // the nil UUID stands for "not bound"
		return uuid.Nil, errTenantID
	}
	return id, nil
}
