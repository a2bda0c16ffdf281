package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer; a page ends at 8 MiB.
const maxAnswer = 64 << 20

// client speaks to one service with one token.
type client struct {
	http  *http.Client
	base  string
	token string
}

// request is one request. A body that is neither nil nor bytes is sent as JSON.
type request struct {
	method, path string
	body         any
	contentType  string
	prefer       string
}

// problem is an answer that is an error, as RFC 9457 describes it.
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Field  string `json:"field"`
		Detail string `json:"detail"`
	} `json:"errors"`
}

func (p *problem) Error() string {
	parts := []string{fmt.Sprintf("%d %s: %s", p.Status, p.Code, p.Detail)}
	for _, e := range p.Errors {
		parts = append(parts, e.Field+": "+e.Detail)
	}
	return strings.Join(parts, "; ")
}

// status is the HTTP status that err stands for, 0 if it is no answer of a service.
func status(err error) int {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.Status
	}
	return 0
}

// do sends a request and decodes the answer. A service that asks for patience (503 or 429 with Retry-After) gets it,
// until ctx ends.
func (c *client) do(ctx context.Context, r request, into any) error {
	for {
		wait, err := c.once(ctx, r, into)
		if err == nil || wait == 0 {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, context.Cause(ctx))
		case <-timer.C:
		}
	}
}

// once sends a request one time. wait is after which time another attempt makes sense, 0 if none does.
func (c *client) once(ctx context.Context, r request, into any) (wait time.Duration, err error) {
	body, contentType, err := r.encode()
	if err != nil {
		return 0, err
	}
	outgoing, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("make the request: %w", err)
	}
	outgoing.Header.Set("Authorization", "Bearer "+c.token)
	if contentType != "" {
		outgoing.Header.Set("Content-Type", contentType)
	}
	if r.prefer != "" {
		outgoing.Header.Set("Prefer", r.prefer)
	}
	answer, err := c.http.Do(outgoing)
	if err != nil {
		return 0, fmt.Errorf("ask the service: %w", err)
	}
	answered, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err := errors.Join(err, answer.Body.Close()); err != nil {
		return 0, fmt.Errorf("%s %s: read the answer: %w", r.method, r.path, err)
	}
	if answer.StatusCode >= http.StatusBadRequest {
		p := &problem{}
		if err := json.Unmarshal(answered, p); err != nil {
			p.Detail = "no problem document in the answer"
		}
		p.Status = answer.StatusCode
		if answer.StatusCode == http.StatusServiceUnavailable || answer.StatusCode == http.StatusTooManyRequests {
			seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // 0 unless it is there and a number
			wait = time.Duration(seconds) * time.Second
		}
		return wait, fmt.Errorf("%s %s: %w", r.method, r.path, p)
	}
	if into == nil {
		return 0, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(answered))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return 0, fmt.Errorf("%s %s: decode the answer: %w", r.method, r.path, err)
	}
	return 0, nil
}

func (r request) encode() (body []byte, contentType string, err error) {
	switch body := r.body.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return body, r.contentType, nil
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, "", fmt.Errorf("encode the request: %w", err)
		}
		return encoded, "application/json", nil
	}
}
