package rig

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// requestTimeout bounds a request, and is longer than the longest wait that is asked of the platform.
const requestTimeout = 2 * time.Minute

// lean is a client that costs little beside the servers, with which it shares the machine.
func lean() *fasthttp.Client {
	return &fasthttp.Client{
		MaxConnsPerHost: 512, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout,
		MaxIdleConnDuration: time.Minute, NoDefaultUserAgentHeader: true,
		MaxResponseBodySize: 64 << 20,
	}
}

// Request is a request of the measured path.
type Request struct {
	// Method is GET if it is empty.
	Method, URL        string
	Token, ContentType string
	Body               []byte
	// Status is the one that the response has to have; 200 if 0, and any with AnyStatus.
	Status int
}

// AnyStatus is for those who do not care.
const AnyStatus = -1

// Send makes a request and passes the body of the response to read, which must not keep it.
//
// It is the path of what is measured request by request, and of looks at metrics meanwhile. The public client is no
// alternative there, since load generator and platform share the machine: by BenchmarkRequest it takes twice as long
// for a message, and several times as long for a batch or a page, which it encodes and decodes. Everything else goes through
// the public client.
func (r *Rig) Send(ctx context.Context, q Request, read func(body []byte) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", q.Method, q.URL, err)
	}
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.SetMethod(q.Method)
	request.SetRequestURI(q.URL)
	if q.Token != "" {
		request.Header.Set("Authorization", "Bearer "+q.Token)
	}
	if q.ContentType != "" {
		request.Header.SetContentType(q.ContentType)
		request.SetBodyRaw(q.Body)
	}
	deadline := time.Now().Add(requestTimeout)
	if sooner, ok := ctx.Deadline(); ok && sooner.Before(deadline) {
		deadline = sooner
	}
	if err := r.lean.DoDeadline(request, response, deadline); err != nil {
		return fmt.Errorf("%s %s: %w", q.Method, q.URL, err)
	}
	if status := response.StatusCode(); q.Status != AnyStatus && status != cmp.Or(q.Status, http.StatusOK) {
		return fmt.Errorf("%s %s: status %d: %.300s", q.Method, q.URL, status, response.Body())
	}
	return read(response.Body())
}

// Fetch is Send that keeps the body.
func (r *Rig) Fetch(ctx context.Context, url string) (body []byte, err error) {
	err = r.Send(ctx, Request{URL: url}, func(read []byte) error {
		body = bytes.Clone(read)
		return nil
	})
	return body, err
}

// Operator is the public client with the operator's token. It repeats nothing. concurrency is how many requests are made at
// a time.
func Operator(s *stack.Stack, concurrency int) (*client.Client, error) {
	token, err := s.AdminToken()
	if err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	return client.New(client.URLs{Tenant: s.Tenant.URL}, client.StaticToken(token),
		client.WithTransport(&http.Transport{MaxIdleConnsPerHost: concurrency, IdleConnTimeout: time.Minute}),
		client.WithRetry(client.Retry{MaxAttempts: 1}), client.WithAttemptTimeout(requestTimeout))
}

// Create makes a tenant and returns once it is consumed.
func (r *Rig) Create(ctx context.Context, workers int) (uuid.UUID, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	tenant, err := r.operator.CreateTenant(ctx, client.NewTenant{Name: "benchmark", Workers: workers}, client.Wait())
	return uuid.UUID(tenant.ID), err
}

// Suspend stops the consuming of a tenant; what is published for it waits in its queue.
func (r *Rig) Suspend(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := r.operator.SuspendTenant(ctx, client.ID(tenant), client.Wait())
	return err
}

// Resume starts it again, and returns once it is consumed.
func (r *Rig) Resume(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := r.operator.ResumeTenant(ctx, client.ID(tenant), client.Wait())
	return err
}

// Limit changes limits of a tenant, and returns once they are in force.
func (r *Rig) Limit(ctx context.Context, tenant uuid.UUID, patch client.LimitPatch) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := r.operator.PatchTenantConfig(ctx, client.ID(tenant), patch, client.Wait())
	return err
}

// Delete removes a tenant with its queue and its partition.
func (r *Rig) Delete(ctx context.Context, tenant uuid.UUID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.operator.DeleteTenant(ctx, client.ID(tenant), client.Wait())
}
