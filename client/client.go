package client

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// URLs are where the services are: scheme, host and, behind a gateway, a path before the routes. One that a program does
// not use may be empty. Behind one gateway all are the same.
type URLs struct {
	// Tenant is tenant-service: tenants.
	Tenant string
	// Ingest is ingest-service: publishing and dead letters.
	Ingest string
	// Query is query-service: reading.
	Query string
}

// Client makes the requests. It is safe for use by many goroutines, and made to be kept and shared. Make one with [New].
type Client struct {
	urls   map[service]string
	tokens TokenSource
	http   *http.Client
	own    *http.Transport // nil if it was injected

	tenant           ID
	userAgent        string
	retry            Retry
	attemptTimeout   time.Duration
	maxResponseBytes int64
	observe          func(Attempt)
}

// service is one of the three services, by the name that errors give it.
type service string

const (
	tenantService service = "tenant-service"
	ingestService service = "ingest-service"
	queryService  service = "query-service"
)

// Option changes a client in [New] or [Client.With].
type Option func(*Client)

// WithTenant names the tenant whose messages and dead letters are meant. A token that is bound to a tenant needs none; an
// administrator's token acts on any tenant and has to name one.
func WithTenant(id ID) Option { return func(c *Client) { c.tenant = id } }

// WithToken replaces the source of tokens.
func WithToken(tokens TokenSource) Option { return func(c *Client) { c.tokens = tokens } }

// WithTransport sends the requests through rt, and [Client.Close] then leaves connections alone. Default: a transport of
// the client's own, with the proxy of the environment and keep-alive.
func WithTransport(rt http.RoundTripper) Option {
	return func(c *Client) { c.http, c.own = newHTTPClient(rt), nil }
}

// WithRetry changes when requests are repeated. Retry{MaxAttempts: 1} switches repeats off.
func WithRetry(r Retry) Option { return func(c *Client) { c.retry = r.withDefaults() } }

// WithUserAgent names the program in the header User-Agent.
func WithUserAgent(name string) Option { return func(c *Client) { c.userAgent = name } }

// WithAttemptTimeout limits one attempt, from sending to the last byte of the answer; it is repeated then. A request that
// asks a service to wait gets that much longer. Default: 15 seconds, which is more than the services give themselves.
func WithAttemptTimeout(d time.Duration) Option { return func(c *Client) { c.attemptTimeout = d } }

// WithMaxResponseBytes limits how much of an answer is read; a longer one is an error. Default: 64 MiB. A page ends at 8 MiB,
// a dead letter has up to 22 MiB.
func WithMaxResponseBytes(n int64) Option { return func(c *Client) { c.maxResponseBytes = n } }

// WithObserver calls observe after every attempt, for counting and logging. It is called from many goroutines at once and
// should return quickly.
func WithObserver(observe func(Attempt)) Option { return func(c *Client) { c.observe = observe } }

// Attempt is one request as it went over the wire. Number above 1 says that it was a repeat.
type Attempt struct {
	Method, Path string
	// Number counts the attempts of one call from 1 on. An attempt with a refreshed token has the number of the one before.
	Number int
	// Status is 0 if there was no answer.
	Status int
	// Err is nil if the attempt succeeded.
	Err error
	// Duration is from sending to the last byte of the answer.
	Duration time.Duration
}

// New makes a client of the services at urls. Nothing is sent yet.
func New(urls URLs, tokens TokenSource, opts ...Option) (*Client, error) {
	own := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		// As many as a busy publisher uses: the default of 2 would open a connection for nearly every request.
		MaxIdleConnsPerHost: 64, IdleConnTimeout: 45 * time.Second, // the services close after 60
		TLSHandshakeTimeout: 10 * time.Second,
	}
	c := &Client{
		urls: make(map[service]string, 3), tokens: tokens, http: newHTTPClient(own), own: own,
		userAgent: "multi-tenant-messaging-client", retry: Retry{}.withDefaults(),
		attemptTimeout: 15 * time.Second, maxResponseBytes: 64 << 20,
	}
	for service, text := range map[service]string{tenantService: urls.Tenant, ingestService: urls.Ingest, queryService: urls.Query} {
		base, err := baseURL(text)
		if err != nil {
			return nil, fmt.Errorf("the URL of %s: %w", service, err)
		}
		c.urls[service] = base
	}
	c = c.With(opts...)
	if c.tokens == nil {
		return nil, errors.New("a client needs a source of tokens")
	}
	return c, nil
}

// With returns a client that differs by opts and shares the connections of c: one for each tenant that an administrator acts
// on, or without repeats.
func (c *Client) With(opts ...Option) *Client {
	other := *c
	for _, opt := range opts {
		opt(&other)
	}
	return &other
}

// Close closes the connections that are kept for later requests. The client stays usable.
func (c *Client) Close() {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
}

// newHTTPClient follows no redirect: one would turn a publish into a GET, and the services never answer with one.
func newHTTPClient(rt http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// baseURL checks a URL and cuts off what would double the slash before a route.
func baseURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	base, err := url.Parse(text)
	switch {
	case err != nil:
		return "", err
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return "", fmt.Errorf("%q is not of the form https://host", text)
	case base.RawQuery != "" || base.Fragment != "" || base.User != nil:
		return "", fmt.Errorf("%s has more than scheme, host and path", base.Redacted())
	}
	return strings.TrimRight(text, "/"), nil
}
