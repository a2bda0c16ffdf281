package api

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// Ids and times are written as their own packages write them into JSON.
func TestAppendMessage(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		id := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "id"))
		tenant := uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(r, "tenant"))
		at := time.UnixMicro(rapid.Int64Range(0, 1<<52).Draw(r, "microseconds")).UTC()
		when, err := rest.Timestamp{Time: at}.MarshalJSON()
		require.NoError(r, err)
		require.Equal(r, `{"id":"`+id.String()+`","tenant_id":"`+tenant.String()+`","payload":[1, 2],"created_at":`+string(when)+`}`,
			string(appendMessage(nil, tenant, store.Message{ID: id, Payload: []byte(`[1, 2]`), CreatedAt: at})))
	})
}

// BenchmarkAppendMessage writes the messages of a default page.
func BenchmarkAppendMessage(b *testing.B) {
	tenant := uuid.New()
	m := store.Message{ID: uuid.New(), Payload: []byte(`"` + strings.Repeat("x", 254) + `"`), CreatedAt: time.Now().UTC()}
	var body []byte
	b.ReportAllocs()
	for b.Loop() {
		body = appendPageStart(body[:0])
		for range rest.DefaultLimit {
			body = append(appendMessage(body, tenant, m), ',')
		}
	}
	b.SetBytes(int64(len(body)))
}
