package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// Publishing is a message to be published.
type Publishing struct {
	// ID is the identity of the message: of several with the same id one is stored, the first. Without one the message gets a
	// new one, which is enough for repeats within a call. A producer that may be restarted in between gives its own: see
	// [NameID].
	ID ID
	// Payload is encoded by encoding/json. Bytes that are JSON already are a [json.RawMessage]; []byte, which would be
	// encoded as base64, and nil are refused. A payload of null is json.RawMessage("null").
	Payload any
	// Type, Key and Attributes are what readers select messages by: see [Envelope].
	Type, Key  string
	Attributes map[string]string
}

// Envelope is what a message carries beside its payload, as text without control characters. What is empty is not set.
type Envelope struct {
	// Type is the kind of message, such as "order.created": up to 255 bytes.
	Type string `json:"type,omitempty"`
	// Key names what the message is about: up to 255 bytes.
	Key string `json:"key,omitempty"`
	// Attributes are up to 16, 4 KiB in all: names of up to 64 of the characters a-z, 0-9, _, . and -, values of up to 512 bytes.
	Attributes map[string]string `json:"attributes,omitempty"`
}

func (e Envelope) isZero() bool { return e.Type == "" && e.Key == "" && len(e.Attributes) == 0 }

// append appends the fields of e as members of an object that has others already.
func (e Envelope) append(body *bytes.Buffer) error {
	if e.isZero() {
		return nil
	}
	for _, s := range [...]string{e.Type, e.Key} {
		if !utf8.ValidString(s) {
			return errNotText // encoding/json would replace the bytes in silence
		}
	}
	for name, value := range e.Attributes {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return errNotText
		}
	}
	encoded, err := json.Marshal(e)
	if err != nil {
		return err
	}
	body.WriteByte(',')
	body.Write(encoded[1 : len(encoded)-1])
	return nil
}

// Result is what became of a message.
type Result struct {
	// ID is that of the message, which was made if it had none.
	ID ID
	// Err is nil if the message was accepted. A *[Problem] whose Retryable is false says that it was refused. With any other
	// error it may have been accepted, and is safe to publish again under the same id.
	Err error
}

var (
	// errPayload refuses what is no payload.
	errPayload = errors.New("not a payload")
	// errNotText refuses an envelope that is not UTF-8.
	errNotText = errors.New("type, key and attributes must be UTF-8")
)

// Publish publishes a message and returns its id once the broker has it on disk. The id is returned with an error as well,
// for publishing the message again.
func (c *Client) Publish(ctx context.Context, m Publishing) (ID, error) {
	l, err := encode(m)
	if err != nil {
		return l.id, err
	}
	var accepted struct {
		ID ID `json:"id"`
	}
	request := call{service: ingestService, method: http.MethodPost, path: "/messages", body: l.body, contentType: "application/json"}
	_, err = c.do(ctx, request, &accepted)
	if err == nil && accepted.ID != l.id {
		err = fmt.Errorf("%w: the message is accepted under the id %s", ErrUnexpectedAnswer, accepted.ID)
	}
	if err != nil {
		return l.id, fmt.Errorf("publish message %s: %w", l.id, err)
	}
	return l.id, nil
}

// PublishBatch publishes messages and returns a result for each, in their order. Of a batch that was accepted in part only
// the other messages are repeated. Any number is fine: more than 1,000, or more than 4 MiB, go in several requests, one
// after the other. The error is nil if all were accepted; else it says how many were not, and wraps the error of the first.
func (c *Client) PublishBatch(ctx context.Context, ms []Publishing) ([]Result, error) {
	results := make([]Result, len(ms))
	lines := make([]line, 0, len(ms))
	for i, m := range ms {
		l, err := encode(m)
		l.resolve = func(err error) { results[i].Err = err }
		results[i] = Result{ID: l.id, Err: err}
		if err == nil {
			lines = append(lines, l)
		}
	}
	for len(lines) > 0 {
		n, size := 0, 0
		for n < len(lines) && n < defaultBatch && (n == 0 || size+len(lines[n].body) < defaultBatchBytes) {
			size += len(lines[n].body) + 1
			n++
		}
		c.publishLines(ctx, lines[:n])
		lines = lines[n:]
	}
	return results, summarize(results)
}

// summarize is nil if all messages were accepted.
func summarize(results []Result) error {
	var failed failures
	for _, r := range results {
		failed.add(r.Err)
	}
	return failed.err(len(results))
}

// failures counts the messages that were not accepted and keeps the first error.
type failures struct {
	count int
	first error
}

func (f *failures) add(err error) {
	if err == nil {
		return
	}
	f.count++
	if f.first == nil {
		f.first = err
	}
}

func (f *failures) err(of int) error {
	if f.count == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d messages were not accepted; the first: %w", f.count, of, f.first)
}

// line is an encoded message of a batch.
type line struct {
	id   ID
	body []byte // without a line break
	// resolve is called once, with the result.
	resolve func(error)
}

// encode makes the body of a message. The line has its id even with an error.
func encode(m Publishing) (line, error) {
	l := line{id: m.ID}
	if l.id.IsZero() {
		l.id = NewID()
	}
	body := bytes.NewBuffer(make([]byte, 0, 256))
	body.WriteString(`{"id":"`)
	body.Write(l.id.append(body.AvailableBuffer()))
	body.WriteString(`","payload":`)
	err := encodePayload(body, m.Payload)
	if err == nil {
		err = Envelope{Type: m.Type, Key: m.Key, Attributes: m.Attributes}.append(body)
	}
	if err != nil {
		return l, fmt.Errorf("encode message %s: %w", l.id, err)
	}
	body.WriteByte('}')
	l.body = body.Bytes()
	return l, nil
}

// encodePayload appends a payload without line breaks. HTML is not escaped, which would make it up to six times as long.
func encodePayload(body *bytes.Buffer, payload any) error {
	raw, isRaw := payload.(json.RawMessage)
	if payload == nil || isRaw && len(raw) == 0 {
		return fmt.Errorf(`%w: nil; null is json.RawMessage("null")`, errPayload)
	}
	if _, isBytes := payload.([]byte); isBytes {
		return fmt.Errorf("%w: []byte would be encoded as base64; bytes of JSON are a json.RawMessage", errPayload)
	}
	encoder := json.NewEncoder(body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(payload); err != nil {
		return err
	}
	body.Truncate(body.Len() - 1) // the line break of Encode
	return nil
}

// batchAnswer is the answer to a batch.
type batchAnswer struct {
	Results []struct {
		problem
		Line   int    `json:"line"`
		Status int    `json:"status"`
		ID     string `json:"id"`
	} `json:"results"`

	retryAfter time.Duration // that of the whole, for the lines that are over a rate, or for which there is no room
}

func (a *batchAnswer) readHeader(header http.Header) { a.retryAfter = retryAfter(header) }

// publishLines publishes lines as one request and repeats those that were not accepted, as long as that helps. Every line is
// resolved when it returns.
func (c *Client) publishLines(ctx context.Context, lines []line) {
	attempts := c.repeats(ctx, false)
	for len(lines) > 0 {
		request := call{service: ingestService, method: http.MethodPost, path: "/messages/batch", body: join(lines), contentType: "application/x-ndjson"}
		var answer batchAnswer
		err := c.attempt(ctx, request, attempts.failed+1, &answer)
		if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusRequestEntityTooLarge && len(lines) > 1 {
			// The installation allows less in a batch. Nothing of this one was accepted.
			c.publishLines(ctx, lines[:len(lines)/2])
			lines = lines[len(lines)/2:]
			continue
		}
		var errs []error // of the lines that are left
		if err == nil {
			lines, errs = answer.resolve(lines)
		} else {
			errs = slices.Repeat([]error{err}, len(lines))
		}
		if len(lines) == 0 {
			return
		}
		if final := attempts.next(ctx, slowest(errs)); final != nil {
			for i, l := range lines {
				l.resolve(fmt.Errorf("publish message %s: %w", l.id, final(errs[i])))
			}
			return
		}
	}
}

// slowest is the error that asks for the longest wait, the first one if none does.
func slowest(errs []error) error {
	return slices.MaxFunc(errs, func(a, b error) int { return cmp.Compare(waitOf(a), waitOf(b)) })
}

func waitOf(err error) time.Duration {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p.RetryAfter
	}
	return 0
}

// join makes a body of lines.
func join(lines []line) []byte {
	size := 0
	for _, l := range lines {
		size += len(l.body) + 1
	}
	body := make([]byte, 0, size)
	for _, l := range lines {
		body = append(append(body, l.body...), '\n')
	}
	return body
}

// resolve resolves the lines that have a final answer, and returns the others with their errors. A line that was not
// answered under its own number and id was not answered.
func (a batchAnswer) resolve(lines []line) (left []line, errs []error) {
	answers := make([]error, len(lines))
	for i := range answers {
		answers[i] = fmt.Errorf("%w: no result of the line", ErrUnexpectedAnswer)
	}
	for _, r := range a.Results {
		i := r.Line - 1
		switch {
		case i < 0 || i >= len(lines):
		case r.Status == http.StatusAccepted && r.ID == lines[i].id.String():
			answers[i] = nil
		case r.Status >= http.StatusBadRequest && (r.ID == "" || r.ID == lines[i].id.String()):
			refused := &Problem{Status: r.Status, Code: r.Code, Detail: r.Detail, Errors: r.Errors}
			if r.Status == http.StatusTooManyRequests || r.Status == http.StatusInsufficientStorage {
				refused.RetryAfter = a.retryAfter
			}
			answers[i] = refused
		}
	}
	for i, l := range lines {
		switch err := answers[i]; {
		case err == nil:
			l.resolve(nil)
		case retryable(err):
			left, errs = append(left, l), append(errs, err)
		default:
			l.resolve(fmt.Errorf("publish message %s: %w", l.id, err))
		}
	}
	return left, errs
}

// encodeEdit makes the body of a replay with another payload.
func encodeEdit(edit Edit) ([]byte, error) {
	fields := map[string]any{}
	if edit.Payload != nil {
		var payload bytes.Buffer
		if err := encodePayload(&payload, edit.Payload); err != nil {
			return nil, err
		}
		fields["payload"] = json.RawMessage(payload.Bytes())
	}
	if e := edit.Envelope; e != nil {
		if err := e.append(new(bytes.Buffer)); err != nil {
			return nil, err
		}
		fields["type"], fields["key"] = e.Type, e.Key // empty ones take away what is there
		if e.Attributes != nil {
			fields["attributes"] = e.Attributes
		}
	}
	var body bytes.Buffer
	if err := encodePayload(&body, fields); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}
