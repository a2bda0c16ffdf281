// Package audit is what the services note of changes: who has changed what, when, and how it was before and after. The events are
// rows of the table audit_events, which every role of a service may add to and none may change.
//
// An event is written in the transaction of the change that it is about: there is no change without its event, and no event of a
// change that was rolled back. What an event says never holds a secret or a payload; that is up to whoever makes it.
package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Origin is who asks for a change, and with which request.
type Origin struct {
	// Actor is the claim sub of the token, "" if it has none.
	Actor string
	// TokenID is the claim jti of the token, "" if it has none.
	TokenID string
	// RequestID is that of the answer. Every request has one.
	RequestID string
}

// System is the origin of what the platform does without a request. Unlike a token that names itself so, it has no request id.
func System() Origin { return Origin{Actor: "system"} }

// Action says what was done. Clients are shown these, so they stay.
type Action string

// The actions.
const (
	TenantCreated   Action = "tenant.created"
	TenantResized   Action = "tenant.resized"
	TenantSuspended Action = "tenant.suspended"
	TenantResumed   Action = "tenant.resumed"
	// TenantDeleted: the deletion was asked for. TenantRetired: nothing of the tenant is left.
	TenantDeleted Action = "tenant.deleted"
	TenantRetired Action = "tenant.retired"
	// TenantRaised: the generation was raised above one that is in use and that the registry, restored from a backup, did not know.
	TenantRaised Action = "tenant.generation_raised"
	// ConfigChanged: limits of a tenant.
	ConfigChanged Action = "config.changed"
	// Tokens and AMQP credentials of a tenant. Those of a tenant that is deleted are revoked without an event of their own.
	TokenIssued       Action = "token.issued"
	TokenRevoked      Action = "token.revoked"
	CredentialIssued  Action = "credential.issued"
	CredentialRevoked Action = "credential.revoked"
	// A stored message, by its id.
	MessageErased Action = "message.erased"
	// One dead letter, and a step of a request that is about many.
	DeadLetterReplayed  Action = "deadletter.replayed"
	DeadLetterDropped   Action = "deadletter.dropped"
	DeadLettersReplayed Action = "deadletters.replayed"
	DeadLettersDropped  Action = "deadletters.dropped"
)

// Actions are all actions.
func Actions() []Action {
	return []Action{
		TenantCreated, TenantResized, TenantSuspended, TenantResumed, TenantDeleted, TenantRetired, TenantRaised, ConfigChanged,
		TokenIssued, TokenRevoked, CredentialIssued, CredentialRevoked,
		MessageErased, DeadLetterReplayed, DeadLetterDropped, DeadLettersReplayed, DeadLettersDropped,
	}
}

// Event is one change.
type Event struct {
	Origin
	Action Action
	// TenantID is whose tenant was changed; uuid.Nil: what concerns no single one.
	TenantID uuid.UUID
	// Target is what was changed, as the path of the API that shows it, such as /tenants/0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11.
	Target string
	// Before and After are JSON objects of what has changed, as [Diff] makes them; nil where there was, or is, nothing.
	Before, After any
}

// Insert is the statement that writes an event, with [Event.Arguments] for its parameters, as [postgres.RoleTenant] or
// [postgres.RoleIngest], the latter in a transaction of the event's tenant. The database adds time and place in the order.
//
// [postgres.RoleTenant]: https://pkg.go.dev/github.com/srireskianita/multi-tenant-messaging/libs/postgres#pkg-constants
const Insert = `INSERT INTO audit_events (id, tenant_id, actor, token_id, action, target, before, after, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9)`

// Arguments are the parameters of [Insert]. The error says that Before or After cannot be written as JSON.
func (e Event) Arguments() ([]any, error) {
	id, err := uuid.NewV7() // rises within a process, so that several events of a transaction have their order
	if err != nil {
		return nil, fmt.Errorf("make the id of an audit event: %w", err)
	}
	before, err := object(e.Before)
	if err != nil {
		return nil, err
	}
	after, err := object(e.After)
	if err != nil {
		return nil, err
	}
	tenant := uuid.NullUUID{UUID: e.TenantID, Valid: e.TenantID != uuid.Nil}
	return []any{id, tenant, plain(e.Actor), plain(e.TokenID), string(e.Action), e.Target, before, after, e.RequestID}, nil
}

// object is the JSON of value, nil for none.
func object(value any) (*string, error) {
	if value == nil {
		return nil, nil //nolint:nilnil // NULL
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode an audit event: %w", err)
	}
	text := string(encoded)
	return &text, nil
}

// maxClaim is how many bytes of a claim are kept.
const maxClaim = 255

// plain makes a claim fit for a column: an issuer may put anything into a token, and a request must not fail for that.
func plain(claim string) string {
	claim = strings.ReplaceAll(strings.ToValidUTF8(claim, "\uFFFD"), "\x00", "\uFFFD")
	if len(claim) <= maxClaim {
		return claim
	}
	end := maxClaim
	for !utf8.RuneStart(claim[end]) {
		end--
	}
	return claim[:end]
}
