// Package answers holds answers of the services against their OpenAPI documents, and what clients are told by the environment.
package answers

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

//go:embed tenants.json ingest.json query.json
var documents embed.FS

// Patience is how long something may take that the platform does by itself, Poll how often it is looked for.
const (
	Patience = 90 * time.Second
	Poll     = 50 * time.Millisecond
)

// World is what a client is told.
type World struct {
	TenantURL, IngestURL, QueryURL string
	Admin                          string
	// Tenant is to be created; the tenant Letters is there and has two dead letters.
	Tenant, Letters           uuid.UUID
	TenantToken, LettersToken string
}

// FromEnvironment reads the world.
func FromEnvironment(t *testing.T) World {
	t.Helper()
	get := func(name string) string {
		value := os.Getenv(name)
		require.NotEmpty(t, value, name)
		return value
	}
	return World{
		TenantURL: get("TENANT_URL"), IngestURL: get("INGEST_URL"), QueryURL: get("QUERY_URL"), Admin: get("ADMIN_TOKEN"),
		Tenant: uuid.MustParse(get("TENANT_ID")), TenantToken: get("TENANT_TOKEN"),
		Letters: uuid.MustParse(get("LETTERS_ID")), LettersToken: get("LETTERS_TOKEN"),
	}
}

// Checker is a transport that fails the test for every answer that is not as the document says.
type Checker struct {
	t      *testing.T
	router routers.Router

	mu   sync.Mutex
	seen map[string]map[int]bool // guarded by mu: statuses by operation
}

// New makes a transport for one of the services tenants, ingest and query.
func New(t *testing.T, service string) *Checker {
	t.Helper()
	openapi3.DefineStringFormatValidator("uuid", openapi3.NewCallbackValidator(uuid.Validate)) // of any version, as RFC 9562 has them
	openapi3.DefineStringFormatValidator("byte", openapi3.NewRegexpFormatValidator(`^[A-Za-z0-9+/]*={0,2}$`))
	text, err := documents.ReadFile(service + ".json")
	require.NoError(t, err)
	doc, err := openapi3.NewLoader().LoadFromData(text)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background()))
	doc.Servers = nil
	c := &Checker{t: t, seen: map[string]map[int]bool{}}
	for _, path := range doc.Paths.Map() {
		for _, operation := range path.Operations() {
			require.NotEmpty(t, operation.OperationID)
			c.seen[operation.OperationID] = map[int]bool{}
		}
	}
	c.router, err = gorillamux.NewRouter(doc)
	require.NoError(t, err)
	return c
}

// Client is an HTTP client with that transport.
func (c *Checker) Client() *http.Client { return &http.Client{Transport: c} }

// RoundTrip sends a request and holds the answer against the document.
func (c *Checker) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if err := response.Body.Close(); err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err := c.check(request, response, body); err != nil {
		c.t.Errorf("%s %s: %d: %v\n%s", request.Method, request.URL.Path, response.StatusCode, err, body)
	}
	return response, nil
}

func (c *Checker) check(request *http.Request, response *http.Response, body []byte) error {
	path := &http.Request{Method: request.Method, URL: &url.URL{Path: request.URL.Path}}
	route, parameters, err := c.router.FindRoute(path)
	if err != nil {
		return fmt.Errorf("find the operation: %w", err)
	}
	if route.Operation.Responses.Status(response.StatusCode) == nil {
		return fmt.Errorf("the document of %s has no status %d", route.Operation.OperationID, response.StatusCode)
	}
	c.mu.Lock()
	c.seen[route.Operation.OperationID][response.StatusCode] = true
	c.mu.Unlock()
	if media := response.Header.Get("Content-Type"); response.StatusCode >= 400 && media != "application/problem+json" {
		return fmt.Errorf("an error as %s", media)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route},
		Status:                 response.StatusCode,
		Header:                 response.Header,
	}
	input.SetBodyBytes(body)
	return openapi3filter.ValidateResponse(request.Context(), input)
}

// RequireAll demands that every operation was successful once and answered with an error once.
func (c *Checker) RequireAll() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var missing []string
	for operation, statuses := range c.seen {
		success, failure := false, false
		for status := range statuses {
			success, failure = success || status < 300, failure || status >= 400
		}
		if !success {
			missing = append(missing, operation+" successful")
		}
		if !failure {
			missing = append(missing, operation+" with an error")
		}
	}
	sort.Strings(missing)
	require.Empty(c.t, missing, "what was never seen: "+strings.Join(missing, ", "))
}
