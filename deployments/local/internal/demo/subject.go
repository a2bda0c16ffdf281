package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

// subject is a tenant of the demo, with what was sent for it and what came back.
type subject struct {
	name   string
	id     uuid.UUID
	ids    []uuid.UUID       // of its messages; message i carries document i
	index  map[uuid.UUID]int // the reverse
	corpus *corpus
	ingest *client
	query  *client

	started     time.Time
	publishTook time.Duration
	followTook  time.Duration

	// Written by one goroutine each, read by the progress line.
	viaHTTP, viaAMQP, read atomic.Int64

	order []uuid.UUID // in which they were read; belongs to follow until it has returned
	pages int
}

// tenant is what tenant-service says of a tenant, as far as it matters here.
type tenant struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Status struct {
		State   string `json:"state"`
		Workers int    `json:"workers"`
		Error   string `json:"error"`
	} `json:"status"`
}

func (t tenant) running() bool { return t.Status.State == string(contract.StateRunning) }

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
	s.ingest = &client{http: d.http, base: d.IngestURL, token: token}
	s.query = &client{http: d.http, base: d.QueryURL, token: token}
	var made tenant
	body := map[string]any{"id": s.id, "name": "demo " + name, "workers": 3}
	create := request{method: http.MethodPost, path: "/tenants", body: body, prefer: "wait=10"}
	if err := d.admin.do(ctx, create, &made); err != nil {
		return nil, fmt.Errorf("create the tenant %s: %w", name, err)
	}
	if err := d.await(ctx, s.id, tenant.running); err != nil {
		return nil, fmt.Errorf("wait for the consumer of %s: %w", name, err)
	}
	return s, nil
}

// await asks for a tenant until it is as done wants it.
func (d *demo) await(ctx context.Context, id uuid.UUID, done func(tenant) bool) error {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	var last tenant
	err := until(ctx, 20*time.Millisecond, func() (bool, error) {
		err := d.admin.do(ctx, request{method: http.MethodGet, path: "/tenants/" + id.String()}, &last)
		return err == nil && done(last), err
	})
	if err != nil {
		return fmt.Errorf("%w (consumer %s, %d workers, %s)", err, last.Status.State, last.Status.Workers, last.Status.Error)
	}
	return nil
}

// remove deletes the tenant and waits until it cannot be found any more.
func (d *demo) remove(ctx context.Context, s *subject) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, provisionTimeout)
	defer cancel()
	began := time.Now()
	one := request{method: http.MethodDelete, path: "/tenants/" + s.id.String(), prefer: "wait=10"}
	if err := d.admin.do(ctx, one, nil); err != nil && status(err) != http.StatusNotFound {
		return 0, fmt.Errorf("delete the tenant %s: %w", s.name, err)
	}
	err := until(ctx, 20*time.Millisecond, func() (bool, error) {
		err := d.admin.do(ctx, request{method: http.MethodGet, path: one.path}, nil)
		if status(err) == http.StatusNotFound {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return 0, fmt.Errorf("wait for the end of the tenant %s: %w", s.name, err)
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
		foreign := request{method: http.MethodGet, path: "/messages/" + other.ids[0].String()}
		if err := s.query.do(ctx, foreign, nil); status(err) != http.StatusNotFound {
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
