package auth

import (
	"errors"
	"fmt"
	"net/http"

	jwtware "github.com/gofiber/contrib/jwt"
	"github.com/gofiber/fiber/v2"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

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
)

// Authenticate lets a request pass that has a good token, and remembers who it is. Others are 401: with
// code missing_token when there is no bearer token, else invalid_token. While no key could be loaded yet
// it is 503, since a client that threw its good token away would not be helped.
func (v *Verifier) Authenticate() fiber.Handler {
	verify := jwtware.New(jwtware.Config{
		KeyFunc:        v.key,
		Claims:         &payload{},
		ContextKey:     tokenKey,
		SuccessHandler: v.accept,
		ErrorHandler:   refuse,
	})
	return func(c *fiber.Ctx) error {
		generation := v.generation()
		if claims := v.known.recall(generation, c.Request().Header.Peek(fiber.HeaderAuthorization)); claims != nil {
			return v.admit(c, claims)
		}
		c.Locals(generationKey, generation)
		return verify(c)
	}
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
		v.known.remember(generation, c.Request().Header.Peek(fiber.HeaderAuthorization), p.claims)
	}
	return v.admit(c, p.claims)
}

// admit checks the claims of a token whose signature is good, and lets the request pass.
func (v *Verifier) admit(c *fiber.Ctx, claims jwt.MapClaims) error {
	id, err := v.check(claims)
	if err != nil {
		return refuse(c, err)
	}
	c.Locals(identityKey, id)
	if id.Bound() {
		rest.SetTenant(c, id.TenantID)
	}
	return c.Next()
}

// refuse answers a request without a good token. RFC 6750 section 3: who has sent no token is told the
// scheme, who has sent a bad one is told so.
func refuse(c *fiber.Ctx, err error) error {
	switch {
	case errors.Is(err, errNoKeys):
		return problem.New(http.StatusServiceUnavailable, "keys_unavailable", "tokens can't be verified at the moment").
			WithRetryAfter(retryEvery)
	case errors.Is(err, jwtware.ErrJWTMissingOrMalformed):
		c.Set(fiber.HeaderWWWAuthenticate, "Bearer")
		return problem.New(http.StatusUnauthorized, "missing_token", "this request needs the header Authorization: Bearer <token>")
	default:
		reason := explain(err)
		c.Set(fiber.HeaderWWWAuthenticate, fmt.Sprintf(`Bearer error="invalid_token", error_description="%s"`, reason))
		return problem.New(http.StatusUnauthorized, "invalid_token", reason)
	}
}

// explain tells the bearer what to do about a token without telling a forger how close he got.
func explain(err error) string {
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
		{errTenantID, errTenantID.Error()},
		{errUnbound, errUnbound.Error()},
		{errScope, errScope.Error()},
		{errSubject, errSubject.Error()},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	return "the token is malformed or its signature does not fit"
}

// From returns who is asking. It is the zero Identity where Authenticate has not been passed.
func From(c *fiber.Ctx) Identity {
	id, _ := c.Locals(identityKey).(Identity)
	return id
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
