package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

type order struct {
	Number string      `json:"number"`
	Total  json.Number `json:"total"`
}

// What is published is what was given, digit by digit, on one line.
func TestPayloads(t *testing.T) {
	for name, tt := range map[string]struct {
		payload any
		want    string
	}{
		"struct":                    {order{"17", "19.990"}, `{"number":"17","total":19.990}`},
		"map":                       {map[string]any{"a": 1}, `{"a":1}`},
		"text":                      {"x", `"x"`},
		"HTML, not escaped":         {"<a&b>", `"<a&b>"`},
		"encoded already":           {json.RawMessage(`{"n": 9007199254740993.10}`), `{"n":9007199254740993.10}`},
		"encoded, on several lines": {json.RawMessage("{\n\t\"a\": [\r\n1,2]\n}"), `{"a":[1,2]}`},
		"null, said":                {json.RawMessage("null"), `null`},
		"line separators":           {"\u2028", `"\u2028"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, s := play(t, nil, accept, acceptLines(nil))
			m := client.Publishing{ID: fixed(1), Payload: tt.payload}
			_, err := c.Publish(t.Context(), m)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf(`{"id":%q,"payload":%s}`, fixed(1), tt.want), s.sent[0].body)
			_, err = c.PublishBatch(t.Context(), []client.Publishing{m})
			require.NoError(t, err)
			require.Equal(t, s.sent[0].body+"\n", s.sent[1].body)
			require.Equal(t, "application/x-ndjson", s.sent[1].header.Get("Content-Type"))
		})
	}
}

// What a message carries is sent with it, in one request and in a batch; text that is none is not.
func TestEnvelopes(t *testing.T) {
	c, s := play(t, nil, accept, acceptLines(nil))
	m := client.Publishing{ID: fixed(1), Payload: 1, Type: "order.created", Key: "<k>", Attributes: map[string]string{"region": "eu", "empty": ""}}
	_, err := c.Publish(t.Context(), m)
	require.NoError(t, err)
	require.JSONEq(t, fmt.Sprintf(`{"id":%q,"payload":1,"type":"order.created","key":"<k>","attributes":{"empty":"","region":"eu"}}`, fixed(1)), s.sent[0].body)
	_, err = c.PublishBatch(t.Context(), []client.Publishing{m})
	require.NoError(t, err)
	require.Equal(t, s.sent[0].body+"\n", s.sent[1].body)
	for _, bad := range []client.Publishing{
		{Payload: 1, Type: "\xff"}, {Payload: 1, Key: "\xff"}, {Payload: 1, Attributes: map[string]string{"a": "\xff"}},
	} {
		_, err := c.Publish(t.Context(), bad)
		require.ErrorContains(t, err, "must be UTF-8")
	}
	require.Len(t, s.sent, 2)
}

// A payload that was forgotten would be stored as null, and JSON in []byte as base64, and nobody would be told.
func TestPayloadsThatAreMistakes(t *testing.T) {
	for name, payload := range map[string]any{
		"nil":                 nil,
		"an empty message":    json.RawMessage(nil),
		"bytes":               []byte(`{"a":1}`),
		"no JSON":             json.RawMessage(`{"a":1`),
		"two values":          json.RawMessage(`1 2`),
		"infinity":            math.Inf(1),
		"a function":          func() {},
		"a broken marshaller": refuser{},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, nil, acceptLines(nil))
			id, err := c.Publish(t.Context(), client.Publishing{Payload: payload})
			require.Error(t, err)
			require.Contains(t, err.Error(), id.String())
			results, err := c.PublishBatch(t.Context(), []client.Publishing{{Payload: 1}, {Payload: payload}})
			require.ErrorContains(t, err, "1 of 2 messages were not accepted")
			require.NoError(t, results[0].Err)
			require.Error(t, results[1].Err, "and costs its neighbour nothing")
			_, err = c.ReplayDeadLetterAs(t.Context(), fixed(1), payload)
			require.Error(t, err)
		})
	}
}

type refuser struct{}

func (refuser) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

func publishings(n int) []client.Publishing {
	ms := make([]client.Publishing, n)
	for i := range ms {
		ms[i] = client.Publishing{ID: fixed(i + 1), Payload: i}
	}
	return ms
}

// ids are those of the lines of a batch, by the number that [fixed] made them of.
func ids(s sent) (numbers []int) {
	for line := range strings.Lines(s.body) {
		var n int
		_, _ = fmt.Sscanf(line, `{"id":"0197a3c2-8f0e-7cc1-9d39-%012d"`, &n)
		numbers = append(numbers, n)
	}
	return numbers
}

// Of a batch that was accepted in part, the rest is repeated and what was refused is reported, each under its own id.
func TestBatchInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := play(t, nil,
			acceptLines(map[int]string{0: "503 queue_full", 2: "400 payload_too_deep", 4: "429 rate_limited"}),
			cut,
			acceptLines(map[int]string{1: "503 broker_blocked"}),
			acceptLines(nil))
		results, err := c.PublishBatch(t.Context(), publishings(5))
		require.ErrorContains(t, err, "1 of 5 messages were not accepted")
		require.ErrorIs(t, err, client.ErrPayloadTooDeep)
		for i, r := range results {
			require.Equal(t, fixed(i+1), r.ID)
			if i == 2 {
				require.ErrorIs(t, r.Err, client.ErrPayloadTooDeep)
				continue
			}
			require.NoError(t, r.Err)
		}
		require.Equal(t, []int{1, 2, 3, 4, 5}, ids(s.sent[0]))
		require.Equal(t, []int{1, 5}, ids(s.sent[1]))
		require.Equal(t, []int{1, 5}, ids(s.sent[2]))
		require.Equal(t, []int{5}, ids(s.sent[3]))
	})
}

// Without repeats each message has the error of its own line, not that of the first.
func TestBatchWithoutRepeats(t *testing.T) {
	c, _ := play(t, once(), acceptLines(map[int]string{0: "503 queue_full", 1: "503 confirm_timeout"}))
	results, err := c.PublishBatch(t.Context(), publishings(3))
	require.ErrorContains(t, err, "2 of 3")
	require.ErrorIs(t, results[0].Err, client.ErrQueueFull)
	require.ErrorIs(t, results[1].Err, client.ErrConfirmTimeout)
	require.NoError(t, results[2].Err)
}

// A line that was not answered, or under another id, must not count as accepted.
func TestBatchAnswersThatDoNotFit(t *testing.T) {
	for name, body := range map[string]string{
		"no results":        `{"accepted":2,"failed":0}`,
		"another id":        `{"results":[{"line":1,"status":202,"id":"` + fixed(2).String() + `"},{"line":2,"status":202,"id":"` + fixed(1).String() + `"}]}`,
		"other lines":       `{"results":[{"line":0,"status":202,"id":"` + fixed(1).String() + `"},{"line":3,"status":202,"id":"` + fixed(2).String() + `"}]}`,
		"far lines":         `{"results":[{"line":-9223372036854775808,"status":202},{"line":9223372036854775807,"status":202}]}`,
		"no success":        `{"results":[{"line":1,"status":200,"id":"` + fixed(1).String() + `"},{"line":2,"status":0,"id":"` + fixed(2).String() + `"}]}`,
		"no id":             `{"results":[{"line":1,"status":202},{"line":2,"status":202}]}`,
		"nothing":           ``,
		"not an object":     `"accepted"`,
		"null":              `null`,
		"another's refusal": `{"results":[{"line":1,"status":400,"id":"` + fixed(2).String() + `"},{"line":2,"status":503,"id":"` + fixed(1).String() + `"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, nil, answer(202, body))
			results, err := c.PublishBatch(t.Context(), publishings(2))
			require.ErrorIs(t, err, client.ErrUnexpectedAnswer)
			for _, r := range results {
				require.ErrorIs(t, r.Err, client.ErrUnexpectedAnswer)
			}
		})
	}
}

// Any number of messages may be given; the limits of an installation are found, not configured.
func TestBatchesOfAnySize(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		c, _ := play(t, nil)
		results, err := c.PublishBatch(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, results)
	})
	t.Run("many", func(t *testing.T) {
		c, s := play(t, nil, acceptLines(nil), acceptLines(nil), acceptLines(nil))
		results, err := c.PublishBatch(t.Context(), publishings(2500))
		require.NoError(t, err)
		require.Len(t, results, 2500)
		require.Len(t, ids(s.sent[0]), 1000)
		require.Equal(t, 2001, ids(s.sent[2])[0])
	})
	t.Run("long", func(t *testing.T) {
		long := client.Publishing{Payload: strings.Repeat("x", 3<<20)}
		c, _ := play(t, nil, acceptLines(nil), acceptLines(nil))
		_, err := c.PublishBatch(t.Context(), []client.Publishing{long, long})
		require.NoError(t, err)
	})
	t.Run("more than the installation allows", func(t *testing.T) {
		tooMany := refuse(413, "too_many_lines")
		c, s := play(t, nil, tooMany, acceptLines(nil), tooMany, acceptLines(nil), refuse(413, "body_too_large"))
		results, err := c.PublishBatch(t.Context(), publishings(4))
		require.ErrorIs(t, err, client.ErrBodyTooLarge, "a message that is too long on its own is refused")
		require.Equal(t, []int{1, 2}, ids(s.sent[1]))
		require.Equal(t, []int{3}, ids(s.sent[3]))
		require.Equal(t, []int{4}, ids(s.sent[4]))
		require.Error(t, results[3].Err)
		require.NoError(t, results[2].Err)
	})
}

// A message id is made once and of the kind that sorts by time; one made of a name is always the same.
func TestIDs(t *testing.T) {
	made := make([]client.ID, 1000)
	for i := range made {
		made[i] = client.NewID()
		require.Equal(t, byte(7), made[i][6]>>4, "version")
		require.Equal(t, byte(2), made[i][8]>>6, "variant")
	}
	require.True(t, slices.IsSortedFunc(made, func(a, b client.ID) int { return slices.Compare(a[:6], b[:6]) }))
	slices.SortFunc(made, func(a, b client.ID) int { return slices.Compare(a[:], b[:]) })
	require.Len(t, slices.Compact(made), 1000)

	parsed, err := client.ParseID(strings.ToUpper(made[0].String()))
	require.NoError(t, err)
	require.Equal(t, made[0], parsed)
	for _, text := range []string{
		"", "x", "00000000-0000-0000-0000-000000000000", strings.ReplaceAll(made[0].String(), "-", ""), "{" + made[0].String() + "}",
		made[0].String() + "0", "0197a3c2-8f0e-7cc1-9d39-00000000000g", "0197a3c2x8f0e-7cc1-9d39-000000000001",
	} {
		_, err := client.ParseID(text)
		require.Error(t, err, text)
	}

	tenant, err := client.ParseID("6f1c2b1e-5a59-4a1b-9f5e-2f4f0e3f7a11")
	require.NoError(t, err)
	require.Equal(t, "78fbcdb3-b47e-5d68-a451-dea55094b351", client.NameID(tenant, "order-17").String())
	require.Equal(t, made[0], client.NameID(tenant, made[0].String()), "a UUID is its own name")
	require.NotEqual(t, client.NameID(tenant, "order-17"), client.NameID(fixed(1), "order-17"), "tenants share no ids")
}
