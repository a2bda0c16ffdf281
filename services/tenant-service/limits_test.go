package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// limits are what a client reads of the limits of a tenant.
type limits struct {
	Effective, Override map[string]int64
}

func (r *running) config(q request) (limits, answer) {
	r.t.Helper()
	got := r.require(http.StatusOK, q)
	var read limits
	require.NoError(r.t, json.Unmarshal(got.body, &read), string(got.body))
	return read, got
}

func (r *running) limitsOf(id uuid.UUID) (limits, answer) {
	r.t.Helper()
	return r.config(request{method: http.MethodGet, path: path(id, "/config")})
}

func patch(id uuid.UUID, body string) request {
	return request{method: http.MethodPatch, path: path(id, "/config"), body: body, contentType: "application/merge-patch+json"}
}

// noLimits are what is in force for a tenant of an installation without limits.
func noLimits() map[string]int64 {
	none := map[string]int64{"workers": 3, "weight": 1}
	for _, name := range []string{
		"publish_rate", "publish_bytes", "max_payload", "queue_max_messages", "queue_max_bytes", "stored_max_bytes", "retention_seconds",
		"retention_bytes", "dead_letter_retention_seconds", "max_subscriptions", "max_streams", "read_bytes", "replay_rate",
	} {
		none[name] = 0
	}
	return none
}

// with is base with more over it.
func with(base, more map[string]int64) map[string]int64 {
	all := maps.Clone(base)
	maps.Copy(all, more)
	return all
}

// An operator sees what holds and what is special about a tenant, changes one limit without touching another, and the instances are told.
func TestLimits(t *testing.T) {
	t.Parallel()
	r := startWithManagement(t)
	ingest := startInstance(t, r.cfg.NATS.URL, "one")
	id := r.create("a")
	read, got := r.limitsOf(id)
	require.Equal(t, limits{noLimits(), map[string]int64{}}, read)
	require.Equal(t, `"1"`, got.header.Get("ETag"))
	require.Contains(t, got.header.Get("Accept-Patch"), "application/merge-patch+json")
	own := request{method: http.MethodGet, path: path(id, "/config"), token: token(t, id, auth.ScopeMessagesWrite)}
	require.Equal(t, string(got.body), string(r.require(http.StatusOK, own).body))

	all := map[string]int64{
		"workers": 9, "max_attempts": 8, "weight": 7, "publish_rate": 1000, "publish_bytes": 1 << 20, "max_payload": 4096, "queue_max_messages": 100_000,
		"queue_max_bytes": 1 << 30, "stored_max_bytes": 1 << 40, "retention_seconds": 86400, "retention_bytes": 1 << 39,
		"dead_letter_retention_seconds": 3600, "max_subscriptions": 5, "max_streams": 6, "read_bytes": 1 << 22, "replay_rate": 50,
	}
	body, err := json.Marshal(all)
	require.NoError(t, err)
	q := patch(id, string(body))
	q.prefer = "wait=20"
	read, got = r.config(q)
	require.Equal(t, limits{all, all}, read)
	require.Equal(t, `"2"`, got.header.Get("ETag"))
	require.Equal(t, "wait=20", got.header.Get("Preference-Applied"))
	spec, _ := ingest.spec(id)
	require.Equal(t, contract.TenantSpec{
		TenantID: id.String(), State: contract.DesiredActive, Workers: 9, MaxAttempts: 8, Generation: 2, Limits: contract.Limits{
			Weight: 7, PublishRate: 1000, PublishBytes: 1 << 20, MaxPayload: 4096, QueueMaxMessages: 100_000, QueueMaxBytes: 1 << 30, StoredMaxBytes: 1 << 40,
			RetentionSeconds: 86400, RetentionBytes: 1 << 39, DeadLetterRetentionSeconds: 3600, MaxSubscriptions: 5, MaxStreams: 6, ReadBytes: 1 << 22, ReplayRate: 50,
		},
	}, spec, "the wait was over before the instance had been told")
	require.Equal(t, 9, r.require(http.StatusOK, request{method: http.MethodGet, path: path(id, "")}).tenant.Workers)

	for name := range all { // one after the other
		before, _ := r.limitsOf(id)
		read, _ = r.config(patch(id, `{"`+name+`":null}`))
		want := with(before.Override, nil)
		delete(want, name)
		require.Equal(t, want, read.Override, "only %s is the default again", name)
	}
	require.Equal(t, limits{noLimits(), map[string]int64{}}, read)
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec == contract.TenantSpec{TenantID: id.String(), State: contract.DesiredActive, Workers: 3, Generation: int64(2 + len(all))}
	}, waitLimit, tick)
}

// startWithManagement is startReady of an installation that has a management API of the broker, which no change of limits asks.
func startWithManagement(t *testing.T) *running {
	t.Helper()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.RabbitMQ.URL, cfg.RabbitMQ.ManagementURL = "amqp://127.0.0.1:1", "http://127.0.0.1:1"
	r := start(t, cfg)
	r.requireReady(true)
	return r
}

// A limit that nothing can enforce is refused, and not stored as if it were in force; that there is none needs nobody to enforce it.
func TestQueueLimitsNeedManagement(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	for _, body := range []string{`{"queue_max_messages":1}`, `{"queue_max_bytes":1}`, `{"queue_max_messages":null,"queue_max_bytes":5000,"weight":2}`} {
		got := r.require(http.StatusConflict, patch(id, body))
		require.Equal(t, "no_broker_management", got.problem.Code)
	}
	r.require(http.StatusBadRequest, patch(id, `{"queue_max_messages":-1}`))
	read, _ := r.limitsOf(id)
	require.Empty(t, read.Override)
	read, _ = r.config(patch(id, `{"queue_max_messages":0,"queue_max_bytes":null,"publish_rate":5}`))
	require.Equal(t, map[string]int64{"queue_max_messages": 0, "publish_rate": 5}, read.Override)
}

// What an instance says of the queue is in the status of the tenant, and in it no more once it says nothing.
func TestQueueLimitsInTheStatus(t *testing.T) {
	t.Parallel()
	r := startWithManagement(t)
	ingest := startInstance(t, r.cfg.NATS.URL, "one")
	id := r.create("a")
	r.config(patch(id, `{"queue_max_bytes":5000}`))
	status := contract.TenantStatus{
		TenantID: id.String(), State: contract.StateRunning, ObservedGeneration: 2, Workers: 3,
		QueueLimits: &contract.QueueLimits{Reason: contract.QueueLimitsArgument, MaxMessages: 7, MaxBytes: 1000, Detail: "because"},
	}
	report := func() {
		_, err := ingest.statuses.Put(t.Context(), contract.StatusKey(id.String(), ingest.name), status)
		require.NoError(t, err)
	}
	r.eventually(id, func(c *assert.CollectT, got api.Tenant) { require.EqualValues(c, 2, got.Status.ObservedGeneration) })
	report()
	r.eventually(id, func(c *assert.CollectT, got api.Tenant) {
		require.Equal(c, &api.QueueLimits{Reason: "argument", MaxMessages: 7, MaxBytes: 1000, Detail: "because"}, got.Status.QueueLimits)
	})
	status.QueueLimits = nil
	report()
	r.eventually(id, func(c *assert.CollectT, got api.Tenant) { require.Nil(c, got.Status.QueueLimits) })
}

// The older requests write overrides, too, and show what they have shown before.
func TestLimitsOfOlderRequests(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	created := r.require(http.StatusCreated, request{method: http.MethodPost, path: "/tenants", body: `{"name":"a","workers":4,"max_attempts":8}`})
	id := uuid.MustParse(created.tenant.ID)
	read, _ := r.limitsOf(id)
	require.Equal(t, map[string]int64{"workers": 4, "max_attempts": 8}, read.Override)
	require.Equal(t, with(noLimits(), read.Override), read.Effective)
	r.config(patch(id, `{"publish_rate":5,"max_attempts":null}`))
	resized := r.require(http.StatusOK, request{method: http.MethodPut, path: path(id, "/config/concurrency"), body: `{"workers":6}`})
	require.Zero(t, resized.tenant.MaxAttempts)
	read, _ = r.limitsOf(id)
	require.Equal(t, map[string]int64{"workers": 6, "publish_rate": 5}, read.Override)
}

// What merge patches say according to RFC 7396, and numbers according to JSON.
func TestMergePatch(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	for body, want := range map[string]map[string]int64{
		`{}`: {"publish_rate": 5}, "{\n}": {"publish_rate": 5}, `{"publish_rate":5}`: {"publish_rate": 5}, `{"read_bytes":null}`: {"publish_rate": 5},
		`{"publish_rate":null}`: {}, `{"publish_rate":0}`: {"publish_rate": 0}, `{"publish_rate":1e3}`: {"publish_rate": 1000}, `{"publish_rate":7.0}`: {"publish_rate": 7},
		`{"publish_rat\u0065":8}`: {"publish_rate": 8}, `{"publish_rate":-0}`: {"publish_rate": 0}, `{"workers":64,"weight":100}`: {"publish_rate": 5, "workers": 64, "weight": 100},
		`{"publish_rate":null,"stored_max_bytes":1125899906842624}`: {"stored_max_bytes": 1 << 50},
	} {
		id := r.create("a")
		r.config(patch(id, `{"publish_rate":5}`))
		read, got := r.config(patch(id, body))
		require.Equal(t, want, read.Override, body)
		require.Equal(t, reflect.DeepEqual(want, map[string]int64{"publish_rate": 5}), got.header.Get("ETag") == `"2"`, "%s: a new generation if something has changed", body)
	}
	id := r.create("a")
	for _, contentType := range []string{"application/json", "application/merge-patch+json; charset=utf-8", "application/json;charset=UTF-8"} {
		q := patch(id, `{"publish_rate":5}`)
		q.contentType = contentType
		r.config(q)
	}
}

// Every wrong patch gets its 4xx, is told what is wrong, and changes nothing.
func TestBadPatches(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	id := r.create("a")
	r.config(patch(id, `{"publish_rate":5,"stored_max_bytes":100,"publish_bytes":200}`))
	header := func(ifMatch string) request {
		q := patch(id, `{"publish_rate":6}`)
		q.ifMatch = ifMatch
		return q
	}
	typed := func(contentType string) request {
		q := patch(id, `{"publish_rate":6}`)
		q.contentType = contentType
		return q
	}
	for name, tc := range map[string]struct {
		request request
		status  int
		code    string
		field   string
	}{
		"empty":                   {patch(id, ""), 400, "empty_body", ""},
		"white space":             {patch(id, " \n"), 400, "empty_body", ""},
		"not JSON":                {patch(id, `{"publish_rate":`), 400, "malformed_json", ""},
		"two":                     {patch(id, `{}{}`), 400, "malformed_json", ""},
		"null":                    {patch(id, `null`), 400, "wrong_type", ""},
		"an array":                {patch(id, `[{"op":"replace","path":"/publish_rate","value":6}]`), 400, "wrong_type", ""},
		"an empty array":          {patch(id, `[]`), 400, "wrong_type", ""},
		"a string":                {patch(id, `"publish_rate"`), 400, "wrong_type", ""},
		"a number":                {patch(id, `6`), 400, "wrong_type", ""},
		"true":                    {patch(id, `true`), 400, "wrong_type", ""},
		"unknown":                 {patch(id, `{"publish_rate":6,"color":1}`), 400, "unknown_field", "color"},
		"unknown, null":           {patch(id, `{"publish_rate":6,"color":null}`), 400, "unknown_field", "color"},
		"in capitals":             {patch(id, `{"Publish_Rate":6}`), 400, "unknown_field", "Publish_Rate"},
		"in the document's place": {patch(id, `{"override":{"publish_rate":6}}`), 400, "unknown_field", "override"},
		"not a limit":             {patch(id, `{"generation":6}`), 400, "unknown_field", "generation"},
		"twice":                   {patch(id, `{"publish_rate":6,"publish_rate":7}`), 400, "duplicate_field", "publish_rate"},
		"twice, null":             {patch(id, `{"publish_rate":null,"publish_rate":7}`), 400, "duplicate_field", "publish_rate"},
		"twice, escaped":          {patch(id, `{"publish_rate":6,"publish_rat\u0065":7}`), 400, "duplicate_field", "publish_rate"},
		"half a surrogate pair":   {patch(id, `{"\ud800":6}`), 400, "invalid_string", "\ufffd"},
		"invalid UTF-8":           {patch(id, "{\"\xff\":6}"), 400, "malformed_json", ""},
		"a string for a number":   {patch(id, `{"publish_rate":"6"}`), 400, "wrong_type", "publish_rate"},
		"a boolean":               {patch(id, `{"publish_rate":false}`), 400, "wrong_type", "publish_rate"},
		"an object":               {patch(id, `{"publish_rate":{"value":6}}`), 400, "wrong_type", "publish_rate"},
		"a list":                  {patch(id, `{"publish_rate":[6]}`), 400, "wrong_type", "publish_rate"},
		"a fraction":              {patch(id, `{"publish_rate":6.5}`), 400, "wrong_type", "publish_rate"},
		"negative":                {patch(id, `{"publish_rate":-6}`), 400, "validation_failed", "publish_rate"},
		"huge":                    {patch(id, `{"publish_rate":1e99}`), 400, "wrong_type", "publish_rate"},
		"beyond 64 bits":          {patch(id, `{"publish_rate":9223372036854775808}`), 400, "wrong_type", "publish_rate"},
		"the largest":             {patch(id, `{"publish_rate":9223372036854775807}`), 400, "validation_failed", "publish_rate"},
		"the smallest":            {patch(id, `{"retention_seconds":-9223372036854775808}`), 400, "validation_failed", "retention_seconds"},
		"an exponent":             {patch(id, `{"publish_rate":1e99999999999}`), 400, "wrong_type", "publish_rate"},
		"no weight":               {patch(id, `{"weight":0}`), 400, "validation_failed", "weight"},
		"too heavy":               {patch(id, `{"weight":101}`), 400, "validation_failed", "weight"},
		"no worker":               {patch(id, `{"workers":0}`), 400, "validation_failed", "workers"},
		"too many workers":        {patch(id, `{"workers":65}`), 400, "validation_failed", "workers"},
		"no attempt":              {patch(id, `{"max_attempts":0}`), 400, "validation_failed", "max_attempts"},
		"too many attempts":       {patch(id, `{"max_attempts":101}`), 400, "validation_failed", "max_attempts"},
		"too many streams":        {patch(id, `{"max_streams":101}`), 400, "validation_failed", "max_streams"},
		"contradiction":           {patch(id, `{"retention_bytes":101}`), 400, "validation_failed", "retention_bytes"},
		"contradiction, payload":  {patch(id, `{"max_payload":201,"stored_max_bytes":null}`), 400, "validation_failed", "max_payload"},
		"one good, one bad":       {patch(id, `{"publish_rate":6,"weight":0}`), 400, "validation_failed", "weight"},
		"unknown query":           {request{method: "PATCH", path: path(id, "/config?dry_run=true"), body: `{"publish_rate":6}`}, 400, "unknown_parameter", "dry_run"},
		"unknown query of GET":    {request{method: "GET", path: path(id, "/config?verbose=1")}, 400, "unknown_parameter", "verbose"},
		"other tenant in query":   {request{method: "PATCH", path: path(id, "/config?tenant_id="+uuid.NewString()), body: `{"publish_rate":6}`}, 400, "tenant_mismatch", "tenant_id"},
		"no UUID":                 {request{method: "PATCH", path: "/tenants/x/config", body: `{}`}, 400, "invalid_uuid", "id"},
		"unknown tenant":          {patch(uuid.New(), `{}`), 404, "tenant_not_found", ""},
		"GET of unknown":          {request{method: "GET", path: path(uuid.New(), "/config")}, 404, "tenant_not_found", ""},
		"other method":            {request{method: "PUT", path: path(id, "/config"), body: `{}`}, 405, "method_not_allowed", ""},
		"form":                    {typed("application/x-www-form-urlencoded"), 415, "unsupported_media_type", "Content-Type"},
		"JSON patch":              {typed("application/json-patch+json"), 415, "unsupported_media_type", "Content-Type"},
		"text":                    {typed("text/plain"), 415, "unsupported_media_type", "Content-Type"},
		"Latin 1":                 {typed("application/merge-patch+json; charset=latin1"), 415, "unsupported_media_type", "Content-Type"},
		"too large":               {patch(id, `{"publish_rate":6`+strings.Repeat(" ", 1<<20)+`}`), 413, "body_too_large", ""},
		"no quotes":               {header(`2`), 400, "invalid_precondition", "If-Match"},
		"half a quote":            {header(`"2`), 400, "invalid_precondition", "If-Match"},
		"everything in a list":    {header(`"2", *`), 400, "invalid_precondition", "If-Match"},
		"other generation":        {header(`"1"`), 412, "generation_mismatch", "If-Match"},
		"leading zero":            {header(`"02"`), 412, "generation_mismatch", "If-Match"},
		"weak":                    {header(`W/"2"`), 412, "generation_mismatch", "If-Match"},
		"list without it":         {header(`"1", "3"`), 412, "generation_mismatch", "If-Match"},
		"mismatch, no change":     {request{method: "PATCH", path: path(id, "/config"), body: `{}`, ifMatch: `"1"`}, 412, "generation_mismatch", "If-Match"},
		"mismatch, unknown":       {request{method: "PATCH", path: path(uuid.New(), "/config"), body: `{}`, ifMatch: `*`}, 404, "tenant_not_found", ""},
		"strict preference":       {request{method: "PATCH", path: path(id, "/config"), body: `{}`, prefer: "handling=strict, wait=soon"}, 400, "invalid_preference", "Prefer"},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.do(tc.request)
			require.Equal(t, tc.status, got.status, string(got.body))
			require.Equal(t, tc.code, got.problem.Code)
			if tc.field != "" {
				require.NotEmpty(t, got.problem.Errors, "no field is named: %s", got.body)
				require.Equal(t, tc.field, got.problem.Errors[0].Field)
				require.NotEmpty(t, got.problem.Errors[0].Detail)
			}
			if tc.status == http.StatusUnsupportedMediaType {
				require.Contains(t, got.header.Get("Accept-Patch"), "application/merge-patch+json")
			}
		})
	}
	named := r.do(patch(id, `{"retention_bytes":101}`)).problem
	require.Contains(t, named.Errors[0].Detail, "stored_max_bytes", "which two")
	require.Contains(t, named.Errors[0].Detail, "101 and 100")
	read, got := r.limitsOf(id)
	require.Equal(t, `"2"`, got.header.Get("ETag"), "a request that was refused has changed something")
	require.Equal(t, map[string]int64{"publish_rate": 5, "stored_max_bytes": 100, "publish_bytes": 200}, read.Override)

	for _, holds := range []string{`"2"`, `"1", "2"`, `W/"1", "2"`, `*`, ` "2" `} {
		q := patch(id, `{"publish_rate":5}`)
		q.ifMatch = holds
		_, got := r.config(q)
		require.Equal(t, `"2"`, got.header.Get("ETag"), holds)
	}
	q := patch(id, `{"publish_rate":6}`)
	q.ifMatch = `"2"`
	_, got = r.config(q)
	require.Equal(t, `"3"`, got.header.Get("ETag"))
	require.Equal(t, "generation_mismatch", r.require(http.StatusPreconditionFailed, q).problem.Code, "the second operator is told")
}

// Many operators change limits through two replicas. Of those who say what they have seen one at a time succeeds, and no change of
// the others is lost.
func TestConcurrentOperators(t *testing.T) {
	t.Parallel()
	databaseURL, natsURL := backing.Postgres(t), backing.NATS(t)
	replicas := []*running{start(t, testConfig(t, databaseURL, natsURL)), start(t, testConfig(t, databaseURL, natsURL))}
	for _, replica := range replicas {
		replica.requireReady(true)
	}
	ingest := startInstance(t, natsURL, "one")
	id := replicas[0].create("a")

	// Each counts one up, and starts over when another one was faster.
	const operators, each = 6, 5
	var lost atomic.Int64
	var group errgroup.Group
	for i := range operators {
		group.Go(func() error {
			replica := replicas[i%2]
			for done := 0; done < each; {
				var read limits
				got, err := replica.try(request{method: http.MethodGet, path: path(id, "/config")})
				if err = errors.Join(err, json.Unmarshal(got.body, &read)); err != nil {
					return err
				}
				q := patch(id, fmt.Sprintf(`{"publish_rate":%d}`, read.Override["publish_rate"]+1))
				q.ifMatch = got.header.Get("ETag")
				switch answered, err := replica.try(q); {
				case err == nil && answered.status == http.StatusOK:
					done++
				case err == nil && answered.status == http.StatusPreconditionFailed:
					lost.Add(1)
				default:
					return fmt.Errorf("%d %s %w", answered.status, answered.body, err)
				}
			}
			return nil
		})
	}
	// Beside them one who does not look, at another limit.
	group.Go(func() error {
		for n := range each {
			if got, err := replicas[n%2].try(patch(id, fmt.Sprintf(`{"read_bytes":%d}`, n+1))); err != nil || got.status != http.StatusOK {
				return fmt.Errorf("%d %s %w", got.status, got.body, err)
			}
		}
		return nil
	})
	require.NoError(t, group.Wait())
	t.Logf("%d patches came second", lost.Load())
	read, got := replicas[1].limitsOf(id)
	require.Equal(t, map[string]int64{"publish_rate": operators * each, "read_bytes": each}, read.Override)
	require.Equal(t, strconv.Quote(strconv.Itoa(1+operators*each+each)), got.header.Get("ETag"))
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec.Limits == contract.Limits{PublishRate: operators * each, ReadBytes: each} && spec.Generation == 1+operators*each+each
	}, waitLimit, tick)
}

// The defaults of the installation change: after a restart they hold for every tenant that has nothing of its own, on both replicas, and
// each tenant's change travels like any other.
func TestDefaultsChange(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	cfg.Limits.PublishRate = 100
	r := start(t, cfg)
	r.requireReady(true)
	ingest := startInstance(t, cfg.NATS.URL, "one")
	plain, own, gone := r.create("plain"), r.create("own"), r.create("gone")
	read, _ := r.limitsOf(plain)
	require.Equal(t, limits{with(noLimits(), map[string]int64{"publish_rate": 100}), map[string]int64{}}, read)
	r.config(patch(own, `{"publish_rate":7,"workers":4}`))
	ingest.pause()
	r.require(http.StatusAccepted, request{method: http.MethodDelete, path: path(gone, "")})
	r.stop()

	cfg.Limits.PublishRate, cfg.Limits.StoredMaxBytes, cfg.Limits.MaxAttempts, cfg.Workers = 200, 1<<30, 9, 5
	other := testConfig(t, cfg.Database.URL, cfg.NATS.URL)
	other.Limits, other.Workers = cfg.Limits, cfg.Workers
	replicas := []*running{start(t, cfg), start(t, other)}
	for _, r := range replicas {
		r.requireReady(true)
		for id, want := range map[uuid.UUID]contract.TenantSpec{
			plain: {Workers: 5, MaxAttempts: 9, Generation: 2, Limits: contract.Limits{PublishRate: 200, StoredMaxBytes: 1 << 30}},
			own:   {Workers: 4, MaxAttempts: 9, Generation: 3, Limits: contract.Limits{PublishRate: 7, StoredMaxBytes: 1 << 30}},
		} {
			want.TenantID, want.State = id.String(), contract.DesiredActive
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				spec, _ := ingest.spec(id)
				require.Equal(c, want, spec)
			}, waitLimit, tick)
		}
	}
	read, _ = replicas[0].limitsOf(own)
	require.Equal(t, map[string]int64{"publish_rate": 7, "workers": 4}, read.Override)
	require.EqualValues(t, 9, read.Effective["max_attempts"])
	shown := replicas[1].require(http.StatusOK, request{method: http.MethodGet, path: path(plain, "")}).tenant
	require.Zero(t, shown.MaxAttempts, "absent: the default of the installation")
	deleting := replicas[1].require(http.StatusOK, request{method: http.MethodGet, path: path(gone, "")}).tenant
	require.EqualValues(t, 2, deleting.Generation, "a tenant that is being deleted is left alone")
	ingest.resume()
	require.Eventually(t, func() bool {
		return replicas[0].do(request{method: http.MethodGet, path: path(gone, "/config")}).status == http.StatusNotFound
	}, waitLimit, tick)
}

// Limits can be read and changed while NATS is away, and are in force once it is back; while the registry is away, the client is told.
func TestLimitsInAnOutage(t *testing.T) {
	t.Parallel()
	services := backing.Dedicated(t, backing.ServicePostgres, backing.ServiceNATS)
	database, channel := services.Process(backing.ServicePostgres), services.Process(backing.ServiceNATS)
	ctx := t.Context()
	cfg := testConfig(t, services.DatabaseURL, services.NATSURL)
	cfg.Limits.ReadBytes = 5
	r := start(t, cfg)
	r.requireReady(true)
	ingest := startInstance(t, services.NATSURL, "one")
	id := r.create("a")
	require.NoError(t, channel.Kill(ctx))
	r.requireReady(false)
	r.config(patch(id, `{"publish_rate":6}`))
	require.NoError(t, channel.Start(ctx))
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec.Limits == contract.Limits{PublishRate: 6, ReadBytes: 5}
	}, waitLimit, tick)
	r.stop()

	// It starts without the registry, and applies its defaults once that is there.
	require.NoError(t, database.Kill(ctx))
	cfg.Limits.ReadBytes = 9
	r = start(t, cfg)
	r.requireReady(false)
	for _, q := range []request{patch(id, `{"publish_rate":7}`), {method: http.MethodGet, path: path(id, "/config")}, {method: http.MethodGet, path: "/tenants?q=a"}} {
		away := r.require(http.StatusServiceUnavailable, q)
		require.Equal(t, "registry_unavailable", away.problem.Code)
		require.NotEmpty(t, away.header.Get("Retry-After"))
	}
	require.NoError(t, database.Start(ctx))
	r.requireReady(true)
	require.Eventually(t, func() bool {
		spec, _ := ingest.spec(id)
		return spec.Limits == contract.Limits{PublishRate: 6, ReadBytes: 9}
	}, waitLimit, tick)
}

// A list of one state, or of a part of a name, has all of them, and a cursor leads on in the same list alone.
func TestListWithFilterOverHTTP(t *testing.T) {
	t.Parallel()
	r := startReady(t)
	read := func(query string) (names []string, page api.Page) {
		t.Helper()
		got := r.require(http.StatusOK, request{method: http.MethodGet, path: "/tenants?" + query})
		require.NoError(t, json.Unmarshal(got.body, &page))
		names = []string{}
		for _, one := range page.Data {
			names = append(names, one.Name)
		}
		return names, page
	}
	first := r.create("ACME, production")
	for _, name := range []string{"Globex", "acme, test", "100% Ä"} {
		r.create(name)
	}
	r.require(http.StatusOK, request{method: http.MethodPost, path: path(first, "/suspend")})
	for query, want := range map[string][]string{
		"q=acme": {"ACME, production", "acme, test"}, "q=ACME%2C": {"ACME, production", "acme, test"}, "q=%25": {"100% Ä"}, "q=%C3%84": {"100% Ä"}, "q=x": {"Globex"}, "q=nobody": {},
		"q=" + first.String(): {"ACME, production"}, "q=" + strings.ToUpper(first.String()): {"ACME, production"}, "q=" + uuid.NewString(): {},
		"state=suspended": {"ACME, production"}, "state=active&q=acme": {"acme, test"}, "state=deleting": {}, "state=&q=": {"ACME, production", "Globex", "acme, test", "100% Ä"},
	} {
		names, _ := read(query)
		require.Equal(t, want, names, query)
	}
	names, page := read("q=acme&limit=1")
	require.Equal(t, []string{"ACME, production"}, names)
	require.True(t, page.HasMore)
	names, page = read("q=acme&limit=1&cursor=" + page.NextCursor)
	require.Equal(t, []string{"acme, test"}, names)
	require.False(t, page.HasMore)
	for _, other := range []string{"", "q=acm&", "q=acme&state=active&", "state=active&"} {
		got := r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/tenants?" + other + "cursor=" + page.NextCursor})
		require.Equal(t, "bad_cursor", got.problem.Code, other)
		require.Equal(t, "cursor", got.problem.Errors[0].Field)
	}
	_, all := read("limit=1")
	require.Equal(t, "bad_cursor", r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/tenants?q=acme&cursor=" + all.NextCursor}).problem.Code)
	r.create("acme, later")
	names, _ = read("q=acme&cursor=" + page.NextCursor)
	require.Equal(t, []string{"acme, later"}, names)

	for query, want := range map[string][2]string{
		"q=%00": {"validation_failed", "q"}, "q=a%0Ab": {"validation_failed", "q"}, "q=%ff": {"validation_failed", "q"}, "q=" + strings.Repeat("a", 201): {"validation_failed", "q"},
		"q=a&q=b": {"repeated_parameter", "q"}, "state=running": {"invalid_state", "state"}, "state=deleted": {"invalid_state", "state"}, "state=Active": {"invalid_state", "state"},
		"state=active&state=active": {"repeated_parameter", "state"}, "name=acme": {"unknown_parameter", "name"}, "Q=acme": {"unknown_parameter", "Q"},
	} {
		got := r.require(http.StatusBadRequest, request{method: http.MethodGet, path: "/tenants?" + query})
		require.Equal(t, want[0], got.problem.Code, query)
		require.Equal(t, want[1], got.problem.Errors[0].Field, query)
	}
}

// A tenant that a version without limits has created gets the defaults, as one of its own workers.
func TestTenantOfAVersionWithoutLimits(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t, backing.Postgres(t), backing.NATS(t))
	operator, err := pgx.Connect(t.Context(), cfg.Database.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, operator.Close(context.WithoutCancel(t.Context()))) }()
	id := uuid.New()
	_, err = operator.Exec(t.Context(), `INSERT INTO tenants (id, name, workers, max_attempts, state) VALUES ($1, 'old', 4, 8, 'active')`, id)
	require.NoError(t, err)
	cfg.Limits.PublishRate = 100
	r := start(t, cfg)
	r.requireReady(true)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		read, _ := r.limitsOf(id)
		require.Equal(c, limits{with(noLimits(), map[string]int64{"publish_rate": 100, "workers": 4, "max_attempts": 8}), map[string]int64{"workers": 4, "max_attempts": 8}}, read)
	}, waitLimit, tick)
}
