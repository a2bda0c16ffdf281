package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// FuzzShortcut: what the short way takes, the strict one takes as the same.
func FuzzShortcut(f *testing.F) {
	for _, seed := range []string{
		`{"payload":1}`, ` { "id" : "` + someID + `" , "payload" : {"a":[1e3,null,"\u00e4"]} } `, `{"payload":"x","id":"` + someID + `"}`,
		`{"payload":1,"payload":2}`, `{"id":null,"payload":1}`, `{"payload":1,}`, `{"payload":1}x`, `{"payload":12 3}`, `{,"payload":1}`,
		`{"payload":"\u0000"}`, `{"id":"00000000-0000-0000-0000-000000000000","payload":1}`, `{"pay\u006coad":1}`, `{"payload":[1}`,
	} {
		f.Add([]byte(seed))
	}
	a := &api{cfg: limits}
	f.Fuzz(func(t *testing.T, body []byte) {
		id, payload, ok := envelope(body, limits.MaxPayload)
		if !ok {
			return
		}
		strictID, strictPayload, err := a.readStrictly(body)
		require.NoError(t, err)
		require.Equal(t, strictID, id)
		require.Equal(t, strictPayload, payload)
	})
}

// The usual forms of a message take the short way; whatever is wrong does not.
func TestShortcut(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"payload":1}`, `{"payload":null}`, ` { "id" : "` + someID + "\" ,\n\t\"payload\" : {\"a\":[]} } ", `{"payload":"x","id":"` + someID + `"}`,
	} {
		_, payload, ok := envelope([]byte(body), limits.MaxPayload)
		require.True(t, ok, body)
		require.NotEmpty(t, payload)
	}
	for _, body := range []string{
		``, `{}`, `[]`, `{"payload":1`, `{"payload":1,}`, `{"payload":1}}`, `{"payload":1 "id":"` + someID + `"}`, `{"payload":1,"payload":1}`,
		`{"id":"` + someID + `"}`, `{"id":"` + someID + `","id":"` + someID + `","payload":1}`, `{"id":"x","payload":1}`, `{"id":"` + someID,
		`{"id":null,"payload":1}`, `{"Payload":1}`, `{"payload":1,"x":1}`, `{"payload":"\u0000"}`, `{"payload":"` + "\xff" + `"}`,
		`{"payload":"` + strings.Repeat("x", limits.MaxPayload) + `"}`, `{"payload":` + strings.Repeat("[", 201) + strings.Repeat("]", 201) + `}`,
	} {
		_, _, ok := envelope([]byte(body), limits.MaxPayload)
		require.False(t, ok, body)
	}
}

func BenchmarkReadMessage(b *testing.B) {
	a := &api{cfg: Config{MaxPayload: 1 << 20, MessageBody: 1 << 20}}
	body := []byte(`{"id":"` + someID + `","payload":{"items":[` + strings.Repeat(`{"sku":"A-1","quantity":2,"price":19.99},`, 24) + `{}]}}`)
	for name, read := range map[string]func([]byte) (uuid.UUID, []byte, error){"shortcut": a.read, "strict": a.readStrictly} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				_, _, err := read(body)
				require.NoError(b, err)
			}
		})
	}
}

// FuzzEnvelope: a message is published with the very bytes of its payload and under its id, or refused with a 4xx that has
// a code; there is nothing in between.
func FuzzEnvelope(f *testing.F) {
	for _, seed := range []string{
		"", `{"payload":1}`, `{"id":"` + someID + `","payload":{"a":[1e3,null,"\u00e4"]}}`, `{"payload":1,"payload":2}`, `{"PAYLOAD":1}`,
	} {
		f.Add([]byte(seed))
	}
	a := &api{cfg: limits}
	f.Fuzz(func(t *testing.T, body []byte) {
		sent := bytes.Clone(body)
		id, payload, err := a.readLine(body)
		require.Equal(t, sent, body, "what was sent is not written to")
		if err != nil {
			p, ok := problem.As(err)
			require.True(t, ok, "%v", err)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, p.Status)
			require.NotEmpty(t, p.Code)
			require.True(t, json.Valid([]byte(`"`+p.Code+`"`)))
			return
		}
		require.NotEqual(t, uuid.Nil, id)
		require.NoError(t, contract.CheckPayload(payload, limits.MaxPayload))
		require.Contains(t, string(body), string(payload))

		// A reader of JSON that is not ours sees the same, and nothing that we have passed over.
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &fields))
		require.Equal(t, payload, []byte(fields["payload"]))
		delete(fields, "payload")
		if given, ok := fields["id"]; ok && string(given) != "null" {
			var text string
			require.NoError(t, json.Unmarshal(given, &text))
			require.Equal(t, id, uuid.MustParse(text))
			again, _, err := a.readLine(body)
			require.NoError(t, err)
			require.Equal(t, id, again)
		}
		delete(fields, "id")
		require.Empty(t, fields)

		m := message(active, id, payload, time.Now())
		require.Equal(t, payload, m.Publishing.Body)
		require.Equal(t, id.String(), m.Publishing.MessageId)
		require.Equal(t, active.String(), m.Key)
	})
}
