package client_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// Whatever a service, a proxy or somebody in between answers: no panic, no endless loop, and a message counts as accepted
// only if the answer says so of its very id.
func FuzzAnswers(f *testing.F) {
	batch := `{"results":[{"line":1,"status":202,"id":"` + fixed(1).String() + `"},{"line":2,"status":503,"code":"queue_full"}]}`
	for _, seed := range []struct {
		status int
		header string
		body   string
	}{
		{202, "", `{"id":"` + fixed(1).String() + `"}`},
		{202, "", batch},
		{202, "", `{"results":[{"line":1e99,"status":202}]}`},
		{200, "", `{"data":[{"id":"` + fixed(1).String() + `","payload":1}],"next_cursor":"c","has_more":true}`},
		{200, "", `{"data":[],"next_cursor":"c","has_more":true}`},
		{503, "3", `{"code":"queue_full","detail":"D","errors":[{"field":"id","detail":"x"}]}`},
		{409, "Mon, 02 Nov 2026 10:00:05 GMT", `{"code":"replay_running"}`},
		{200, "-1", `{"replayed":1,"has_more":true,"stopped":"queue_full"}`},
		{200, "1e9", `{"id":"` + fixed(1).String() + `","state":"active","status":{"queue":{"ready":-1}}}`},
		{204, "", ""},
		{100, "", "null"},
		{599, "99999999999999999999", "<html>"},
	} {
		f.Add(seed.status, seed.header, []byte(seed.body))
	}
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		same := answer(status, string(body), "Retry-After", header)
		c := handle(t, same, once()...)
		ctx := t.Context()
		_, err := c.Publish(ctx, client.Publishing{ID: fixed(1), Payload: 1})
		if err == nil {
			require.Contains(t, string(lower(body)), fixed(1).String())
		} else {
			require.Less(t, len(err.Error()), 1000+2*len(body))
		}
		results, _ := c.PublishBatch(ctx, publishings(2))
		for i, r := range results {
			if r.Err == nil {
				require.Contains(t, string(lower(body)), fixed(i+1).String())
			}
		}
		for d, err := range c.DeadLetters(client.DeadLetterQuery{}).All(ctx) {
			if err != nil {
				break
			}
			_ = fmt.Sprint(d)
			break // the same page again and again
		}
		_, _ = c.Messages(client.MessageQuery{}).Next(ctx)
		_, _ = c.CreateTenant(ctx, client.NewTenant{})
		_, _ = c.DeadLetter(ctx, fixed(1))
		_, _ = c.ReplayDeadLetter(ctx, fixed(1))
		_ = c.DropDeadLetter(ctx, fixed(1))
		_, _ = c.CountDeadLetters(ctx, client.DeadLetterFilter{All: true})
	})
}

// lower undoes what JSON and ids allow: an id in capitals or with escapes is the same id.
func lower(body []byte) []byte {
	var value any
	if json.Unmarshal(body, &value) != nil {
		return bytes.ToLower(body)
	}
	plain, err := json.Marshal(value)
	if err != nil {
		return body
	}
	return bytes.ToLower(plain)
}

// An id is read in one form, and comes back in it.
func FuzzID(f *testing.F) {
	for _, seed := range []string{fixed(1).String(), "0197A3C2-8F0E-7CC1-9D39-5D2A3F0F7A11", "0197a3c28f0e7cc19d395d2a3f0f7a11", "", "{}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := client.ParseID(text)
		if err != nil {
			require.True(t, id.IsZero())
			return
		}
		again, err := client.ParseID(id.String())
		require.NoError(t, err)
		require.Equal(t, id, again)
		require.Len(t, text, 36)
	})
}
