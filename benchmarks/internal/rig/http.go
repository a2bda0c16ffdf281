package rig

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// requestTimeout is longer than the longest wait that is asked of the platform.
const requestTimeout = 2 * time.Minute

// newClient is a client that costs little beside the servers, with which it shares the machine.
func newClient() *fasthttp.Client {
	return &fasthttp.Client{
		MaxConnsPerHost: 512, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		MaxIdleConnDuration: time.Minute, NoDefaultUserAgentHeader: true,
		MaxResponseBodySize: 64 << 20,
	}
}

// Client is an HTTP client with keep-alive that is leaner than net/http: load generator and platform share the machine.
func (r *Rig) Client() *fasthttp.Client { return r.client }

// Admin makes a request of an operator to tenant-service and waits until the platform has done what was asked. Any answer
// but 2xx is an error.
func (r *Rig) Admin(ctx context.Context, method, path, body string) error {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.SetMethod(method)
	request.SetRequestURI(r.Stack.Tenant.URL + path)
	request.Header.Set("Authorization", "Bearer "+r.admin)
	request.Header.Set("Prefer", "wait=30")
	if body != "" {
		request.Header.SetContentType("application/json")
		request.SetBodyString(body)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if err := r.client.DoTimeout(request, response, requestTimeout); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status := response.StatusCode(); status >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: status %d: %.300s", method, path, status, response.Body())
	}
	return nil
}

// Create makes a tenant and returns once it is consumed.
func (r *Rig) Create(ctx context.Context, workers int) (uuid.UUID, error) {
	tenant := uuid.New()
	return tenant, r.Admin(ctx, http.MethodPost, "/tenants", fmt.Sprintf(`{"id":%q,"name":"benchmark","workers":%d}`, tenant, workers))
}

// Suspend stops the consuming of a tenant; what is published for it waits in its queue.
func (r *Rig) Suspend(ctx context.Context, tenant uuid.UUID) error {
	return r.Admin(ctx, http.MethodPost, "/tenants/"+tenant.String()+"/suspend", "")
}

// Resume starts it again, and returns once it is consumed.
func (r *Rig) Resume(ctx context.Context, tenant uuid.UUID) error {
	return r.Admin(ctx, http.MethodPost, "/tenants/"+tenant.String()+"/resume", "")
}

// Delete removes a tenant with its queue and its partition.
func (r *Rig) Delete(ctx context.Context, tenant uuid.UUID) error {
	return r.Admin(ctx, http.MethodDelete, "/tenants/"+tenant.String(), "")
}
