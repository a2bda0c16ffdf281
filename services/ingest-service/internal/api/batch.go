package api

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// chunkLines is how many lines of a batch are decoded and published at a time: several times what a channel of the broker
// takes unconfirmed, since the end of each chunk is waited for, and less than a megabyte of memory beside the body.
const chunkLines = 2000

// LineResult is what became of one line of a batch.
type LineResult struct {
	// The number of the line, from 1 on. Blank lines are counted and have no result.
	Line int `json:"line" example:"1"`
	// 202: accepted. Otherwise as POST /messages would answer.
	Status int `json:"status" example:"202"`
	// Id of the message; of a line that could not be read it is missing.
	ID string `json:"id,omitempty" format:"uuid"`
	// As in a problem document.
	Code string `json:"code,omitempty" example:"unknown_field"`
	// As in a problem document.
	Detail string `json:"detail,omitempty"`
	// As in a problem document.
	Errors []problem.FieldError `json:"errors,omitempty"`
}

// BatchResult is the answer to a batch.
type BatchResult struct {
	Accepted int `json:"accepted" example:"999"`
	Failed   int `json:"failed" example:"1"`
	// In the order of the lines.
	Results []LineResult `json:"results"`
}

// publishBatch takes in many messages.
//
//	@summary		Publish a batch of messages
//	@description	NDJSON: one message a line, as in POST /messages. It may be compressed with gzip or zstd; the limits are those of what it is without. Each line has a result of its own, in order; a line that is refused does not touch the others. 202 says that the batch was worked on: look at `failed`. Lines with status 503 are safe to repeat with the `id` of their result. Of a batch over the tenant's limit of messages or bytes a second the first lines are accepted, and the others have status 429, `rate_limited`: repeat them after the time in Retry-After. While the tenant has stored as much as it may, lines have status 507, `storage_full`, with a Retry-After if it has a retention.
//	@tags			messages
//	@security		Bearer
//	@accept			application/x-ndjson,json
//	@param			messages	body		string		true	"one message a line"	example({"payload":{"a":1}})
//	@param			tenant_id	query		string		false	"the tenant, for a token that is not bound to one"	format(uuid)
//	@success		202			{object}	BatchResult
//	@header			202			{string}	RateLimit-Policy	"the limits a second of a tenant that has any, as in POST /messages"
//	@header			202			{string}	RateLimit			"what is left of them"
//	@header			202			{integer}	Retry-After			"seconds, if lines have status 429, or 507 where waiting may help"
//	@failure		400			{object}	problem.Problem	"`empty_body`, `malformed_encoding`, `unknown_parameter`"
//	@failure		404			{object}	problem.Problem	"`tenant_not_found`"
//	@failure		409			{object}	problem.Problem	"`tenant_deleting`"
//	@failure		413			{object}	problem.Problem	"`body_too_large`, or `too_many_lines`"
//	@failure		415			{object}	problem.Problem	"the body is not NDJSON in UTF-8 under one of its names (application/x-ndjson, application/ndjson, application/jsonl, application/jsonlines, application/x-jsonlines, application/json), or compressed with other than gzip or zstd"
//	@failure		503			{object}	problem.Problem	"`tenant_provisioning`: try again after the time in Retry-After"
//	@id			publishBatch
//	@router			/messages/batch [post]
func (a *api) publishBatch(c *fiber.Ctx) error {
	if err := rest.UnknownQuery(c, "tenant_id"); err != nil {
		return err
	}
	tenant, err := auth.Tenant(c)
	if err != nil {
		return err
	}
	// The names under which NDJSON goes.
	if err := rest.Content(c, "application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines",
		"application/x-jsonlines", fiber.MIMEApplicationJSON); err != nil {
		return err
	}
	// Not a copy: nothing of it is kept beyond this call.
	body, err := rest.Body(c, a.cfg.BatchBody)
	if err != nil {
		return err
	}
	if err := a.checkBatch(body); err != nil {
		return err
	}
	ctx, cancel := rest.WithMargin(c.UserContext())
	defer cancel()
	limits, err := a.open(ctx, tenant)
	if err != nil {
		return err
	}
	return c.Status(http.StatusAccepted).JSON(a.work(ctx, c, tenant, limits, body))
}

// checkBatch refuses a batch as a whole, before anything of it is published.
func (a *api) checkBatch(body []byte) error {
	count := 0
	for range lines(body) {
		count++
	}
	switch {
	case count == 0:
		return problem.New(http.StatusBadRequest, "empty_body", "the batch has no lines")
	case count > a.cfg.BatchLines:
		return problem.New(http.StatusRequestEntityTooLarge, "too_many_lines",
			fmt.Sprintf("the batch has %d lines, the limit is %d; nothing of it was published", count, a.cfg.BatchLines))
	}
	return nil
}

// lines are the lines of body that are not blank, each with its number from 1 on. White space is what it is in JSON:
// bytes.TrimSpace would take a no-break space for one, too, and let a line pass that is not JSON.
func lines(body []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		number := 0
		for line := range bytes.Lines(body) {
			number++
			if line = bytes.Trim(line, " \t\r\n"); len(line) > 0 && !yield(number, line) {
				return
			}
		}
	}
}

// work publishes what it can of a batch.
func (a *api) work(ctx context.Context, c *fiber.Ctx, tenant uuid.UUID, limits contract.Limits, body []byte) BatchResult {
	batch := BatchResult{Results: []LineResult{}}
	next := chunk{tenant: tenant, limits: limits, rates: rate.Publishing(limits)}
	now := time.Now()
	for number, line := range lines(body) {
		m, err := a.readLine(line)
		if err == nil {
			err = checkSize(m.payload, limits.MaxPayload)
		}
		result := LineResult{Line: number, Status: http.StatusAccepted}
		if err == nil {
			result.ID = m.id.String()
			next.add(message(tenant, m, now), line, len(batch.Results))
		} else {
			result.refuse(lineProblem(err))
		}
		batch.Results = append(batch.Results, result)
		if len(next.messages) == chunkLines {
			a.publishChunk(ctx, c, &next, batch.Results)
		}
	}
	a.publishChunk(ctx, c, &next, batch.Results)
	if next.refusal != nil && next.refusal.RetryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int(next.refusal.RetryAfter/time.Second)))
	}
	for i := range batch.Results {
		if batch.Results[i].Status == http.StatusAccepted {
			batch.Accepted++
		} else {
			batch.Failed++
		}
	}
	return batch
}

// chunk is what of a batch is published at a time.
type chunk struct {
	tenant   uuid.UUID
	limits   contract.Limits
	rates    rate.Amounts
	messages []publish.Message
	place    []int            // messages[i] is that of the result of that index
	costs    []rate.Amounts   // of messages; empty without rates
	refusal  *problem.Problem // of all that follows: a message was over a rate, or the storage is full
	refused  error            // which of the two
}

func (ch *chunk) add(m publish.Message, line []byte, place int) {
	ch.messages, ch.place = append(ch.messages, m), append(ch.place, place)
	if !ch.rates.IsZero() {
		ch.costs = append(ch.costs, cost(line))
	}
}

// publishChunk publishes what the limits of the tenant let pass, notes what became of each message, and empties the chunk. After the
// first message that is over a rate none passes, nor once the storage is full: those that do are the first ones.
func (a *api) publishChunk(ctx context.Context, c *fiber.Ctx, ch *chunk, results []LineResult) {
	passed := len(ch.messages)
	if ch.refusal == nil && passed > 0 {
		ch.refusal, ch.refused = a.storageFull(ch.tenant, ch.limits), errStorageFull
	}
	switch {
	case ch.refusal != nil:
		passed = 0
	case passed > 0 && !ch.rates.IsZero():
		passed, ch.refusal = a.pass(ctx, c, ch.tenant, ch.rates, ch.costs)
		ch.refused = errRateLimited
	}
	for i, err := range a.deps.Publisher.PublishBatch(ctx, ch.messages[:passed]) {
		a.metrics.count(ch.tenant, err)
		if err != nil {
			result := &results[ch.place[i]]
			result.refuse(publishProblem(err, result.ID))
			if len(ch.costs) > 0 {
				a.giveBack(ch.tenant, ch.costs[i], err)
			}
		}
	}
	for _, place := range ch.place[passed:] {
		a.metrics.count(ch.tenant, ch.refused)
		results[place].refuse(ch.refusal)
	}
	clear(ch.messages) // lets go of the payloads
	ch.messages, ch.place, ch.costs = ch.messages[:0], ch.place[:0], ch.costs[:0]
}

// readLine reads a message that can be stored.
func (a *api) readLine(line []byte) (incoming, error) {
	if len(line) > a.cfg.MessageBody {
		return incoming{}, problem.New(http.StatusRequestEntityTooLarge, "line_too_large",
			fmt.Sprintf("the line is longer than %d bytes", a.cfg.MessageBody))
	}
	return a.read(line)
}

// lineProblem is the problem in err, of which there always is one unless the machine fails.
func lineProblem(err error) *problem.Problem {
	if p, ok := problem.As(err); ok {
		return p
	}
	return problem.New(http.StatusInternalServerError, "internal", "an internal error")
}

func (r *LineResult) refuse(p *problem.Problem) {
	r.Status, r.Code, r.Detail, r.Errors = p.Status, p.Code, p.Detail, p.Errors
}
