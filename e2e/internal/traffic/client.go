package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

const (
	// callTimeout is longer than the services' own limit of a request, 10 s.
	callTimeout = 15 * time.Second
	// pageLimit is the limit of a page, the largest that is allowed.
	pageLimit = 1000
)

// clients are the public clients of the tenants' applications, over shared connections. They repeat nothing: the ledger has
// what became of each try.
type clients struct {
	shared   *client.Client
	newToken func(tenant uuid.UUID) (string, error)

	mu sync.Mutex
	of map[uuid.UUID]*client.Client // guarded by mu
}

func newClients(site Site) (*clients, error) {
	shared, err := client.New(client.URLs{Tenant: site.TenantURL, Ingest: site.IngestURL, Query: site.QueryURL}, client.StaticToken(""),
		client.WithTransport(site.Transport), client.WithRetry(client.Retry{MaxAttempts: 1}), client.WithAttemptTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return &clients{shared: shared, newToken: site.Token, of: make(map[uuid.UUID]*client.Client)}, nil
}

// client is the one of a tenant.
func (c *clients) client(tenant uuid.UUID) (*client.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.of[tenant]; known != nil {
		return known, nil
	}
	token, err := c.newToken(tenant)
	if err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	c.of[tenant] = c.shared.With(client.WithToken(client.StaticToken(token)))
	return c.of[tenant], nil
}

// page reads one page.
func (c *clients) page(ctx context.Context, tenant uuid.UUID, descending bool, cursor string) (client.Page[client.Message], error) {
	of, err := c.client(tenant)
	if err != nil {
		return client.Page[client.Message]{}, err
	}
	return of.Messages(client.MessageQuery{Cursor: cursor, Limit: pageLimit, Descending: descending}).Next(ctx)
}

// publish sends messages, alone or as a batch, and returns an error, or nil, for each.
func (c *clients) publish(ctx context.Context, tenant uuid.UUID, messages []client.Publishing, batch bool) []error {
	of, err := c.client(tenant)
	if err != nil {
		return slices.Repeat([]error{err}, len(messages))
	}
	errs := make([]error, len(messages))
	if batch {
		results, _ := of.PublishBatch(ctx, messages) // the error is one of the results
		for i, r := range results {
			errs[i] = r.Err
		}
		return errs
	}
	for i, m := range messages {
		_, errs[i] = of.Publish(ctx, m)
	}
	return errs
}

// publishing is m as the client publishes it.
func (a *account) publishing(m item) client.Publishing {
	return client.Publishing{ID: client.ID(a.id(m.seq)), Payload: json.RawMessage(a.payload(m.seq, m.revision))}
}

// outcomeOf reads an error as producers do: whatever is not a clear yes or no is to be repeated.
func outcomeOf(err error) outcome {
	refused, ok := errors.AsType[*client.Problem](err)
	switch {
	case err == nil:
		return outcomeConfirmed
	case ok && isDeclined(refused):
		return outcomeDeclined
	case ok && refused.Status < http.StatusInternalServerError && refused.Status >= http.StatusBadRequest &&
		refused.Status != http.StatusRequestTimeout:
		return outcomeRefused
	default:
		return outcomeUnknown
	}
}
