package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/credential"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// credentials are the handlers of /tenants/{id}/credentials.
type credentials struct {
	registry Registry
	issuer   *credential.Issuer // nil without a management API of the broker
}

// MountCredentials adds the routes of AMQP credentials. issuer is nil where the broker is not managed; they answer 409 then.
func MountCredentials(server *rest.Server, verifier *auth.Verifier, registry Registry, issuer *credential.Issuer) {
	a := &credentials{registry: registry, issuer: issuer}
	authenticated, admin := verifier.Authenticate(), auth.Require(auth.ScopeTenantsAdmin)
	app := server.App()
	app.Post("/tenants/:id/credentials", authenticated, admin, a.issue)
	app.Get("/tenants/:id/credentials", authenticated, admin, rest.NoBody, a.list)
	app.Delete("/tenants/:id/credentials/:credential", authenticated, admin, rest.NoBody, a.revoke)
}

// NewCredential is the body of POST /tenants/{id}/credentials.
type NewCredential struct {
	// What people call it: 1 to 200 characters, as in the name of a tenant. It need not be unique: during a rotation the old and the new one may share it.
	Name *string `json:"name" validate:"required" example:"billing, production" minLength:"1" maxLength:"200"`
}

// IssuedCredential is a credential with its password, which is shown this once.
type IssuedCredential struct {
	ID       string `json:"id" format:"uuid" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	Username string `json:"username" example:"mtm.8a5edab2.0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11.0197a3d0-11d2-7b2c-8d3e-0d6f3a5b7c90"`
	Password string `json:"password" example:"kq0Vt0h9M0n3dWq2o5mJvN6Uq3o8m1S7yJbq8k0bq3E"`
	// For AMQP, with the login.
	URL string `json:"url" example:"amqps://mtm.8a5edab2.0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11.0197a3d0-11d2-7b2c-8d3e-0d6f3a5b7c90:kq0Vt0h9M0n3dWq2o5mJvN6Uq3o8m1S7yJbq8k0bq3E@mq.example.com:5671"`
	// The only exchange to which it can publish.
	Exchange string `json:"exchange" example:"tenant.0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	// The only routing key with which it can publish.
	RoutingKey string `json:"routing_key" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
} // @name IssuedCredential

// Credential is a credential as it is listed.
type Credential struct {
	ID       string `json:"id" format:"uuid" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	Name     string `json:"name" example:"billing, production"`
	Username string `json:"username" example:"mtm.8a5edab2.0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11.0197a3d0-11d2-7b2c-8d3e-0d6f3a5b7c90"`
	// `missing`: the broker has lost its user, and nobody can log in with it. `revoking`: it was revoked while the broker could not be reached, and may still be used until that is done.
	State     string         `json:"state" example:"active" enums:"active,missing,revoking"`
	CreatedAt rest.Timestamp `json:"created_at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
} // @name Credential

// CredentialPage is a part of the list of a tenant's credentials, in the order of their creation.
type CredentialPage struct {
	Data []Credential `json:"data"`
	// Send it as `cursor` to get what follows. It is given on every page, the last one included.
	NextCursor string `json:"next_cursor" example:"AZejwo8OfMGdOV0qPw96EQAGSjuFc0BAAZejwo8OfMGdOV0qPw96EQAAAAA"`
	// Whether there is more right now.
	HasMore bool `json:"has_more" example:"false"`
} // @name CredentialPage

// issue makes a credential.
//
//	@summary		Issue an AMQP credential
//	@description	A user of the broker that can publish to the exchange and with the routing key in the answer, which lead to the queue of this tenant alone, and do nothing else. The password is shown once and kept nowhere. A tenant has at most 100; an answer that got lost has left one that can be listed and revoked. The first one of a tenant takes a second or two, since its exchange is made then.
//	@tags			credentials
//	@security		Bearer
//	@param			id			path		string			true	"id of the tenant"	format(uuid)
//	@param			credential	body		NewCredential	true	"the credential"
//	@success		201			{object}	IssuedCredential
//	@header			201			{string}	Cache-Control	"no-store"
//	@failure		400			{object}	problem.Problem	"`malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `validation_failed`, `malformed_encoding`: errors[] names the field"
//	@failure		404			{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409			{object}	problem.Problem	"`no_broker_management`: the installation has no management API of the broker; `too_many_credentials`, `tenant_deleting`"
//	@failure		503			{object}	problem.Problem	"`tenant_provisioning`, `broker_management_unavailable`, `registry_unavailable`: try again after the time in Retry-After"
//	@id			issueCredential
//	@router			/tenants/{id}/credentials [post]
func (a *credentials) issue(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	var body NewCredential
	if err := rest.DecodeJSON(c, &body); err != nil {
		return err
	}
	name := ""
	if body.Name != nil {
		name = *body.Name
	}
	if name, err = tenant.CheckName(name); err != nil {
		return asProblem(err)
	}
	if a.issuer == nil {
		return notManaged("AMQP credentials need")
	}
	issued, err := a.issuer.Issue(c.UserContext(), id, name, auth.Origin(c))
	if err != nil {
		return credentialProblem(err)
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	return c.Status(http.StatusCreated).JSON(IssuedCredential{
		ID: issued.ID.String(), Username: issued.Username, Password: issued.Password, URL: issued.URL,
		Exchange: issued.Exchange, RoutingKey: issued.RoutingKey,
	})
}

// list pages through the credentials of a tenant.
//
//	@summary		List the AMQP credentials of a tenant
//	@description	In the order of their creation, without passwords and without those that were revoked.
//	@tags			credentials
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			cursor	query		string	false	"next_cursor of another page; without it the list begins at its start"
//	@param			limit	query		int		false	"credentials a page"	minimum(1)	maximum(1000)	default(100)
//	@success		200		{object}	CredentialPage
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `bad_cursor`, `invalid_limit`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409		{object}	problem.Problem	"`no_broker_management`: the installation has no management API of the broker"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			listCredentials
//	@router			/tenants/{id}/credentials [get]
func (a *credentials) list(c *fiber.Ctx) error {
	id, err := target(c, "cursor", "limit")
	if err != nil {
		return err
	}
	limit, err := rest.Limit(c)
	if err != nil {
		return err
	}
	var at credential.Position
	if c.Context().QueryArgs().Has("cursor") {
		if at, err = decodeCredentialCursor(c.Query("cursor"), id); err != nil {
			return err
		}
	}
	if err := a.available(c.UserContext(), id); err != nil {
		return err
	}
	found, more, err := a.issuer.List(c.UserContext(), id, at, limit)
	if err != nil {
		return credentialProblem(err)
	}
	page := CredentialPage{Data: make([]Credential, len(found)), HasMore: more}
	for i, one := range found {
		page.Data[i] = Credential{
			ID: one.ID.String(), Name: one.Name, Username: one.Username, State: string(one.State()), CreatedAt: rest.Timestamp{Time: one.CreatedAt.UTC()},
		}
		at = one.Position()
	}
	page.NextCursor = encodeCredentialCursor(id, at)
	return c.JSON(page)
}

// revoke deletes a credential.
//
//	@summary		Revoke an AMQP credential
//	@description	Its open connections are closed when this answers; what the broker has confirmed to them is stored. After a 503 with `broker_management_unavailable` it is revoked as soon as the broker can be reached.
//	@tags			credentials
//	@security		Bearer
//	@param			id			path	string	true	"id of the tenant"		format(uuid)
//	@param			credential	path	string	true	"id of the credential"	format(uuid)
//	@success		204
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token; `credential_not_found`: unknown, revoked, or another tenant's"
//	@failure		409	{object}	problem.Problem	"`no_broker_management`: the installation has no management API of the broker"
//	@failure		503	{object}	problem.Problem	"`broker_management_unavailable`, `registry_unavailable`: try again after the time in Retry-After"
//	@id			revokeCredential
//	@router			/tenants/{id}/credentials/{credential} [delete]
func (a *credentials) revoke(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	which, err := rest.UUID("credential", c.Params("credential"))
	if err != nil {
		return err
	}
	if err := a.available(c.UserContext(), id); err != nil {
		return err
	}
	if err := a.issuer.Revoke(c.UserContext(), id, which, auth.Origin(c)); err != nil {
		return credentialProblem(err)
	}
	return c.SendStatus(http.StatusNoContent)
}

// available refuses where the broker is not managed or there is no such tenant.
func (a *credentials) available(ctx context.Context, id uuid.UUID) error {
	if a.issuer == nil {
		return notManaged("AMQP credentials need")
	}
	if _, err := a.registry.Find(ctx, id); err != nil {
		return asProblem(err)
	}
	return nil
}

func notManaged(what string) *problem.Problem {
	return problem.New(http.StatusConflict, "no_broker_management",
		what+" the management API of the broker, which this installation does not have")
}

// managementRetry is how long a client is asked to wait for the management API.
const managementRetry = 2 * time.Second

// credentialProblem is asProblem for what credentials add to it. What is left is a fault of this program.
func credentialProblem(err error) error {
	switch {
	case errors.Is(err, credential.ErrNotFound):
		return problem.New(http.StatusNotFound, "credential_not_found", "the tenant has no such credential")
	case errors.Is(err, credential.ErrTooMany):
		return problem.New(http.StatusConflict, "too_many_credentials",
			fmt.Sprintf("the tenant has %d credentials; one has to be revoked first", credential.MaxPerTenant))
	case errors.Is(err, credential.ErrProvisioning):
		return problem.New(http.StatusServiceUnavailable, "tenant_provisioning", "the exchange of the tenant is not there yet").WithRetryAfter(time.Second)
	case errors.As(err, new(*management.StatusError)), errors.Is(err, management.ErrAway):
		detail := "the management API of the broker cannot be reached now"
		if errors.Is(err, management.ErrRefused) {
			detail = "the management API of the broker refuses the login of this service"
		}
		// Wrapped, so that the cause is in the log.
		return fmt.Errorf("%w: %w", problem.New(http.StatusServiceUnavailable, "broker_management_unavailable", detail).WithRetryAfter(managementRetry), err)
	}
	return asProblem(err)
}

// credentialCursor are the tenant of a list and the position of the last credential of a page; zero at the start.
type credentialCursor struct {
	Tenant    uuid.UUID
	CreatedAt int64 // see [cursor.Micros]
	ID        uuid.UUID
}

func credentialFormat() cursor.Format[credentialCursor] {
	return cursor.Format[credentialCursor]{Version: 1}
}

func encodeCredentialCursor(id uuid.UUID, p credential.Position) string {
	return credentialFormat().Encode(credentialCursor{Tenant: id, CreatedAt: cursor.Micros(p.CreatedAt), ID: p.ID})
}

// decodeCredentialCursor reads what encodeCredentialCursor has written for the same tenant. Anything else is 400 bad_cursor.
func decodeCredentialCursor(text string, id uuid.UUID) (credential.Position, error) {
	fields, err := credentialFormat().Decode(text)
	if err != nil {
		return credential.Position{}, err
	}
	created, ok := cursor.Time(fields.CreatedAt)
	if !ok {
		return credential.Position{}, cursor.Problem(cursor.NotGiven)
	}
	if fields.Tenant != id {
		return credential.Position{}, cursor.Problem("the cursor is of another tenant")
	}
	return credential.Position{CreatedAt: created, ID: fields.ID}, nil
}
