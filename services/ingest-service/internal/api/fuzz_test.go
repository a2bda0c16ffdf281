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
		`{"payload":1,"type":"a","key":"b","attributes":{"c":"d","e":"ä"}}`, `{"type":"","payload":1}`, `{"attributes":{"a":"b","a":"c"},"payload":1}`,
		`{"attributes":{},"payload":1}`, `{"type":"a\n","payload":1}`, `{"type":"` + "\x7f" + `","payload":1}`, `{"key":null,"attributes":null,"payload":1}`,
		`{"payload":"\u0000"}`, `{"id":"00000000-0000-0000-0000-000000000000","payload":1}`, `{"pay\u006coad":1}`, `{"payload":[1}`,
	} {
		f.Add([]byte(seed))
	}
	a := &api{cfg: limits}
	f.Fuzz(func(t *testing.T, body []byte) {
		quick, ok := readQuickly(body, limits.MaxPayload)
		if !ok {
			return
		}
		strict, err := a.readStrictly(body)
		require.NoError(t, err)
		require.Equal(t, strict, quick)
	})
}

// The usual forms of a message take the short way; whatever is wrong does not.
func TestShortcut(t *testing.T) {
	t.Parallel()
	for _, body := range []string{
		`{"payload":1}`, `{"payload":null}`, ` { "id" : "` + someID + "\" ,\n\t\"payload\" : {\"a\":[]} } ", `{"payload":"x","id":"` + someID + `"}`,
		`{"type":"order.created","key":"4711","attributes":{"region":"eu"},"payload":1}`,
	} {
		m, ok := readQuickly([]byte(body), limits.MaxPayload)
		require.True(t, ok, body)
		require.NotEmpty(t, m.payload)
	}
	for _, body := range []string{
		``, `{}`, `[]`, `{"payload":1`, `{"payload":1,}`, `{"payload":1}}`, `{"payload":1 "id":"` + someID + `"}`, `{"payload":1,"payload":1}`,
		`{"id":"` + someID + `"}`, `{"id":"` + someID + `","id":"` + someID + `","payload":1}`, `{"id":"x","payload":1}`, `{"id":"` + someID,
		`{"id":null,"payload":1}`, `{"Payload":1}`, `{"payload":1,"x":1}`, `{"payload":"\u0000"}`, `{"payload":"` + "\xff" + `"}`,
		`{"payload":"` + strings.Repeat("x", limits.MaxPayload) + `"}`, `{"payload":` + strings.Repeat("[", 201) + strings.Repeat("]", 201) + `}`,
	} {
		_, ok := readQuickly([]byte(body), limits.MaxPayload)
		require.False(t, ok, body)
	}
}

func BenchmarkReadMessage(b *testing.B) {
	a := &api{cfg: Config{MaxPayload: 1 << 20, MessageBody: 1 << 20}}
	body := []byte(`{"id":"` + someID + `","payload":{"items":[` + strings.Repeat(`{"sku":"A-1","quantity":2,"price":19.99},`, 24) + `{}]}}`)
	for name, read := range map[string]func([]byte) (incoming, error){"shortcut": a.read, "strict": a.readStrictly} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := read(body)
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
		m, err := a.readLine(body)
		require.Equal(t, sent, body, "what was sent is not written to")
		if err != nil {
			p, ok := problem.As(err)
			require.True(t, ok, "%v", err)
			require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge}, p.Status)
			require.NotEmpty(t, p.Code)
			require.True(t, json.Valid([]byte(`"`+p.Code+`"`)))
			return
		}
		require.NotEqual(t, uuid.Nil, m.id)
		require.NoError(t, m.envelope.Check())
		require.NoError(t, contract.CheckPayload(m.payload, limits.MaxPayload))
		require.Contains(t, string(body), string(m.payload))

		// A reader of JSON that is not ours sees the same, and nothing that we have passed over.
		var fields map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(body, &fields))
		require.Equal(t, m.payload, []byte(fields["payload"]))
		delete(fields, "payload")
		if given, ok := fields["id"]; ok && string(given) != "null" {
			var text string
			require.NoError(t, json.Unmarshal(given, &text))
			require.Equal(t, m.id, uuid.MustParse(text))
			again, err := a.readLine(body)
			require.NoError(t, err)
			require.Equal(t, m, again)
		}
		delete(fields, "id")
		var e contract.Envelope
		for name, field := range map[string]any{"type": &e.Type, "key": &e.Key, "attributes": &e.Attributes} {
			if given, ok := fields[name]; ok {
				require.NoError(t, json.Unmarshal(given, field))
			}
			delete(fields, name)
		}
		require.Empty(t, fields)
		if e.IsZero() {
			require.Nil(t, m.envelope)
		} else {
			require.Equal(t, e.Size(), m.envelope.Size())
		}

		published := message(active, m, time.Now())
		require.Equal(t, m.payload, published.Publishing.Body)
		require.Equal(t, m.id.String(), published.Publishing.MessageId)
		require.Equal(t, e.Type, published.Publishing.Type)
		require.Equal(t, active.String(), published.Key)
	})
}
