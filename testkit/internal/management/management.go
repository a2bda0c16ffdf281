// Package management is a client of RabbitMQ's management HTTP API, for what servers and tests need of it.
package management

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client is a client of RabbitMQ's management HTTP API. It keeps no connection open.
type Client struct {
	base   *url.URL
	client *http.Client
}

// New makes a client of the API at rawURL, which has the login.
func New(rawURL string) (*Client, error) {
	base, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("read the address of the management API: %w", err)
	}
	return &Client{base: base, client: &http.Client{
		Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true},
	}}, nil
}

// StatusError is an answer of the management API that is none of success.
type StatusError struct {
	Request string
	Status  int
}

func (e *StatusError) Error() string { return fmt.Sprintf("%s: status %d", e.Request, e.Status) }

// Do sends a request; path elements in it are escaped already.
func (m *Client) Do(ctx context.Context, method, path string, body any) error {
	encoded := ""
	if body != nil {
		content, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		encoded = string(content)
	}
	// Not through url.URL, which would unescape the name of a virtual host.
	target := m.base.Scheme + "://" + m.base.Host + strings.TrimSuffix(m.base.Path, "/") + path
	request, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(encoded))
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	if login := m.base.User; login != nil {
		password, _ := login.Password()
		request.SetBasicAuth(login.Username(), password)
	}
	response, err := m.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the management API: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // the answer's body is of no interest
	if response.StatusCode >= http.StatusMultipleChoices {
		return &StatusError{Request: method + " " + path, Status: response.StatusCode}
	}
	return nil
}
