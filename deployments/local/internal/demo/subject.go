package demo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// subject is a tenant of the demo, with what was sent for it and what came back.
type subject struct {
	name   string
	id     uuid.UUID
	ids    []uuid.UUID       // of its messages; message i carries document i
	index  map[uuid.UUID]int // the reverse
	corpus *corpus
	client *client.Client // with the tenant's own token

	started     time.Time
	publishTook time.Duration
	followTook  time.Duration

	// Written by one goroutine each, read by the progress line.
	viaHTTP, viaAMQP, read atomic.Int64

	order []uuid.UUID // in which they were read; belongs to follow until it has returned
	pages int
}

// newSubject makes a tenant and waits until its consumer runs.
func (d *demo) newSubject(ctx context.Context, name string) (*subject, error) {
	s := &subject{name: name, id: uuid.New(), corpus: d.corpus, index: make(map[uuid.UUID]int, d.corpus.total)}
	for i := range d.corpus.total {
		id := uuid.New()
		s.ids = append(s.ids, id)
		s.index[id] = i
	}
	token, err := d.TenantToken(s.id)
	if err != nil {
		return nil, err
	}
	s.client = d.admin.With(client.WithToken(client.StaticToken(token)))
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	tenant := client.NewTenant{ID: client.ID(s.id), Name: "demo " + name, Workers: 3}
	if _, err := d.admin.CreateTenant(ctx, tenant, client.Wait()); err != nil {
		return nil, fmt.Errorf("wait for the consumer of %s: %w", name, err)
	}
	return s, nil
}

// remove deletes the tenant and waits until it cannot be found any more.
func (d *demo) remove(ctx context.Context, s *subject) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	began := time.Now()
	if err := d.admin.DeleteTenant(ctx, client.ID(s.id), client.Wait()); err != nil {
		return 0, fmt.Errorf("remove %s: %w", s.name, err)
	}
	if _, err := d.admin.Tenant(ctx, client.ID(s.id)); !errors.Is(err, client.ErrTenantNotFound) {
		return 0, fmt.Errorf("the tenant %s is deleted and can still be found: %w", s.name, err)
	}
	return time.Since(began), nil
}

// verify reads everything of every tenant again, backwards, and asks with the token of one tenant for a message of
// another.
func (d *demo) verify(ctx context.Context) error {
	var errs []error
	for i, s := range d.subjects {
		errs = append(errs, s.reread(ctx))
		other := d.subjects[(i+1)%len(d.subjects)]
		if _, err := s.client.Message(ctx, client.ID(other.ids[0])); !errors.Is(err, client.ErrNotStored) {
			errs = append(errs, fmt.Errorf("%w: the token of %s finds a message of %s: %v", errDiffers, s.name, other.name, err)) //nolint:errorlint // the answer is shown, not wrapped
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.screen.say("checked: each tenant read its %d messages, each once and with the content that was sent, and none of another tenant;"+
		" backwards they are the same in reverse", d.corpus.total)
	return nil
}
