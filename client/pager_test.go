package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// pageOf is a page with the messages of these numbers.
func pageOf(cursor string, more bool, numbers ...int) step {
	return answer(200, pageText(cursor, more, numbers...)+"}")
}

// gapBefore is one in front of which messages were removed.
func gapBefore(cursor string, more bool, numbers ...int) step {
	return answer(200, pageText(cursor, more, numbers...)+`,"gap":true}`)
}

func pageText(cursor string, more bool, numbers ...int) string {
	items := make([]string, len(numbers))
	for i, n := range numbers {
		items[i] = fmt.Sprintf(`{"id":%q,"tenant_id":%q,"payload":%d,"created_at":"2026-01-02T03:04:05.000006Z"}`, fixed(n), fixed(99), n)
	}
	return fmt.Sprintf(`{"data":[%s],"next_cursor":%q,"has_more":%t`, strings.Join(items, ","), cursor, more)
}

// read ranges over messages until it has met the one with the number last, if any.
func read(t *testing.T, seq func(func(client.Message, error) bool), last int) (numbers []int, err error) {
	t.Helper()
	for m, err := range seq {
		if err != nil {
			return numbers, err
		}
		var n int
		_, scanErr := fmt.Sscan(string(m.Payload), &n)
		require.NoError(t, scanErr)
		require.Equal(t, fixed(n), m.ID)
		if numbers = append(numbers, n); n == last {
			break
		}
	}
	return numbers, nil
}

// cursors are the cursors with which pages were asked for.
func cursors(s *script) (all []string) {
	for _, request := range s.sent {
		_, after, _ := strings.Cut(request.path, "cursor=")
		cursor, _, _ := strings.Cut(after, "&")
		all = append(all, cursor)
	}
	return all
}

// A reader meets every message once, over the edges of pages and when it comes back later.
func TestAll(t *testing.T) {
	c, s := play(t, nil, pageOf("c1", true, 1, 2), pageOf("c2", true), pageOf("c3", false, 3), pageOf("c4", false, 4), pageOf("c4", false))
	r := c.Messages(client.MessageQuery{Limit: 2})
	numbers, err := read(t, r.All(t.Context()), 0)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, numbers)
	require.Equal(t, "c3", r.Cursor())
	numbers, err = read(t, r.All(t.Context()), 0)
	require.NoError(t, err)
	require.Equal(t, []int{4}, numbers, "what is new")
	numbers, err = read(t, r.All(t.Context()), 0)
	require.NoError(t, err)
	require.Empty(t, numbers)
	require.Equal(t, []string{"", "c1", "c2", "c3", "c4"}, cursors(s))
	require.Equal(t, "/messages?limit=2", s.sent[0].path)
}

// A loop that was left continues behind the last message; another process, which has the cursor alone, misses none.
func TestResume(t *testing.T) {
	c, _ := play(t, nil, pageOf("c1", true, 1, 2), pageOf("c2", true, 3, 4, 5), pageOf("c3", false, 6), pageOf("c3", false))
	r := c.Messages(client.MessageQuery{})
	numbers, err := read(t, r.All(t.Context()), 3)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3}, numbers)
	require.Equal(t, "c1", r.Cursor(), "in the middle of the second page")
	numbers, err = read(t, r.All(t.Context()), 4)
	require.NoError(t, err)
	require.Equal(t, []int{4}, numbers)
	page, err := r.Next(t.Context())
	require.NoError(t, err)
	require.Len(t, page.Items, 1, "the rest of the page")
	require.Equal(t, fixed(5), page.Items[0].ID)
	require.Equal(t, "c2", r.Cursor())
	page, err = r.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, fixed(6), page.Items[0].ID)
	require.False(t, page.HasMore)
	require.Equal(t, "c3", r.Cursor())
	page, err = r.Next(t.Context())
	require.NoError(t, err)
	require.Empty(t, page.Items)
	require.Equal(t, "c3", page.NextCursor)
}

// Leaving the loop at the last message of a page does not count as having handled it.
func TestResumeAtTheEdge(t *testing.T) {
	c, s := play(t, nil, pageOf("c1", true, 1, 2), pageOf("c2", false, 3))
	r := c.Messages(client.MessageQuery{Cursor: "c0"})
	_, err := read(t, r.All(t.Context()), 2)
	require.NoError(t, err)
	require.Equal(t, "c0", r.Cursor())
	page, err := r.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, fixed(3), page.Items[0].ID)
	require.Equal(t, []string{"c0", "c1"}, cursors(s))
}

// An error ends the loop and loses nothing: it continues at the same place.
func TestReadAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil, pageOf("c1", true, 1), cut, refuse(403, "insufficient_scope"), half(pageOf("c2", false, 2)), pageOf("c2", false, 2))
		r := c.Messages(client.MessageQuery{})
		numbers, err := read(t, r.All(t.Context()), 0)
		require.ErrorIs(t, err, client.ErrInsufficientScope)
		require.Equal(t, []int{1}, numbers)
		require.Equal(t, "c1", r.Cursor())
		numbers, err = read(t, r.All(t.Context()), 0)
		require.NoError(t, err)
		require.Equal(t, []int{2}, numbers)
		require.Equal(t, []string{"", "c1", "c1", "c1", "c1"}, cursors(s))
	})
}

// A page that leads nowhere would be read for ever, or from the start again.
func TestPagesThatLeadNowhere(t *testing.T) {
	for name, tt := range map[string]step{
		"no cursor":    answer(200, `{"data":[],"has_more":true}`),
		"no progress":  pageOf("c0", true),
		"null":         answer(200, `null`),
		"another list": answer(200, `[]`),
		"a bad id":     answer(200, `{"data":[{"id":"x"}],"next_cursor":"c1","has_more":true}`),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, nil, tt)
			_, err := read(t, c.Messages(client.MessageQuery{Cursor: "c0"}).All(t.Context()), 0)
			require.ErrorIs(t, err, client.ErrUnexpectedAnswer)
		})
	}
}

// A follower meets what is stored later, looks more rarely while nothing comes, and waits for a service that is away.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := []step{
			cut, refuse(503, "database_unavailable", "Retry-After", "20"), refuse(503, "database_unavailable", "Retry-After", "20"),
			refuse(503, "database_unavailable", "Retry-After", "20"), refuse(503, "database_unavailable", "Retry-After", "20"),
		}
		quiet := make([]step, 0, 20)
		for range 20 {
			quiet = append(quiet, pageOf("c2", false))
		}
		steps := append([]step{pageOf("c1", true, 1, 2), pageOf("c2", false, 3)}, quiet...)
		c, _ := play(t, nil, append(append(steps, away...), pageOf("c3", false, 4), pageOf("c3", false))...)
		begun := time.Now()
		r := c.Messages(client.MessageQuery{MaxPoll: 200 * time.Millisecond})
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		var numbers []int
		for m, err := range r.Follow(ctx) {
			if err != nil {
				require.ErrorIs(t, err, errStop)
				break
			}
			numbers = append(numbers, int(m.ID[15]))
			if len(numbers) == 3 {
				require.Zero(t, time.Since(begun), "what is there comes without a pause")
			}
			if len(numbers) == 4 {
				require.Greater(t, time.Since(begun), 80*time.Second, "longer than a request without a deadline is repeated")
				require.Less(t, time.Since(begun), 90*time.Second)
				time.AfterFunc(25*time.Millisecond, func() { cancel(errStop) }) // one look more
			}
		}
		require.Equal(t, []int{1, 2, 3, 4}, numbers)
		require.Equal(t, "c3", r.Cursor())
	})
}

// Messages that were removed before they were read end an iteration, once; the next one continues with the oldest that is kept.
func TestGap(t *testing.T) {
	pages := func() []step {
		return []step{pageOf("c1", true, 1, 2), gapBefore("c2", true, 5, 6), gapBefore("c3", false), pageOf("c4", false, 9)}
	}
	c, s := play(t, nil, pages()...)
	r := c.Messages(client.MessageQuery{})
	for _, want := range [][]int{{1, 2}, {5, 6}} {
		numbers, err := read(t, r.All(t.Context()), 0)
		require.ErrorIs(t, err, client.ErrGap)
		require.Equal(t, want, numbers)
	}
	numbers, err := read(t, r.All(t.Context()), 0)
	require.NoError(t, err)
	require.Equal(t, []int{9}, numbers)
	require.Equal(t, []string{"", "c1", "c2", "c3"}, cursors(s))

	gaps := 0
	c, _ = play(t, nil, pages()...)
	r = c.Messages(client.MessageQuery{OnGap: func() { gaps++ }})
	numbers, err = read(t, r.All(t.Context()), 6)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 5, 6}, numbers)
	require.Equal(t, 1, gaps)
	numbers, err = read(t, r.Follow(t.Context()), 9)
	require.NoError(t, err)
	require.Equal(t, []int{9}, numbers)
	require.Equal(t, 2, gaps)

	c, _ = play(t, nil, pages()...)
	r = c.Messages(client.MessageQuery{})
	for _, gap := range []bool{false, true, true, false} {
		page, err := r.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, gap, page.Gap)
	}
}

// A follower is told as well, and goes on when it is called again.
func TestFollowOverAGap(t *testing.T) {
	c, _ := play(t, nil, pageOf("c1", false, 1), gapBefore("c2", false, 5), pageOf("c3", false, 6))
	r := c.Messages(client.MessageQuery{MaxPoll: time.Millisecond})
	numbers, err := read(t, r.Follow(t.Context()), 0)
	require.ErrorIs(t, err, client.ErrGap)
	require.Equal(t, []int{1}, numbers)
	numbers, err = read(t, r.Follow(t.Context()), 6)
	require.NoError(t, err)
	require.Equal(t, []int{5, 6}, numbers)
}

var errStop = errors.New("stop")

func TestFollowEnds(t *testing.T) {
	c, _ := play(t, nil)
	_, err := read(t, c.Messages(client.MessageQuery{Descending: true}).Follow(t.Context()), 0)
	require.ErrorContains(t, err, "ascending")

	c, _ = play(t, nil, refuse(400, "bad_cursor"))
	_, err = read(t, c.Messages(client.MessageQuery{Cursor: "x"}).Follow(t.Context()), 0)
	require.ErrorIs(t, err, client.ErrBadCursor, "a refusal is not waited for")

	c, _ = play(t, once(), cut)
	_, err = read(t, c.Messages(client.MessageQuery{}).Follow(t.Context()), 0)
	require.ErrorContains(t, err, "reset by peer", "nor anything, where repeats are off")
}

// What a query asks for is what is sent, exactly.
func TestQueries(t *testing.T) {
	at := time.Date(2026, 1, 2, 4, 4, 5, 6000, time.FixedZone("", 3600))
	c, s := play(t, []client.Option{client.WithTenant(fixed(7))}, pageOf("c", false), pageOf("c", false), pageOf("c", false), pageOf("c", false))
	_, err := c.Messages(client.MessageQuery{Cursor: "a+b", Descending: true, CreatedAfter: at, CreatedBefore: at.Add(time.Second)}).Next(t.Context())
	require.NoError(t, err)
	_, err = c.Messages(client.MessageQuery{}).Next(t.Context())
	require.NoError(t, err)
	_, err = c.Tenants(client.TenantQuery{Cursor: "c", Limit: 5}).Next(t.Context())
	require.NoError(t, err)
	_, err = c.DeadLetters(client.DeadLetterQuery{Filter: client.DeadLetterFilter{All: true, Reason: "not_json", FailedAfter: at, FailedBefore: at}, Cursor: "c", Limit: 5}).Next(t.Context())
	require.NoError(t, err)
	tenant := "tenant_id=" + fixed(7).String()
	require.Equal(t, "/messages?created_after=2026-01-02T03%3A04%3A05.000006Z&created_before=2026-01-02T03%3A04%3A06.000006Z&cursor=a%2Bb&order=desc&"+tenant, s.sent[0].path)
	require.Equal(t, "/messages?"+tenant, s.sent[1].path)
	require.Equal(t, "/tenants?cursor=c&limit=5", s.sent[2].path)
	require.Equal(t, "/dead-letters?cursor=c&failed_after=2026-01-02T03%3A04%3A05.000006Z&failed_before=2026-01-02T03%3A04%3A05.000006Z&limit=5&reason=not_json&"+tenant, s.sent[3].path)
}

// A message is erased by its id. What an earlier attempt has done, whose answer was lost, is no error.
func TestEraseMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := refuse(404, "not_stored")
		c, s := play(t, []client.Option{client.WithTenant(fixed(7))}, answer(204, ""), cut, gone, gone, refuse(503, "message_uncounted", "Retry-After", "1"), answer(204, ""))
		require.NoError(t, c.EraseMessage(t.Context(), fixed(1)))
		require.Equal(t, "DELETE /messages/"+fixed(1).String()+"?tenant_id="+fixed(7).String(), s.sent[0].method+" "+s.sent[0].path)
		require.NoError(t, c.EraseMessage(t.Context(), fixed(1)))
		require.ErrorIs(t, c.EraseMessage(t.Context(), fixed(1)), client.ErrNotStored)
		require.NoError(t, c.EraseMessage(t.Context(), fixed(1)), "one that is not counted yet is waited for")
	})
}

// Numbers come back digit by digit, and a message that is not there is told apart from all other errors.
func TestMessage(t *testing.T) {
	c, s := play(t, nil,
		answer(http.StatusOK, `{"id":"`+fixed(1).String()+`","tenant_id":"`+fixed(7).String()+`","payload":{"n": 9007199254740993.100},"created_at":"2026-01-02T03:04:05.6Z","later":"field"}`),
		refuse(404, "not_stored"))
	m, err := c.Message(t.Context(), fixed(1))
	require.NoError(t, err)
	require.Equal(t, client.Message{
		ID: fixed(1), TenantID: fixed(7), Payload: []byte(`{"n": 9007199254740993.100}`),
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC),
	}, m)
	_, err = c.Message(t.Context(), fixed(2))
	require.ErrorIs(t, err, client.ErrNotStored)
	require.Equal(t, "/messages/"+fixed(2).String(), s.sent[1].path)
}
