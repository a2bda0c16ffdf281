package api

import (
	"context"
	"net/http"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Tokens is where the tokens of tenants are kept. Package store documents the methods.
type Tokens interface {
	IssueToken(ctx context.Context, t tenant.Token, by audit.Origin) error
	Tokens(ctx context.Context, id, after uuid.UUID, limit int) (page []tenant.Token, more bool, err error)
	RevokeToken(ctx context.Context, id, token uuid.UUID, by audit.Origin) error
}

type tokenAPI struct {
	tokens Tokens
	signer *auth.Signer // nil without a signing key
	keys   []byte       // a JSON Web Key Set
}

// MountTokens adds the routes of issued tokens to server, and the one of the keys that verify them. The signing key is that of
// verifier.
func MountTokens(server *rest.Server, verifier *auth.Verifier, tokens Tokens) {
	a := &tokenAPI{tokens: tokens, signer: verifier.Signer(), keys: verifier.PublicKeys()}
	authenticated, admin := verifier.Authenticate(), auth.Require(auth.ScopeTenantsAdmin)
	app := server.App()
	app.Post("/tenants/:id/tokens", authenticated, admin, a.issue)
	app.Get("/tenants/:id/tokens", authenticated, admin, rest.NoBody, a.list)
	app.Delete("/tenants/:id/tokens/:token", authenticated, admin, rest.NoBody, a.revoke)
	app.Get("/.well-known/jwks.json", rest.NoBody, a.keySet)
}

// IssueToken is the body of POST /tenants/{id}/tokens.
type IssueToken struct {
	// Says what the token is for. 1 to 200 characters that can be seen, as in the name of a tenant; it need not be unique.
	Name *string `json:"name" validate:"required" example:"checkout, production" minLength:"1" maxLength:"200"`
	// What the token may do. `tenants:admin` is not among it.
	Scopes []string `json:"scopes" validate:"required" minItems:"1" enums:"messages:read,messages:write,messages:consume,deadletters:manage" example:"messages:read,messages:write"`
	// How long the token is valid: from a minute to 366 days. Default: a day.
	ExpiresInSeconds *int64 `json:"expires_in_seconds,omitempty" example:"2592000" minimum:"60" maximum:"31622400" extensions:"x-nullable"`
}

// Token is what is kept of a token that was issued.
type Token struct {
	// The claim `jti` of the token; its claim `sub` is `token:` and this.
	ID       string   `json:"id" format:"uuid" example:"0197a3c2-b5d1-7e0f-8a2b-3c4d5e6f7a8b"`
	TenantID string   `json:"tenant_id" format:"uuid" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	Name     string   `json:"name" example:"checkout, production"`
	Scopes   []string `json:"scopes" example:"messages:read,messages:write"`
	// The claim `sub` of the token with which it was issued, as far as it can be shown.
	CreatedBy string         `json:"created_by" example:"ops@example.com"`
	CreatedAt rest.Timestamp `json:"created_at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
	ExpiresAt rest.Timestamp `json:"expires_at" swaggertype:"string" format:"date-time" example:"2026-03-02T12:00:00.000000Z"`
	// When it was revoked. Absent: it was not.
	RevokedAt *rest.Timestamp `json:"revoked_at,omitempty" swaggertype:"string" format:"date-time" example:"2026-02-01T12:00:00.123456Z"`
}

// IssuedToken is a token with what is kept of it.
type IssuedToken struct {
	Token
	// The token itself, which is not kept: this answer alone shows it.
	Secret string `json:"token" example:"eyJhbGciOiJFUzI1NiIsImtpZCI6Il…"`
}

// TokenPage is a part of the list of a tenant's tokens, in the order in which they were issued.
type TokenPage struct {
	Data []Token `json:"data"`
	// Send it as `cursor` to get what follows. It is given on every page, the last one included.
	NextCursor string `json:"next_cursor" example:"AQGXo8KPDnzBnTldKj8PehEBl6PCtdF-D4orPE1eb3qLQm4LMA"`
	// Whether there is more right now.
	HasMore bool `json:"has_more" example:"false"`
}

// issue makes a token.
//
//	@summary		Issue a token for a tenant
//	@description	It is bound to the tenant, shown in this answer and never again, and valid until it expires or is revoked. A tenant has at most 1,000 tokens that are neither expired nor revoked. A request that is repeated issues another token.
//	@tags			tokens
//	@security		Bearer
//	@param			id		path		string		true	"id of the tenant"	format(uuid)
//	@param			token	body		IssueToken	true	"what the token is to be"
//	@success		201		{object}	IssuedToken
//	@header			201		{string}	Cache-Control	"no-store"
//	@failure		400		{object}	problem.Problem	"`malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `validation_failed`, `malformed_encoding`: errors[] names the field"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409		{object}	problem.Problem	"`no_signing_key`: this installation issues no tokens; `too_many_tokens`; `tenant_deleting`"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			issueToken
//	@router			/tenants/{id}/tokens [post]
func (a *tokenAPI) issue(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	var body IssueToken
	if err := rest.DecodeJSON(c, &body); err != nil {
		return err
	}
	draft := tenant.TokenDraft{Scopes: body.Scopes, Lifetime: body.ExpiresInSeconds, CreatedBy: auth.From(c).Subject}
	if body.Name != nil {
		draft.Name = *body.Name
	}
	t, err := tenant.NewToken(id, draft)
	if err != nil {
		return asProblem(err)
	}
	if a.signer == nil {
		return problem.New(http.StatusConflict, "no_signing_key", "this installation has no key to sign tokens with (auth.signing_key_file)")
	}
	secret, err := a.signer.Sign(t.ID, auth.Claims{Scopes: t.Scopes, TenantID: id, ExpiresAt: t.ExpiresAt})
	if err != nil {
		return err
	}
	if err := a.tokens.IssueToken(c.UserContext(), t, auth.Origin(c)); err != nil {
		return asProblem(err)
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Status(http.StatusCreated).JSON(IssuedToken{Token: renderToken(t), Secret: secret})
}

// list pages through the tokens of a tenant.
//
//	@summary		List the tokens of a tenant
//	@description	In the order in which they were issued, without the tokens themselves. Revoked ones are listed until they expire, expired ones for an hour at least.
//	@tags			tokens
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			cursor	query		string	false	"next_cursor of another page; without it the list begins at its start"
//	@param			limit	query		int		false	"tokens a page"	minimum(1)	maximum(1000)	default(100)
//	@success		200		{object}	TokenPage
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `bad_cursor`, `invalid_limit`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			listTokens
//	@router			/tenants/{id}/tokens [get]
func (a *tokenAPI) list(c *fiber.Ctx) error {
	id, err := target(c, "cursor", "limit")
	if err != nil {
		return err
	}
	limit, err := rest.Limit(c)
	if err != nil {
		return err
	}
	var after uuid.UUID
	if c.Context().QueryArgs().Has("cursor") {
		if after, err = decodeTokenCursor(id, c.Query("cursor")); err != nil {
			return err
		}
	}
	tokens, more, err := a.tokens.Tokens(c.UserContext(), id, after, limit)
	if err != nil {
		return asProblem(err)
	}
	page := TokenPage{Data: make([]Token, len(tokens)), HasMore: more}
	for i, t := range tokens {
		page.Data[i] = renderToken(t)
		after = t.ID
	}
	page.NextCursor = tokenCursorFormat().Encode(tokenCursorFields{TenantID: id, After: after})
	return c.JSON(page)
}

// revoke ends a token before it expires.
//
//	@summary		Revoke a token
//	@description	Every service refuses it within two seconds. Revoking a revoked token changes nothing. A tenant's tokens are revoked when it is deleted.
//	@tags			tokens
//	@security		Bearer
//	@param			id		path	string	true	"id of the tenant"	format(uuid)
//	@param			token	path	string	true	"id of the token"	format(uuid)
//	@success		204
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`token_not_found`: unknown, or expired; `tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		503	{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			revokeToken
//	@router			/tenants/{id}/tokens/{token} [delete]
func (a *tokenAPI) revoke(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	token, err := rest.UUID("token", c.Params("token"))
	if err != nil {
		return err
	}
	if err := a.tokens.RevokeToken(c.UserContext(), id, token, auth.Origin(c)); err != nil {
		return asProblem(err)
	}
	return c.SendStatus(http.StatusNoContent)
}

// KeySet is a JSON Web Key Set (RFC 7517).
type KeySet struct {
	Keys []Key `json:"keys"`
} // @name JSONWebKeySet

// Key is a public key. Which of the last members there are depends on its type.
type Key struct {
	KeyType   string `json:"kty" example:"EC" enums:"RSA,EC,OKP"`
	Use       string `json:"use" example:"sig"`
	Algorithm string `json:"alg" example:"ES256" enums:"RS256,ES256,EdDSA"`
	// The thumbprint of the key (RFC 7638). Tokens name it in their header.
	ID       string `json:"kid" example:"oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U"`
	Curve    string `json:"crv,omitempty" example:"P-256"`
	X        string `json:"x,omitempty" example:"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"`
	Y        string `json:"y,omitempty" example:"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"`
	Modulus  string `json:"n,omitempty" example:"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc"`
	Exponent string `json:"e,omitempty" example:"AQAB"`
} // @name JSONWebKey

// keyCaching is how long the key set may be kept. A new key is published before it signs, see the runbook.
const keyCaching = "public, max-age=60"

// keySet publishes the keys.
//
//	@summary		Show the keys that verify issued tokens
//	@description	A JSON Web Key Set (RFC 7517), for everyone. There are several keys during a rotation, and none where the installation issues no tokens.
//	@tags			tokens
//	@success		200	{object}	KeySet
//	@header			200	{string}	Cache-Control	"public, max-age=60"
//	@failure		400	{object}	problem.Problem	"`unknown_parameter`, `unexpected_body`"
//	@id			getKeySet
//	@router			/.well-known/jwks.json [get]
func (a *tokenAPI) keySet(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c); err != nil {
		return err
	}
	c.Set(fiber.HeaderCacheControl, keyCaching)
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(a.keys)
}

// tokenCursorFields are the place behind the last token of a page; After is zero at the start.
type tokenCursorFields struct{ TenantID, After uuid.UUID }

func tokenCursorFormat() cursor.Format[tokenCursorFields] {
	return cursor.Format[tokenCursorFields]{Version: 1}
}

// decodeTokenCursor reads what a page of the tenant's tokens has given. Anything else is 400 bad_cursor.
func decodeTokenCursor(id uuid.UUID, text string) (uuid.UUID, error) {
	fields, err := tokenCursorFormat().Decode(text)
	if err != nil {
		return uuid.Nil, err
	}
	if fields.TenantID != id {
		return uuid.Nil, cursor.Problem("the cursor belongs to another tenant")
	}
	return fields.After, nil
}

func renderToken(t tenant.Token) Token {
	view := Token{
		ID: t.ID.String(), TenantID: t.TenantID.String(), Name: t.Name, Scopes: make([]string, len(t.Scopes)), CreatedBy: t.CreatedBy,
		CreatedAt: rest.Timestamp{Time: t.CreatedAt}, ExpiresAt: rest.Timestamp{Time: t.ExpiresAt},
	}
	for i, scope := range t.Scopes {
		view.Scopes[i] = string(scope)
	}
	if t.RevokedAt != nil {
		view.RevokedAt = &rest.Timestamp{Time: *t.RevokedAt}
	}
	return view
}
