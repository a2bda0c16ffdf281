package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// list pages through the tenants.
//
//	@summary		List the tenants
//	@description	In the order of their creation, without deleted ones. A cursor belongs to the `q` and `state` of its list. A page that looks for a part of a name looks at 10,000 tenants at the most: it may have fewer than `limit` tenants, or none, although `has_more` is true.
//	@tags			tenants
//	@security		Bearer
//	@param			cursor	query		string	false	"next_cursor of another page; without it the list begins at its start"
//	@param			limit	query		int		false	"tenants a page"	minimum(1)	maximum(1000)	default(100)
//	@param			q		query		string	false	"only those with this in their name, in upper or lower case; a UUID is the id of one tenant"	maxLength(200)
//	@param			state	query		string	false	"only those of this desired state"	Enums(active, suspended, deleting)
//	@success		200		{object}	Page
//	@failure		400		{object}	problem.Problem	"`bad_cursor`, `invalid_limit`, `invalid_state`, `validation_failed`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		503		{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			listTenants
//	@router			/tenants [get]
func (a *api) list(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "cursor", "limit", "q", "state"); err != nil {
		return err
	}
	limit, err := rest.Limit(c)
	if err != nil {
		return err
	}
	filter, err := selection(c)
	if err != nil {
		return err
	}
	var at tenant.Position
	if c.Context().QueryArgs().Has("cursor") {
		if at, err = decodeFiltered(c.Query("cursor"), filter); err != nil {
			return err
		}
	}
	tenants, next, more, err := a.registry.List(c.UserContext(), filter, at, limit)
	if err != nil {
		return asProblem(err)
	}
	page := Page{Data: make([]Tenant, len(tenants)), NextCursor: encodeFiltered(next, filter), HasMore: more}
	for i, t := range tenants {
		page.Data[i] = render(t, a.status(t))
	}
	return c.JSON(page)
}

// selection reads the filter of a list.
func selection(c *fiber.Ctx) (filter tenant.Filter, err error) {
	q := c.Query("q")
	switch {
	case !utf8.ValidString(q), strings.ContainsFunc(q, unicode.IsControl):
		return filter, invalid().WithField("q", "must be text without control characters")
	case utf8.RuneCountInString(q) > contract.MaxNameLength:
		return filter, invalid().WithField("q", fmt.Sprintf("must have %d characters at the most", contract.MaxNameLength))
	}
	if filter.ID, err = rest.UUID("q", q); err != nil {
		filter.Name = q
	}
	filter.State = tenant.State(c.Query("state"))
	if filter.State != "" && !slices.Contains([]tenant.State{tenant.Active, tenant.Suspended, tenant.Deleting}, filter.State) {
		return filter, problem.New(http.StatusBadRequest, "invalid_state", "there is no such state of a tenant in the list").
			WithField("state", "must be one of active, suspended, deleting")
	}
	return filter, nil
}
