package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// callTimeout is longer than the services' own limit of a request, 10 s.
	callTimeout = 15 * time.Second
	// pageLimit is the limit of a page, the largest that is allowed.
	pageLimit = 1000
	// maxAnswer bounds what is read of an answer; a page ends at 8 MiB.
	maxAnswer = 64 << 20
)

// client makes the requests of producers and readers.
type client struct {
	http     *http.Client
	ingest   string
	query    string
	newToken func(tenant uuid.UUID) (string, error)

	mu     sync.Mutex
	tokens map[uuid.UUID]string // guarded by mu
}

func newClient(site Site) *client {
	return &client{
		ingest: site.IngestURL, query: site.QueryURL, newToken: site.Token, tokens: make(map[uuid.UUID]string),
		http: &http.Client{Timeout: callTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 128, IdleConnTimeout: 10 * time.Second}},
	}
}

func (c *client) close() { c.http.CloseIdleConnections() }

func (c *client) token(tenant uuid.UUID) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if token, known := c.tokens[tenant]; known {
		return token, nil
	}
	token, err := c.newToken(tenant)
	if err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	c.tokens[tenant] = token
	return token, nil
}

// do makes one request with the token of tenant. An error is one of the transport.
func (c *client) do(ctx context.Context, tenant uuid.UUID, method, target, contentType string, body []byte) (status int, answer []byte, err error) {
	token, err := c.token(tenant)
	if err != nil {
		return 0, nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("ask: %w", err)
	}
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if closing := response.Body.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read the answer: %w", err)
	}
	return response.StatusCode, answer, nil
}

// shown is a message as query-service shows it.
type shown struct {
	ID       uuid.UUID       `json:"id"`
	TenantID uuid.UUID       `json:"tenant_id"`
	Payload  json.RawMessage `json:"payload"`
}

// page is an answer of GET /messages.
type page struct {
	Data       []shown `json:"data"`
	NextCursor string  `json:"next_cursor"`
	HasMore    bool    `json:"has_more"`
}

// statusError is an answer that is not what was hoped for.
type statusError struct {
	status int
	code   string // of the problem document
}

func (e *statusError) Error() string { return fmt.Sprintf("%d %s", e.status, e.code) }

func refusal(status int, body []byte) error {
	var problem struct {
		Code string `json:"code"`
	}
	if json.Unmarshal(body, &problem) != nil || problem.Code == "" {
		problem.Code = "without a problem document: " + shorten(body)
	}
	return &statusError{status: status, code: problem.Code}
}

// page reads one page.
func (c *client) page(ctx context.Context, tenant uuid.UUID, order, cursor string) (page, error) {
	query := url.Values{"limit": {strconv.Itoa(pageLimit)}, "order": {order}}
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	status, body, err := c.do(ctx, tenant, http.MethodGet, c.query+"/messages?"+query.Encode(), "", nil)
	if err != nil {
		return page{}, err
	}
	if status != http.StatusOK {
		return page{}, refusal(status, body)
	}
	var p page
	if err := json.Unmarshal(body, &p); err != nil {
		return page{}, fmt.Errorf("decode a page: %w", err)
	}
	return p, nil
}

// publish sends one message.
func (c *client) publish(ctx context.Context, tenant, id uuid.UUID, payload []byte) (outcome, error) {
	body := fmt.Appendf(nil, `{"id":%q,"payload":%s}`, id, payload)
	status, answer, err := c.do(ctx, tenant, http.MethodPost, c.ingest+"/messages", "application/json", body)
	if err != nil {
		return outcomeUnknown, err
	}
	o := outcomeOf(status)
	if o != outcomeConfirmed {
		return o, refusal(status, answer)
	}
	return o, nil
}

// line is what is sent of one message of a batch.
type line struct {
	id      uuid.UUID
	payload []byte
}

// publishBatch sends many messages and returns one outcome for each.
func (c *client) publishBatch(ctx context.Context, tenant uuid.UUID, lines []line) ([]outcome, error) {
	outcomes := make([]outcome, len(lines)) // unknown
	var body []byte
	for _, l := range lines {
		body = fmt.Appendf(body, `{"id":%q,"payload":%s}`+"\n", l.id, l.payload)
	}
	status, answer, err := c.do(ctx, tenant, http.MethodPost, c.ingest+"/messages/batch", "application/x-ndjson", body)
	if err != nil {
		return outcomes, err
	}
	if status != http.StatusAccepted {
		for i := range outcomes {
			outcomes[i] = outcomeOf(status)
		}
		return outcomes, refusal(status, answer)
	}
	var result struct {
		Results []struct {
			Line   int    `json:"line"`
			Status int    `json:"status"`
			ID     string `json:"id"`
			Code   string `json:"code"`
		} `json:"results"`
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return outcomes, fmt.Errorf("decode the answer to a batch: %w", err)
	}
	var first error
	for _, r := range result.Results {
		// What is not answered under its own id and place is not answered.
		if r.Line < 1 || r.Line > len(lines) || (r.ID != lines[r.Line-1].id.String()) {
			first = fmt.Errorf("an answer to line %d with id %q that was not sent", r.Line, r.ID)
			continue
		}
		o := outcomeOf(r.Status)
		outcomes[r.Line-1] = o
		if o != outcomeConfirmed && first == nil {
			first = &statusError{status: r.Status, code: r.Code}
		}
	}
	return outcomes, first
}

// outcomeOf reads a status as producers do: whatever is not a clear yes or no is to be repeated.
func outcomeOf(status int) outcome {
	switch {
	case status == http.StatusAccepted:
		return outcomeConfirmed
	case status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		return outcomeUnknown
	case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
		return outcomeRefused
	default:
		return outcomeUnknown
	}
}
