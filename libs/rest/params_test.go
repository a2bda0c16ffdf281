package rest_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func TestUUID(t *testing.T) {
	for _, s := range []string{id, strings.ToUpper(id), uuid.NewString(), uuid.Max.String()} {
		got, err := rest.UUID("id", s)
		require.NoError(t, err, s)
		require.Equal(t, strings.ToLower(s), got.String())
	}
	for _, s := range []string{
		"", "x", id[:35], id + "0", " " + id, "{" + id + "}", "urn:uuid:" + id, strings.ReplaceAll(id, "-", ""),
		strings.ReplaceAll(id, "-", "_"), strings.Repeat("g", 36), uuid.Nil.String(), "(" + id[1:],
	} {
		_, err := rest.UUID("tenant_id", s)
		p, ok := problem.As(err)
		require.True(t, ok, s)
		require.Equal(t, 400, p.Status)
		require.Equal(t, "invalid_uuid", p.Code)
		require.Equal(t, "tenant_id", p.Errors[0].Field)
	}
}

func TestLimit(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			n, err := rest.Limit(c)
			if err != nil {
				return err
			}
			return c.SendString(fmt.Sprint(n))
		})
	})
	for query, want := range map[string]string{"": "100", "?x=1": "100", "?limit=": "100", "?limit": "100", "?limit=1": "1", "?limit=1000": "1000", "?limit=007": "7"} {
		resp := a.get(t, "/"+query)
		require.Equal(t, 200, resp.StatusCode, query)
		require.Equal(t, want, resp.body, query)
	}
	for _, value := range []string{"0", "-1", "1001", "x", "1.5", "1e2", "99999999999999999999", " 5", "0x10"} {
		p := a.get(t, "/?limit="+url.QueryEscape(value)).problem(t, 400, "invalid_limit")
		require.Equal(t, []problem.FieldError{{Field: "limit", Detail: "must be a number from 1 to 1000"}}, p.Errors, value)
	}
}

func TestUnknownQuery(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error { return rest.UnknownQuery(c, "limit", "cursor") })
	})
	for _, query := range []string{"", "?", "?limit=1", "?limit=1&cursor=2", "?cursor="} {
		require.Equal(t, 200, a.get(t, "/"+query).StatusCode, query)
	}
	for _, query := range []string{"?limit=&limit=1", "?limit=1&limit=", "?limit=&limit="} {
		a.get(t, "/"+query).problem(t, 400, "repeated_parameter")
	}
	a.get(t, "/?unknown=").problem(t, 400, "unknown_parameter")

	p := a.get(t, "/?limit=1&cusror=2&Limit=1&cusror=3").problem(t, 400, "unknown_parameter")
	require.Equal(t, []string{"Limit", "cusror"}, []string{p.Errors[0].Field, p.Errors[1].Field})
	require.Len(t, p.Errors, 2)

	p = a.get(t, "/?limit=1&limit=2&limit=3").problem(t, 400, "repeated_parameter")
	require.Equal(t, []problem.FieldError{{Field: "limit", Detail: "must be given once"}}, p.Errors)

	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, "&p%d=1", i)
	}
	require.Len(t, a.get(t, "/?x"+many.String()).problem(t, 400, "unknown_parameter").Errors, 20)
}

// Forms and many client libraries send an empty parameter for one that was not given.
func TestEmptyParametersAreAbsent(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			if err := rest.UnknownQuery(c, "a", "b", "c"); err != nil {
				return err
			}
			return c.SendString(c.Context().QueryArgs().String())
		})
	})
	for query, want := range map[string]string{"?a=&b=1&c": "b=1", "?a&b&c=": "", "?a=%20&b=": "a=+"} {
		require.Equal(t, want, a.get(t, "/"+query).body, query)
	}
}

func TestPreferWait(t *testing.T) {
	a := start(t, rest.Config{RequestTimeout: time.Hour}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			d, ok, err := rest.PreferWait(c)
			if err != nil {
				return err
			}
			return c.SendString(fmt.Sprint(d, " ", ok))
		})
	})
	tests := map[string]struct {
		headers []string
		want    string
	}{
		"none":                          {nil, "0s false"},
		"seconds":                       {[]string{"wait=10"}, "10s true"},
		"zero":                          {[]string{"wait=0"}, "0s true"},
		"capped":                        {[]string{"wait=31"}, "30s true"},
		"capped, very large":            {[]string{"wait=2147483647"}, "30s true"},
		"too large to be a number":      {[]string{"wait=99999999999999999999"}, "0s false"},
		"in a list":                     {[]string{"respond-async, wait=5"}, "5s true"},
		"in a second header":            {[]string{"respond-async", "wait=5"}, "5s true"},
		"the first counts":              {[]string{"wait=5, wait=6", "wait=7"}, "5s true"},
		"quoted":                        {[]string{`wait="5"`}, "5s true"},
		"in capitals":                   {[]string{"WAIT=5"}, "5s true"},
		"white space":                   {[]string{" wait = 5 ; x=y"}, "5s true"},
		"parameters":                    {[]string{"wait=5;foo"}, "5s true"},
		"without a value":               {[]string{"wait"}, "0s false"},
		"negative":                      {[]string{"wait=-5"}, "0s false"},
		"fraction":                      {[]string{"wait=1.5"}, "0s false"},
		"word":                          {[]string{"wait=long"}, "0s false"},
		"other preference":              {[]string{"waiting=5"}, "0s false"},
		"malformed list":                {[]string{",,;=,"}, "0s false"},
		"lenient":                       {[]string{"handling=lenient, wait=x"}, "0s false"},
		"comma in quotes":               {[]string{`x="a, wait=5"`}, "0s false"},
		"behind a comma in quotes":      {[]string{`x="a, \", wait=5", wait=6`}, "6s true"},
		"quotes that do not end":        {[]string{`x="a, wait=5`}, "0s false"},
		"semicolon in quotes":           {[]string{`x="a;b", wait=5`}, "5s true"},
		"strict, nothing to be wrong":   {[]string{"handling=strict, wait=5"}, "5s true"},
		"strict, without the waiting":   {[]string{"handling=strict"}, "0s false"},
		"the first one can't be parsed": {[]string{"wait=x, wait=5"}, "0s false"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var header []string
			for _, h := range tt.headers {
				header = append(header, "Prefer", h)
			}
			resp := a.get(t, "/", header...)
			require.Equal(t, 200, resp.StatusCode)
			require.Equal(t, tt.want, resp.body)
		})
	}
	p := a.get(t, "/", "Prefer", "handling=strict, wait=soon").problem(t, 400, "invalid_preference")
	require.Equal(t, "Prefer", p.Errors[0].Field)
}

// A wait beyond the deadline would end in a 503 in place of the answer.
func TestPreferWaitLeavesTimeForTheAnswer(t *testing.T) {
	a := start(t, rest.Config{RequestTimeout: 3 * time.Second}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			d, ok, err := rest.PreferWait(c)
			require.NoError(t, err)
			require.True(t, ok)
			require.LessOrEqual(t, d, 2*time.Second)
			require.Positive(t, d)
			return nil
		})
	})
	require.Equal(t, 200, a.get(t, "/", "Prefer", "wait=30").StatusCode)
}
