package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/amqptest"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
)

type nopRegisterer struct{}

func (nopRegisterer) Register(prometheus.Collector) error  { return nil }
func (nopRegisterer) MustRegister(...prometheus.Collector) {}
func (nopRegisterer) Unregister(prometheus.Collector) bool { return true }

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) //nolint:gochecknoglobals // fixed values of types that have no constants

// deadLetter records the n-th dead letter of a tenant: one a second.
func (s *service) deadLetter(t *testing.T, tenant uuid.UUID, n int, payload string, reason contract.Reason) deadletter.Entry {
	t.Helper()
	messageID := uuid.UUID(contract.MessageID(tenant, fmt.Sprint(n)))
	at := epoch.Add(time.Duration(n) * time.Second)
	l := deadletter.Entry{
		ID: deadletter.EntryID(tenant, fmt.Sprint(n), reason, []byte(payload)), TenantID: tenant, MessageID: &messageID,
		OriginalMessageID: fmt.Sprint(n), Payload: []byte(payload), PayloadSize: int64(len(payload)), ContentType: "application/json",
		Headers: []byte(`{"trace":"abc"}`), Reason: reason, Error: "refused", Attempts: 3, FirstFailedAt: at, LastFailedAt: at.Add(time.Hour),
	}
	_, err := s.deadLetters.Record(t.Context(), []deadletter.Entry{l})
	require.NoError(t, err)
	return l
}

func TestDeadLetterShowsWhatIsKnown(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	stored := s.deadLetter(t, active, 1, `{"a": 1}`, contract.ReasonRejected)
	broken := s.deadLetter(t, active, 2, "{\"a\":\xff", contract.ReasonNotJSON)
	large := s.deadLetter(t, active, 3, `"`+strings.Repeat("x", listPayload)+`"`, contract.ReasonTooLarge)

	answer := s.manage(t, active, http.MethodGet, "/dead-letters/"+stored.ID.String(), "")
	require.Equal(t, http.StatusOK, answer.status)
	require.JSONEq(t, `{"id":"`+stored.ID.String()+`","tenant_id":"`+active.String()+`","message_id":"`+stored.MessageID.String()+`","original_message_id":"1",
		"reason":"rejected","error":"refused","attempts":3,"payload":{"a":1},"payload_size":8,"content_type":"application/json","properties":{"content_type":"application/json"},"headers":{"trace":"abc"},
		"first_failed_at":"2026-01-02T03:04:06.000000Z","last_failed_at":"2026-01-02T04:04:06.000000Z"}`, answer.body)

	var got DeadLetter
	s.manage(t, active, http.MethodGet, "/dead-letters/"+broken.ID.String(), "").into(t, http.StatusOK, &got)
	require.Equal(t, "null", string(got.Payload))
	require.Equal(t, broken.Payload, got.PayloadBase64)

	var page DeadLetterPage
	s.manage(t, active, http.MethodGet, "/dead-letters", "").into(t, http.StatusOK, &page)
	require.Len(t, page.Data, 3)
	require.True(t, page.Data[2].PayloadOmitted)
	require.EqualValues(t, listPayload+2, page.Data[2].PayloadSize)
	s.manage(t, active, http.MethodGet, "/dead-letters/"+large.ID.String(), "").into(t, http.StatusOK, &got)
	require.Equal(t, large.Payload, []byte(got.Payload))
}

// What came with a message is shown as it came: it is often the reason why it failed, or says whose it is.
func TestDeadLetterShowsProperties(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	shown := func(properties []byte) string {
		l := s.deadLetterWith(t, properties)
		var got struct {
			Properties json.RawMessage `json:"properties"`
			Headers    json.RawMessage `json:"headers"`
			Unreadable bool            `json:"properties_unreadable,omitempty"`
			Base64     []byte          `json:"properties_base64,omitempty"`
		}
		s.manage(t, active, http.MethodGet, "/dead-letters/"+l.ID.String(), "").into(t, http.StatusOK, &got)
		answer, err := json.Marshal(got)
		require.NoError(t, err)
		return string(answer)
	}
	all := amqptest.Properties{
		ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: 1, Priority: 3, CorrelationID: "c", ReplyTo: "r", Expiration: "300",
		MessageID: "m", Type: "t", UserID: "u", AppID: "a\xff", Timestamp: 1_700_000_000_000,
		Headers: slices.Concat(amqptest.Field("price", 'D', 2, 0, 0, 7, 0xcf), amqptest.Field("n", 'l', 0x7f, 255, 255, 255, 255, 255, 255, 255)),
	}
	require.Equal(t, `{"properties":{"content_type":"text/plain","content_encoding":"gzip","delivery_mode":1,"priority":3,"correlation_id":"c","reply_to":"r",`+ //nolint:testifylint // the digits count
		`"expiration":"300","message_id":"m","timestamp":"2023-11-14T22:13:20.000Z","type":"t","user_id":"u","app_id":"a�"},`+
		`"headers":{"price":19.99,"n":9223372036854775807}}`, shown(all.Encode()))
	require.JSONEq(t, `{"properties":{},"headers":{}}`, shown(amqptest.Properties{}.Encode()))
	require.JSONEq(t, `{"properties":{"priority":0},"headers":{}}`, shown([]byte{8, 0, 0}))
	require.JSONEq(t, `{"properties":{"app_id":"a"},"headers":{"a":null},"properties_unreadable":true,"properties_base64":"IAgAAAAFAWFWASEBYQ=="}`,
		shown(amqptest.Properties{AppID: "a", Headers: append(amqptest.Field("a", 'V'), 1, '!')}.Encode()))
	require.JSONEq(t, `{"properties":{},"headers":{},"properties_unreadable":true,"properties_base64":"/w=="}`, shown([]byte{0xff}))
}

// A thousand dead letters with headers as large as a frame do not make a page that fits into no memory.
func TestPageOfLargeHeadersIsBounded(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	headers := amqptest.Field("x", 'S', amqptest.Long(bytes.Repeat([]byte{1}, 130_000))...)
	const total = 25
	for range total {
		s.deadLetterWith(t, amqptest.Properties{Headers: headers}.Encode())
	}
	seen, next := 0, ""
	for more := true; more; {
		answer := s.manage(t, active, http.MethodGet, "/dead-letters?limit=1000"+next, "")
		require.Less(t, len(answer.body), pageBytes+1<<20)
		var page DeadLetterPage
		answer.into(t, http.StatusOK, &page)
		seen, next, more = seen+len(page.Data), "&cursor="+page.NextCursor, page.HasMore
	}
	require.Equal(t, total, seen)
}

// deadLetterWith records a dead letter with properties.
func (s *service) deadLetterWith(t *testing.T, properties []byte) deadletter.Entry {
	t.Helper()
	l := deadletter.Entry{
		ID: uuid.New(), TenantID: active, Payload: []byte("{"), PayloadSize: 1, Properties: properties, Headers: []byte(`{}`),
		Reason: contract.ReasonNotJSON, Attempts: 1, FirstFailedAt: epoch, LastFailedAt: epoch,
	}
	_, err := s.deadLetters.Record(t.Context(), []deadletter.Entry{l})
	require.NoError(t, err)
	return l
}

func TestDeadLettersArePaged(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	var page DeadLetterPage
	s.manage(t, active, http.MethodGet, "/dead-letters", "").into(t, http.StatusOK, &page)
	require.Empty(t, page.Data)
	require.NotNil(t, page.Data)
	require.False(t, page.HasMore)
	for n := range 7 {
		s.deadLetter(t, active, n, "1", contract.Reasons()[n%2])
	}
	s.deadLetter(t, suspended, 1, "1", contract.ReasonRejected)

	next, seen := page.NextCursor, []string{} // the cursor of an empty list is its start
	for more := true; more; {
		var page DeadLetterPage
		s.manage(t, active, http.MethodGet, "/dead-letters?limit=3&cursor="+next, "").into(t, http.StatusOK, &page)
		for _, l := range page.Data {
			seen = append(seen, l.OriginalMessageID)
			require.Equal(t, active, l.TenantID)
		}
		next, more = page.NextCursor, page.HasMore
	}
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "6"}, seen)
	s.manage(t, active, http.MethodGet, "/dead-letters?cursor="+next, "").into(t, http.StatusOK, &page)
	require.Empty(t, page.Data)
	require.Equal(t, next, page.NextCursor)

	at := func(n int) string {
		return url.QueryEscape(epoch.Add(time.Duration(n) * time.Second).Format(time.RFC3339))
	}
	for query, want := range map[string]int{
		"reason=not_json":        4,
		"reason=too_deep":        0,
		"failed_after=" + at(5):  2,
		"failed_before=" + at(5): 5,
		"limit=1000":             7,
		"limit=1":                1,
		"reason=not_json&failed_after=" + at(3) + "&failed_before=" + at(6): 1,
	} {
		s.manage(t, active, http.MethodGet, "/dead-letters?"+query, "").into(t, http.StatusOK, &page)
		require.Len(t, page.Data, want, query)
	}
}

func TestDeadLettersRefuseBadRequests(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	l := s.deadLetter(t, active, 1, "1", contract.ReasonRejected)
	foreign := deadLetterCursor{kind: cursorOfList, tenant: suspended}.encode()
	ofReplay := deadLetterCursor{kind: cursorOfReplay, tenant: active, began: epoch}.encode()
	ofList := deadLetterCursor{kind: cursorOfList, tenant: active}.encode()
	one := "/dead-letters/" + l.ID.String()
	for _, c := range []struct {
		method, path, body string
		status             int
		code, field        string
	}{
		{"GET", "/dead-letters?limit=0", "", 400, "invalid_limit", "limit"},
		{"GET", "/dead-letters?limit=1001", "", 400, "invalid_limit", "limit"},
		{"GET", "/dead-letters?limit=x", "", 400, "invalid_limit", "limit"},
		{"GET", "/dead-letters?cursor=x", "", 400, "bad_cursor", "cursor"},
		{"GET", "/dead-letters?cursor=" + foreign, "", 400, "bad_cursor", "cursor"},
		{"GET", "/dead-letters?cursor=" + ofReplay, "", 400, "bad_cursor", "cursor"},
		{"GET", "/dead-letters?reason=bad", "", 400, "invalid_reason", "reason"},
		{"GET", "/dead-letters?failed_after=yesterday", "", 400, "invalid_time", "failed_after"},
		{"GET", "/dead-letters?failed_before=2026-01-01", "", 400, "invalid_time", "failed_before"},
		{"GET", "/dead-letters?order=desc", "", 400, "unknown_parameter", "order"},
		{"GET", "/dead-letters?limit=1&limit=2", "", 400, "repeated_parameter", "limit"},
		{"GET", "/dead-letters/x", "", 400, "invalid_uuid", "id"},
		{"GET", one + "?limit=1", "", 400, "unknown_parameter", "limit"},
		{"GET", "/dead-letters/" + someID, "", 404, "dead_letter_not_found", ""},
		{"DELETE", "/dead-letters/x", "", 400, "invalid_uuid", "id"},
		{"DELETE", "/dead-letters/" + someID, "", 404, "dead_letter_not_found", ""},
		{"DELETE", "/dead-letters?reason=bad", "", 400, "invalid_reason", "reason"},
		{"DELETE", "/dead-letters?limit=1", "", 400, "unknown_parameter", "limit"},
		{"DELETE", "/dead-letters", `{"reason":"not_json"}`, 400, "unexpected_body", ""},
		{"POST", "/dead-letters/x/replay", "", 400, "invalid_uuid", "id"},
		{"POST", "/dead-letters/" + someID + "/replay", "", 404, "dead_letter_not_found", ""},
		{"POST", one + "/replay", "x", 400, "malformed_json", ""},
		{"POST", one + "/replay", `{"payload":1,"id":"x"}`, 400, "unknown_field", "id"},
		{"POST", one + "/replay", `{"payload":"\u0000"}`, 400, "payload_unstorable", "payload"},
		{"POST", one + "/replay", `{"payload":"` + strings.Repeat("x", 6000) + `"}`, 413, "body_too_large", ""},
		{"POST", "/dead-letters/replay?all=true&dry_run=yes", "", 400, "invalid_boolean", "dry_run"},
		{"POST", "/dead-letters/replay?dryrun=true", "", 400, "unknown_parameter", "dryrun"},
		{"POST", "/dead-letters/replay?all=true&cursor=" + ofList, "", 400, "bad_cursor", "cursor"},
		{"POST", "/dead-letters/replay", `{"dry_run":true}`, 400, "unexpected_body", ""},
		{"PUT", one, "", 405, "method_not_allowed", ""},
		{"POST", one, "", 405, "method_not_allowed", ""},
	} {
		t.Run(c.method+" "+c.path+" "+c.body[:min(len(c.body), 20)], func(t *testing.T) {
			p := s.manage(t, active, c.method, c.path, c.body).problem(t, c.status, c.code)
			if c.field != "" {
				field(t, p, c.field)
			}
		})
	}
	s.call(t, call{http.MethodPost, one + "/replay", "text/plain", `{"payload":1}`, token(t, active, auth.ScopeDeadLettersManage)}).
		problem(t, http.StatusUnsupportedMediaType, "unsupported_media_type")
	require.Empty(t, o.published)
	require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, one, "").status, "and the dead letter is still there")
}

// Another tenant's dead letters are as good as not there.
func TestDeadLettersOfAnotherTenant(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	l := s.deadLetter(t, active, 1, "1", contract.ReasonRejected)
	one := "/dead-letters/" + l.ID.String()
	for _, c := range []struct{ method, path string }{{"GET", one}, {"DELETE", one}, {"POST", one + "/replay"}} {
		s.manage(t, suspended, c.method, c.path, "").problem(t, http.StatusNotFound, "dead_letter_not_found")
	}
	var page DeadLetterPage
	s.manage(t, suspended, http.MethodGet, "/dead-letters", "").into(t, http.StatusOK, &page)
	require.Empty(t, page.Data)
	var dropped Dropped
	s.manage(t, suspended, http.MethodDelete, "/dead-letters?all=true", "").into(t, http.StatusOK, &dropped)
	require.Zero(t, dropped.Dropped)
	var replayed DeadLettersReplayed
	s.manage(t, suspended, http.MethodPost, "/dead-letters/replay?all=true", "").into(t, http.StatusOK, &replayed)
	require.Zero(t, replayed.Replayed)
	require.Empty(t, o.published)
	require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, one, "").status)
}

func TestReplayOfOneDeadLetter(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	replay := func(l deadletter.Entry, body string) answer {
		return s.manage(t, active, http.MethodPost, "/dead-letters/"+l.ID.String()+"/replay", body)
	}
	l := s.deadLetter(t, active, 1, `{"n":1}`, contract.ReasonRejected)
	var got DeadLetterReplayed
	replay(l, " {\n} ").into(t, http.StatusAccepted, &got) // says as much as nothing
	require.Equal(t, DeadLetterReplayed{ID: l.ID, MessageID: *l.MessageID, Result: "replayed"}, got)
	require.Equal(t, "1", o.published[0].Publishing.MessageId)
	require.Equal(t, `{"n":1}`, string(o.published[0].Publishing.Body))
	replay(l, "").problem(t, http.StatusNotFound, "dead_letter_not_found")

	broken := s.deadLetter(t, active, 2, "{", contract.ReasonNotJSON)
	p := replay(broken, "").problem(t, http.StatusUnprocessableEntity, "payload_not_json")
	require.Contains(t, p.Detail, "edited")
	replay(broken, `{"payload": {"fixed":true}}`).into(t, http.StatusAccepted, &got)
	require.Equal(t, `{"fixed":true}`, string(o.published[1].Publishing.Body))
	require.Equal(t, "2", o.published[1].Publishing.MessageId)

	stored := s.deadLetter(t, active, 3, "1", contract.ReasonMaxAttempts)
	_, err := s.operator.Exec(t.Context(), `SELECT tenant_attach($1)`, active)
	require.NoError(t, err)
	_, err = s.operator.Exec(t.Context(), `INSERT INTO messages (tenant_id, id, payload) VALUES ($1, $2, '1')`, active, *stored.MessageID)
	require.NoError(t, err)
	replay(stored, "").into(t, http.StatusOK, &got)
	require.Equal(t, "already_stored", got.Result)
	require.Len(t, o.published, 2)

	for tenant, want := range map[uuid.UUID]string{unknown: "tenant_not_found", deleting: "tenant_deleting", provisioning: "tenant_provisioning"} {
		l := s.deadLetter(t, tenant, 1, "1", contract.ReasonRejected)
		for _, path := range []string{"/dead-letters/" + l.ID.String() + "/replay", "/dead-letters/replay?all=true"} {
			require.Contains(t, s.manage(t, tenant, http.MethodPost, path, "").body, want)
		}
	}
	last := s.deadLetter(t, active, 4, "1", contract.ReasonRejected)
	o.fail = func(context.Context, publish.Message) error { return conn.ErrBlocked }
	p = replay(last, "").problem(t, http.StatusServiceUnavailable, "broker_blocked")
	require.Equal(t, last.MessageID.String(), field(t, p, "id"))
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?all=true", "").problem(t, http.StatusServiceUnavailable, "broker_blocked")
	o.fail = func(ctx context.Context, _ publish.Message) error {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", publish.ErrUnconfirmed, ctx.Err())
	}
	replay(last, "").problem(t, http.StatusServiceUnavailable, "confirm_timeout")
	require.Equal(t, http.StatusOK, s.manage(t, active, http.MethodGet, "/dead-letters/"+last.ID.String(), "").status)
}

func TestReplayOfManyDeadLetters(t *testing.T) {
	t.Parallel()
	s, o := serveDeadLetters(t)
	for n := range 30 {
		payload := "1"
		if n == 7 {
			payload = "{"
		}
		s.deadLetter(t, active, n, payload, contract.Reasons()[n%2])
	}
	s.deadLetter(t, suspended, 1, "1", contract.ReasonNotJSON)
	count := int64(15)
	var got DeadLettersReplayed
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?dry_run=true&reason=not_json", "").into(t, http.StatusOK, &got)
	require.Equal(t, DeadLettersReplayed{DryRun: true, Count: &count}, got)
	require.Empty(t, o.published)

	got = DeadLettersReplayed{}
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?dry_run=false&reason=unstorable", "").into(t, http.StatusOK, &got)
	require.Equal(t, 14, got.Replayed)
	require.Equal(t, 1, got.Refused)
	require.False(t, got.HasMore)
	require.Len(t, o.published, 14)

	// What fails again, later than the replay began, is not replayed again by the cursor of that replay.
	again := s.deadLetter(t, active, 31, "1", contract.ReasonUnstorable)
	_, err := s.operator.Exec(t.Context(), `UPDATE dead_letters SET first_failed_at = now() + interval '1 minute' WHERE id = $1`, again.ID)
	require.NoError(t, err)
	next := got.NextCursor
	got = DeadLettersReplayed{}
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?reason=unstorable&cursor="+next, "").into(t, http.StatusOK, &got)
	require.Zero(t, got.Replayed+got.Refused)

	o.fail = func(_ context.Context, m publish.Message) error {
		if m.Publishing.MessageId == "4" {
			return publish.ErrRejected
		}
		return nil
	}
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?reason=not_json", "").into(t, http.StatusOK, &got)
	require.Equal(t, 14, got.Replayed)
	require.True(t, got.HasMore)
	require.Equal(t, "queue_full", got.Stopped)
	o.fail = nil
	got = DeadLettersReplayed{}
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?reason=not_json&cursor="+next, "").into(t, http.StatusOK, &got)
	require.Zero(t, got.Replayed, "the cursor of the other replay is behind it")
	s.manage(t, active, http.MethodPost, "/dead-letters/replay?reason=not_json", "").into(t, http.StatusOK, &got)
	require.Equal(t, 1, got.Replayed)
}

func TestDroppingDeadLetters(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	l := s.deadLetter(t, active, 100, "1", contract.ReasonRejected)
	one := "/dead-letters/" + l.ID.String()
	gone := s.manage(t, active, http.MethodDelete, one, "")
	require.Equal(t, http.StatusNoContent, gone.status)
	require.Empty(t, gone.body)
	s.manage(t, active, http.MethodDelete, one, "").problem(t, http.StatusNotFound, "dead_letter_not_found")
	for n := range 10 {
		s.deadLetter(t, active, n, "1", contract.Reasons()[n%2])
	}
	var got Dropped
	s.manage(t, active, http.MethodDelete, "/dead-letters?reason=not_json", "").into(t, http.StatusOK, &got)
	require.Equal(t, Dropped{Dropped: 5}, got)
	s.manage(t, active, http.MethodDelete, "/dead-letters?all=true", "").into(t, http.StatusOK, &got)
	require.Equal(t, Dropped{Dropped: 5}, got)
}

func TestDeadLettersWhenTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	s, _ := serveFake(t)
	one := "/dead-letters/" + someID
	for _, c := range []struct{ method, path string }{
		{"GET", "/dead-letters"},
		{"GET", one},
		{"DELETE", one},
		{"DELETE", "/dead-letters?all=true"},
		{"POST", one + "/replay"},
		{"POST", "/dead-letters/replay?all=true"},
		{"POST", "/dead-letters/replay?all=true&dry_run=true"},
	} {
		began := time.Now()
		s.manage(t, active, c.method, c.path, "").problem(t, http.StatusServiceUnavailable, "database_unavailable")
		require.Less(t, time.Since(began), 3*time.Second)
	}
}

// Clients keep cursors: what was given out by an earlier version must stay good.
func TestCursorStaysTheSame(t *testing.T) {
	t.Parallel()
	tenant := uuid.MustParse("0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	behind := deadletter.Position{
		FirstFailedAt: time.UnixMicro(1769860800123456).UTC(), ID: uuid.MustParse("11111111-2222-4333-8444-555555555555"),
	}
	for text, want := range map[string]deadLetterCursor{
		"AQEBl6PCjw58wZ05XSo_D3oRAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADy7bAE": {kind: cursorOfList, tenant: tenant},
		"AQEBl6PCjw58wZ05XSo_D3oRAAAAAAAAAAAABkmt1EsSQBEREREiIkMzhERVVVVVVVUcUgV2": {kind: cursorOfList, tenant: tenant, position: behind},
		"AQIBl6PCjw58wZ05XSo_D3oRAAZJrdpJDPEABkmt1EsSQBEREREiIkMzhERVVVVVVVXqNtj7": {
			kind: cursorOfReplay, tenant: tenant, began: time.UnixMicro(1769860900654321).UTC(), position: behind,
		},
	} {
		require.Equal(t, text, want.encode())
		got, err := decodeCursor(text, tenant, want.kind)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}

func TestCursor(t *testing.T) {
	t.Parallel()
	want := deadLetterCursor{
		kind: cursorOfReplay, tenant: active, began: epoch,
		position: deadletter.Position{FirstFailedAt: epoch.Add(time.Microsecond), ID: suspended},
	}
	text := want.encode()
	got, err := decodeCursor(text, active, cursorOfReplay)
	require.NoError(t, err)
	require.Equal(t, want, got)
	for i := range text { // every change is seen
		for _, b := range []byte("A_-x") {
			if text[i] != b {
				_, err := decodeCursor(text[:i]+string(b)+text[i+1:], active, cursorOfReplay)
				require.Error(t, err)
			}
		}
	}
}

// Made-up cursors with a right checksum: they must be refused or be the one way to write what they say.
func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add("x")
	f.Add(deadLetterCursor{kind: cursorOfList, tenant: active}.encode())
	f.Add(deadLetterCursor{kind: cursorOfList, tenant: active, position: deadletter.Position{FirstFailedAt: epoch, ID: suspended}}.encode())
	f.Add(deadLetterCursor{kind: cursorOfReplay, tenant: active, began: epoch}.encode())
	f.Add(cursorFormat().Encode(cursorFields{}))
	f.Fuzz(func(t *testing.T, text string) {
		for _, candidate := range []string{text, remade(text)} {
			for _, kind := range []cursorKind{cursorOfList, cursorOfReplay} {
				got, err := decodeCursor(candidate, active, kind)
				if err != nil {
					p, ok := problem.As(err)
					require.True(t, ok)
					require.Equal(t, "bad_cursor", p.Code)
					continue
				}
				require.Equal(t, candidate, got.encode(), "there is one text for each cursor")
				require.Equal(t, active, got.tenant)
				require.Equal(t, kind == cursorOfReplay, !got.began.IsZero())
			}
		}
	})
}

// remade is what text says with the version and the checksum that it should have, so that the fuzzer gets past them.
func remade(text string) string {
	raw, _ := base64.RawURLEncoding.DecodeString(text) // what could be read is enough
	var fields cursorFields
	if len(raw) > 0 {
		_, _ = binary.Decode(raw[1:], binary.BigEndian, &fields) // the same
	}
	return cursorFormat().Encode(fields)
}

func TestSwaggerDescribesTheRoutes(t *testing.T) {
	t.Parallel()
	s, _ := serveFake(t)
	answer := s.call(t, call{method: http.MethodGet, path: "/swagger/doc.json"})
	require.Equal(t, http.StatusOK, answer.status)
	for _, path := range []string{
		"/messages", "/messages/{id}", "/messages/batch", "/dead-letters", "/dead-letters/replay", "/dead-letters/{id}", "/dead-letters/{id}/replay",
	} {
		require.Contains(t, answer.body, `"`+path+`"`)
	}
}
