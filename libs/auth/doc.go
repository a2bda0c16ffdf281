// Package auth verifies the bearer tokens of the HTTP APIs and says who may do what.
//
// A token is a JWT (RFC 7519) with the claims iss, aud, exp, sub, scope (space-delimited, RFC 8693 section
// 4.2) and, if it is bound to a tenant, tenant_id. There are two kinds of callers. A token with a
// tenant_id acts on that tenant only, whatever its scopes are. A token without one must have the scope
// tenants:admin; it acts on any tenant, which it names with ?tenant_id=.
//
//	app.Get("/messages", verifier.Authenticate(), auth.Require(auth.ScopeMessagesRead), list)
//
// Authenticate answers 401 unless the token is good, Require 403 unless its scope suffices, and the handler
// asks Tenant for the tenant to act on, which is never taken from anywhere else.
//
// What is accepted follows from the configured key and never from the token (RFC 8725 section 3.1): HS256
// for a secret, and RS256, ES256 or EdDSA for an RSA, P-256 or Ed25519 key, be it one PEM file or a JSON Web
// Key Set, of which a token must name the key unless it is the only one. There is no default key, and no way to switch this off.
//
// Beside the keys of that one issuer there may be those of the tokens that the platform issues itself, which a [Signer] makes. Such
// a token names its key, is bound to a tenant, and is good until it expires or was revoked ([Revocations]). It is recognized by
// its key or by its subject, which is "token:" and its jti, so that one is revoked wherever it is accepted.
//
// The package does not know users or sessions: a token of another issuer is good until it expires, or until its key leaves the
// key set.
package auth
