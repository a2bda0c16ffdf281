package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

const (
	// callPause is how long a request that was not carried out waits until it is repeated.
	callPause = 100 * time.Millisecond
	// awaitPoll is how often the state of a tenant is looked at.
	awaitPoll = 50 * time.Millisecond
	// unlimited is longer than any test or run: what ends repeats is the context.
	unlimited = 30 * 24 * time.Hour
)

// Admin is an operator: the public client with the scope tenants:admin, which repeats a request until ctx ends while the
// service is away, too slow, or answers 503. Any other answer that is not a success is an error at once, a [*client.Problem].
type Admin struct {
	client  *client.Client
	repeats atomic.Int64
}

// NewAdmin makes an operator of s, with further options of the client.
func NewAdmin(s *stack.Stack, opts ...client.Option) (*Admin, error) {
	token, err := s.AdminToken()
	if err != nil {
		return nil, fmt.Errorf("make the operator's token: %w", err)
	}
	return newAdmin(s.Tenant.URL, token, opts...)
}

func newAdmin(url, token string, opts ...client.Option) (*Admin, error) {
	a := &Admin{}
	defaults := []client.Option{
		// Without keep-alive: a connection to a service that has been killed would cost a request.
		client.WithTransport(&http.Transport{DisableKeepAlives: true}),
		// How soon a platform has recovered is measured: a service that asks for more time is not given it.
		client.WithRetry(client.Retry{For: unlimited, MinDelay: callPause, MaxDelay: callPause, MaxRetryAfter: callPause}),
		client.WithObserver(func(attempt client.Attempt) {
			if attempt.Number > 1 {
				a.repeats.Add(1)
			}
		}),
	}
	var err error
	a.client, err = client.New(client.URLs{Tenant: url}, client.StaticToken(token), append(defaults, opts...)...)
	return a, err
}

// Repeats is how many requests were repetitions of others.
func (a *Admin) Repeats() int64 { return a.repeats.Load() }

// Create creates the tenant id. It does not wait for the consumer: see [Admin.AwaitState].
func (a *Admin) Create(ctx context.Context, id uuid.UUID, workers int) error {
	_, err := a.client.CreateTenant(ctx, client.NewTenant{ID: client.ID(id), Name: "tenant " + id.String(), Workers: workers})
	return err
}

// Delete asks for the deletion of a tenant. One that is gone already is fine.
func (a *Admin) Delete(ctx context.Context, id uuid.UUID) error {
	if err := a.client.DeleteTenant(ctx, client.ID(id)); err != nil && !errors.Is(err, client.ErrTenantNotFound) {
		return err
	}
	return nil
}

// AwaitDeleted returns when the tenant is gone: its consumer, its queue and its partition.
func (a *Admin) AwaitDeleted(ctx context.Context, id uuid.UUID) error {
	return a.await(ctx, func() (string, bool, error) {
		tenant, err := a.Tenant(ctx, id)
		if errors.Is(err, client.ErrTenantNotFound) {
			return "", true, nil
		}
		return fmt.Sprintf("tenant %s is not deleted: %s, observed %s", id, tenant.State, tenant.Status.State), false, err
	})
}

// Suspend stops the consumption of a tenant's messages. See [Admin.AwaitState] for when it has come about.
func (a *Admin) Suspend(ctx context.Context, id uuid.UUID) error {
	_, err := a.client.SuspendTenant(ctx, client.ID(id))
	return err
}

// Resume ends a suspension.
func (a *Admin) Resume(ctx context.Context, id uuid.UUID) error {
	_, err := a.client.ResumeTenant(ctx, client.ID(id))
	return err
}

// Resize sets the number of a tenant's workers.
func (a *Admin) Resize(ctx context.Context, id uuid.UUID, workers int) error {
	_, err := a.client.ResizeTenant(ctx, client.ID(id), workers)
	return err
}

// Limit changes limits of a tenant: nil is the default again. See [Admin.AwaitState] for when that is in force.
func (a *Admin) Limit(ctx context.Context, id uuid.UUID, patch client.LimitPatch) error {
	_, err := a.client.PatchTenantConfig(ctx, client.ID(id), patch)
	return err
}

// IssueToken issues a token of a tenant that may do everything that its applications do.
func (a *Admin) IssueToken(ctx context.Context, id uuid.UUID, name string) (client.IssuedToken, error) {
	return a.client.IssueToken(ctx, client.ID(id), client.NewToken{
		Name: name, Scopes: []client.Scope{client.ScopeMessagesRead, client.ScopeMessagesWrite, client.ScopeDeadLettersManage},
	})
}

// RevokeToken ends a token. It is known to all services within two seconds.
func (a *Admin) RevokeToken(ctx context.Context, id uuid.UUID, token client.ID) error {
	return a.client.RevokeToken(ctx, client.ID(id), token)
}

// IssueCredential makes an AMQP credential of a tenant.
func (a *Admin) IssueCredential(ctx context.Context, id uuid.UUID, name string) (client.IssuedCredential, error) {
	return a.client.IssueCredential(ctx, client.ID(id), name)
}

// RevokeCredential deletes a credential. Its connections are closed when it returns.
func (a *Admin) RevokeCredential(ctx context.Context, id uuid.UUID, credential client.ID) error {
	return a.client.RevokeCredential(ctx, client.ID(id), credential)
}

// Tenant shows a tenant.
func (a *Admin) Tenant(ctx context.Context, id uuid.UUID) (client.Tenant, error) {
	return a.client.Tenant(ctx, client.ID(id))
}

// AwaitState returns when the instance that runs observes the tenant in that state, acting on its newest generation, and,
// unless workers is 0, with that many workers. That is not what [client.Wait] waits for, which counts every instance.
func (a *Admin) AwaitState(ctx context.Context, id uuid.UUID, state client.ConsumerState, workers int) error {
	return a.await(ctx, func() (string, bool, error) {
		tenant, err := a.Tenant(ctx, id)
		if err != nil {
			return "", false, err
		}
		seen := latest(tenant)
		done := seen.State == state && seen.ObservedGeneration >= tenant.Generation && (workers == 0 || seen.Workers == workers)
		return fmt.Sprintf("tenant %s is not %s with %d workers but %s with %d (generation %d, observed %d) %s", id, state,
			workers, seen.State, seen.Workers, tenant.Generation, seen.ObservedGeneration, seen.Error), done, nil
	})
}

// latest is the report that was made last. A platform has one instance of ingest-service at a time, but what one that has
// been killed had to say is shown beside it until it expires after 30 s.
func latest(t client.Tenant) client.InstanceStatus {
	if len(t.Status.Instances) == 0 {
		return client.InstanceStatus{State: client.ConsumerUnknown}
	}
	return slices.MaxFunc(t.Status.Instances, func(a, b client.InstanceStatus) int { return a.ObservedAt.Compare(b.ObservedAt) })
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
		if err := retry.Sleep(ctx, awaitPoll); err != nil {
			return fmt.Errorf("%s: %w", last, err)
		}
	}
}
