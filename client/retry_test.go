package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

// once is a client's policy without repeats.
func once() []client.Option { return []client.Option{client.WithRetry(client.Retry{MaxAttempts: 1})} }

// A message whose answer was lost would be stored twice if it were sent again under another id, and lost if it were not
// sent again.
func TestLostAnswersAreRepeatedUnderTheSameID(t *testing.T) {
	for name, fault := range map[string]step{
		"cut":                       cut,
		"half an answer":            half(accept),
		"slow":                      silent,
		"503":                       refuse(503, "broker_unavailable"),
		"503 without a document":    answer(503, "<html>no upstream</html>"),
		"502 of a proxy":            answer(502, ""),
		"504 of a proxy":            answer(504, ""),
		"429":                       refuse(429, "rate_limited"),
		"408":                       refuse(408, "request_timeout"),
		"425":                       answer(425, ""),
		"507 with Retry-After":      refuse(507, "storage_full", "Retry-After", "1"),
		"problem that is half JSON": half(refuse(503, "queue_full")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, s := play(t, nil, fault, fault, accept)
				id, err := c.Publish(t.Context(), client.Publishing{Payload: map[string]int{"n": 1}})
				require.NoError(t, err)
				require.Len(t, s.sent, 3)
				require.Equal(t, `{"id":"`+id.String()+`","payload":{"n":1}}`, s.sent[0].body)
				require.Equal(t, s.sent[0], s.sent[1])
				require.Equal(t, s.sent[0], s.sent[2])
			})
		})
	}
}

// Repeating what is refused for good would hide the mistake until the context ends.
func TestRefusalsAreNotRepeated(t *testing.T) {
	for status, code := range map[int]string{
		301: "", 307: "", 400: "payload_unstorable", 401: "invalid_token", 403: "insufficient_scope", 404: "tenant_not_found",
		409: "tenant_deleting", 413: "body_too_large", 415: "unsupported_media_type", 422: "payload_not_json", 500: "internal", 501: "",
		507: "storage_full",
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			c, _ := play(t, nil, refuse(status, code, "Location", "http://elsewhere"))
			id, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
			p, ok := errors.AsType[*client.Problem](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, status, p.Status)
			require.False(t, p.Retryable())
			require.ErrorIs(t, err, client.Code(code))
			require.False(t, id.IsZero(), "to be published again once the reason is gone")
		})
	}
}

// A certificate that does not fit does not get better by asking again.
func TestCertificatesAreNotRepeated(t *testing.T) {
	c, _ := play(t, nil, func(*http.Request, []byte) (*http.Response, error) {
		return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	})
	_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
	require.ErrorAs(t, err, new(x509.UnknownAuthorityError))
}

// waits measures the pauses between attempts in the time of a bubble.
func waits(t *testing.T, opts []client.Option, faults ...step) []time.Duration {
	t.Helper()
	var pauses []time.Duration
	last := time.Now()
	opts = append(opts, client.WithObserver(func(a client.Attempt) {
		if a.Number > 1 {
			pauses = append(pauses, time.Since(last)-a.Duration)
		}
		last = time.Now()
	}))
	c, _ := play(t, opts, append(faults, accept)...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err := c.Publish(ctx, client.Publishing{Payload: 1})
	require.NoError(t, err)
	return pauses
}

// A service that asks for time is given that time, and not all clients come back at the same moment.
func TestRetryAfter(t *testing.T) {
	const date = "Mon, 02 Nov 2026 10:00:00 GMT"
	for name, tt := range map[string]struct {
		header []string
		want   time.Duration
	}{
		"seconds":                  {[]string{"Retry-After", "7"}, 7 * time.Second},
		"longer than is waited":    {[]string{"Retry-After", "86400"}, 30 * time.Second},
		"longer than a duration":   {[]string{"Retry-After", "99999999999999999999999"}, 30 * time.Second},
		"a date beside the date":   {[]string{"Date", date, "Retry-After", "Mon, 02 Nov 2026 10:00:05 GMT"}, 5 * time.Second},
		"a date, RFC 850":          {[]string{"Date", date, "Retry-After", "Monday, 02-Nov-26 10:00:06 GMT"}, 6 * time.Second},
		"a date without the date":  {[]string{"Retry-After", "Sat, 01 Jan 2000 00:00:09 GMT"}, 9 * time.Second}, // bubbles begin in 2000
		"a date that is over":      {[]string{"Date", date, "Retry-After", "Mon, 02 Nov 2026 09:00:00 GMT"}, 0},
		"zero":                     {[]string{"Retry-After", "0"}, 0},
		"negative":                 {[]string{"Retry-After", "-5"}, 0},
		"neither seconds nor date": {[]string{"Retry-After", "soon"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pauses := waits(t, nil, refuse(503, "queue_full", tt.header...))
				require.Len(t, pauses, 1)
				require.GreaterOrEqual(t, pauses[0], tt.want)
				require.LessOrEqual(t, pauses[0], tt.want+100*time.Millisecond)
			})
		})
	}
}

// Clients that double their pauses up to a bound leave a service that comes back room to breathe, and still notice it soon.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := client.WithRetry(client.Retry{MinDelay: 100 * time.Millisecond, MaxDelay: 3 * time.Second})
		pauses := waits(t, []client.Option{policy}, slices.Repeat([]step{cut}, 9)...)
		require.Len(t, pauses, 9)
		for i, pause := range pauses {
			full := min(100*time.Millisecond<<i, 3*time.Second)
			require.LessOrEqual(t, pause, full)
			require.GreaterOrEqual(t, pause, full/2)
		}
		other := waits(t, []client.Option{policy}, slices.Repeat([]step{cut}, 9)...)
		require.NotEqual(t, pauses, other, "there is jitter")
	})
}

// A caller that limits a call gets it back in time, with the reason and not only "deadline exceeded".
func TestRepeatsEnd(t *testing.T) {
	full := refuse(503, "queue_full", "Retry-After", "5")
	for name, tt := range map[string]struct {
		opts     []client.Option
		limit    time.Duration // of the context, 0 for none
		attempts int
		within   time.Duration
		is       []error
	}{
		"at the deadline of the context": {nil, 21 * time.Second, 5, 21 * time.Second, []error{context.DeadlineExceeded, client.ErrQueueFull}},
		"after a minute without one":     {nil, 0, 12, time.Minute, []error{client.ErrQueueFull}},
		"after a time that was chosen":   {[]client.Option{client.WithRetry(client.Retry{For: 7 * time.Second})}, 0, 2, 7 * time.Second, []error{client.ErrQueueFull}},
		"after a number of attempts":     {[]client.Option{client.WithRetry(client.Retry{MaxAttempts: 3})}, time.Hour, 3, time.Minute, []error{client.ErrQueueFull}},
		"at once, without repeats":       {once(), time.Hour, 1, time.Second, []error{client.ErrQueueFull}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				ctx := t.Context()
				if tt.limit > 0 {
					limited, cancel := context.WithTimeout(ctx, tt.limit)
					defer cancel()
					ctx = limited
				}
				c, _ := play(t, tt.opts, slices.Repeat([]step{full}, tt.attempts)...)
				_, err := c.Publish(ctx, client.Publishing{Payload: 1})
				for _, target := range tt.is {
					require.ErrorIs(t, err, target)
				}
				require.LessOrEqual(t, time.Since(begun), tt.within)
			})
		})
	}
}

// A cancelled call returns at once, wherever it is, and says why.
func TestCancel(t *testing.T) {
	why := errors.New("the user has left")
	for name, fault := range map[string]step{"under way": silent, "between two attempts": refuse(503, "queue_full", "Retry-After", "20")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _ := play(t, nil, fault)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(why) })
				begun := time.Now()
				_, err := c.Publish(ctx, client.Publishing{Payload: 1})
				require.ErrorIs(t, err, why)
				require.Equal(t, time.Second, time.Since(begun))
			})
		})
	}
}

// An attempt that hangs is given up: the caller's deadline is for all attempts together.
func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := play(t, append(once(), client.WithAttemptTimeout(2*time.Second)), silent)
		begun := time.Now()
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorContains(t, err, "no answer within 2s")
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the context of the caller has none")
		require.Equal(t, 2*time.Second, time.Since(begun))
	})
}

// A success that is none must not pass for one.
func TestUnexpectedAnswers(t *testing.T) {
	for name, fault := range map[string]step{
		"a page of a captive portal":    answer(200, "<html>please log in</html>"),
		"nothing":                       answer(202, ""),
		"half an answer, sent as whole": answer(202, `{"id":"0197`),
		"no id":                         answer(202, `{}`),
		"another id":                    answer(202, `{"id":"0197a3c2-8f0e-7cc1-9d39-000000000001"}`),
		"no UUID":                       answer(202, `{"id":"x"}`),
		"another type":                  answer(202, `[]`),
		"longer than is read":           answer(202, `{"id":"`+strings.Repeat("x", 2000)+`"}`),
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, []client.Option{client.WithMaxResponseBytes(1000)}, fault)
			_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
			require.ErrorIs(t, err, client.ErrUnexpectedAnswer)
			require.Less(t, len(err.Error()), 600)
		})
	}
}

// An answer without an end must not fill the memory.
func TestAnswersAreBounded(t *testing.T) {
	endless := &zeros{}
	c, _ := play(t, []client.Option{client.WithMaxResponseBytes(1000)}, func(*http.Request, []byte) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(endless)}, nil
	})
	_, err := c.Message(t.Context(), fixed(1))
	require.ErrorIs(t, err, client.ErrUnexpectedAnswer)
	require.LessOrEqual(t, endless.read, 1001)
}

// zeros is a body of a megabyte.
type zeros struct{ read int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.read += len(p); z.read > 1<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

// A program acts on the code, a person quotes the request id, and no answer, however strange, is swallowed.
func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct {
		fault step
		want  client.Problem
		text  string
	}{
		"whole": {
			answer(400, `{"type":"about:blank","title":"Bad Request","status":400,"detail":"the body does not fit","code":"wrong_type","request_id":"r-1","errors":[{"field":"payload","detail":"is required"}]}`),
			client.Problem{Status: 400, Code: "wrong_type", Detail: "the body does not fit", RequestID: "r-1", Errors: []client.FieldError{{Field: "payload", Detail: "is required"}}},
			"400 wrong_type: the body does not fit; payload is required (request r-1)",
		},
		"without a code": {
			answer(404, `{"title":"Not Found","status":404}`, "X-Request-ID", "r-2"),
			client.Problem{Status: 404, Detail: "Not Found", RequestID: "r-2"},
			"404: Not Found (request r-2)",
		},
		"another status inside": {answer(503, `{"code":"x","status":200}`), client.Problem{Status: 503, Code: "x"}, "503 x"},
		"no document":           {answer(502, "<html>\n<b>Bad\tGateway</b>"), client.Problem{Status: 502, Detail: "<html> <b>Bad Gateway</b>"}, "502: <html> <b>Bad Gateway</b>"},
		"another document":      {answer(500, `{"error":"x"}`), client.Problem{Status: 500, Detail: `{"error":"x"}`}, `500: {"error":"x"}`},
		"a list":                {answer(500, `[1]`), client.Problem{Status: 500, Detail: `[1]`}, `500: [1]`},
		"nothing":               {answer(500, ""), client.Problem{Status: 500}, "500"},
		"no text":               {answer(500, "\xff\x00\xfe"), client.Problem{Status: 500, Detail: "\ufffd\x00\ufffd"}, "500: \ufffd\x00\ufffd"},
		"long": {
			answer(500, strings.Repeat("x", 5000)),
			client.Problem{Status: 500, Detail: strings.Repeat("x", 200) + "…"},
			"500: " + strings.Repeat("x", 200) + "…",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := play(t, once(), tt.fault)
			_, err := c.Message(t.Context(), fixed(1))
			p, ok := errors.AsType[*client.Problem](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, tt.want, *p)
			require.Equal(t, tt.text, p.Error())
		})
	}
}

// A token that has expired costs one request and no error.
func TestTokenIsRefreshedOnce(t *testing.T) {
	refused := refuse(401, "invalid_token")
	source := func(tokens *[]string, err error) client.Option {
		return client.WithToken(client.TokenFunc(func(_ context.Context, old string) (string, error) {
			*tokens = append(*tokens, old)
			if old == "" {
				return "old", nil
			}
			return "new", err
		}))
	}
	t.Run("and sent again", func(t *testing.T) {
		var asked []string
		c, s := play(t, []client.Option{source(&asked, nil)}, refused, accept)
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.NoError(t, err)
		require.Equal(t, []string{"", "old"}, asked)
		require.Equal(t, "Bearer old", s.sent[0].header.Get("Authorization"))
		require.Equal(t, "Bearer new", s.sent[1].header.Get("Authorization"))
		require.Equal(t, s.sent[0].body, s.sent[1].body)
	})
	t.Run("and not twice", func(t *testing.T) {
		var asked []string
		c, _ := play(t, []client.Option{source(&asked, nil)}, refused, refused)
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrInvalidToken)
		require.Len(t, asked, 2)
	})
	t.Run("and not without another one", func(t *testing.T) {
		c, _ := play(t, nil, refused)
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorIs(t, err, client.ErrInvalidToken)
	})
	t.Run("and fails with its source", func(t *testing.T) {
		away := errors.New("the token service is away")
		var asked []string
		c, _ := play(t, []client.Option{source(&asked, away)}, refused)
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorIs(t, err, away)
		require.ErrorIs(t, err, client.ErrInvalidToken)
	})
	t.Run("and nothing is sent without one", func(t *testing.T) {
		away := errors.New("the token service is away")
		c, _ := play(t, []client.Option{client.WithToken(client.TokenFunc(func(context.Context, string) (string, error) { return "", away }))})
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.ErrorIs(t, err, away)
	})
}

// An operator who counts attempts sees every one, the repeats among them.
func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		c, _ := play(t, []client.Option{client.WithObserver(func(a client.Attempt) {
			seen = append(seen, fmt.Sprintf("%d %s %s %d %v", a.Number, a.Method, a.Path, a.Status, a.Err))
		})}, cut, refuse(503, "queue_full"), accept)
		_, err := c.Publish(t.Context(), client.Publishing{Payload: 1})
		require.NoError(t, err)
		require.Equal(t, []string{
			`1 POST /messages 0 Post "http://ingest/messages": connection reset by peer`,
			"2 POST /messages 503 503 queue_full: D (request r-1)",
			"3 POST /messages 202 <nil>",
		}, seen)
	})
}

func TestNewRefuses(t *testing.T) {
	for name, urls := range map[string]client.URLs{
		"no scheme":     {Query: "localhost:8083"},
		"another":       {Query: "ftp://localhost"},
		"no host":       {Ingest: "http://"},
		"a query":       {Tenant: "http://host/?a=b"},
		"a password":    {Tenant: "http://user:secret@host"},
		"no URL at all": {Tenant: "http://ho st"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.New(urls, client.StaticToken("t"))
			require.Error(t, err)
			require.NotContains(t, err.Error(), "secret")
		})
	}
	_, err := client.New(client.URLs{}, nil)
	require.ErrorContains(t, err, "tokens")
	c, err := client.New(client.URLs{}, client.StaticToken("t"))
	require.NoError(t, err)
	_, err = c.Publish(t.Context(), client.Publishing{Payload: 1})
	require.ErrorContains(t, err, "no URL of ingest-service")
}

// What a request carries, behind a gateway's path as well.
func TestRequests(t *testing.T) {
	s := &script{t: t, steps: []step{accept, accept}}
	c, err := client.New(client.URLs{Ingest: "https://api.example.com/mtm/"}, client.StaticToken("secret"),
		client.WithTransport(s), client.WithUserAgent("billing/1.4"), client.WithTenant(fixed(7)))
	require.NoError(t, err)
	_, err = c.Publish(t.Context(), client.Publishing{Payload: 1})
	require.NoError(t, err)
	require.Equal(t, "/mtm/messages?tenant_id="+fixed(7).String(), s.sent[0].path)
	require.Equal(t, "billing/1.4", s.sent[0].header.Get("User-Agent"))
	require.Equal(t, "application/json", s.sent[0].header.Get("Content-Type"))
	require.Equal(t, "Bearer secret", s.sent[0].header.Get("Authorization"))

	_, err = c.With(client.WithTenant(fixed(8))).Publish(t.Context(), client.Publishing{Payload: 1})
	require.NoError(t, err)
	require.Equal(t, "/mtm/messages?tenant_id="+fixed(8).String(), s.sent[1].path)
}
