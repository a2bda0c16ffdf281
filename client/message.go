package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Message is a stored message.
type Message struct {
	ID       ID `json:"id"`
	TenantID ID `json:"tenant_id"`
	// Payload is the JSON that was published, with every digit of its numbers; white space and the order of keys are not
	// kept.
	Payload json.RawMessage `json:"payload"`
	// CreatedAt is when the message was stored, in microseconds. It may step back a little between neighbours.
	CreatedAt time.Time `json:"created_at"`
}

// MessageQuery says which messages are read. The zero one reads all of them, oldest first.
type MessageQuery struct {
	// Cursor is where another reader of the same tenant and order stopped; empty is the start.
	Cursor string
	// Limit is the number of messages of a page, up to 1,000. Default: 100. A page ends at 8 MiB as well.
	Limit int
	// Descending reads the newest message first.
	Descending bool
	// Only messages stored at or after CreatedAfter, and before CreatedBefore; zero: without that limit.
	CreatedAfter, CreatedBefore time.Time
	// MaxPoll is the longest pause of [Reader.Follow] between two looks for new messages. Default: 1 second.
	MaxPoll time.Duration
	// OnGap is called by an iteration, on its goroutine, instead of [ErrGap]: it continues with the oldest message that is kept.
	OnGap func()
}

// ErrGap ends an iteration where the tenant's retention has removed messages before they were read: those behind the cursor, up to the
// oldest one that is kept. It comes once; ranging again continues with that one. In descending order it comes where all that was
// to follow is removed: at the end. [MessageQuery.OnGap] replaces it, and in a [Page] it is Gap.
var ErrGap = errors.New("messages were removed by the tenant's retention before they were read")

// Pauses of Follow: the first one, and the longest one by default.
const (
	minPoll     = 20 * time.Millisecond
	defaultPoll = time.Second
)

func (q MessageQuery) values(cursor string) url.Values {
	v := url.Values{}
	setPage(v, cursor, q.Limit)
	if q.Descending {
		v.Set("order", "desc")
	}
	setTime(v, "created_after", q.CreatedAfter)
	setTime(v, "created_before", q.CreatedBefore)
	return v
}

func setPage(v url.Values, cursor string, limit int) {
	setString(v, "cursor", cursor)
	if limit != 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
}

func setString(v url.Values, name, value string) {
	if value != "" {
		v.Set(name, value)
	}
}

func setTime(v url.Values, name string, t time.Time) {
	if !t.IsZero() {
		v.Set(name, t.UTC().Format(time.RFC3339Nano))
	}
}

// Reader reads messages: [Pager.All] what is there, [Reader.Follow] what will come as well. In ascending order it meets
// every message exactly once, also while messages are being stored; one that was removed before it was read is told of by [ErrGap].
type Reader struct {
	Pager[Message]
	query MessageQuery
}

// Messages returns a reader. Nothing is sent before it is used.
func (c *Client) Messages(q MessageQuery) *Reader {
	fetch := func(ctx context.Context, cursor string, untilDone bool) (page Page[Message], err error) {
		request := call{service: queryService, method: http.MethodGet, path: "/messages", query: q.values(cursor), untilDone: untilDone}
		if _, err := c.do(ctx, request, &page); err != nil {
			return page, fmt.Errorf("read messages: %w", err)
		}
		return page, nil
	}
	return &Reader{Pager: Pager[Message]{fetch: fetch, cursor: q.Cursor, onGap: q.OnGap}, query: q}
}

// errFollow refuses to follow a list that has its new messages at its start.
var errFollow = errors.New("only the ascending order can be followed")

// Follow iterates over the messages and continues with those that are stored later, for as long as ctx lives. A service that
// is away is waited for as long, unless repeats are limited by their number. The error comes last; it is that of ctx, a
// request that was refused, or [ErrGap].
func (r *Reader) Follow(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		err := errFollow
		if !r.query.Descending {
			err = r.follow(ctx, yield)
		}
		if err != nil {
			yield(Message{}, err)
		}
	}
}

// follow returns nil if the loop was left.
func (r *Reader) follow(ctx context.Context, yield func(Message, error) bool) error {
	longest := r.query.MaxPoll
	if longest <= 0 {
		longest = defaultPoll
	}
	pause := min(minPoll, longest)
	for r.give(yield) {
		if err := r.load(ctx, true); err != nil {
			return err
		}
		if err := r.passGap(); err != nil {
			return err
		}
		if len(r.page.Items) > 0 {
			pause = min(minPoll, longest)
		}
		if r.page.HasMore {
			continue
		}
		if !r.give(yield) {
			return nil
		}
		if err := sleep(ctx, pause-jitter(pause/2)); err != nil {
			return fmt.Errorf("wait for new messages: %w", err)
		}
		pause = min(2*pause, longest)
	}
	return nil
}

// Message returns one message. It is [ErrNotStored] while the message is on its way, and if it is a dead letter, was removed or was never
// seen.
func (c *Client) Message(ctx context.Context, id ID) (m Message, err error) {
	if _, err := c.do(ctx, call{service: queryService, method: http.MethodGet, path: "/messages/" + id.String()}, &m); err != nil {
		return Message{}, fmt.Errorf("read message %s: %w", id, err)
	}
	return m, nil
}

// EraseMessage removes a stored message for good, and its dead letters. It needs the token of an administrator. [ErrNotStored] says that
// there is none of this id: one that is still on its way is not found, and will be stored. An id that was erased is free: published
// again, it is stored again.
func (c *Client) EraseMessage(ctx context.Context, id ID) error {
	maybeDone, err := c.do(ctx, call{service: ingestService, method: http.MethodDelete, path: "/messages/" + id.String()}, nil)
	if maybeDone && errors.Is(err, ErrNotStored) {
		return nil // an attempt before this one has done it
	}
	if err != nil {
		return fmt.Errorf("erase message %s: %w", id, err)
	}
	return nil
}
