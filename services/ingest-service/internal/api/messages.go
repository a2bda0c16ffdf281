package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/erase"
)

// eraseMessage removes a stored message.
//
//	@summary		Erase a message
//	@description	The message is removed for good, and so are its dead letters, all that have its id as `message_id`. GET /tenants/{id}/usage counts it as removed. 404 `not_stored` says that there is neither: a message that is still in the tenant's queue, or that waits for another attempt, is not found, and can be erased once it is stored or a dead letter. The id is free again: a message that is published under it, or delivered again by the broker, is stored again.
//	@tags			messages
//	@security		Bearer
//	@param			id			path	string	true	"id of the message"	format(uuid)
//	@param			tenant_id	query	string	false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@success		204
//	@failure		400	{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@failure		404	{object}	problem.Problem	"`not_stored`"
//	@failure		503	{object}	problem.Problem	"`message_uncounted`: it was stored a moment ago and is not counted for the tenant's usage yet; `database_unavailable`. Try again after the time in Retry-After"
//	@id			eraseMessage
//	@router			/messages/{id} [delete]
func (a *api) eraseMessage(c *fiber.Ctx) error {
	tenant, id, err := target(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	if err := a.deps.Eraser.Erase(ctx, tenant, id, auth.Origin(c)); err != nil {
		return eraseProblem(err)
	}
	return c.SendStatus(http.StatusNoContent)
}

// eraseProblem words the errors of [erase.Eraser.Erase]. Whatever is not known is the database's.
func eraseProblem(err error) error {
	var p *problem.Problem
	switch {
	case errors.Is(err, erase.ErrNotStored):
		return problem.New(http.StatusNotFound, "not_stored",
			"no message of this id is stored and none is a dead letter: it was accepted and is not stored yet, was removed, or was never seen")
	case errors.Is(err, erase.ErrUncounted):
		p = problem.New(http.StatusServiceUnavailable, "message_uncounted",
			"the message was stored a moment ago and is not counted for the tenant's usage yet; it was not erased").WithRetryAfter(retryTimeout)
	default:
		p = problem.New(http.StatusServiceUnavailable, "database_unavailable", "messages can't be erased at the moment").
			WithRetryAfter(retryUnavailable)
	}
	return fmt.Errorf("%w: %w", p, err)
}
