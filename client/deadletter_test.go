package client_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// A filter that was left empty by mistake must not drop or replay everything.
func TestEmptyFilterIsRefused(t *testing.T) {
	c, _ := play(t, nil)
	for _, f := range []client.DeadLetterFilter{{}, {All: true, Reason: "not_json"}, {All: true, FailedBefore: time.Now()}} {
		_, err := c.DropDeadLetters(t.Context(), f)
		require.ErrorIs(t, err, client.ErrFilter)
		_, err = c.ReplayDeadLetters(t.Context(), f)
		require.ErrorIs(t, err, client.ErrFilter)
		_, err = c.CountDeadLetters(t.Context(), f)
		require.ErrorIs(t, err, client.ErrFilter)
	}
}

// Dropping many continues until none is left, and asks for all only where that was said.
func TestDropDeadLetters(t *testing.T) {
	c, s := play(t, nil, answer(200, `{"dropped":500,"has_more":true}`), answer(200, `{"dropped":17,"has_more":false}`), answer(200, `{"dropped":2}`))
	dropped, err := c.DropDeadLetters(t.Context(), client.DeadLetterFilter{All: true})
	require.NoError(t, err)
	require.EqualValues(t, 517, dropped)
	require.Equal(t, "DELETE /dead-letters?all=true", s.sent[0].method+" "+s.sent[0].path)
	_, err = c.DropDeadLetters(t.Context(), client.DeadLetterFilter{Reason: "not_json"})
	require.NoError(t, err)
	require.Equal(t, "/dead-letters?reason=not_json", s.sent[2].path)

	c, _ = play(t, nil, answer(200, `{"dropped":500,"has_more":true}`), refuse(403, "insufficient_scope"))
	dropped, err = c.DropDeadLetters(t.Context(), client.DeadLetterFilter{All: true})
	require.ErrorIs(t, err, client.ErrInsufficientScope)
	require.EqualValues(t, 500, dropped, "what was done is told with the error")

	c, _ = play(t, nil, answer(200, `{"dropped":0,"has_more":true}`))
	_, err = c.DropDeadLetters(t.Context(), client.DeadLetterFilter{All: true})
	require.ErrorIs(t, err, client.ErrUnexpectedAnswer, "it would continue for ever")
}

// What an earlier attempt has done, whose answer was lost, is no error.
func TestOneDeadLetterWhoseAnswerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := refuse(404, "dead_letter_not_found")
		c, s := play(t, nil, cut, gone, gone, cut, gone, gone, answer(202, `{"id":"x","message_id":"`+fixed(2).String()+`","result":"replayed"}`))
		require.NoError(t, c.DropDeadLetter(t.Context(), fixed(1)))
		require.ErrorIs(t, c.DropDeadLetter(t.Context(), fixed(1)), client.ErrDeadLetterNotFound)
		replay, err := c.ReplayDeadLetter(t.Context(), fixed(1))
		require.NoError(t, err)
		require.Equal(t, client.Replay{Result: client.ReplayedBefore}, replay)
		_, err = c.ReplayDeadLetter(t.Context(), fixed(1))
		require.ErrorIs(t, err, client.ErrDeadLetterNotFound)
		replay, err = c.ReplayDeadLetterAs(t.Context(), fixed(1), map[string]string{"fixed": "<b>"})
		require.NoError(t, err)
		require.Equal(t, client.Replay{MessageID: fixed(2), Result: client.Replayed}, replay)
		require.Equal(t, "POST /dead-letters/"+fixed(1).String()+`/replay {"payload":{"fixed":"<b>"}}`, s.sent[6].method+" "+s.sent[6].path+" "+s.sent[6].body)
		require.Empty(t, s.sent[3].body)
	})
}

func TestReplayEdited(t *testing.T) {
	replayed := answer(202, `{"id":"x","message_id":"`+fixed(2).String()+`","result":"replayed"}`)
	c, s := play(t, nil, replayed, replayed, replayed)
	for i, tt := range []struct {
		edit client.Edit
		want string
	}{
		{client.Edit{Envelope: &client.Envelope{Key: "k"}}, `{"type":"","key":"k"}`},
		{client.Edit{Payload: json.RawMessage("null"), Envelope: &client.Envelope{}}, `{"payload":null,"type":"","key":""}`},
		{client.Edit{Envelope: &client.Envelope{Type: "t", Attributes: map[string]string{"a": "b"}}}, `{"type":"t","key":"","attributes":{"a":"b"}}`},
	} {
		_, err := c.ReplayDeadLetterEdited(t.Context(), fixed(1), tt.edit)
		require.NoError(t, err)
		require.JSONEq(t, tt.want, s.sent[i].body)
	}
	_, err := c.ReplayDeadLetterAs(t.Context(), fixed(1), nil)
	require.ErrorContains(t, err, "not a payload")
}

// A replay of many continues from its cursor, waits for a broker that is away or another replay, and counts all.
func TestReplayDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil,
			refuse(409, "replay_running", "Retry-After", "1"),
			answer(200, `{"replayed":10,"already_stored":1,"refused":2,"has_more":true,"next_cursor":"c1"}`),
			answer(200, `{"replayed":5,"has_more":true,"next_cursor":"c2","stopped":"queue_full"}`),
			answer(200, `{"replayed":1,"has_more":false,"next_cursor":"c3"}`))
		sum, err := c.ReplayDeadLetters(t.Context(), client.DeadLetterFilter{FailedBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
		require.NoError(t, err)
		require.Equal(t, client.Replays{Replayed: 16, AlreadyStored: 1, Refused: 2}, sum)
		require.Equal(t, "/dead-letters/replay?failed_before=2026-01-01T00%3A00%3A00Z", s.sent[1].path)
		require.Equal(t, "/dead-letters/replay?cursor=c1&failed_before=2026-01-01T00%3A00%3A00Z", s.sent[2].path)
		require.Equal(t, "/dead-letters/replay?cursor=c2&failed_before=2026-01-01T00%3A00%3A00Z", s.sent[3].path)
	})
	c, _ := play(t, once(), answer(200, `{"replayed":5,"has_more":true,"next_cursor":"c2","stopped":"queue_full"}`))
	sum, err := c.ReplayDeadLetters(t.Context(), client.DeadLetterFilter{All: true})
	require.ErrorIs(t, err, client.ErrQueueFull)
	require.Equal(t, 5, sum.Replayed)
}

func TestCountDeadLetters(t *testing.T) {
	c, s := play(t, nil, answer(200, `{"count":42,"dry_run":true}`))
	count, err := c.CountDeadLetters(t.Context(), client.DeadLetterFilter{Reason: "too_deep"})
	require.NoError(t, err)
	require.EqualValues(t, 42, count)
	require.Equal(t, "/dead-letters/replay?dry_run=true&reason=too_deep", s.sent[0].path)
}

// A payload of null, one that is no JSON, one that is left out and an empty one are four different things.
func TestDeadLetterPayloads(t *testing.T) {
	for name, tt := range map[string]struct {
		body    string
		payload json.RawMessage
		bytes   []byte
	}{
		"JSON":     {`"payload":[1, 2.50],"payload_size":9`, json.RawMessage(`[1, 2.50]`), nil},
		"null":     {`"payload":null,"payload_size":4`, json.RawMessage(`null`), nil},
		"no JSON":  {`"payload":null,"payload_base64":"e2JhZA==","payload_size":4`, nil, []byte("{bad")},
		"left out": {`"payload":null,"payload_size":99999999,"payload_omitted":true`, nil, nil},
		"empty":    {`"payload":null,"payload_size":0`, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, nil, answer(200, `{"id":"`+fixed(1).String()+`","message_id":null,"reason":"not_json","headers":null,"properties":{"type":"x"},`+tt.body+`}`))
			d, err := c.DeadLetter(t.Context(), fixed(1))
			require.NoError(t, err)
			require.Equal(t, tt.payload, d.Payload)
			require.Equal(t, tt.bytes, d.PayloadBytes)
			require.True(t, d.MessageID.IsZero())
			require.Nil(t, d.Headers)
			require.JSONEq(t, `{"type":"x"}`, string(d.Properties))
		})
	}
}
