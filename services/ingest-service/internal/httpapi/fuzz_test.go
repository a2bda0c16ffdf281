package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

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
