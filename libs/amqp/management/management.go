// Package management is a client of RabbitMQ's management HTTP API: users, permissions, what the broker tells of queues.
//
// It repeats nothing. What is done through it has to be idempotent, since an answer may be lost, and the caller decides by the class of
// an error whether another try is worth it: [ErrAway] passes, [ErrRefused] is for an operator, [ErrUnknown] tells that a thing is not
// there.
package management

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Classes of errors.
var (
	// ErrAway: the API cannot be reached now, or cannot answer. Whether the request was carried out is not known.
	ErrAway = errors.New("the management API is away")
	// ErrRefused: the login is wrong, or may not do this.
	ErrRefused = errors.New("the management API refuses the login")
	// ErrUnknown: there is no such thing.
	ErrUnknown = errors.New("the broker does not know it")
)

const (
	// timeout bounds one request whose context has a later deadline, or none.
	timeout = 30 * time.Second
	// maxAnswer bounds the size of an answer. 10,000 users are 1.6 MB on RabbitMQ 3.10, which cannot give them in pages.
	maxAnswer = 64 << 20
	// maxReason bounds how much of a refusal an error repeats.
	maxReason = 512
)

// Client is a client of the API. It is safe for concurrent use, and keeps no connection open.
type Client struct {
	base   string // without login and the last slash
	login  *url.Userinfo
	vhost  string
	client *http.Client
}

// New makes a client of the API at managementURL. amqpURL is that of the same broker: it names the virtual host, and has the login if
// managementURL has none. No error shows a URL, which has a password.
func New(managementURL, amqpURL string) (*Client, error) {
	base, err := url.Parse(managementURL)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, errors.New("rabbitmq.management_url is not a valid URL")
	}
	broker, err := amqp.ParseURI(amqpURL)
	if err != nil {
		return nil, errors.New("rabbitmq.url is not a valid URL")
	}
	c := &Client{login: base.User, vhost: broker.Vhost, client: &http.Client{
		Timeout: timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	}}
	if c.login == nil {
		c.login = url.UserPassword(broker.Username, broker.Password)
	}
	base.User, base.RawQuery, base.Fragment = nil, "", ""
	c.base = strings.TrimSuffix(base.String(), "/")
	return c, nil
}

// VHost is the name of the virtual host, as a path element.
func (c *Client) VHost() string { return url.PathEscape(c.vhost) }

// StatusError is an answer that is none of success.
type StatusError struct {
	Status int
	Reason string // as the broker gives it, cut off; may be empty
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("status %d", e.Status)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Is reports the class of the error.
func (e *StatusError) Is(class error) bool {
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return class == ErrRefused
	case http.StatusNotFound:
		return class == ErrUnknown
	case http.StatusTooManyRequests:
		return class == ErrAway
	}
	return e.Status >= http.StatusInternalServerError && class == ErrAway
}

// Do sends a request to path, whose elements are escaped, with body as JSON unless it is nil, and decodes the answer into what into
// points to unless that is nil. An answer other than 2xx is a [StatusError].
func (c *Client) Do(ctx context.Context, method, path string, body, into any) error {
	content := []byte(nil)
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode a request to the management API: %w", err)
		}
	}
	// Not through url.URL, which would unescape the name of a virtual host.
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("make a request to the management API: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	password, _ := c.login.Password()
	request.SetBasicAuth(c.login.Username(), password)
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the management API: %w: %w", ErrAway, err)
	}
	defer func() { _ = response.Body.Close() }() // it was read as far as it matters
	if response.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("ask the management API: %w", &StatusError{Status: response.StatusCode, Reason: reason(response.Body)})
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the answer of the management API: %w: %w", ErrAway, err)
	}
	return nil
}

// reason is what a refusal says; empty if it is none of the API's.
func reason(body io.Reader) string {
	var refusal struct {
		Reason string `json:"reason"`
	}
	if json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&refusal) != nil {
		return ""
	}
	return refusal.Reason[:min(len(refusal.Reason), maxReason)]
}
