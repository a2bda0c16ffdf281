// Package problem describes errors of the HTTP APIs as RFC 9457 problem documents.
//
// A handler returns a *Problem like any other error; the one error handler in package rest turns it
// into the answer. Only what is in a Problem is ever shown to a client: every other error becomes a 500
// whose cause is in the log, under the request id that the client was given.
//
// The machine-readable part is Code, a snake_case word that stays the same while texts may change. Type
// is "about:blank" unless set, which RFC 9457 section 4.2.1 defines as "nothing beyond the status", so
// that Title is the status text.
package problem

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// ContentType is the media type of a problem document (RFC 9457 section 3).
const ContentType = "application/problem+json"

// Problem is an error that may be shown to a client. It is built by New and the With methods and not
// changed after it was returned: package rest copies it before it fills in Instance and RequestID.
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	// Type is a URI reference that identifies the kind of problem, "about:blank" by default.
	Type string `json:"type" example:"about:blank"`
	// Title is the text of the status.
	Title string `json:"title" example:"Bad Request"`
	// Status is the HTTP status, repeated here because a proxy may change the one in the header.
	Status int `json:"status" example:"400"`
	// Detail says what is wrong with this very request, in a sentence for people.
	Detail string `json:"detail,omitempty" example:"the request body has an unknown field"`
	// Instance is the path of the request; its query is left out, since it may hold a cursor.
	Instance string `json:"instance,omitempty" example:"/messages"`
	// Code is the stable word for programs.
	Code string `json:"code" example:"unknown_field"`
	// RequestID is what to look for in the logs.
	RequestID string `json:"request_id,omitempty" validate:"required" example:"0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"`
	// Errors has an entry for each field that is at fault.
	Errors []FieldError `json:"errors,omitempty"`
	// RetryAfter is sent as the header Retry-After (RFC 9110 section 10.2.3), in seconds rounded up.
	// Zero sends none.
	RetryAfter time.Duration `json:"-"`
}

// FieldError says what is wrong with one field, query parameter or header.
type FieldError struct {
	// Field is the JSON path ("items[3].id") or the name of the parameter.
	Field string `json:"field" example:"name"`
	// Detail completes the sentence that the field begins: "must be a string".
	Detail string `json:"detail" example:"must be a string"`
}

// New makes a problem with an HTTP status (400–599), a snake_case code, and a sentence for people.
func New(status int, code, detail string) *Problem {
	return &Problem{
		Type:   "about:blank",
		Title:  http.StatusText(status),
		Status: status,
		Detail: detail,
		Code:   code,
	}
}

// WithField returns a copy of p that also names a field. Copying lets a package keep a problem as a
// constant-like value and still add to it for one request.
func (p *Problem) WithField(field, detail string) *Problem {
	c := p.clone()
	c.Errors = append(c.Errors, FieldError{Field: field, Detail: detail})
	return c
}

// WithRetryAfter returns a copy of p that asks the client to come back after d.
func (p *Problem) WithRetryAfter(d time.Duration) *Problem {
	c := p.clone()
	c.RetryAfter = d
	return c
}

// Located returns a copy of p for one request: its path and its id.
func (p *Problem) Located(instance, requestID string) *Problem {
	c := p.clone()
	c.Instance = instance
	c.RequestID = requestID
	return c
}

// Error is for logs; clients get the document.
func (p *Problem) Error() string {
	var msg strings.Builder
	fmt.Fprintf(&msg, "%d %s", p.Status, p.Code)
	if p.Detail != "" {
		msg.WriteString(": " + p.Detail)
	}
	for _, f := range p.Errors {
		fmt.Fprintf(&msg, "; %s %s", f.Field, f.Detail)
	}
	return msg.String()
}

func (p *Problem) clone() *Problem {
	c := *p
	c.Errors = slices.Clone(p.Errors)
	return &c
}

// As finds the Problem in an error chain. What was wrapped around it is for the log only.
func As(err error) (*Problem, bool) {
	var p *Problem
	if !errors.As(err, &p) || p == nil {
		return nil, false
	}
	return p, true
}
