package audit_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An event shows what has changed and nothing else, at any depth: what is in it besides would have to be kept secret for a year.
func TestDiff(t *testing.T) {
	t.Parallel()
	type state struct {
		Workers int            `json:"workers"`
		Name    string         `json:"name,omitempty"`
		Limits  map[string]any `json:"limits,omitempty"`
	}
	type limits = map[string]any
	for name, c := range map[string]struct {
		before, after any
		was, is       string
	}{
		"nothing":                {state{Workers: 3}, state{Workers: 3}, `null`, `null`},
		"a value":                {state{Workers: 3, Name: "a"}, state{Workers: 5, Name: "a"}, `{"workers":3}`, `{"workers":5}`},
		"a member more":          {state{Workers: 3}, state{Workers: 3, Name: "a"}, `null`, `{"name":"a"}`},
		"a member less":          {state{Workers: 3, Name: "a"}, state{Workers: 3}, `{"name":"a"}`, `null`},
		"new":                    {nil, state{Workers: 3}, `null`, `{"workers":3}`},
		"gone":                   {&state{Workers: 3}, (*state)(nil), `{"workers":3}`, `null`},
		"inside":                 {state{Limits: limits{"rate": 1, "size": 2}}, state{Limits: limits{"rate": 7, "size": 2}}, `{"limits":{"rate":1}}`, `{"limits":{"rate":7}}`},
		"inside, a member more":  {state{Limits: limits{"size": 2}}, state{Limits: limits{"rate": 7, "size": 2}}, `null`, `{"limits":{"rate":7}}`},
		"inside, null":           {state{Limits: limits{"rate": nil}}, state{Limits: limits{"rate": 7}}, `{"limits":{"rate":null}}`, `{"limits":{"rate":7}}`},
		"an object for a number": {state{Limits: limits{"rate": 1}}, state{Limits: limits{"rate": limits{"max": 1}}}, `{"limits":{"rate":1}}`, `{"limits":{"rate":{"max":1}}}`},
		"large numbers":          {state{Workers: 9007199254740993}, state{Workers: 9007199254740992}, `{"workers":9007199254740993}`, `{"workers":9007199254740992}`},
		"a list":                 {limits{"l": []int{1, 2}}, limits{"l": []int{2, 1}}, `{"l":[1,2]}`, `{"l":[2,1]}`},
	} {
		was, is, err := audit.Diff(c.before, c.after)
		require.NoError(t, err, name)
		encoded, err := json.Marshal([]any{was, is})
		require.NoError(t, err, name)
		require.Equal(t, `[`+c.was+`,`+c.is+`]`, string(encoded), name)
	}
	for name, bad := range map[string]any{"no object": []int{1}, "no JSON": make(chan int)} {
		_, _, err := audit.Diff(bad, nil)
		require.Error(t, err, name)
		_, _, err = audit.Diff(nil, bad)
		require.Error(t, err, name)
	}
}

// Whatever an issuer puts into a token, the request of its bearer must not fail for the log.
func TestClaimsFitTheirColumns(t *testing.T) {
	t.Parallel()
	for _, claim := range []string{"", "alice", "a\x00b", "\xff\xfe", strings.Repeat("ä", 4000), strings.Repeat("\xff", 300)} {
		arguments, err := audit.Event{Origin: audit.Origin{Actor: claim, TokenID: claim}}.Arguments()
		require.NoError(t, err)
		for _, argument := range arguments[2:4] {
			kept, ok := argument.(string)
			require.True(t, ok)
			require.True(t, utf8.ValidString(kept))
			require.NotContains(t, kept, "\x00")
			require.LessOrEqual(t, len(kept), 255)
			require.Equal(t, claim == "", kept == "")
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	tenant := uuid.New()
	arguments, err := audit.Event{TenantID: tenant, Before: map[string]int{"workers": 3}}.Arguments()
	require.NoError(t, err)
	require.Len(t, arguments, strings.Count(audit.Insert, "$"))
	require.Equal(t, uuid.NullUUID{UUID: tenant, Valid: true}, arguments[1])
	require.Equal(t, new(`{"workers":3}`), arguments[6])
	require.Nil(t, arguments[7])

	later, err := audit.Event{}.Arguments()
	require.NoError(t, err)
	require.Equal(t, uuid.NullUUID{}, later[1], "no single tenant")
	require.Less(t, fmt.Sprint(arguments[0]), fmt.Sprint(later[0]), "ids rise")

	_, err = audit.Event{After: make(chan int)}.Arguments()
	require.Error(t, err)
}
