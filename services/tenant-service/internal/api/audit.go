package api

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest/cursor"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/auditlog"
)

// AuditEvent is a change: who has made it, when, and how it was before and after.
type AuditEvent struct {
	ID string `json:"id" format:"uuid" example:"0197a3c2-9a41-7d06-8f1e-2b8a4e0c9d11"`
	// Whose tenant was changed; null where no single one is concerned.
	TenantID *uuid.UUID     `json:"tenant_id" swaggertype:"string" format:"uuid" extensions:"x-nullable" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	At       rest.Timestamp `json:"at" swaggertype:"string" format:"date-time" example:"2026-01-31T12:00:00.123456Z"`
	// The claim `sub` of the token, up to 255 bytes. `system` without a request_id: the platform itself.
	Actor string `json:"actor" example:"alice@example.com"`
	// The claim `jti` of the token, up to 255 bytes; absent if it has none.
	TokenID string `json:"token_id,omitempty" example:"6f1c2b1e"`
	Action  string `json:"action" example:"tenant.resized" enums:"tenant.created,tenant.resized,tenant.suspended,tenant.resumed,tenant.deleted,tenant.retired,tenant.generation_raised,config.changed,token.issued,token.revoked,credential.issued,credential.revoked,message.erased,deadletter.replayed,deadletter.dropped,deadletters.replayed,deadletters.dropped"`
	// The path of what was changed.
	Target string `json:"target" example:"/tenants/0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	// An object of what has changed, as it was; null if there was nothing. Never a secret or a payload.
	Before json.RawMessage `json:"before" swaggertype:"object" extensions:"x-nullable"`
	// An object of what has changed, as it is; null if nothing is left.
	After json.RawMessage `json:"after" swaggertype:"object" extensions:"x-nullable"`
	// The X-Request-ID of the request; absent where there was none.
	RequestID string `json:"request_id,omitempty" example:"7c1e4f0a-3b1d-4c55-9a51-0a4b7b6f2f10"`
} // @name AuditEvent

// AuditPage is a part of the audit log.
type AuditPage struct {
	Data []AuditEvent `json:"data"`
	// Send it as `cursor`, with the same filters, to get what follows. It is given on every page, the last one included.
	NextCursor string `json:"next_cursor"`
	// Whether there is more right now.
	HasMore bool `json:"has_more" example:"false"`
} // @name AuditEventPage

// listAuditEvents pages through the audit log.
//
//	@summary		List audit events
//	@description	Who has changed what: tenants, their messages and their dead letters. In the order in which the changes were made (`at` may step back a little between neighbours); whoever follows `next_cursor` meets every event exactly once. Events stay when their tenant is deleted, until they are older than the installation keeps them. A request that replays or drops many dead letters has an event for each step, with its count and the same `request_id`.
//	@tags			audit
//	@security		Bearer
//	@param			tenant_id	query		string	false	"only those of this tenant"	format(uuid)
//	@param			action		query		string	false	"only those of this action"	Enums(tenant.created, tenant.resized, tenant.suspended, tenant.resumed, tenant.deleted, tenant.retired, tenant.generation_raised, config.changed, token.issued, token.revoked, credential.issued, credential.revoked, message.erased, deadletter.replayed, deadletter.dropped, deadletters.replayed, deadletters.dropped)
//	@param			since		query		string	false	"only those at this time (RFC 3339) or later"	format(date-time)
//	@param			until		query		string	false	"only those before this time (RFC 3339)"	format(date-time)
//	@param			cursor		query		string	false	"next_cursor of another page with the same filters; without it the list begins at its start"
//	@param			limit		query		int		false	"events a page"	minimum(1)	maximum(1000)	default(100)
//	@success		200			{object}	AuditPage
//	@failure		400			{object}	problem.Problem	"`bad_cursor`, `invalid_limit`, `invalid_uuid`, `invalid_action`, `invalid_time`, `unknown_parameter`, `repeated_parameter`, `unexpected_body`"
//	@failure		503			{object}	problem.Problem	"`registry_unavailable`: try again after the time in Retry-After"
//	@id			listAuditEvents
//	@router			/audit-events [get]
func (a *api) listAuditEvents(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "tenant_id", "action", "since", "until", "cursor", "limit"); err != nil {
		return err
	}
	filter, err := auditFilter(c)
	if err != nil {
		return err
	}
	limit, err := rest.Limit(c)
	if err != nil {
		return err
	}
	var at auditlog.Position
	if c.Context().QueryArgs().Has("cursor") {
		if at, err = decodeAuditCursor(c.Query("cursor"), filter); err != nil {
			return err
		}
	}
	events, more, err := a.events.Page(c.UserContext(), filter, at, limit)
	if err != nil {
		return asProblem(err)
	}
	page := AuditPage{Data: make([]AuditEvent, len(events)), HasMore: more}
	for i, e := range events {
		page.Data[i] = renderEvent(e)
		at = e.Position
	}
	page.NextCursor = encodeAuditCursor(at, filter)
	return c.JSON(page)
}

// auditFilter reads which events are meant.
func auditFilter(c *fiber.Ctx) (filter auditlog.Filter, err error) {
	if text := c.Query("tenant_id"); text != "" {
		if filter.TenantID, err = rest.UUID("tenant_id", text); err != nil {
			return filter, err
		}
		rest.SetTenant(c, filter.TenantID)
	}
	if text := c.Query("action"); text != "" {
		if !slices.Contains(audit.Actions(), audit.Action(text)) {
			return filter, problem.New(http.StatusBadRequest, "invalid_action", "there is no such action").
				WithField("action", fmt.Sprintf("must be one of %v", audit.Actions()))
		}
		filter.Action = audit.Action(text)
	}
	if filter.Since, err = timeParameter(c, "since"); err != nil {
		return filter, err
	}
	if filter.Until, err = timeParameter(c, "until"); err != nil {
		return filter, err
	}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && !filter.Until.After(filter.Since) {
		return filter, problem.New(http.StatusBadRequest, "invalid_time", "since and until leave no time between them").
			WithField("until", "must be later than since")
	}
	return filter, nil
}

// timeParameter reads a time; the zero time, which is no bound, if it is absent.
func timeParameter(c *fiber.Ctx, name string) (time.Time, error) {
	t, given, err := rest.Time(c, name)
	if given && t.IsZero() {
		t = t.Add(time.Microsecond) // the first moment of year 1 is a bound like any other, and nothing was there before it
	}
	return t, err //nolint:wrapcheck // a problem
}

// auditCursor is the position of the last event of a page, and what the list was filtered by; the position is zero at the start.
type auditCursor struct {
	Epoch  int32
	Xid    uint64
	ID     uuid.UUID
	Filter uint64 // see [fingerprint]
}

func auditCursorFormat() cursor.Format[auditCursor] { return cursor.Format[auditCursor]{Version: 1} }

func encodeAuditCursor(p auditlog.Position, filter auditlog.Filter) string {
	return auditCursorFormat().Encode(auditCursor{Epoch: p.Epoch, Xid: p.Xid, ID: p.ID, Filter: fingerprint(filter)})
}

// decodeAuditCursor takes exactly what was encoded for filter: by a cursor of another list, events of this one would be passed. Anything
// else is 400 bad_cursor.
func decodeAuditCursor(text string, filter auditlog.Filter) (auditlog.Position, error) {
	fields, err := auditCursorFormat().Decode(text)
	switch {
	case err != nil:
		return auditlog.Position{}, err
	case fields.Filter != fingerprint(filter):
		return auditlog.Position{}, cursor.Problem("the cursor belongs to another filter")
	}
	return auditlog.Position{Epoch: fields.Epoch, Xid: fields.Xid, ID: fields.ID}, nil
}

// fingerprint tells filters apart.
func fingerprint(filter auditlog.Filter) uint64 {
	hash := fnv.New64a()
	_, _ = fmt.Fprint(hash, filter.TenantID, "\n", filter.Action, "\n", cursor.Micros(filter.Since), "\n", cursor.Micros(filter.Until)) // never fails
	return hash.Sum64()
}

func renderEvent(e auditlog.Recorded) AuditEvent {
	return AuditEvent{
		ID: e.Position.ID.String(), TenantID: e.TenantID, At: rest.Timestamp{Time: e.At}, Actor: e.Origin.Actor, TokenID: e.Origin.TokenID,
		Action: string(e.Action), Target: e.Target, Before: e.Before, After: e.After, RequestID: e.Origin.RequestID,
	}
}
