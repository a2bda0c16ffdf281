package rest_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// The grammar of a preference, RFC 7240 section 2, as an expression: what PreferWait is held against.
const (
	token      = "[!#$%&'*+.^_`|~0-9A-Za-z-]+"
	word       = `(?:` + token + `|"(?:[^"\\]|\\.)*")`
	space      = `[ \t]*`
	parameter  = token + `(?:` + space + `=` + space + word + `)?`
	preference = `^` + space + `(` + token + `)(?:` + space + `=` + space + `(` + word + `))?(?:` + space + `;` + space + `(?:` + parameter + `)?)*` + space + `(?:,|$)`
)

// FuzzPreferWait: no header makes a request fail unless its client has asked for that, or wait for longer than it may; and
// one that follows the grammar means what the grammar says.
func FuzzPreferWait(f *testing.F) {
	for _, header := range []string{"", "wait=10", `respond-async, wait="5"; x="a,b", handling=strict`, "handling=strict, wait=x", ",,;=,"} {
		f.Add(header)
	}
	app := fiber.New()
	item, digits := regexp.MustCompile(preference), regexp.MustCompile(`^[0-9]+$`)
	f.Fuzz(func(t *testing.T, header string) {
		request := &fasthttp.RequestCtx{}
		request.Request.Header.Set("Prefer", header)
		c := app.AcquireCtx(request)
		defer app.ReleaseCtx(c)
		header = string(request.Request.Header.Peek("Prefer")) // without what no header can have

		wait, found, err := rest.PreferWait(c)
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, 30*time.Second)
		if err != nil {
			p, ok := problem.As(err)
			require.True(t, ok)
			require.Equal(t, http.StatusBadRequest, p.Status)
			require.Contains(t, strings.ToLower(header), "strict")
			require.False(t, found)
		}
		if !found {
			require.Zero(t, wait)
		}
		if len(header) > 1<<10 {
			return // the expression would take too long
		}
		wanted, wellFormed := "", true
		for rest, seen := header, false; rest != "" && wellFormed; {
			parts := item.FindStringSubmatch(rest)
			if wellFormed = parts != nil; !wellFormed {
				break
			}
			if !seen && strings.EqualFold(parts[1], "wait") {
				wanted, seen = strings.Trim(parts[2], `"`), true
			}
			rest = rest[len(parts[0]):]
		}
		if wellFormed && err == nil {
			seconds, parsed := time.ParseDuration(wanted + "s")
			if digits.MatchString(wanted) && parsed == nil && seconds < 1<<31*time.Second {
				require.True(t, found, "%q", header)
				require.Equal(t, min(seconds, 30*time.Second), wait, "%q", header)
			} else {
				require.False(t, found, "%q", header)
			}
		}
	})
}
