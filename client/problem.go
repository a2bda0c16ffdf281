package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Code is the stable word by which a program recognizes a [Problem]. The constants are those that a program is likely to
// act on; a service may send others. A Code is an error, so that errors.Is(err, ErrQueueFull) finds it.
type Code string //nolint:errname // a code first; its constants are named as errors are

// Error is the code itself.
func (c Code) Error() string { return string(c) }

// Codes about tenants.
const (
	ErrTenantNotFound     Code = "tenant_not_found"    // unknown, deleted, or not that of the token
	ErrTenantExists       Code = "tenant_exists"       // there is another tenant with this id
	ErrTenantRetired      Code = "tenant_id_retired"   // the id belonged to a tenant that was deleted, and is never used again
	ErrTenantDeleting     Code = "tenant_deleting"     // it is being deleted and cannot be changed or published to
	ErrTenantProvisioning Code = "tenant_provisioning" // its queue is being made; repeated
	ErrTenantRequired     Code = "tenant_id_required"  // an administrator's token needs [WithTenant]
	ErrGenerationMismatch Code = "generation_mismatch" // the tenant has been changed since, see [IfGeneration]
)

// Codes about AMQP credentials.
const (
	ErrCredentialNotFound          Code = "credential_not_found"          // unknown, revoked, or another tenant's
	ErrTooManyCredentials          Code = "too_many_credentials"          // a tenant has at most 100
	ErrNoBrokerManagement          Code = "no_broker_management"          // the installation has no management API of the broker
	ErrBrokerManagementUnavailable Code = "broker_management_unavailable" // it cannot be reached at the moment; repeated
)

// Codes about messages and payloads.
const (
	ErrNotStored          Code = "not_stored"         // accepted and not stored yet, a dead letter, removed, or never seen
	ErrPayloadTooLarge    Code = "payload_too_large"  // over the limit of the installation, 1 MiB by default, or of the tenant
	ErrPayloadTooDeep     Code = "payload_too_deep"   // nested over 200 levels
	ErrPayloadUnstorable  Code = "payload_unstorable" // \u0000, a lone surrogate, a number of over 400 digits
	ErrPayloadNotJSON     Code = "payload_not_json"   // of a dead letter that is replayed as it is
	ErrBodyTooLarge       Code = "body_too_large"     // the request is over the limit
	ErrBadCursor          Code = "bad_cursor"         // a cursor of another tenant, order or request, or none at all
	ErrDeadLetterNotFound Code = "dead_letter_not_found"
	ErrReplayRunning      Code = "replay_running" // one replay of many at a time; repeated
	ErrRateLimited        Code = "rate_limited"   // over the tenant's limit of messages or bytes a second; repeated
)

// Codes of a broker, a database or a service that is away; all are repeated.
const (
	ErrBrokerBlocked       Code = "broker_blocked"       // an alarm of the broker
	ErrBrokerUnavailable   Code = "broker_unavailable"   // no connection to the broker, or it was lost
	ErrConfirmTimeout      Code = "confirm_timeout"      // the broker has not confirmed in time
	ErrQueueFull           Code = "queue_full"           // the tenant's queue holds as much as it may
	ErrQueueMissing        Code = "queue_missing"        // the tenant's queue is not there at the moment
	ErrQueueUnanswered     Code = "queue_unanswered"     // the tenant's queue does not answer, the broker does
	ErrDatabaseUnavailable Code = "database_unavailable" // messages or dead letters cannot be read at the moment
	ErrRegistryUnavailable Code = "registry_unavailable" // tenants cannot be read or changed at the moment
)

// Codes about tokens, and of a fault in a service.
const (
	ErrMissingToken      Code = "missing_token"
	ErrInvalidToken      Code = "invalid_token"      // expired, of another issuer, or not genuine
	ErrInsufficientScope Code = "insufficient_scope" // the token may not do this
	ErrTenantMismatch    Code = "tenant_mismatch"    // the token is bound to another tenant
	ErrTokenNotFound     Code = "token_not_found"    // unknown, or it has expired
	ErrNoSigningKey      Code = "no_signing_key"     // the installation issues no tokens
	ErrTooManyTokens     Code = "too_many_tokens"    // 1,000 of the tenant are neither expired nor revoked
	ErrInternal          Code = "internal"           // a fault of the service; the request id leads to its cause
)

// Problem is the answer of a service that refuses a request, or a line of a batch (RFC 9457).
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	// Status is the HTTP status.
	Status int
	// Code is empty if the answer came without a problem document, from a proxy for instance.
	Code Code
	// Detail is a sentence for people. Without a problem document it is the beginning of what came instead.
	Detail string
	// RequestID is what to look for in the logs of the service, and what to quote. A line of a batch has none.
	RequestID string
	// RetryAfter is how long the service asks to wait, 0 if it does not.
	RetryAfter time.Duration
	// Errors names the fields that are at fault.
	Errors []FieldError
}

// FieldError says what is wrong with one field, parameter or header.
type FieldError struct {
	// Field is a path such as "items[3].id", or a name.
	Field string `json:"field"`
	// Detail completes the sentence that Field begins: "must be a string".
	Detail string `json:"detail"`
}

// Error has everything but RetryAfter.
func (p *Problem) Error() string {
	var text strings.Builder
	text.WriteString(strconv.Itoa(p.Status))
	if p.Code != "" {
		text.WriteString(" " + string(p.Code))
	}
	if p.Detail != "" {
		text.WriteString(": " + p.Detail)
	}
	for _, e := range p.Errors {
		fmt.Fprintf(&text, "; %s %s", e.Field, e.Detail)
	}
	if p.RequestID != "" {
		fmt.Fprintf(&text, " (request %s)", p.RequestID)
	}
	return text.String()
}

// Is reports whether target is the code of p.
func (p *Problem) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == p.Code
}

// Retryable reports whether the same request may succeed later.
func (p *Problem) Retryable() bool {
	switch p.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return p.RetryAfter > 0
	}
}

// problem is the document that a Problem comes as.
type problem struct {
	Code      Code         `json:"code"`
	Title     string       `json:"title"`
	Detail    string       `json:"detail"`
	RequestID string       `json:"request_id"`
	Errors    []FieldError `json:"errors"`
}

// readProblem makes a Problem of an answer, whatever came.
func readProblem(response *http.Response, body []byte) *Problem {
	p := &Problem{Status: response.StatusCode, RetryAfter: retryAfter(response.Header)}
	var document problem
	if json.Unmarshal(body, &document) != nil || document.Code == "" && document.Detail == "" && document.Title == "" {
		p.Detail = excerpt(body)
	} else {
		p.Code, p.Detail, p.RequestID, p.Errors = document.Code, document.Detail, document.RequestID, document.Errors
		if p.Detail == "" {
			p.Detail = document.Title
		}
	}
	if p.RequestID == "" {
		p.RequestID = excerpt([]byte(response.Header.Get("X-Request-ID")))
	}
	return p
}

// excerptLength is how many bytes of an answer that cannot be understood are shown in an error.
const excerptLength = 200

// excerpt is the beginning of an answer as one line of text.
func excerpt(body []byte) string {
	text, more := body, ""
	if len(text) > excerptLength {
		text, more = text[:excerptLength], "…"
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "\ufffd")), " ") + more
}

// maxRetryAfter keeps a number of seconds within what a duration holds.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header Retry-After (RFC 9110, section 10.2.3): seconds, or a date, which is compared with the date
// of the answer so that a clock that is off does no harm. What cannot be understood is as if absent.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
