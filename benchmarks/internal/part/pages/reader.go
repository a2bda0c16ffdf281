package pages

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/rig"
)

// reader reads pages as an application of the tenant does.
type reader struct {
	rig   *rig.Rig
	base  string
	token string
}

func newReader(r *rig.Rig, tenant uuid.UUID) (*reader, error) {
	token, err := r.Stack.TenantToken(tenant)
	if err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	return &reader{rig: r, base: r.Stack.Query.URL + "/messages?", token: token}, nil
}

// answer is what the benchmark looks at in a page.
type answer struct {
	Data       []message `json:"data"`
	NextCursor string    `json:"next_cursor"`
}

type message struct {
	ID uuid.UUID `json:"id"`
}

// page reads a page and looks into it.
func (r *reader) page(ctx context.Context, order, cursor string) (answer, error) {
	return r.decode(ctx, pageQuery(order, cursor))
}

// cursorNear is a cursor close behind a position: that of the first page that is created later, in the order of reading. A
// cursor belongs to its tenant and order, not to limits of time.
func (r *reader) cursorNear(ctx context.Context, order string, p *position) (string, error) {
	query := url.Values{"order": {order}, "limit": {strconv.Itoa(pageSize)}}
	bound := "created_after"
	if order == descending {
		bound = "created_before"
	}
	query.Set(bound, p.createdAt.UTC().Format(time.RFC3339Nano))
	a, err := r.decode(ctx, query.Encode())
	return a.NextCursor, err
}

// fetch reads a page to its last byte.
func (r *reader) fetch(ctx context.Context, order, cursor string) error {
	return r.get(ctx, pageQuery(order, cursor), func([]byte) error { return nil })
}

func pageQuery(order, cursor string) string {
	query := "order=" + order + "&limit=" + strconv.Itoa(pageSize)
	if cursor != "" {
		query += "&cursor=" + cursor // nothing in it needs escaping
	}
	return query
}

func (r *reader) decode(ctx context.Context, query string) (answer, error) {
	var a answer
	err := r.get(ctx, query, func(body []byte) error { return json.Unmarshal(body, &a) })
	return a, err
}

func (r *reader) get(ctx context.Context, query string, use func(body []byte) error) error {
	return r.rig.Send(ctx, rig.Request{URL: r.base + query, Token: r.token}, use)
}
