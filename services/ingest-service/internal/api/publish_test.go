package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus/testutil"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
)

const someID = "0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11"

// The body of the message is the payload as it was sent, byte for byte.
func TestPublishPutsThePayloadIntoTheQueue(t *testing.T) {
	t.Parallel()
	link, publisher := broker(t)
	s := serve(t, publisher, nowhere, limits)
	const payload = `{"b": 1.50, "a":[1e3,null,"\u00e4ä"], "b":2}`

	var accepted Accepted
	s.publish(t, active, `{"id":"`+strings.ToUpper(someID)+`","payload": `+payload+` }`).into(t, http.StatusAccepted, &accepted)
	require.Equal(t, someID, accepted.ID.String())
	got := drain(t, link)
	require.Len(t, got, 1)
	require.Equal(t, []byte(payload), got[0].Body) //nolint:testifylint // the same bytes, not the same meaning
	require.Equal(t, someID, got[0].MessageId)
	require.Equal(t, "application/json", got[0].ContentType)
	require.Equal(t, amqp.Persistent, got[0].DeliveryMode)
	require.WithinDuration(t, time.Now(), got[0].Timestamp, time.Minute)
	require.Equal(t, active.String(), got[0].RoutingKey)
	require.Empty(t, got[0].Headers)

	for _, body := range []string{`{"payload":null}`, `{"id":null,"payload":"x"}`, `{"payload":0}`, `{"payload":[]}`} {
		s.publish(t, active, body).into(t, http.StatusAccepted, &accepted)
		require.Equal(t, uuid.Version(7), accepted.ID.Version())
		require.Equal(t, accepted.ID.String(), drain(t, link)[0].MessageId)
	}
	require.InDelta(t, 5, testutil.ToFloat64(s.metrics.published.WithLabelValues(active.String(), "accepted")), 0)

	// The same id twice is accepted twice: it is stored once.
	for range 2 {
		s.publish(t, active, `{"id":"`+someID+`","payload":1}`).into(t, http.StatusAccepted, &accepted)
	}
	require.Len(t, drain(t, link), 2)
	s.publish(t, suspended, `{"payload":1}`).problem(t, http.StatusServiceUnavailable, "queue_missing")
}

func TestPublishRefusesBadRequests(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	deep := strings.Repeat("[", 201) + strings.Repeat("]", 201)
	cases := map[string]struct {
		body   string
		status int
		code   string
		field  string
	}{
		"empty":                {"", 400, "empty_body", ""},
		"not JSON":             {"payload=1", 400, "malformed_json", ""},
		"a list":               {"[]", 400, "wrong_type", ""},
		"two documents":        {`{"payload":1}{"payload":2}`, 400, "malformed_json", ""},
		"no payload":           {`{}`, 400, "validation_failed", "payload"},
		"no payload but an id": {`{"id":"` + someID + `"}`, 400, "validation_failed", "payload"},
		"unknown field":        {`{"payload":1,"tenant_id":"x"}`, 400, "unknown_field", "tenant_id"},
		"field twice":          {`{"payload":1,"payload":2}`, 400, "duplicate_field", "payload"},
		"id of another type":   {`{"id":5,"payload":1}`, 400, "wrong_type", "id"},
		"id that is no UUID":   {`{"id":"x","payload":1}`, 400, "invalid_uuid", "id"},
		"nil id":               {`{"id":"00000000-0000-0000-0000-000000000000","payload":1}`, 400, "invalid_uuid", "id"},
		"id in braces":         {`{"id":"{` + someID + `}","payload":1}`, 400, "invalid_uuid", "id"},
		"NUL":                  {`{"payload":"\u0000"}`, 400, "payload_unstorable", "payload"},
		"lone surrogate":       {`{"payload":"\ud800"}`, 400, "payload_unstorable", "payload"},
		"huge number":          {`{"payload":1e131071}`, 400, "payload_unstorable", "payload"},
		"deep":                 {`{"payload":` + deep + `}`, 400, "payload_too_deep", "payload"},
		"very deep":            {`{"payload":` + strings.Repeat("[", 2000), 400, "malformed_json", ""},
		"invalid UTF-8":        {"{\"payload\":\"\xff\"}", 400, "malformed_json", ""},
		"large payload":        {`{"payload":"` + strings.Repeat("x", 4095) + `"}`, 400, "payload_too_large", "payload"},
		"large body":           {`{"payload":"` + strings.Repeat("x", 5200) + `"}`, 413, "body_too_large", ""},
		"larger body":          {`{"payload":"` + strings.Repeat("x", 70<<10) + `"}`, 413, "body_too_large", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := s.publish(t, active, c.body).problem(t, c.status, c.code)
			if c.field != "" {
				field(t, p, c.field)
			}
		})
	}
	write := token(t, active, auth.ScopeMessagesWrite)
	s.call(t, call{http.MethodPost, "/messages", "text/plain", `{"payload":1}`, write}).problem(t, http.StatusUnsupportedMediaType, "unsupported_media_type")
	s.call(t, call{http.MethodPost, "/messages?wait=1", "application/json", `{"payload":1}`, write}).problem(t, http.StatusBadRequest, "unknown_parameter")
	require.Empty(t, o.published)
	require.Equal(t, 0, testutil.CollectAndCount(s.metrics.published), "a refused request is nothing published")
}

func TestPublishForTenantsInEveryState(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	for _, post := range []func(*testing.T, uuid.UUID, string) answer{s.publish, s.publishBatch} {
		const body = `{"payload":1}`
		post(t, unknown, body).problem(t, http.StatusNotFound, "tenant_not_found")
		post(t, deleting, body).problem(t, http.StatusConflict, "tenant_deleting")
		post(t, provisioning, body).problem(t, http.StatusServiceUnavailable, "tenant_provisioning")
		require.Equal(t, http.StatusAccepted, post(t, suspended, body).status, "messages of a suspended tenant wait in its queue")
	}
	require.Len(t, o.published, 2)
}

// Each fault of the broker is a problem of its own, and says with which id to try again. The handler gives it: when the time of the request
// is over before, the problem of the server is "timeout".
func TestPublishWhenTheBrokerDoesNotTakeIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err           error
		code          string
		maybeAccepted bool
		result        string
	}{
		"blocked":         {conn.ErrBlocked, "broker_blocked", true, "blocked"},
		"unavailable":     {conn.ErrUnavailable, "broker_unavailable", true, "unavailable"},
		"rejected":        {publish.ErrRejected, "queue_full", false, "rejected"},
		"unroutable":      {publish.ErrUnroutable, "queue_missing", false, "unroutable"},
		"never confirmed": {nil, "confirm_timeout", true, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o := serveFake(t)
			o.fail = func(ctx context.Context, _ publish.Message) error {
				if c.err != nil {
					return fmt.Errorf("publish: %w", c.err)
				}
				<-ctx.Done()
				return fmt.Errorf("%w: %w", publish.ErrUnconfirmed, ctx.Err())
			}
			p := s.publish(t, active, `{"id":"`+someID+`","payload":1}`).problem(t, http.StatusServiceUnavailable, c.code)
			if c.maybeAccepted {
				require.Equal(t, someID, field(t, p, "id"))
				require.Contains(t, p.Detail, someID)
			}
			generated := s.publish(t, active, `{"payload":1}`).problem(t, http.StatusServiceUnavailable, c.code)
			if c.maybeAccepted {
				_, err := uuid.Parse(field(t, generated, "id"))
				require.NoError(t, err)
			}
			require.InDelta(t, 2, testutil.ToFloat64(s.metrics.published.WithLabelValues(active.String(), c.result)), 0)
		})
	}
	s, o := serveFake(t)
	o.fail = func(context.Context, publish.Message) error { return errors.New("password=hunter2") }
	p := s.publish(t, active, `{"payload":1}`).problem(t, http.StatusInternalServerError, "internal")
	require.NotContains(t, p.Detail, "hunter2")
	s.metrics.Forget(active)
	require.Equal(t, 0, testutil.CollectAndCount(s.metrics.published), "a deleted tenant leaves no series")
}

func TestAuthorization(t *testing.T) {
	t.Parallel()
	s, _ := serveDeadLetters(t)
	routes := []struct {
		call
		scope auth.Scope
	}{
		{call{method: http.MethodPost, path: "/messages", body: `{"payload":1}`}, auth.ScopeMessagesWrite},
		{call{method: http.MethodPost, path: "/messages/batch", body: `{"payload":1}`, contentType: "application/x-ndjson"}, auth.ScopeMessagesWrite},
		{call{method: http.MethodDelete, path: "/messages/" + someID}, auth.ScopeTenantsAdmin},
		{call{method: http.MethodGet, path: "/dead-letters"}, auth.ScopeDeadLettersManage},
		{call{method: http.MethodDelete, path: "/dead-letters?all=true"}, auth.ScopeDeadLettersManage},
		{call{method: http.MethodGet, path: "/dead-letters/" + someID}, auth.ScopeDeadLettersManage},
		{call{method: http.MethodDelete, path: "/dead-letters/" + someID}, auth.ScopeDeadLettersManage},
		{call{method: http.MethodPost, path: "/dead-letters/" + someID + "/replay"}, auth.ScopeDeadLettersManage},
		{call{method: http.MethodPost, path: "/dead-letters/replay?all=true"}, auth.ScopeDeadLettersManage},
	}
	all := []auth.Scope{auth.ScopeMessagesRead, auth.ScopeMessagesWrite, auth.ScopeDeadLettersManage}
	for _, r := range routes {
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			if r.contentType == "" {
				r.contentType = "application/json"
			}
			as := func(query string, tenant uuid.UUID, scopes ...auth.Scope) answer {
				c := r.call
				if strings.Contains(c.path, "?") {
					query = strings.Replace(query, "?", "&", 1)
				}
				c.path, c.token = c.path+query, token(t, tenant, scopes...)
				return s.call(t, c)
			}
			s.call(t, r.call).problem(t, http.StatusUnauthorized, "missing_token")
			for _, scope := range all {
				if scope != r.scope {
					as("", active, scope).problem(t, http.StatusForbidden, "insufficient_scope")
				}
			}
			as("", active).problem(t, http.StatusForbidden, "insufficient_scope")
			as("?tenant_id="+suspended.String(), active, r.scope).problem(t, http.StatusForbidden, "tenant_mismatch")
			as("", uuid.Nil, auth.ScopeTenantsAdmin).problem(t, http.StatusBadRequest, "tenant_id_required")
			as("?tenant_id=x", uuid.Nil, auth.ScopeTenantsAdmin).problem(t, http.StatusBadRequest, "invalid_uuid")
			for _, ok := range []answer{
				as("", active, r.scope),
				as("?tenant_id="+active.String(), active, r.scope),
				as("?tenant_id="+active.String(), uuid.Nil, auth.ScopeTenantsAdmin),
			} {
				require.NotContains(t, []int{400, 401, 403, 500, 503}, ok.status, ok.body)
			}
		})
	}
}

func TestBatchGivesEachLineItsOwnResult(t *testing.T) {
	t.Parallel()
	link, publisher := broker(t)
	s := serve(t, publisher, nowhere, limits)
	body := strings.Join([]string{
		`{"id":"` + someID + `","payload":{"n":1}}`,
		`not json`,
		``,
		"{\"payload\":2}\r",
		`{"payload":"\u0000"}`,
		`{"payload":3,"x":1}`,
		`   `,
		`{"id":"x","payload":4}`,
		`{"payload":"` + strings.Repeat("x", 6000) + `"}`,
		`{"payload":"` + strings.Repeat("x", 4095) + `"}`,
		`{}`,
		`{"payload":5}`, // no line break at the end
	}, "\n")
	var got BatchResult
	s.publishBatch(t, active, body).into(t, http.StatusAccepted, &got)
	type line struct {
		line, status int
		code         string
	}
	var lines []line
	for _, r := range got.Results {
		lines = append(lines, line{r.Line, r.Status, r.Code})
	}
	require.Equal(t, []line{
		{1, 202, ""},
		{2, 400, "malformed_json"},
		{4, 202, ""},
		{5, 400, "payload_unstorable"},
		{6, 400, "unknown_field"},
		{8, 400, "invalid_uuid"},
		{9, 413, "line_too_large"},
		{10, 400, "payload_too_large"},
		{11, 400, "validation_failed"},
		{12, 202, ""},
	}, lines)
	require.Equal(t, 3, got.Accepted)
	require.Equal(t, 7, got.Failed)
	require.Equal(t, "x", got.Results[4].Errors[0].Field, "the field is named")
	deliveries := drain(t, link)
	require.Len(t, deliveries, 3)
	for i, want := range []struct{ id, body string }{{someID, `{"n":1}`}, {got.Results[2].ID, `2`}, {got.Results[9].ID, `5`}} {
		require.Equal(t, want.id, deliveries[i].MessageId)
		require.Equal(t, want.body, string(deliveries[i].Body))
	}
}

func TestBatchOfManyLines(t *testing.T) {
	t.Parallel()
	link, publisher := broker(t)
	s := serveFor(t, publisher, nowhere, Config{MaxPayload: 4096, MessageBody: 5120, BatchBody: 10 << 20, BatchLines: 10_000}, waitLimit)
	var body strings.Builder
	for n := range 10_000 {
		fmt.Fprintf(&body, "{\"payload\":{\"n\":%d}}\n", n)
	}
	var got BatchResult
	s.publishBatch(t, active, body.String()).into(t, http.StatusAccepted, &got)
	require.Equal(t, 10_000, got.Accepted)
	for i, d := range drain(t, link) {
		require.Equal(t, got.Results[i].ID, d.MessageId, "in the order of the lines")
		require.Equal(t, fmt.Sprintf(`{"n":%d}`, i), string(d.Body))
	}
	s.publishBatch(t, active, body.String()+`{"payload":1}`).problem(t, http.StatusRequestEntityTooLarge, "too_many_lines")
	require.Empty(t, drain(t, link), "nothing of a batch that is refused is published")
}

func TestBatchRefusesBadRequests(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	for _, body := range []string{"", "\n", "\n \r\n\n"} {
		s.publishBatch(t, active, body).problem(t, http.StatusBadRequest, "empty_body")
	}
	s.publishBatch(t, active, strings.Repeat("1", limits.BatchBody+1)).problem(t, http.StatusRequestEntityTooLarge, "body_too_large")
	write := token(t, active, auth.ScopeMessagesWrite)
	for _, contentType := range []string{
		"", "text/plain", "x", "application/x-ndjson; charset=UTF-16", "application/json;charset=iso-8859-1", "application/jsonl; charset=latin1",
		"application/json-seq", "application/problem+json", "multipart/form-data", "application/x-ndjson; charset=utf-8; charset=utf-16",
	} {
		s.call(t, call{http.MethodPost, "/messages/batch", contentType, `{"payload":1}`, write}).
			problem(t, http.StatusUnsupportedMediaType, "unsupported_media_type")
	}
	s.call(t, call{http.MethodPost, "/messages/batch?x=1", "application/x-ndjson", `{"payload":1}`, write}).problem(t, http.StatusBadRequest, "unknown_parameter")
	require.Empty(t, o.published)
	for _, contentType := range []string{
		"application/x-ndjson", "application/x-ndjson; charset=utf-8", "application/ndjson", "application/jsonl", "application/jsonlines",
		"application/x-jsonlines", "application/json", "Application/JSON; Charset=UTF8", `application/jsonl; charset="us-ascii"`,
	} {
		require.Equal(t, http.StatusAccepted, s.call(t, call{http.MethodPost, "/messages/batch", contentType, `{"payload":1}`, write}).status)
	}
}

// Lines that the broker did not take can be repeated, each under the id in its result.
func TestBatchWhenTheBrokerDoesNotTakeAll(t *testing.T) {
	t.Parallel()
	s, o := serveFake(t)
	o.fail = func(_ context.Context, m publish.Message) error {
		switch string(m.Publishing.Body) {
		case "2":
			return publish.ErrRejected
		case "3":
			return fmt.Errorf("%w: %w", publish.ErrUnconfirmed, context.DeadlineExceeded)
		}
		return nil
	}
	var got BatchResult
	s.publishBatch(t, active, "{\"payload\":1}\n{\"payload\":2}\n{\"payload\":3}\n{\"payload\":4}\n").into(t, http.StatusAccepted, &got)
	require.Equal(t, 2, got.Accepted)
	require.Equal(t, "queue_full", got.Results[1].Code)
	require.Equal(t, "confirm_timeout", got.Results[2].Code)
	for _, r := range got.Results {
		_, err := uuid.Parse(r.ID)
		require.NoError(t, err)
	}
	for _, r := range []string{"accepted", "rejected", "timeout"} {
		require.Positive(t, testutil.ToFloat64(s.metrics.published.WithLabelValues(active.String(), r)), r)
	}
}

// FuzzBatch: whatever comes in, each line that is not blank has one result, and what is published can be stored.
func FuzzBatch(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "{\"payload\":1}", "{\"payload\":1}\n{\"payload\":2}\r\n", "{\"payload\":\"\\u0000\"}\n\n{}", "[[[[", "\xff\n\x00",
		"{\"id\":\"" + someID + "\",\"payload\":{\"a\":[1e400]}}", "{\"payload\":1}\u2028{\"payload\":1}",
	} {
		f.Add([]byte(seed))
	}
	o := &outlet{}
	a := &api{deps: Dependencies{Publisher: o}, cfg: limits, metrics: NewMetrics(nopRegisterer{})}
	f.Fuzz(func(t *testing.T, body []byte) {
		o.published = nil
		got := a.work(t.Context(), nil, active, contract.Limits{}, body)
		want := 0
		for line := range strings.SplitSeq(string(body), "\n") {
			if len(strings.Trim(line, " \t\r")) > 0 {
				want++
			}
		}
		require.Len(t, got.Results, want)
		require.Equal(t, want, got.Accepted+got.Failed)
		require.Len(t, o.published, got.Accepted)
		for _, m := range o.published {
			require.NoError(t, contract.CheckPayload(m.Publishing.Body, limits.MaxPayload))
			require.True(t, json.Valid(m.Publishing.Body))
		}
		for _, r := range got.Results {
			require.Equal(t, r.Status == http.StatusAccepted, r.Code == "")
			require.NotEqual(t, http.StatusInternalServerError, r.Status)
		}
	})
}
