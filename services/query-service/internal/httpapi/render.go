package httpapi

import (
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// renderPage writes a page. It is written by hand since encoding/json would parse every payload again to compact it,
// and payloads, which come from jsonb and so are valid JSON, are passed on as they are.
func renderPage(tenant uuid.UUID, page store.Page, next string) []byte {
	size := store.MessageBytes
	for _, m := range page.Messages {
		size += len(m.Payload) + store.MessageBytes
	}
	body := append(make([]byte, 0, size), `{"data":[`...)
	for i, m := range page.Messages {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendMessage(body, tenant, m)
	}
	body = append(body, `],"next_cursor":"`...)
	body = append(body, next...)
	body = append(body, `","has_more":`...)
	return append(strconv.AppendBool(body, page.More), '}')
}

func appendMessage(body []byte, tenant uuid.UUID, m store.Message) []byte {
	body = append(body, `{"id":"`...)
	body = append(body, m.ID.String()...)
	body = append(body, `","tenant_id":"`...)
	body = append(body, tenant.String()...)
	body = append(body, `","payload":`...)
	body = append(body, m.Payload...)
	body = append(body, `,"created_at":"`...)
	body = m.CreatedAt.AppendFormat(body, time.RFC3339Nano)
	return append(body, `"}`...)
}
