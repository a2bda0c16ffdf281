package api

import (
	"encoding/hex"
	"strconv"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// A page is written by hand since encoding/json would parse every payload again to compact it, and payloads, which come
// from jsonb and so are valid JSON, are passed on as they are: appendPageStart, [appendMessage] with a comma between any
// two, appendPageEnd.

func appendPageStart(body []byte) []byte { return append(body, `{"data":[`...) }

func appendPageEnd(body []byte, next string, page store.Page) []byte {
	body = append(body, `],"next_cursor":"`...)
	body = append(body, next...)
	body = append(body, `","has_more":`...)
	body = strconv.AppendBool(body, page.More)
	if page.Gap {
		body = append(body, `,"gap":true`...)
	}
	return append(body, '}')
}

func appendMessage(body []byte, tenant uuid.UUID, m store.Message) []byte {
	body = append(body, `{"id":"`...)
	body = appendUUID(body, m.ID)
	body = append(body, `","tenant_id":"`...)
	body = appendUUID(body, tenant)
	body = append(body, `","payload":`...)
	body = append(body, m.Payload...)
	body = append(body, `,"created_at":"`...)
	body = m.CreatedAt.UTC().AppendFormat(body, rest.TimeLayout)
	return append(body, `"}`...)
}

// appendUUID appends what id.String() returns, without making a string of it.
func appendUUID(body []byte, id uuid.UUID) []byte {
	body = append(hex.AppendEncode(body, id[:4]), '-')
	body = append(hex.AppendEncode(body, id[4:6]), '-')
	body = append(hex.AppendEncode(body, id[6:8]), '-')
	body = append(hex.AppendEncode(body, id[8:10]), '-')
	return hex.AppendEncode(body, id[10:])
}
