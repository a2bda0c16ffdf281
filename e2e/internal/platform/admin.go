package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

const (
	// callTimeout bounds one request; it is longer than the service's own limit of a request that waits for nothing.
	callTimeout = 15 * time.Second
	// callPause is how long a request that came to nothing waits until it is repeated.
	callPause = 100 * time.Millisecond
	// awaitPoll is how often the state of a tenant is looked at.
	awaitPoll = 50 * time.Millisecond
	// answerLimit bounds what is read of an answer; a tenant is far below.
	answerLimit = 1 << 20
)

// Admin is a client of tenant-service with the scope tenants:admin. What is safe to repeat is repeated until ctx ends: a
// service that is away, that is too slow, or that says 503. Any other answer that was not hoped for is an error at once.
type Admin struct {
	url, token string
	client     *http.Client
}

// View is a tenant as tenant-service shows it.
type View struct {
	ID         uuid.UUID `json:"id"`
	Name       string    `json:"name"`
	Workers    int       `json:"workers"`
	State      string    `json:"state"`
	Generation int64     `json:"generation"`
	Status     struct {
		State              string `json:"state"`
		Workers            int    `json:"workers"`
		ObservedGeneration int64  `json:"observed_generation"`
		Error              string `json:"error"`
		Queue              struct {
			Ready   *int64 `json:"ready"` // nil if not known
			Unacked *int64 `json:"unacked"`
		} `json:"queue"`
		Instances []Report `json:"instances"`
	} `json:"status"`
}

// Report is what one instance of ingest-service observes of a tenant.
type Report struct {
	Instance           string    `json:"instance"`
	State              string    `json:"state"`
	Workers            int       `json:"workers"`
	ObservedGeneration int64     `json:"observed_generation"`
	Error              string    `json:"error"`
	ObservedAt         time.Time `json:"observed_at"`
}

// Latest is the report that was made last. A platform has one instance of ingest-service at a time, but what one that has
// been killed had to say is shown beside it until it expires after 30 s.
func (v View) Latest() Report {
	if len(v.Status.Instances) == 0 {
		return Report{State: "unknown"}
	}
	return slices.MaxFunc(v.Status.Instances, func(a, b Report) int { return a.ObservedAt.Compare(b.ObservedAt) })
}

// StatusError is an answer that nobody hoped for.
type StatusError struct {
	Request string
	Status  int
	Body    string
}

// Error shows the answer.
func (e *StatusError) Error() string { return fmt.Sprintf("%s: %d %s", e.Request, e.Status, e.Body) }

func newAdmin(s *stack.Stack) (*Admin, error) {
	token, err := s.AdminToken()
	if err != nil {
		return nil, fmt.Errorf("make the operator's token: %w", err)
	}
	return &Admin{url: s.Tenant.URL, token: token, client: &http.Client{
		Timeout: callTimeout,
		// Without keep-alive: a connection to a service that has been killed would cost a request.
		Transport: &http.Transport{DisableKeepAlives: true},
	}}, nil
}

// Create creates the tenant id. If an earlier try of this call may have created it already, "exists" counts as success;
// at the first try it is an error. It does not wait for the consumer: see [Admin.AwaitState].
func (a *Admin) Create(ctx context.Context, id uuid.UUID, workers int) error {
	body := map[string]any{"id": id, "name": "tenant " + id.String(), "workers": workers}
	status, unknown, err := a.repeat(ctx, http.MethodPost, "/tenants", body, nil)
	switch {
	case err != nil && status == http.StatusConflict && unknown:
		return nil
	case err != nil:
		return fmt.Errorf("create tenant %s: %w", id, err)
	default:
		return nil
	}
}

// Delete asks for the deletion of a tenant. One that is gone already is fine.
func (a *Admin) Delete(ctx context.Context, id uuid.UUID) error {
	status, _, err := a.repeat(ctx, http.MethodDelete, "/tenants/"+id.String(), nil, nil)
	if err != nil && status != http.StatusNotFound {
		return fmt.Errorf("delete tenant %s: %w", id, err)
	}
	return nil
}

// AwaitDeleted returns when the tenant is gone: its consumer, its queue and its partition.
func (a *Admin) AwaitDeleted(ctx context.Context, id uuid.UUID) error {
	return a.await(ctx, func() (string, bool, error) {
		view, err := a.View(ctx, id)
		if refused, ok := errors.AsType[*StatusError](err); ok && refused.Status == http.StatusNotFound {
			return "", true, nil
		}
		return fmt.Sprintf("tenant %s is not deleted: %s, observed %s", id, view.State, view.Status.State), false, err
	})
}

// Suspend stops the consumption of a tenant's messages. See [Admin.AwaitState] for when it has come about.
func (a *Admin) Suspend(ctx context.Context, id uuid.UUID) error {
	_, _, err := a.repeat(ctx, http.MethodPost, "/tenants/"+id.String()+"/suspend", nil, nil)
	if err != nil {
		return fmt.Errorf("suspend tenant %s: %w", id, err)
	}
	return nil
}

// Resume ends a suspension.
func (a *Admin) Resume(ctx context.Context, id uuid.UUID) error {
	_, _, err := a.repeat(ctx, http.MethodPost, "/tenants/"+id.String()+"/resume", nil, nil)
	if err != nil {
		return fmt.Errorf("resume tenant %s: %w", id, err)
	}
	return nil
}

// Resize sets the number of a tenant's workers.
func (a *Admin) Resize(ctx context.Context, id uuid.UUID, workers int) error {
	body := map[string]any{"workers": workers}
	_, _, err := a.repeat(ctx, http.MethodPut, "/tenants/"+id.String()+"/config/concurrency", body, nil)
	if err != nil {
		return fmt.Errorf("resize tenant %s: %w", id, err)
	}
	return nil
}

// View shows a tenant. A tenant that is not there is a [*StatusError] with 404.
func (a *Admin) View(ctx context.Context, id uuid.UUID) (View, error) {
	var view View
	if _, _, err := a.repeat(ctx, http.MethodGet, "/tenants/"+id.String(), nil, &view); err != nil {
		return View{}, fmt.Errorf("show tenant %s: %w", id, err)
	}
	return view, nil
}

// AwaitState returns when the instance that runs observes the tenant in that state, acting on its newest generation, and,
// unless workers is 0, with that many workers.
func (a *Admin) AwaitState(ctx context.Context, id uuid.UUID, state string, workers int) error {
	return a.await(ctx, func() (string, bool, error) {
		view, err := a.View(ctx, id)
		if err != nil {
			return "", false, err
		}
		seen := view.Latest()
		done := seen.State == state && seen.ObservedGeneration >= view.Generation && (workers == 0 || seen.Workers == workers)
		return fmt.Sprintf("tenant %s is not %s with %d workers but %s with %d (generation %d, observed %d) %s", id, state,
			workers, seen.State, seen.Workers, view.Generation, seen.ObservedGeneration, seen.Error), done, nil
	})
}

// await looks until what it waits for has come about. The error of a ctx that ends tells what was seen last.
func (a *Admin) await(ctx context.Context, look func() (seen string, done bool, err error)) error {
	last := ""
	for {
		seen, done, err := look()
		switch {
		case done:
			return nil
		case err != nil && last != "":
			return fmt.Errorf("%s: %w", last, err)
		case err != nil:
			return err
		}
		last = seen
		if err := pause(ctx, awaitPoll); err != nil {
			return fmt.Errorf("%s: %w", last, err)
		}
	}
}

// repeat makes a request until it is answered with something else than 503, and decodes an answer of success. unknown
// says that a try before the last may have been carried out although its outcome was not learned.
func (a *Admin) repeat(ctx context.Context, method, path string, body, answer any) (status int, unknown bool, err error) {
	for {
		status, err = a.call(ctx, method, path, body, answer)
		switch {
		case err == nil:
			return status, unknown, nil
		case status != 0 && status != http.StatusServiceUnavailable:
			return status, unknown, err
		}
		unknown = true
		if over := pause(ctx, callPause); over != nil {
			return status, unknown, errors.Join(err, over)
		}
	}
}

// call makes a request once. Status is 0 if it was not answered.
func (a *Admin) call(ctx context.Context, method, path string, body, answer any) (status int, err error) {
	var encoded []byte
	if body != nil {
		if encoded, err = json.Marshal(body); err != nil {
			return 0, fmt.Errorf("encode the request: %w", err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := a.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or of no use
	text, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return response.StatusCode, &StatusError{Request: method + " " + path, Status: response.StatusCode, Body: string(text)}
	}
	if answer == nil {
		return response.StatusCode, nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return 0, fmt.Errorf("decode the answer: %w", err)
	}
	return response.StatusCode, nil
}

// pause waits, and returns the error of a ctx that ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
