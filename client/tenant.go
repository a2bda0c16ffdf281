package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// NewTenant is a tenant to be created.
type NewTenant struct {
	// ID is made where none is given. That of a deleted tenant is never used again.
	ID ID `json:"id"`
	// Name is 1 to 200 characters without line breaks; names need not be unique.
	Name string `json:"name"`
	// Workers is the number of concurrent writers, MaxAttempts how often a message is tried before it becomes a dead letter (1
	// to 100). 0: the default of the installation.
	Workers     int `json:"workers,omitempty"`
	MaxAttempts int `json:"max_attempts,omitempty"`
}

// Tenant is what is desired of a tenant, and what is observed.
type Tenant struct {
	ID      ID     `json:"id"`
	Name    string `json:"name"`
	Workers int    `json:"workers"`
	// MaxAttempts is 0 for the default of the installation.
	MaxAttempts int         `json:"max_attempts"`
	State       TenantState `json:"state"`
	// Generation rises with every change.
	Generation int64        `json:"generation"`
	CreatedAt  time.Time    `json:"created_at"`
	UpdatedAt  time.Time    `json:"updated_at"`
	Status     TenantStatus `json:"status"`
}

// TenantState is the desired state of a tenant.
type TenantState string

// The desired states of a tenant.
const (
	TenantActive    TenantState = "active"
	TenantSuspended TenantState = "suspended" // messages are accepted and kept in the queue, none is consumed
	TenantDeleting  TenantState = "deleting"
	TenantDeleted   TenantState = "deleted" // only in the answer to a deletion that was waited for
)

// TenantStatus is what the instances of ingest-service observe of a tenant.
type TenantStatus struct {
	// State is that of the instance that is furthest from what is desired.
	State ConsumerState `json:"state"`
	// Workers is the number of those that exist now, on all instances.
	Workers int        `json:"workers"`
	Queue   QueueDepth `json:"queue"`
	// ObservedGeneration is the lowest generation that an instance has acted on.
	ObservedGeneration int64 `json:"observed_generation"`
	// Error is what is wrong in the states storage_full, paused and failed.
	Error string `json:"error"`
	// QueueLimits is nil while the queue is held to the limits of the tenant.
	QueueLimits *QueueLimits     `json:"queue_limits"`
	Instances   []InstanceStatus `json:"instances"`
}

// QueueLimits is what the broker holds a tenant's queue to while that is not what [LimitQueueMaxMessages] and [LimitQueueMaxBytes] say.
type QueueLimits struct {
	Reason QueueLimitsReason `json:"reason"`
	// MaxMessages and MaxBytes are in force. 0 is no limit, or not known.
	MaxMessages int64 `json:"max_messages"`
	MaxBytes    int64 `json:"max_bytes"`
	// Detail is the reason for people.
	Detail string `json:"detail"`
}

// QueueLimitsReason says why a queue is held to something else than the limits of its tenant; a service may send others than these.
type QueueLimitsReason string

// The reasons of [QueueLimits].
const (
	QueueLimitsNotManaged    QueueLimitsReason = "not_managed"    // ingest-service has no management API of the broker
	QueueLimitsUnavailable   QueueLimitsReason = "unavailable"    // it cannot be reached, and is tried again
	QueueLimitsRefused       QueueLimitsReason = "refused"        // it refuses the login of ingest-service
	QueueLimitsArgument      QueueLimitsReason = "argument"       // the queue has a lower limit until it is made again
	QueueLimitsForeignPolicy QueueLimitsReason = "foreign_policy" // a policy of somebody else applies to the queue
	QueueLimitsRounded       QueueLimitsReason = "rounded"        // there are too many different limits
)

// ConsumerState is the observed state of a tenant's consumer.
type ConsumerState string

// The observed states of a tenant's consumer.
const (
	ConsumerProvisioning ConsumerState = "provisioning"
	ConsumerRunning      ConsumerState = "running"
	ConsumerStorageFull  ConsumerState = "storage_full" // as much is stored as may be: what comes is refused, or waits, until there is room
	ConsumerPaused       ConsumerState = "paused"       // the infrastructure does not allow it to run at the moment
	ConsumerSuspended    ConsumerState = "suspended"
	ConsumerDeleting     ConsumerState = "deleting"
	ConsumerDeleted      ConsumerState = "deleted"
	ConsumerFailed       ConsumerState = "failed"  // the last attempt failed and is being repeated
	ConsumerUnknown      ConsumerState = "unknown" // no instance reports on the tenant
)

// QueueDepth counts messages of a tenant's queue; nil is not known.
type QueueDepth struct {
	Ready   *int64 `json:"ready"`   // waiting
	Unacked *int64 `json:"unacked"` // being stored
}

// InstanceStatus is what one instance of ingest-service observes of a tenant.
type InstanceStatus struct {
	Instance           string        `json:"instance"`
	State              ConsumerState `json:"state"`
	Workers            int           `json:"workers"`
	Queue              QueueDepth    `json:"queue"`
	ObservedGeneration int64         `json:"observed_generation"`
	Error              string        `json:"error"`
	ObservedAt         time.Time     `json:"observed_at"`
}

// Reconciled reports whether the instances have brought about what is desired: an active tenant is consumed, or would be if there were
// room to store ([ConsumerStorageFull]), a suspended one is not, of a deleted one nothing is left.
func (t Tenant) Reconciled() bool {
	var reached bool
	switch state := t.Status.State; t.State {
	case TenantActive:
		reached = state == ConsumerRunning || state == ConsumerStorageFull
	case TenantSuspended:
		reached = state == ConsumerSuspended
	case TenantDeleted:
		return true
	default: // of one that is being deleted, 404 tells
		return false
	}
	return reached && t.Status.ObservedGeneration >= t.Generation
}

// TenantOption changes a request that changes a tenant.
type TenantOption func(*tenantRequest)

type tenantRequest struct {
	wait       bool
	generation int64 // 0: whatever it is
}

// IfGeneration has [Client.PatchTenantConfig] change the tenant only if it has this generation, so that nobody else's change that was
// not seen is overwritten.
func IfGeneration(generation int64) TenantOption {
	return func(r *tenantRequest) { r.generation = generation }
}

// Wait has a change return only when it has come about: the tenant is consumed, has its new number of workers, is suspended,
// or is gone. An error says that the context ended before, and what was seen last.
func Wait() TenantOption { return func(r *tenantRequest) { r.wait = true } }

// What a service is asked to wait, at most, and how often it is asked what has become of a tenant after that.
const (
	maxWait      = 30 * time.Second
	minAwaitPoll = 50 * time.Millisecond
	maxAwaitPoll = time.Second
)

// CreateTenant creates a tenant. Queue, partition and consumer follow; see [Wait].
func (c *Client) CreateTenant(ctx context.Context, n NewTenant, opts ...TenantOption) (Tenant, error) {
	if n.ID.IsZero() {
		n.ID = NewID()
	}
	t, maybeDone, err := c.changeTenant(ctx, http.MethodPost, "/tenants", n, opts)
	if maybeDone && errors.Is(err, ErrTenantExists) {
		// Most likely by the attempt whose answer was lost.
		if found, getErr := c.Tenant(ctx, n.ID); getErr == nil && n.made(found) {
			t = found
			err = c.awaitTenant(ctx, &t, opts)
		}
	}
	if err != nil {
		return t, fmt.Errorf("create tenant %s: %w", n.ID, err)
	}
	return t, nil
}

// made reports whether t may have been created by n.
func (n NewTenant) made(t Tenant) bool {
	return t.Name == strings.TrimSpace(n.Name) && (n.Workers == 0 || n.Workers == t.Workers) && n.MaxAttempts == t.MaxAttempts
}

// Tenant returns a tenant. A token that is bound to it is enough.
func (c *Client) Tenant(ctx context.Context, id ID) (t Tenant, err error) {
	if _, err := c.do(ctx, call{service: tenantService, method: http.MethodGet, path: "/tenants/" + id.String()}, &t); err != nil {
		return Tenant{}, fmt.Errorf("get tenant %s: %w", id, err)
	}
	return t, nil
}

// TenantQuery says which tenants are listed.
type TenantQuery struct {
	// Cursor is where another list stopped; empty is the start.
	Cursor string
	// Limit is the number of tenants of a page, up to 1,000. Default: 100. A page of a search for a part of a name may have fewer,
	// or none, although more follow.
	Limit int
	// Search is a part of the name, in upper or lower case, or an id. A cursor belongs to Search and State.
	Search string
	// State is the desired state: [TenantActive], [TenantSuspended] or [TenantDeleting]. Default: any.
	State TenantState
}

// Tenants lists the tenants in the order of their creation, without deleted ones.
func (c *Client) Tenants(q TenantQuery) *Pager[Tenant] {
	return &Pager[Tenant]{cursor: q.Cursor, fetch: func(ctx context.Context, cursor string, untilDone bool) (page Page[Tenant], err error) {
		query := url.Values{}
		setPage(query, cursor, q.Limit)
		if q.Search != "" {
			query.Set("q", q.Search)
		}
		if q.State != "" {
			query.Set("state", string(q.State))
		}
		request := call{service: tenantService, method: http.MethodGet, path: "/tenants", query: query, untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("list tenants: %w", err)
		}
		return page, nil
	}}
}

// UsageStep is the length of the steps in which usage is shown.
type UsageStep string

// The steps of usage, which begin at the full hour, or at midnight, of UTC.
const (
	UsageHourly UsageStep = "hour"
	UsageDaily  UsageStep = "day"
)

// UsageQuery says which usage is shown. The zero one shows the last 24 hours.
type UsageQuery struct {
	// From and To bound the steps, of which there are 1,000 at most: those that the two fall into are whole. To is not included.
	// Zero: 24 hours or 30 days, up to now.
	From, To time.Time
	// Step is the length of the steps. Default: [UsageHourly].
	Step UsageStep
}

// Usage is what a tenant has used. It is about a second late.
type Usage struct {
	Step UsageStep `json:"step"`
	// Data has every step up to the current one, also those in which nothing happened.
	Data []UsageCount `json:"data"`
	// Stored is what is stored now.
	Stored struct {
		Messages int64 `json:"messages"`
		Bytes    int64 `json:"bytes"`
	} `json:"stored"`
	// CountedUntil is when the newest message that is counted was stored; zero if none is.
	CountedUntil time.Time `json:"counted_until"`
}

// UsageCount is what happened from one time to another, which is not included.
type UsageCount struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Messages were stored, and Bytes is their size as it was accepted.
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
	// Delivered counts deliveries through subscriptions.
	Delivered   int64 `json:"delivered"`
	DeadLetters int64 `json:"dead_letters"`
}

// Usage returns what a tenant has used. A token that is bound to it is enough; of a deleted tenant only an administrator is told.
func (c *Client) Usage(ctx context.Context, id ID, q UsageQuery) (u Usage, err error) {
	query := url.Values{}
	setTime(query, "from", q.From)
	setTime(query, "to", q.To)
	setString(query, "step", string(q.Step))
	request := call{service: tenantService, method: http.MethodGet, path: "/tenants/" + id.String() + "/usage", query: query}
	if _, err := c.do(ctx, request, &u); err != nil {
		return Usage{}, fmt.Errorf("get the usage of tenant %s: %w", id, err)
	}
	return u, nil
}

// ResizeTenant sets the number of workers, without stopping the consumer.
func (c *Client) ResizeTenant(ctx context.Context, id ID, workers int, opts ...TenantOption) (Tenant, error) {
	body := struct {
		Workers int `json:"workers"`
	}{workers}
	t, _, err := c.changeTenant(ctx, http.MethodPut, "/tenants/"+id.String()+"/config/concurrency", body, opts)
	if err != nil {
		return t, fmt.Errorf("resize tenant %s: %w", id, err)
	}
	return t, nil
}

// SuspendTenant stops the consuming of a tenant: messages are accepted and wait in the queue. Suspending a suspended tenant
// changes nothing.
func (c *Client) SuspendTenant(ctx context.Context, id ID, opts ...TenantOption) (Tenant, error) {
	t, _, err := c.changeTenant(ctx, http.MethodPost, "/tenants/"+id.String()+"/suspend", nil, opts)
	if err != nil {
		return t, fmt.Errorf("suspend tenant %s: %w", id, err)
	}
	return t, nil
}

// ResumeTenant ends a suspension. Resuming an active tenant changes nothing.
func (c *Client) ResumeTenant(ctx context.Context, id ID, opts ...TenantOption) (Tenant, error) {
	t, _, err := c.changeTenant(ctx, http.MethodPost, "/tenants/"+id.String()+"/resume", nil, opts)
	if err != nil {
		return t, fmt.Errorf("resume tenant %s: %w", id, err)
	}
	return t, nil
}

// DeleteTenant removes a tenant: its consumer, its queue and all its messages. Its id is never used again. Without [Wait] that
// has only begun when it returns.
func (c *Client) DeleteTenant(ctx context.Context, id ID, opts ...TenantOption) error {
	_, maybeDone, err := c.changeTenant(ctx, http.MethodDelete, "/tenants/"+id.String(), nil, opts)
	if maybeDone && errors.Is(err, ErrTenantNotFound) {
		return nil // an attempt before this one has done it
	}
	if err != nil {
		return fmt.Errorf("delete tenant %s: %w", id, err)
	}
	return nil
}

// changeTenant makes a request and, if it is to be waited for, waits until the change has come about.
func (c *Client) changeTenant(ctx context.Context, method, path string, body any, opts []TenantOption) (t Tenant, maybeDone bool, err error) {
	request, err := tenantCall(ctx, method, path, body, opts)
	if err != nil {
		return t, false, err
	}
	if maybeDone, err = c.do(ctx, request, &t); err != nil {
		return t, maybeDone, err
	}
	return t, maybeDone, c.awaitTenant(ctx, &t, opts)
}

// waitFor is how long a service is asked to wait: no longer than the context lasts.
func waitFor(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return min(maxWait, max(0, time.Until(deadline)))
	}
	return maxWait
}

func options(opts []TenantOption) (r tenantRequest) {
	for _, opt := range opts {
		opt(&r)
	}
	return r
}

func waits(opts []TenantOption) bool { return options(opts).wait }

// awaitTenant keeps t up to date until what is desired of it has come about, if that is to be waited for. The service has
// waited for a while already, and less than it was asked for if its own limit of a request is shorter.
func (c *Client) awaitTenant(ctx context.Context, t *Tenant, opts []TenantOption) error {
	if !waits(opts) {
		return nil
	}
	for pause := minAwaitPoll; !t.Reconciled(); pause = min(2*pause, maxAwaitPoll) {
		err := sleep(ctx, pause-jitter(pause/2))
		if err == nil {
			var now Tenant
			if now, err = c.Tenant(ctx, t.ID); err == nil {
				*t = now
			}
		}
		if errors.Is(err, ErrTenantNotFound) && t.State == TenantDeleting {
			t.State = TenantDeleted
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is to be %s and is %s (%d workers, generation %d of %d) %s: %w", t.State, t.Status.State,
				t.Status.Workers, t.Status.ObservedGeneration, t.Generation, t.Status.Error, err)
		}
	}
	return nil
}
