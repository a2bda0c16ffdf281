package platform

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// answer is one answer of a service that follows a script.
type answer struct {
	status int // 0: the connection is closed without one
	body   string
}

// script is a service that gives its answers in turn, the last one again and again, and notes what it was asked.
type script struct {
	mu      sync.Mutex
	answers []answer
	asked   []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path+" "+string(body))
	next := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	if next.status == 0 {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(next.status)
	if _, err := io.WriteString(w, next.body); err != nil {
		panic(http.ErrAbortHandler)
	}
}

func adminOf(t *testing.T, answers ...answer) (*Admin, *script) {
	t.Helper()
	s := &script{answers: answers}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	a, err := newAdmin(server.URL, "x")
	require.NoError(t, err)
	return a, s
}

func TestAdminRepeatsWhatIsSafeToRepeat(t *testing.T) {
	id := uuid.MustParse("5c0a485d-9e80-41bf-8f5c-fc8720d748bf")
	for name, test := range map[string]struct {
		answers []answer
		call    func(context.Context, *Admin) error
		want    string // of the error; "" for none
		asked   int
		repeats int
	}{
		"created": {
			[]answer{{201, `{}`}}, func(ctx context.Context, a *Admin) error { return a.Create(ctx, id, 3) }, "", 1, 0,
		},
		"created after an outage": {
			[]answer{{503, `{}`}, {}, {201, `{}`}}, func(ctx context.Context, a *Admin) error { return a.Create(ctx, id, 3) }, "", 3, 2,
		},
		"created by a try whose outcome got lost": {
			[]answer{{}, {409, `{"code":"tenant_exists"}`}, {200, `{"name":"tenant ` + id.String() + `","workers":3}`}},
			func(ctx context.Context, a *Admin) error { return a.Create(ctx, id, 3) },
			"", 3, 1,
		},
		"created by somebody else": {
			[]answer{{409, `{"code":"tenant_exists"}`}},
			func(ctx context.Context, a *Admin) error { return a.Create(ctx, id, 3) },
			"409", 1, 0,
		},
		"refused": {
			[]answer{{400, `{"code":"validation_failed"}`}},
			func(ctx context.Context, a *Admin) error { return a.Create(ctx, id, 0) },
			"validation_failed", 1, 0,
		},
		"deleted by a try whose outcome got lost": {
			[]answer{{}, {404, `{"code":"tenant_not_found"}`}}, func(ctx context.Context, a *Admin) error { return a.Delete(ctx, id) }, "", 2, 1,
		},
		"deleted by somebody else": {
			[]answer{{404, `{"code":"tenant_not_found"}`}}, func(ctx context.Context, a *Admin) error { return a.Delete(ctx, id) }, "", 1, 0,
		},
		"a resize repeated": {
			[]answer{{503, `{}`}, {200, `{}`}}, func(ctx context.Context, a *Admin) error { return a.Resize(ctx, id, 2) }, "", 2, 1,
		},
		"a tenant that is not there": {
			[]answer{{404, `{}`}}, func(ctx context.Context, a *Admin) error { return a.Suspend(ctx, id) }, "404", 1, 0,
		},
		"gone in the end": {
			[]answer{{200, `{"state":"deleting"}`}, {503, `{}`}, {404, `{"code":"tenant_not_found"}`}},
			func(ctx context.Context, a *Admin) error { return a.AwaitDeleted(ctx, id) }, "", 3, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, s := adminOf(t, test.answers...)
			err := test.call(t.Context(), a)
			if test.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, test.want)
				require.ErrorContains(t, err, id.String())
			}
			require.Len(t, s.asked, test.asked)
			require.EqualValues(t, test.repeats, a.Repeats())
			for _, asked := range s.asked[1:] {
				if !strings.HasPrefix(asked, http.MethodGet) { // what has become of it
					require.Equal(t, s.asked[0], asked)
				}
			}
		})
	}
}

func TestAdminGivesUpWithItsContext(t *testing.T) {
	a, _ := adminOf(t, answer{status: 503, body: `{"code":"registry_unavailable"}`})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := a.Resume(ctx, uuid.New())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestTheReportOfAKilledInstanceIsPassedOver(t *testing.T) {
	const killed = `{"instance":"old","state":"running","workers":1,"observed_generation":1,"observed_at":"2026-01-01T00:00:00Z"}`
	const later = `{"instance":"new","state":"running","workers":5,"observed_generation":2,"observed_at":"2026-01-01T00:00:07Z"}`
	before := answer{200, `{"generation":2,"status":{"instances":[` + killed + `]}}`}
	after := answer{200, `{"generation":2,"status":{"state":"running","workers":6,"observed_generation":1,` +
		`"instances":[` + later + `,` + killed + `]}}`}
	a, s := adminOf(t, answer{200, `{"generation":2,"status":{"instances":[]}}`}, before, after)
	require.NoError(t, a.AwaitState(t.Context(), uuid.New(), "running", 5))
	require.Len(t, s.asked, 3)

	a, _ = adminOf(t, before)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, a.AwaitState(ctx, uuid.New(), "running", 5), "generation 2, observed 1", "what was seen last is told")
}
