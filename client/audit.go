package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// AuditEvent is a change: who has made it, when, and how it was before and after.
type AuditEvent struct {
	ID ID `json:"id"`
	// TenantID is whose tenant was changed, zero where no single one is concerned.
	TenantID ID `json:"tenant_id"`
	// At may step back a little between neighbours of the list.
	At time.Time `json:"at"`
	// Actor is the subject of the token, TokenID its id, if it has one. What the platform does itself has the actor "system" and
	// no RequestID.
	Actor   string `json:"actor"`
	TokenID string `json:"token_id"`
	// Action is tenant.created, tenant.resized, tenant.suspended, tenant.resumed, tenant.deleted (asked for), tenant.retired (nothing
	// is left), tenant.generation_raised, config.changed, token.issued, token.revoked, credential.issued, credential.revoked,
	// message.erased, deadletter.replayed, deadletter.dropped, or, of a step of a request about many, deadletters.replayed or deadletters.dropped;
	// later versions may have more.
	Action string `json:"action"`
	// Target is the path of what was changed.
	Target string `json:"target"`
	// Before and After are JSON objects of what has changed, nil where there was, or is, nothing.
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	// RequestID is the one of the answer to the request, in [Problem.RequestID] for example.
	RequestID string `json:"request_id"`
}

// AuditQuery says which audit events are listed.
type AuditQuery struct {
	// TenantID and Action are those of the events. Zero: all.
	TenantID ID
	Action   string
	// Since and Until bound the time: at Since or later, and before Until. Zero is no bound.
	Since, Until time.Time
	// Cursor is where another list with the same filters stopped; empty is the start.
	Cursor string
	// Limit is the number of events of a page, up to 1,000. Default: 100.
	Limit int
}

// AuditEvents lists what was changed, in the order of the changes. Whoever follows the list meets every event exactly once. It needs
// the token of an administrator that is not bound to a tenant, and [WithTenant] does not narrow it: TenantID does.
func (c *Client) AuditEvents(q AuditQuery) *Pager[AuditEvent] {
	return &Pager[AuditEvent]{cursor: q.Cursor, fetch: func(ctx context.Context, cursor string, untilDone bool) (page Page[AuditEvent], err error) {
		query := url.Values{}
		setPage(query, cursor, q.Limit)
		if !q.TenantID.IsZero() {
			query.Set("tenant_id", q.TenantID.String())
		}
		if q.Action != "" {
			query.Set("action", q.Action)
		}
		setTime(query, "since", q.Since)
		setTime(query, "until", q.Until)
		request := call{service: tenantService, method: http.MethodGet, path: "/audit-events", query: query, untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("list audit events: %w", err)
		}
		for i := range page.Items {
			page.Items[i].Before, page.Items[i].After = orNil(page.Items[i].Before), orNil(page.Items[i].After)
		}
		return page, nil
	}}
}

// orNil is nil for null.
func orNil(object json.RawMessage) json.RawMessage {
	if string(object) == "null" {
		return nil
	}
	return object
}
