// Package api is the HTTP API of query-service: pages of a tenant's messages, and one message by its id.
//
// It reads what was asked for, strictly, and renders what the store gives. What a client may rely on is the contract of
// the platform: pages in the reading order, a cursor on every page, payloads passed on byte for byte as PostgreSQL
// gives them. Every request acts on the one tenant that its token allows.
package api

import (
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// document is the OpenAPI document, made by `make generate` from the comments of the handlers.
//
//go:embed swagger.json
var document []byte

// retryAfter is when a client is asked to come back after the database could not be read. A restart of PostgreSQL takes
// a few seconds.
const retryAfter = 2 * time.Second

type api struct{ reader *store.Reader }

// Mount adds the routes of the API, and its Swagger UI, to server.
func Mount(server *rest.Server, verifier *auth.Verifier, reader *store.Reader) {
	a := api{reader: reader}
	authenticate, mayRead := verifier.Authenticate(), auth.Require(auth.ScopeMessagesRead)
	server.App().Get("/messages", authenticate, mayRead, rest.NoBody, a.list)
	server.App().Get("/messages/:id", authenticate, mayRead, rest.NoBody, a.one)
	server.Swagger(document)
}

// list answers a page.
//
//	@Summary		Read a page of messages
//	@Description	Messages of the tenant in the order in which they were stored, or in the exact reverse of it. Following next_cursor in ascending order meets every message exactly once, also while messages are being stored; created_at, which has six digits of fraction, may step back a little between neighbours. A page ends at the limit, at 8 MiB, or where there are no more messages yet. next_cursor is on every page, so that a reader can come back with it for what is new. Where retention has removed messages behind the cursor before they were read, the page goes on with the oldest one that is kept and says `"gap": true`, once: its next_cursor lies behind what was removed. In descending order that is the end of the list. A message that was erased by its id is no gap. Messages become visible here once no transaction is open that began writing before theirs, usually within milliseconds.
//	@Tags			messages
//	@Produce		json
//	@Security		Bearer
//	@Param			cursor			query		string		false	"next_cursor of the page before, of the same tenant and order"
//	@Param			limit			query		int			false	"messages of a page at most"	minimum(1)	maximum(1000)	default(100)
//	@Param			order			query		string		false	"asc: oldest first"					Enums(asc, desc)	default(asc)
//	@Param			created_after	query		string		false	"only messages created at this time (RFC 3339) or later"	format(date-time)
//	@Param			created_before	query		string		false	"only messages created before this time (RFC 3339)"			format(date-time)
//	@Param			tenant_id		query		string		false	"the tenant, for a token that is not bound to one"			format(uuid)
//	@Success		200				{object}	pageDocument
//	@Failure		400				{object}	problem.Problem	"`bad_cursor`, `invalid_limit`, `invalid_order`, `invalid_time`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@Failure		503				{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@ID			listMessages
//	@Router			/messages [get]
func (a api) list(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "cursor", "limit", "order", "created_after", "created_before", "tenant_id"); err != nil {
		return err
	}
	query, err := pageQuery(c)
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	// Straight into the buffer of the response, which fasthttp uses again for later ones.
	body, first := appendPageStart(c.Response().SwapBody(nil)[:0]), true
	page, err := a.reader.Page(ctx, query, func(m store.Message) {
		if !first {
			body = append(body, ',')
		}
		body, first = appendMessage(body, query.Tenant, m), false
	})
	if err != nil {
		return unavailable(err)
	}
	next := query.After
	if page.Last != nil {
		next = page.Last
	}
	c.Response().SwapBody(appendPageEnd(body, encodeCursor(query.Tenant, query.Order, next), page))
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return nil
}

// one answers a message.
//
//	@Summary		Read a message by its id
//	@Description	The message as soon as it is stored. 404 not_stored says that it is not stored now: accepted and still on its way, a dead letter, removed, or never seen.
//	@Tags			messages
//	@Produce		json
//	@Security		Bearer
//	@Param			id			path		string	true	"id of the message"	format(uuid)
//	@Param			tenant_id	query		string	false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@Success		200			{object}	messageDocument
//	@Failure		400			{object}	problem.Problem	"`invalid_uuid`, `unknown_parameter`, `unexpected_body`"
//	@Failure		404			{object}	problem.Problem	"`not_stored`"
//	@Failure		503			{object}	problem.Problem	"`database_unavailable`: try again after the time in Retry-After"
//	@ID			getMessage
//	@Router			/messages/{id} [get]
func (a api) one(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "tenant_id"); err != nil {
		return err
	}
	tenant, err := auth.Tenant(c)
	if err != nil {
		return err
	}
	id, err := rest.UUID("id", c.Params("id"))
	if err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	message, err := a.reader.Message(ctx, tenant, id)
	if errors.Is(err, store.ErrNotStored) {
		return problem.New(http.StatusNotFound, "not_stored",
			"no message of this id is stored: it was accepted and is not stored yet, became a dead letter, was removed, or was never seen")
	}
	if err != nil {
		return unavailable(err)
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return c.Send(appendMessage(nil, tenant, message))
}

// pageQuery reads the parameters of a page.
func pageQuery(c *fiber.Ctx) (store.Query, error) {
	tenant, err := auth.Tenant(c)
	if err != nil {
		return store.Query{}, err
	}
	query := store.Query{Tenant: tenant}
	if query.Limit, err = rest.Limit(c); err != nil {
		return store.Query{}, err
	}
	if query.Order, err = orderParameter(c); err != nil {
		return store.Query{}, err
	}
	if query.CreatedFrom, err = timeParameter(c, "created_after"); err != nil {
		return store.Query{}, err
	}
	if query.CreatedBefore, err = timeParameter(c, "created_before"); err != nil {
		return store.Query{}, err
	}
	if c.Context().QueryArgs().Has("cursor") {
		query.Resumed = true
		query.After, err = decodeCursor(c.Query("cursor"), tenant, query.Order)
	}
	return query, err
}

// orderParameter reads the order, which is ascending unless another is named.
func orderParameter(c *fiber.Ctx) (store.Order, error) {
	if !c.Context().QueryArgs().Has("order") {
		return store.Ascending, nil
	}
	switch c.Query("order") {
	case "asc":
		return store.Ascending, nil
	case "desc":
		return store.Descending, nil
	default:
		return 0, problem.New(http.StatusBadRequest, "invalid_order", "there is no such order").
			WithField("order", "must be asc or desc")
	}
}

// timeParameter reads a time; nil if it is absent.
func timeParameter(c *fiber.Ctx, name string) (*time.Time, error) {
	t, given, err := rest.Time(c, name)
	if err != nil || !given {
		return nil, err //nolint:wrapcheck // a problem, or no limit
	}
	return &t, nil
}

// unavailable is the answer to every error of the store. By then the request has proved valid, and nothing that a
// client asks for can make a read fail: what is wrong is with the database or with the way to it.
func unavailable(err error) error {
	p := problem.New(http.StatusServiceUnavailable, "database_unavailable", "messages can't be read at the moment").
		WithRetryAfter(retryAfter)
	return fmt.Errorf("%w: %w", p, err)
}

// messageDocument is a message as the OpenAPI document describes it; [appendMessage] writes it.
type messageDocument struct {
	ID        uuid.UUID `json:"id" format:"uuid"`
	TenantID  uuid.UUID `json:"tenant_id" format:"uuid"`
	Payload   any       `json:"payload" extensions:"x-nullable"` // any JSON value
	CreatedAt time.Time `json:"created_at" format:"date-time"`
} // @name Message

// pageDocument is a page as the OpenAPI document describes it; [api.list] writes it.
type pageDocument struct {
	Data       []messageDocument `json:"data"`
	NextCursor string            `json:"next_cursor"`
	HasMore    bool              `json:"has_more"`
	// True where retention has removed messages that the reader was still to be given, behind its cursor: the page goes on with the oldest one that is kept. Absent otherwise.
	Gap bool `json:"gap,omitempty"`
} // @name MessagePage
