// Package raw sends HTTP requests as a test has written them: malformed ones, which the public client cannot make, down to
// their framing, and those to what the public client does not cover, such as /metrics and the management API of the broker.
// A well-formed request to the APIs of the platform is one for package client.
package raw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// Request is a request as it goes over the wire. Nothing is added to it but what net/http needs: no content type, no repeat.
type Request struct {
	// Method is GET if it is empty.
	Method, URL string
	// Token is the bearer token. Without one there is no header Authorization, unless Header has it.
	Token string
	// ContentType is the header of that name; "" for none.
	ContentType string
	// Header are further headers.
	Header map[string]string
	Body   []byte
}

// Response is a response that was read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request through transport and follows no redirect. Its error is one of the transport.
func Do(ctx context.Context, transport http.RoundTripper, r Request) (Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return Response{}, fmt.Errorf("make the request: %w", err)
	}
	if r.Token != "" {
		request.Header.Set("Authorization", "Bearer "+r.Token)
	}
	if r.ContentType != "" {
		request.Header.Set("Content-Type", r.ContentType)
	}
	for name, value := range r.Header {
		request.Header.Set(name, value)
	}
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return Response{}, err
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return Response{}, fmt.Errorf("read the response: %w", err)
	}
	return Response{Status: response.StatusCode, Header: response.Header, Body: body}, nil
}

// Must is Do within the lifetime of a test, which fails unless the response has that status.
func Must(tb testing.TB, transport http.RoundTripper, status int, r Request) Response {
	tb.Helper()
	response, err := Do(tb.Context(), transport, r)
	require.NoError(tb, err)
	require.Equal(tb, status, response.Status, "%s %s: %.500s", r.Method, r.URL, response.Body)
	return response
}

// Into decodes the body.
func (r Response) Into(tb testing.TB, into any) {
	tb.Helper()
	require.NoError(tb, json.Unmarshal(r.Body, into), "%.500s", r.Body)
}

// Code is the code of a problem document; the test fails if the response is none.
func (r Response) Code(tb testing.TB) string {
	tb.Helper()
	require.Equal(tb, "application/problem+json", r.Header.Get("Content-Type"), "%.500s", r.Body)
	var problem struct {
		Code string `json:"code"`
	}
	r.Into(tb, &problem)
	return problem.Code
}
