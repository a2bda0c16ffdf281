package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ErrUnexpectedAnswer says that a service, or something in between, answered with success and with a body that is not what
// was asked for. It is not repeated.
var ErrUnexpectedAnswer = errors.New("unexpected answer")

// call is a request, whatever number of attempts it needs.
type call struct {
	service     service
	method      string
	path        string
	query       url.Values
	body        []byte
	contentType string
	// wait is how long the service is asked to wait for the outcome (RFC 7240), in whole seconds.
	wait time.Duration
	// ifMatch is the header If-Match, "" for none; etag gets that of the answer, unless it is nil.
	ifMatch string
	etag    *string
	// untilDone: repeated until the context ends.
	untilDone bool
}

// do makes a request, repeats it where that helps, and decodes the answer into what into points to, unless that is nil.
// maybeDone says that an attempt before the last may have been successful.
func (c *Client) do(ctx context.Context, r call, into any) (maybeDone bool, err error) {
	attempts := c.repeats(ctx, r.untilDone)
	for {
		err := c.attempt(ctx, r, attempts.failed+1, into)
		if err == nil {
			return attempts.maybeDone, nil
		}
		if final := attempts.next(ctx, err); final != nil {
			return attempts.maybeDone, final(err)
		}
	}
}

// attempt sends a request once, or twice if its token was refused and there is another one.
func (c *Client) attempt(ctx context.Context, r call, number int, into any) error {
	token, err := c.tokens.Token(ctx, "")
	if err != nil {
		return fmt.Errorf("get a token: %w", err)
	}
	err = c.send(ctx, r, number, token, into)
	if p, ok := errors.AsType[*Problem](err); !ok || p.Status != http.StatusUnauthorized {
		return err
	}
	fresh, tokenErr := c.tokens.Token(ctx, token)
	if tokenErr != nil {
		return fmt.Errorf("%w; get another token: %w", err, tokenErr)
	}
	if fresh == token {
		return err
	}
	return c.send(ctx, r, number, fresh, into)
}

// send sends a request and reads the answer.
func (c *Client) send(ctx context.Context, r call, number int, token string, into any) error {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, c.attemptTimeout+r.wait)
	defer cancel()
	status, err := c.exchange(limited, r, token, into)
	if limited.Err() != nil && ctx.Err() == nil && err != nil {
		// Not the caller's deadline: his would end the repeats.
		err = &transportError{fmt.Errorf("%s %s: no answer within %s", r.method, r.path, c.attemptTimeout+r.wait)}
	}
	if c.observe != nil {
		c.observe(Attempt{Method: r.method, Path: r.path, Number: number, Status: status, Err: err, Duration: time.Since(begun)})
	}
	return err
}

func (c *Client) exchange(ctx context.Context, r call, token string, into any) (status int, err error) {
	request, err := c.request(ctx, r, token)
	if err != nil {
		return 0, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, &transportError{err}
	}
	// Read to its end, so that the connection is used again; closed in any case.
	body, err := io.ReadAll(io.LimitReader(response.Body, c.maxResponseBytes+1))
	_ = response.Body.Close() // nothing is lost with it
	status = response.StatusCode
	switch {
	case err != nil:
		return status, &transportError{fmt.Errorf("%s %s: read the answer: %w", r.method, r.path, err)}
	case int64(len(body)) > c.maxResponseBytes:
		return status, fmt.Errorf("%s %s: %w: over %d bytes", r.method, r.path, ErrUnexpectedAnswer, c.maxResponseBytes)
	case status < http.StatusOK || status >= http.StatusMultipleChoices:
		return status, readProblem(response, body)
	case into == nil:
		return status, nil
	}
	if r.etag != nil {
		*r.etag = response.Header.Get("ETag")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return status, fmt.Errorf("%s %s: %w: %w in %d %q", r.method, r.path, ErrUnexpectedAnswer, err, status, excerpt(body))
	}
	if headed, ok := into.(interface{ readHeader(header http.Header) }); ok {
		headed.readHeader(response.Header)
	}
	return status, nil
}

func (c *Client) request(ctx context.Context, r call, token string) (*http.Request, error) {
	base := c.urls[r.service]
	if base == "" {
		return nil, fmt.Errorf("the client has no URL of %s", r.service)
	}
	query := url.Values{}
	maps.Copy(query, r.query)
	if !c.tenant.IsZero() && r.service != tenantService {
		query.Set("tenant_id", c.tenant.String())
	}
	target := base + r.path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var body io.Reader // an untyped nil, not a nil reader, where there is none
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("User-Agent", c.userAgent)
	request.Header.Set("Accept", "application/json, application/problem+json")
	if r.body != nil {
		request.Header.Set("Content-Type", r.contentType)
	}
	if r.ifMatch != "" {
		request.Header.Set("If-Match", r.ifMatch)
	}
	if seconds := int(r.wait.Seconds()); seconds > 0 {
		request.Header.Set("Prefer", "wait="+strconv.Itoa(seconds))
	}
	return request, nil
}
