package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/testkit/pgtest"
)

// counted is a service, an operator of its database, and what ingest-service has counted of a tenant in the hours before the current one.
func counted(t *testing.T) (r *running, operator *pgxpool.Pool, id uuid.UUID, hour time.Time) {
	t.Helper()
	r = startReady(t)
	operator = pgtest.Operator(t, r.cfg.Database.URL)
	id = r.create("a")
	hour = time.Now().UTC().Truncate(time.Hour)
	for _, sql := range []string{
		`INSERT INTO usage_positions VALUES ($1, 1, '9', 1, $2::timestamptz - interval '3 hours', 111, 1110, 11, 110)`,
		`INSERT INTO usage_hours VALUES ($1, $2::timestamptz - interval '3 hours', 1, 10, 1, 5, 7, 0), ($1, $2::timestamptz - interval '5 hours', 10, 100, 0, 0, 0, 3),
			($1, $2::timestamptz - interval '60 hours', 100, 1000, 10, 105, 0, 0)`,
	} {
		_, err := operator.Exec(t.Context(), sql, id, hour)
		require.NoError(t, err)
	}
	_, err := operator.Exec(t.Context(), `INSERT INTO usage_hours (tenant_id, hour, messages) VALUES (gen_random_uuid(), $1, 77)`, hour)
	require.NoError(t, err)
	return r, operator, id, hour
}

func (r *running) usage(id uuid.UUID, query string) (u api.Usage) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal(r.require(http.StatusOK, request{method: "GET", path: path(id, "/usage"+query)}).body, &u))
	return u
}

// between is a query for a time.
func between(from, to time.Time, more string) string {
	return "?from=" + url.QueryEscape(from.Format(time.RFC3339Nano)) + "&to=" + url.QueryEscape(to.Format(time.RFC3339Nano)) + more
}

// An operator writes bills from it: each hour that was counted is in the answer once, in its place, and so are those without anything.
func TestUsage(t *testing.T) {
	t.Parallel()
	r, _, id, hour := counted(t)
	sum := func(u api.Usage) (messages, bytes, delivered, letters int64) {
		for i, s := range u.Data {
			if i > 0 {
				require.Equal(t, u.Data[i-1].To, s.From, "no gap")
			}
			messages, bytes, delivered, letters = messages+s.Messages, bytes+s.Bytes, delivered+s.Delivered, letters+s.DeadLetters
		}
		return messages, bytes, delivered, letters
	}
	u := r.usage(id, "")
	require.Equal(t, "hour", u.Step)
	require.Len(t, u.Data, 24)
	require.WithinDuration(t, hour.Add(time.Hour), u.Data[23].To.Time, time.Hour, "up to the current hour")
	require.Equal(t, api.StoredUsage{Messages: 100, Bytes: 1000}, u.Stored)
	require.True(t, hour.Add(-3*time.Hour).Equal(u.CountedUntil.Time))
	messages, bytes, delivered, letters := sum(u)
	require.Equal(t, []int64{11, 110, 3, 7}, []int64{messages, bytes, delivered, letters})

	u = r.usage(id, "?step=day")
	require.Len(t, u.Data, 30)
	require.Equal(t, u.Data[29].From.Truncate(24*time.Hour), u.Data[29].From.Time)
	messages, _, _, _ = sum(u)
	require.EqualValues(t, 111, messages)

	// Whole steps, of which the last one does not count where it only begins; in any time zone.
	at := hour.Add(-5 * time.Hour)
	for name, c := range map[string]struct {
		query string
		steps int
		first time.Time
		want  int64
	}{
		"one hour":                    {between(at, at.Add(time.Hour), ""), 1, at, 10},
		"parts of two":                {between(at.Add(59*time.Minute), at.Add(61*time.Minute), ""), 2, at, 10},
		"a microsecond":               {between(at.Add(time.Second), at.Add(time.Second+time.Microsecond), ""), 1, at, 10},
		"three, in another time zone": {between(at.In(time.FixedZone("", 20700)), at.Add(3*time.Hour).In(time.FixedZone("", -12600)), "&step=hour"), 3, at, 11},
		"since":                       {"?from=" + at.Format(time.RFC3339), 6, at, 11},
		"until":                       {"?to=" + at.Format(time.RFC3339), 24, at.Add(-24 * time.Hour), 0},
		"empty values":                {"?from=&to=&step=&tenant_id=", 24, hour.Add(-23 * time.Hour), 11},
		"the end of this year":        {between(at, hour.AddDate(1, 0, 0), ""), 6, at, 11},
		"only the future":             {between(hour.AddDate(1, 0, 0), hour.AddDate(2, 0, 0), ""), 0, time.Time{}, 0},
		"from the future":             {"?from=9999-12-31T23:59:59Z", 0, time.Time{}, 0},
		"before 1970":                 {"?from=0000-01-01T00:00:00%2B23:59&to=1969-12-31T00:00:00Z", 0, time.Time{}, 0},
		"before all":                  {"?to=0000-01-01T00:00:00%2B23:59", 0, time.Time{}, 0},
		"since before 1970":           {"?from=0001-01-01T00:00:00Z&to=1970-01-02T00:00:00Z", 24, time.Unix(0, 0).UTC(), 0},
		"a thousand":                  {between(hour.Add(-999*time.Hour), hour.Add(time.Hour), ""), 1000, hour.Add(-999 * time.Hour), 111},
	} {
		t.Run(name, func(t *testing.T) {
			u := r.usage(id, c.query)
			require.InDelta(t, c.steps, len(u.Data), 1, "an hour may have passed")
			if time.Now().UTC().Truncate(time.Hour).Equal(hour) {
				require.Len(t, u.Data, c.steps)
			}
			if len(u.Data) > 0 && name != "empty values" {
				require.True(t, c.first.Equal(u.Data[0].From.Time), "%s", u.Data[0].From)
			}
			messages, _, _, _ := sum(u)
			require.Equal(t, c.want, messages)
			require.Equal(t, api.StoredUsage{Messages: 100, Bytes: 1000}, u.Stored)
		})
	}
	u = r.usage(r.create("new"), "")
	require.Nil(t, u.CountedUntil)
	require.Zero(t, u.Stored)
}

func TestBadUsageRequests(t *testing.T) {
	t.Parallel()
	r, _, id, _ := counted(t)
	for query, want := range map[string][2]string{
		"?step=week": {"invalid_step", "step"}, "?step=HOUR": {"invalid_step", "step"}, "?step=hour,day": {"invalid_step", "step"},
		"?from=yesterday": {"invalid_time", "from"}, "?from=2026-02-30T00:00:00Z": {"invalid_time", "from"}, "?to=1767225600": {"invalid_time", "to"},
		"?to=2026-01-01T00:00:00+01:00": {"invalid_time", "to"}, "?from=2026-01-01": {"invalid_time", "from"}, "?to=%00": {"invalid_time", "to"},
		"?from=-1": {"invalid_time", "from"}, "?from=null": {"invalid_time", "from"}, "?from=99999-01-01T00:00:00Z": {"invalid_time", "from"},
		"?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z":          {"invalid_range", "from"},
		"?from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z":          {"invalid_range", "from"},
		"?from=2026-01-02T00:00:00Z&to=2026-01-02T01:00:00%2B01:00":   {"invalid_range", "from"},
		"?from=2020-01-01T00:00:00Z":                                  {"too_many_steps", "from"},
		"?from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:59Z&step=day": {"too_many_steps", "from"},
		"?from=2025-01-01T00:00:00Z&to=2025-02-11T16:00:01Z":          {"too_many_steps", "from"},
		"?since=2026-01-01T00:00:00Z":                                 {"unknown_parameter", "since"},
		"?step=day&step=hour":                                         {"repeated_parameter", "step"},
		"?tenant_id=" + uuid.NewString():                              {"tenant_mismatch", "tenant_id"},
	} {
		got := r.require(http.StatusBadRequest, request{method: "GET", path: path(id, "/usage"+query)})
		require.Equal(t, want[0], got.problem.Code, query)
		require.Equal(t, want[1], got.problem.Errors[0].Field, query)
	}
	require.Equal(t, "unexpected_body", r.require(http.StatusBadRequest, request{method: "GET", path: path(id, "/usage"), body: `{"step":"day"}`}).problem.Code)
	require.Equal(t, "invalid_uuid", r.require(http.StatusBadRequest, request{method: "GET", path: "/tenants/x/usage"}).problem.Code)
	require.Equal(t, "method_not_allowed", r.require(http.StatusMethodNotAllowed, request{method: "POST", path: path(id, "/usage")}).problem.Code)
}

// What a customer has used is for itself and for administrators, who can still read it when the customer has gone.
func TestAccessToUsage(t *testing.T) {
	t.Parallel()
	r, operator, own, hour := counted(t)
	other := r.create("other")
	tokens := map[string]string{
		"admin": "", "bound admin": token(t, own, auth.ScopeTenantsAdmin), "bound": token(t, own, auth.ScopeMessagesRead),
		"bound none": token(t, own), "none": token(t, uuid.Nil), "anonymous": "-",
	}
	check := func(id uuid.UUID, want map[string]int) {
		for who, status := range want {
			require.Equal(t, status, r.do(request{method: "GET", path: path(id, "/usage"), token: tokens[who]}).status, who)
		}
	}
	check(own, map[string]int{"admin": 200, "bound admin": 200, "bound": 200, "bound none": 403, "none": 403, "anonymous": 401})
	check(other, map[string]int{"admin": 200, "bound admin": 404, "bound": 404, "bound none": 403, "none": 403, "anonymous": 401})
	check(uuid.New(), map[string]int{"admin": 404, "bound admin": 404, "bound": 404, "none": 403, "anonymous": 401})

	// As ingest-service leaves it, and the relay.
	for _, sql := range []string{`DELETE FROM usage_positions WHERE tenant_id = $1`, `UPDATE tenants SET state = 'deleted', deleted_at = now() WHERE id = $1`} {
		_, err := operator.Exec(t.Context(), sql, own)
		require.NoError(t, err)
	}
	check(own, map[string]int{"admin": 200, "bound admin": 404, "bound": 404, "bound none": 403, "none": 403, "anonymous": 401})
	u := r.usage(own, between(hour.Add(-5*time.Hour), hour, ""))
	require.EqualValues(t, 10, u.Data[0].Messages)
	require.Zero(t, u.Stored)
}
