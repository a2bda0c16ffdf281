package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/auditlog"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// Registry is where tenants are kept. Package store documents the methods.
type Registry interface {
	Create(ctx context.Context, t *tenant.Tenant, by audit.Origin) error
	Find(ctx context.Context, id uuid.UUID) (tenant.Tenant, error)
	List(ctx context.Context, filter tenant.Filter, after tenant.Position, limit int) (page []tenant.Tenant, next tenant.Position, more bool, err error)
	Change(ctx context.Context, id uuid.UUID, by audit.Origin, action audit.Action, change func(*tenant.Tenant) error) (tenant.Tenant, error)
	Usage(ctx context.Context, id uuid.UUID, w tenant.Window, deleted bool) (tenant.Usage, error)
}

// Reports are the current reports of the instances. Package status documents the methods.
type Reports interface {
	Of(id uuid.UUID) []contract.TenantStatus
	Subscribe(id uuid.UUID) (changed <-chan struct{}, cancel func())
}

type api struct {
	registry Registry
	reports  Reports
	events   *auditlog.Log
	policy   tenant.Policy
	stopping chan struct{} // closed by endWaits
	stop     sync.Once
}

// Mount adds the routes of the API, and its Swagger UI, to server.
func Mount(server *rest.Server, verifier *auth.Verifier, registry Registry, reports Reports, events *auditlog.Log, policy tenant.Policy) {
	a := &api{registry: registry, reports: reports, events: events, policy: policy, stopping: make(chan struct{})}
	server.OnStop(a.endWaits)
	authenticated, admin, unbound := verifier.Authenticate(), auth.Require(auth.ScopeTenantsAdmin), auth.RequireUnbound()
	app := server.App()
	app.Post("/tenants", authenticated, admin, unbound, a.create)
	app.Get("/tenants", authenticated, admin, unbound, rest.NoBody, a.list)
	app.Get("/tenants/:id", authenticated, orOwn(admin), rest.NoBody, a.get)
	app.Get("/tenants/:id/config", authenticated, orOwn(admin), rest.NoBody, a.config)
	app.Patch("/tenants/:id/config", authenticated, admin, a.configure)
	app.Get("/tenants/:id/usage", authenticated, orOwn(admin), rest.NoBody, a.usage)
	app.Put("/tenants/:id/config/concurrency", authenticated, admin, a.resize)
	app.Post("/tenants/:id/suspend", authenticated, admin, rest.NoBody, a.suspend)
	app.Post("/tenants/:id/resume", authenticated, admin, rest.NoBody, a.resume)
	app.Delete("/tenants/:id", authenticated, admin, rest.NoBody, a.delete)
	app.Get("/audit-events", authenticated, admin, unbound, rest.NoBody, a.listAuditEvents)
	server.Swagger(document)
}

// endWaits answers all requests that wait, now and from now on, so that they do not hold up a stop.
func (a *api) endWaits() { a.stop.Do(func() { close(a.stopping) }) }

// CreateTenant is the body of POST /tenants.
type CreateTenant struct {
	// Without one the tenant gets a new id. An id is used once: that of a deleted tenant is refused.
	ID *uuid.UUID `json:"id,omitempty" swaggertype:"string" format:"uuid" extensions:"x-nullable" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	// 1 to 200 characters that can be seen: no controls, no line breaks, and nothing that is invisible or changes the direction of the text. White space around it is cut off. It is kept as it is otherwise, and need not be unique.
	Name *string `json:"name" validate:"required" example:"ACME, production" minLength:"1" maxLength:"200"`
	// Concurrent writers. Default and maximum are set by the installation.
	Workers *int `json:"workers,omitempty" example:"3" minimum:"1" extensions:"x-nullable"`
	// How often a message is tried before it becomes a dead letter.
	MaxAttempts *int `json:"max_attempts,omitempty" example:"8" minimum:"1" maximum:"100" extensions:"x-nullable"`
}

// create adds a tenant.
//
//	@summary		Create a tenant
//	@description	Its queue, its partition and its consumer follow without a further request. With `Prefer: wait=10` it is answered when the consumer runs, or when the wait is over. An answer that got lost can be repeated with the same `id`: 409 `tenant_exists` then means that the first try was successful.
//	@tags			tenants
//	@security		Bearer
//	@param			tenant	body		CreateTenant	true	"the tenant"
//	@param			Prefer	header		string			false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		201		{object}	Tenant
//	@header			201		{string}	Location			"the path of the tenant"
//	@header			201		{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400		{object}	problem.Problem	"`malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `validation_failed`, `malformed_encoding`: errors[] names the field"
//	@failure		409		{object}	problem.Problem	"`tenant_exists`, or `tenant_id_retired`"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			createTenant
//	@router			/tenants [post]
func (a *api) create(c *fiber.Ctx) error {
	var body CreateTenant
	if err := rest.UnknownQuery(c); err != nil {
		return err
	}
	if err := rest.DecodeJSON(c, &body); err != nil {
		return err
	}
	draft := tenant.Draft{ID: body.ID, Workers: body.Workers, MaxAttempts: body.MaxAttempts}
	if body.Name != nil {
		draft.Name = *body.Name
	}
	t, err := a.policy.New(draft)
	if err != nil {
		return asProblem(err)
	}
	if err := a.registry.Create(c.UserContext(), &t, auth.Origin(c)); err != nil {
		return asProblem(err)
	}
	c.Location("/tenants/" + t.ID.String())
	return a.respond(c, http.StatusCreated, t)
}

// get shows one tenant.
//
//	@summary		Show a tenant
//	@description	What is desired of it and what is observed. Also for the tenant's own token, with any scope.
//	@tags			tenants
//	@security		Bearer
//	@param			id	path		string	true	"id of the tenant"	format(uuid)
//	@success		200	{object}	Tenant
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		503	{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			getTenant
//	@router			/tenants/{id} [get]
func (a *api) get(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	t, err := a.registry.Find(c.UserContext(), id)
	if err != nil {
		return asProblem(err)
	}
	return c.JSON(render(t, a.status(t)))
}

// Concurrency is the body of PUT /tenants/{id}/config/concurrency.
type Concurrency struct {
	// Concurrent writers, up to the maximum of the installation.
	Workers *int `json:"workers" validate:"required" example:"5" minimum:"1"`
}

// resize changes the number of workers.
//
//	@summary		Change the number of workers
//	@description	The number becomes the tenant's own, as by a PATCH of its limits. It is applied to the running consumer without stopping it.
//	@tags			tenants
//	@security		Bearer
//	@param			id			path		string		true	"id of the tenant"	format(uuid)
//	@param			concurrency	body		Concurrency	true	"the number of workers"
//	@param			Prefer		header		string		false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		200			{object}	Tenant
//	@header			200			{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400			{object}	problem.Problem	"`malformed_json`, `unknown_field`, `duplicate_field`, `wrong_type`, `invalid_string`, `invalid_uuid`, `validation_failed`, `malformed_encoding`: errors[] names the field"
//	@failure		404			{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409			{object}	problem.Problem	"`tenant_deleting`"
//	@failure		503			{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			setTenantConcurrency
//	@router			/tenants/{id}/config/concurrency [put]
func (a *api) resize(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	var body Concurrency
	if err := rest.DecodeJSON(c, &body); err != nil {
		return err
	}
	if body.Workers == nil {
		return invalid().WithField("workers", "must be given")
	}
	if err := a.policy.CheckWorkers(*body.Workers); err != nil {
		return asProblem(err)
	}
	return a.change(c, id, audit.TenantResized, func(t *tenant.Tenant) error { return t.Resize(*body.Workers) })
}

// suspend stops the consumption.
//
//	@summary		Suspend a tenant
//	@description	Messages are still accepted and kept in the queue, up to its limit; none is consumed. Suspending a suspended tenant changes nothing.
//	@tags			tenants
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			Prefer	header		string	false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		200		{object}	Tenant
//	@header		200		{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409		{object}	problem.Problem	"`tenant_deleting`"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			suspendTenant
//	@router			/tenants/{id}/suspend [post]
func (a *api) suspend(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	return a.change(c, id, audit.TenantSuspended, (*tenant.Tenant).Suspend)
}

// resume starts the consumption again.
//
//	@summary		Resume a suspended tenant
//	@description	What is in the queue is consumed, and what comes. Resuming an active tenant changes nothing.
//	@tags			tenants
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			Prefer	header		string	false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		200		{object}	Tenant
//	@header		200		{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		409		{object}	problem.Problem	"`tenant_deleting`"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			resumeTenant
//	@router			/tenants/{id}/resume [post]
func (a *api) resume(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	return a.change(c, id, audit.TenantResumed, (*tenant.Tenant).Resume)
}

// change changes a tenant and answers 200.
func (a *api) change(c *fiber.Ctx, id uuid.UUID, action audit.Action, change func(*tenant.Tenant) error) error {
	t, err := a.registry.Change(c.UserContext(), id, auth.Origin(c), action, change)
	if err != nil {
		return asProblem(err)
	}
	return a.respond(c, http.StatusOK, t)
}

// delete begins the teardown.
//
//	@summary		Delete a tenant
//	@description	Its consumer, its queue and its partition disappear, with all messages in them; then it is gone (404), and its id is never used again. Deleting it once more while that is going on changes nothing. With `Prefer: wait=10` it is answered when it is gone (`state` is `deleted` then), or when the wait is over.
//	@tags			tenants
//	@security		Bearer
//	@param			id		path		string	true	"id of the tenant"	format(uuid)
//	@param			Prefer	header		string	false	"wait=n: respond once the change has taken effect; wait at most n seconds"	example(wait=10)
//	@success		202		{object}	Tenant
//	@header			202		{string}	Preference-Applied	"wait=n, if that was asked for"
//	@failure		400		{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404		{object}	problem.Problem	"`tenant_not_found`: unknown, deleted, or not that of the token"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			deleteTenant
//	@router			/tenants/{id} [delete]
func (a *api) delete(c *fiber.Ctx) error {
	id, err := target(c)
	if err != nil {
		return err
	}
	t, err := a.registry.Change(c.UserContext(), id, auth.Origin(c), audit.TenantDeleted, (*tenant.Tenant).Delete)
	if err != nil {
		return asProblem(err)
	}
	return a.respond(c, http.StatusAccepted, t)
}

func (a *api) status(t tenant.Tenant) tenant.Status {
	return tenant.Summarize(t.State, a.reports.Of(t.ID))
}

// respond answers with t, after it has waited for what the client prefers to wait for.
func (a *api) respond(c *fiber.Ctx, status int, t tenant.Tenant) error {
	t, err := a.preferred(c, t)
	if err != nil {
		return err
	}
	return c.Status(status).JSON(render(t, a.status(t)))
}

// preferred waits for what the client prefers to wait for, and returns t as it is then.
func (a *api) preferred(c *fiber.Ctx, t tenant.Tenant) (tenant.Tenant, error) {
	wait, asked, err := rest.PreferWait(c)
	if err != nil || !asked {
		return t, err
	}
	c.Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
	return a.await(c.UserContext(), wait, t), nil
}

// await waits until what t wants has come about, and returns t, or until the wait is over. Of a tenant that was to be
// deleted it returns the tombstone.
func (a *api) await(ctx context.Context, wait time.Duration, t tenant.Tenant) tenant.Tenant {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	changed, unsubscribe := a.reports.Subscribe(t.ID)
	defer unsubscribe()
	for {
		if t.State == tenant.Deleting {
			_, err := a.registry.Find(ctx, t.ID)
			if errors.Is(err, tenant.ErrNotFound) {
				t.State = tenant.Deleted
				return t
			}
		} else if a.status(t).Reached(t) {
			return t
		}
		select {
		case <-ctx.Done():
			return t
		case <-a.stopping:
			return t
		case <-changed:
		}
	}
}
