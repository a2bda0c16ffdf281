package auth

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"

	jwtware "github.com/gofiber/contrib/jwt"
	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// localKey is the type of this package's keys in a request's locals.
type localKey int

const (
	tokenKey = "auth.token" // contrib/jwt wants a string
	// identityKey holds an Identity.
	identityKey localKey = iota
	// generationKey holds the generation of the keys when a request came.
	generationKey
	// renewedKey is set once a request has waited for newer keys.
	renewedKey
)

// Authenticate lets a request pass that has a good token, and stores its identity in the request. Others are 401: with code
// missing_token when there is no bearer token, else invalid_token. While no key could be loaded yet, or for an issued token the
// revocations, it is 503, since a client that threw its good token away would not be helped. A request with several headers
// Authorization is 400 repeated_header (RFC 6750 section 3.1). Tokens are read from that header and from nowhere else.
func (v *Verifier) Authenticate() fiber.Handler {
	var verify fiber.Handler
	verify = jwtware.New(jwtware.Config{
		KeyFunc:            v.keyfunc,
		Claims:             &payload{},
		ContextKey:         tokenKey,
		TokenProcessorFunc: strict,
		SuccessHandler:     v.accept,
		ErrorHandler: func(c *fiber.Ctx, err error) error {
			if v.newerKeys(c, err) {
				return verify(c)
			}
			return refuse(c, err)
		},
	})
	return func(c *fiber.Ctx) error {
		headers := c.Request().Header.PeekAll(fiber.HeaderAuthorization)
		if len(headers) > 1 {
			c.Set(fiber.HeaderWWWAuthenticate, `Bearer error="invalid_request"`)
			return problem.New(http.StatusBadRequest, "repeated_header", "send exactly one Authorization header").
				WithField(fiber.HeaderAuthorization, "must be given once")
		}
		generation := v.generation()
		if len(headers) == 1 {
			if p := v.known.recall(generation, headers[0]); p != nil {
				return v.admit(c, p)
			}
			if bytes.ContainsFunc(headers[0], unprintable) { // contrib/jwt trims all of Unicode's white space
				return refuse(c, errForm)
			}
		}
		c.Locals(generationKey, generation)
		return verify(c)
	}
}

// unprintable tells whether a character has no place in a header Authorization.
func unprintable(r rune) bool { return r < ' ' || r > '~' }

// newerKeys tells whether there are keys now that were not known when a token fitted none. It says so once for a request, and
// then as many tokens are read anew as were waiting for the same refresh.
func (v *Verifier) newerKeys(c *fiber.Ctx, err error) bool {
	if len(v.sets) == 0 || !errors.Is(err, errUnknownKey) && !errors.Is(err, jwt.ErrTokenSignatureInvalid) && !errors.Is(err, errNoKeys) {
		return false
	}
	generation, ok := c.Locals(generationKey).(uint64)
	if !ok || c.Locals(renewedKey) != nil || !v.renewed(generation) {
		return false
	}
	c.Locals(renewedKey, true)
	c.Locals(generationKey, v.generation())
	return true
}

// accept remembers a token whose signature is good.
func (v *Verifier) accept(c *fiber.Ctx) error {
	token, ok := c.Locals(tokenKey).(*jwt.Token)
	if !ok {
		return errors.New("contrib/jwt has left no token")
	}
	p, ok := token.Claims.(*payload)
	if !ok {
		return fmt.Errorf("claims of the type %T", token.Claims)
	}
	if generation, ok := c.Locals(generationKey).(uint64); ok {
		v.known.remember(generation, c.Request().Header.Peek(fiber.HeaderAuthorization), p)
	}
	return v.admit(c, p)
}

// admit checks the claims of a token whose signature is good, and lets the request pass.
func (v *Verifier) admit(c *fiber.Ctx, p *payload) error {
	id, err := v.check(p)
	if err != nil {
		return refuse(c, err)
	}
	c.Locals(identityKey, id)
	if id.Bound() {
		rest.SetTenant(c, id.TenantID)
	}
	return c.Next()
}

// refuse answers a request without a good token. RFC 6750 section 3: a request without a token is told the
// scheme, one with a bad token is told so.
func refuse(c *fiber.Ctx, err error) error {
	switch {
	case errors.Is(err, errNoKeys):
		return problem.New(http.StatusServiceUnavailable, "keys_unavailable", "tokens can't be verified at the moment").
			WithRetryAfter(retryEvery)
	case errors.Is(err, errRevocationsUnknown):
		return problem.New(http.StatusServiceUnavailable, "revocations_unknown", errRevocationsUnknown.Error()).WithRetryAfter(time.Second)
	case errors.Is(err, jwtware.ErrJWTMissingOrMalformed):
		c.Set(fiber.HeaderWWWAuthenticate, "Bearer")
		return problem.New(http.StatusUnauthorized, "missing_token", "this request needs the header Authorization: Bearer <token>")
	default:
		reason := explain(err)
		c.Set(fiber.HeaderWWWAuthenticate, fmt.Sprintf(`Bearer error="invalid_token", error_description="%s"`, reason))
		p := problem.New(http.StatusUnauthorized, "invalid_token", reason)
		if wrong, ok := errors.AsType[*claimError](err); ok {
			return p.WithField(wrong.claim, wrong.must)
		}
		return p
	}
}

// explain tells the bearer what to do about a token without telling a forger how close he got. It names claims and header
// parameters and never repeats what they say.
func explain(err error) string {
	if wrong, ok := errors.AsType[*claimError](err); ok {
		return wrong.Error()
	}
	if header, ok := errors.AsType[headerError](err); ok {
		return header.Error()
	}
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenExpired, "the token has expired"},
		{jwt.ErrTokenNotValidYet, "the token is not valid yet"},
		{jwt.ErrTokenUsedBeforeIssued, "the token was issued in the future"},
		{jwt.ErrTokenInvalidIssuer, "the token is from another issuer"},
		{jwt.ErrTokenInvalidAudience, "the token is for another audience"},
		{jwt.ErrTokenRequiredClaimMissing, "the token lacks one of the claims exp, iss and aud"},
		{errTwice, errTwice.Error()},
		{errRevoked, errRevoked.Error()},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "the token is malformed or its signature does not fit"
}

// From returns the identity of the request. It is the zero Identity where Authenticate has not been passed.
func From(c *fiber.Ctx) Identity {
	id, _ := c.Locals(identityKey).(Identity)
	return id
}

// Origin is who sends the request, for the audit log.
func Origin(c *fiber.Ctx) audit.Origin {
	id := From(c)
	return audit.Origin{Actor: id.Subject, TokenID: id.TokenID, RequestID: rest.RequestID(c)}
}

// Require lets a request pass whose token has the scope; others are 403 insufficient_scope.
func Require(scope Scope) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if !From(c).Has(scope) {
			return insufficient(c, scope)
		}
		return c.Next()
	}
}

// insufficient words the refusal as RFC 6750 section 3.1 wants it.
func insufficient(c *fiber.Ctx, scope Scope) error {
	c.Set(fiber.HeaderWWWAuthenticate, fmt.Sprintf(`Bearer error="insufficient_scope", scope="%s"`, scope))
	return problem.New(http.StatusForbidden, "insufficient_scope", fmt.Sprintf("this request needs the scope %s", scope))
}

// RequireUnbound lets a request pass whose token is not bound to a tenant. It belongs to what is about
// tenants at large, such as listing them; a bound token is 403 tenant_bound_token there, whatever its
// scopes.
func RequireUnbound() fiber.Handler {
	return func(c *fiber.Ctx) error {
		if From(c).Bound() {
			return problem.New(http.StatusForbidden, "tenant_bound_token", "a token that is bound to a tenant can't do this")
		}
		return c.Next()
	}
}

// Tenant is the tenant that a request acts on: the one that its token is bound to, or the one that an
// administrator names with ?tenant_id=. A bound token may name its own tenant; any other is 403
// tenant_mismatch. An administrator who names none gets 400 tenant_id_required.
func Tenant(c *fiber.Ctx) (uuid.UUID, error) {
	id := From(c)
	if !id.Bound() && !id.Has(ScopeTenantsAdmin) {
		return uuid.Nil, insufficient(c, ScopeTenantsAdmin) // Authenticate has been forgotten, or no scopes
	}
	names := c.Context().QueryArgs().PeekMulti("tenant_id")
	switch {
	case len(names) == 0 && id.Bound():
		return id.TenantID, nil
	case len(names) == 0:
		return uuid.Nil, problem.New(http.StatusBadRequest, "tenant_id_required", "name the tenant with ?tenant_id=").
			WithField("tenant_id", "is required for a token that is not bound to a tenant")
	case len(names) > 1:
		return uuid.Nil, problem.New(http.StatusBadRequest, "repeated_parameter", "name one tenant").
			WithField("tenant_id", "must be given once")
	}
	named, err := rest.UUID("tenant_id", string(names[0]))
	if err != nil {
		return uuid.Nil, err //nolint:wrapcheck // a problem
	}
	if id.Bound() && named != id.TenantID {
		return uuid.Nil, problem.New(http.StatusForbidden, "tenant_mismatch", "the token is bound to another tenant")
	}
	rest.SetTenant(c, named)
	return named, nil
}
