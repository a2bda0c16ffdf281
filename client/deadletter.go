package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// DeadLetter is a message that could not be stored.
type DeadLetter struct {
	ID       ID `json:"id"`
	TenantID ID `json:"tenant_id"`
	// MessageID is the id under which the message would have been stored, zero if its producer gave none.
	MessageID ID `json:"message_id"`
	// OriginalMessageID is the message_id as an AMQP producer gave it, if it is text.
	OriginalMessageID string `json:"original_message_id"`
	// Envelope is that of the message, as far as it has one that can be kept.
	Envelope
	// Reason is why the message could not be stored: not_json, unstorable, too_deep, too_large, foreign_key, bad_envelope, rejected,
	// max_attempts, delivery_limit, expired, unroutable; later versions may have more.
	Reason string `json:"reason"`
	// Error is the last error.
	Error string `json:"error"`
	// Attempts is how often the message was tried.
	Attempts int `json:"attempts"`
	// Payload is the payload if it is JSON that could be stored. Otherwise it is nil, and PayloadBytes has the bytes.
	Payload      json.RawMessage `json:"payload"`
	PayloadBytes []byte          `json:"payload_base64"`
	// PayloadSize is the length of the payload in bytes.
	PayloadSize int64 `json:"payload_size"`
	// PayloadOmitted says that the payload is too long to be shown: over 64 KiB in a list, over 16 MiB anywhere.
	PayloadOmitted bool   `json:"payload_omitted"`
	ContentType    string `json:"content_type"`
	// Headers and Properties are those of the AMQP message, as JSON objects. PropertiesUnreadable says that they could not be
	// read to their end; PropertiesBytes then has all of them as on the wire.
	Headers              json.RawMessage `json:"headers"`
	Properties           json.RawMessage `json:"properties"`
	PropertiesUnreadable bool            `json:"properties_unreadable"`
	PropertiesBytes      []byte          `json:"properties_base64"`
	FirstFailedAt        time.Time       `json:"first_failed_at"`
	LastFailedAt         time.Time       `json:"last_failed_at"`
}

// DeadLetterFilter says which dead letters of the tenant are meant: All, or those that pass the rest. For a list the zero
// filter means all of them, too. For dropping and replaying it is refused: All has to be said.
type DeadLetterFilter struct {
	All bool
	// Reason leaves out those of another reason.
	Reason string
	// FailedAfter and FailedBefore leave out those that failed for the first time before, and not before, that time.
	FailedAfter, FailedBefore time.Time
}

// ErrFilter refuses to drop or replay dead letters where it is not clear which ones are meant.
var ErrFilter = errors.New("the filter must say which dead letters are meant, or All, and not both")

func (f DeadLetterFilter) values() url.Values {
	v := url.Values{}
	setString(v, "reason", f.Reason)
	setTime(v, "failed_after", f.FailedAfter)
	setTime(v, "failed_before", f.FailedBefore)
	return v
}

// many are the parameters of a request that acts on many.
func (f DeadLetterFilter) many() (url.Values, error) {
	v := f.values()
	if f.All == (len(v) > 0) {
		return nil, ErrFilter
	}
	if f.All {
		v.Set("all", "true")
	}
	return v, nil
}

// DeadLetterQuery says which dead letters are listed.
type DeadLetterQuery struct {
	// Filter may be the zero one: all of them.
	Filter DeadLetterFilter
	// Cursor is where another list with this filter stopped; empty is the start.
	Cursor string
	// Limit is the number of dead letters of a page, up to 1,000. Default: 100. A page ends at 8 MiB as well.
	Limit int
}

// DeadLetters lists dead letters in the order of their first failure.
func (c *Client) DeadLetters(q DeadLetterQuery) *Pager[DeadLetter] {
	return &Pager[DeadLetter]{cursor: q.Cursor, fetch: func(ctx context.Context, cursor string, untilDone bool) (page Page[DeadLetter], err error) {
		query := q.Filter.values()
		setPage(query, cursor, q.Limit)
		request := call{service: ingestService, method: http.MethodGet, path: "/dead-letters", query: query, untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("list dead letters: %w", err)
		}
		for i := range page.Items {
			page.Items[i].normalize()
		}
		return page, nil
	}}
}

// DeadLetter returns a dead letter with its payload, up to 16 MiB.
func (c *Client) DeadLetter(ctx context.Context, id ID) (d DeadLetter, err error) {
	if _, err := c.do(ctx, call{service: ingestService, method: http.MethodGet, path: "/dead-letters/" + id.String()}, &d); err != nil {
		return DeadLetter{}, fmt.Errorf("get dead letter %s: %w", id, err)
	}
	d.normalize()
	return d, nil
}

// normalize turns null into nil where it stands for what is not there, and not for a payload of null.
func (d *DeadLetter) normalize() {
	if d.PayloadOmitted || d.PayloadBytes != nil || d.PayloadSize == 0 {
		d.Payload = nil
	}
	for _, raw := range []*json.RawMessage{&d.Headers, &d.Properties} {
		if string(*raw) == "null" {
			*raw = nil
		}
	}
}

// DropDeadLetter removes a dead letter.
func (c *Client) DropDeadLetter(ctx context.Context, id ID) error {
	maybeDone, err := c.do(ctx, call{service: ingestService, method: http.MethodDelete, path: "/dead-letters/" + id.String()}, nil)
	if maybeDone && errors.Is(err, ErrDeadLetterNotFound) {
		return nil // an attempt before this one has done it
	}
	if err != nil {
		return fmt.Errorf("drop dead letter %s: %w", id, err)
	}
	return nil
}

// DropDeadLetters removes those that f means, in as many requests as that takes, and returns how many they were: at least,
// if an answer was lost on the way. The number counts with an error, too.
func (c *Client) DropDeadLetters(ctx context.Context, f DeadLetterFilter) (dropped int64, err error) {
	query, err := f.many()
	if err != nil {
		return 0, fmt.Errorf("drop dead letters: %w", err)
	}
	for more := true; more; {
		var answer struct {
			Dropped int64 `json:"dropped"`
			HasMore bool  `json:"has_more"`
		}
		if _, err := c.do(ctx, call{service: ingestService, method: http.MethodDelete, path: "/dead-letters", query: query}, &answer); err != nil {
			return dropped, fmt.Errorf("drop dead letters: %w", err)
		}
		if dropped, more = dropped+answer.Dropped, answer.HasMore; more && answer.Dropped == 0 {
			return dropped, fmt.Errorf("drop dead letters: %w: some are left, and none was dropped", ErrUnexpectedAnswer)
		}
	}
	return dropped, nil
}

// ReplayResult is what became of a dead letter that was replayed; in each case it is no longer there.
type ReplayResult string

// The results of a replay.
const (
	// Replayed: the message was published again. If it fails again it will be a dead letter again.
	Replayed ReplayResult = "replayed"
	// AlreadyStored: nothing was published, since a message of its id is stored.
	AlreadyStored ReplayResult = "already_stored"
	// ReplayedBefore: the answer to an attempt was lost, and at the next one the dead letter was gone. It is one of the other
	// two, unless somebody else has dropped it meanwhile.
	ReplayedBefore ReplayResult = "replayed_before"
)

// Replay is the answer to the replay of a dead letter.
type Replay struct {
	// MessageID is the id of the message; zero if Result is [ReplayedBefore].
	MessageID ID           `json:"message_id"`
	Result    ReplayResult `json:"result"`
}

// ReplayDeadLetter publishes the message of a dead letter again, under the same id, and removes the dead letter. A payload
// that cannot be stored as it is is refused: see [Client.ReplayDeadLetterAs].
func (c *Client) ReplayDeadLetter(ctx context.Context, id ID) (Replay, error) {
	return c.replay(ctx, id, nil)
}

// ReplayDeadLetterAs is ReplayDeadLetter with another payload, which is encoded as in [Publishing].
func (c *Client) ReplayDeadLetterAs(ctx context.Context, id ID, payload any) (Replay, error) {
	if payload == nil {
		return Replay{}, fmt.Errorf("replay dead letter %s: %w", id, errPayload)
	}
	return c.ReplayDeadLetterEdited(ctx, id, Edit{Payload: payload})
}

// Edit is what a replay changes of a message.
type Edit struct {
	// Payload takes the place of the payload, unless it is nil; it is encoded as in [Publishing].
	Payload any
	// Envelope takes the place of type, key and attributes, unless it is nil; an empty one takes them away.
	Envelope *Envelope
}

// ReplayDeadLetterEdited is ReplayDeadLetter with a message that is changed.
func (c *Client) ReplayDeadLetterEdited(ctx context.Context, id ID, edit Edit) (Replay, error) {
	body, err := encodeEdit(edit)
	if err != nil {
		return Replay{}, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return c.replay(ctx, id, body)
}

func (c *Client) replay(ctx context.Context, id ID, body []byte) (r Replay, err error) {
	request := call{
		service: ingestService, method: http.MethodPost, path: "/dead-letters/" + id.String() + "/replay",
		body: body, contentType: "application/json",
	}
	maybeDone, err := c.do(ctx, request, &r)
	if maybeDone && errors.Is(err, ErrDeadLetterNotFound) {
		return Replay{Result: ReplayedBefore}, nil
	}
	if err != nil {
		return Replay{}, fmt.Errorf("replay dead letter %s: %w", id, err)
	}
	return r, nil
}

// Replays counts what became of many dead letters.
type Replays struct {
	// Replayed were published again, AlreadyStored were not, since a message of their id is stored. If an answer was lost on
	// the way there were more.
	Replayed, AlreadyStored int
	// Refused have a payload that cannot be stored as it is. They stay.
	Refused int
}

// ReplayDeadLetters replays those that f means, oldest first and at the rate that the installation allows, in as many
// requests as that takes. Those that fail again meanwhile are not replayed again. With an error the counts are those up to
// it.
func (c *Client) ReplayDeadLetters(ctx context.Context, f DeadLetterFilter) (sum Replays, err error) {
	query, err := f.many()
	if err != nil {
		return sum, fmt.Errorf("replay dead letters: %w", err)
	}
	stops := c.repeats(ctx, false)
	for {
		var answer struct {
			Replayed      int    `json:"replayed"`
			AlreadyStored int    `json:"already_stored"`
			Refused       int    `json:"refused"`
			HasMore       bool   `json:"has_more"`
			NextCursor    string `json:"next_cursor"`
			Stopped       Code   `json:"stopped"`
		}
		request := call{service: ingestService, method: http.MethodPost, path: "/dead-letters/replay", query: query}
		_, err := c.do(ctx, request, &answer)
		if err != nil {
			return sum, fmt.Errorf("replay dead letters: %w", err)
		}
		sum.Replayed, sum.AlreadyStored, sum.Refused = sum.Replayed+answer.Replayed, sum.AlreadyStored+answer.AlreadyStored, sum.Refused+answer.Refused
		if !answer.HasMore {
			return sum, nil
		}
		moved := answer.NextCursor != query.Get("cursor")
		query.Set("cursor", answer.NextCursor)
		if answer.Stopped == "" && moved {
			stops = c.repeats(ctx, false)
			continue
		}
		// A broker or a database was away, or there was no time.
		stop := &Problem{Status: http.StatusServiceUnavailable, Code: answer.Stopped, Detail: "the replay stopped before its end"}
		if final := stops.next(ctx, stop); final != nil {
			return sum, fmt.Errorf("replay dead letters: %w", final(stop))
		}
	}
}

// CountDeadLetters returns how many dead letters f means.
func (c *Client) CountDeadLetters(ctx context.Context, f DeadLetterFilter) (int64, error) {
	query, err := f.many()
	if err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	query.Set("dry_run", "true")
	var answer struct {
		Count int64 `json:"count"`
	}
	request := call{service: ingestService, method: http.MethodPost, path: "/dead-letters/replay", query: query}
	if _, err := c.do(ctx, request, &answer); err != nil {
		return 0, fmt.Errorf("count dead letters: %w", err)
	}
	return answer.Count, nil
}
