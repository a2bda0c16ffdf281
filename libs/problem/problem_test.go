package problem_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client that switches on "code" or reads "errors" would break if the document changed its shape.
func TestDocumentHasTheMembersOfRFC9457(t *testing.T) {
	p := problem.New(400, "unknown_field", "the body has an unknown field").
		WithField("items[0].x", "is not known").
		WithRetryAfter(time.Second).
		Located("/messages", "req-1")

	got, err := json.Marshal(p)

	require.NoError(t, err)
	require.JSONEq(t, `{
		"type":"about:blank","title":"Bad Request","status":400,
		"detail":"the body has an unknown field","instance":"/messages",
		"code":"unknown_field","request_id":"req-1",
		"errors":[{"field":"items[0].x","detail":"is not known"}]}`, string(got))
}

func TestEmptyMembersAreLeftOut(t *testing.T) {
	got, err := json.Marshal(problem.New(404, "route_not_found", ""))

	require.NoError(t, err)
	require.JSONEq(t, `{"type":"about:blank","title":"Not Found","status":404,"code":"route_not_found"}`, string(got))
}

// Two requests that add to the same shared problem must not see each other's fields.
func TestWithMethodsDoNotChangeTheOriginal(t *testing.T) {
	base := problem.New(422, "invalid", "no").WithField("a", "x")

	first := base.WithField("b", "y")
	second := base.WithField("c", "z").WithRetryAfter(time.Minute)
	located := base.Located("/p", "id")

	require.Len(t, base.Errors, 1)
	require.Equal(t, "b", first.Errors[1].Field)
	require.Equal(t, "c", second.Errors[1].Field)
	require.Zero(t, base.RetryAfter)
	require.Empty(t, base.RequestID)
	require.Equal(t, "id", located.RequestID)
}

func TestAs(t *testing.T) {
	p := problem.New(409, "conflict", "taken")
	var none *problem.Problem

	tests := map[string]struct {
		err  error
		want *problem.Problem
	}{
		"itself":  {p, p},
		"wrapped": {fmt.Errorf("create tenant: %w", p), p},
		"joined":  {errors.Join(errors.New("x"), p), p},
		"other":   {errors.New("x"), nil},
		"nil":     {nil, nil},
		"a typed nil must not reach the error handler as a problem": {none, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := problem.As(tt.err)
			require.Equal(t, tt.want != nil, ok)
			require.Same(t, tt.want, got)
		})
	}
}

func TestErrorNamesStatusCodeAndFields(t *testing.T) {
	err := problem.New(400, "invalid", "bad body").WithField("name", "is required")
	require.EqualError(t, err, "400 invalid: bad body; name is required")
	require.EqualError(t, problem.New(404, "gone", ""), "404 gone")
}
