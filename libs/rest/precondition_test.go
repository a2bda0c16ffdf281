package rest_test

import (
	"net/http"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

// A precondition that is misread lets one operator overwrite what another has just changed.
func TestIfMatch(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			condition, err := rest.IfMatch(c)
			if err != nil {
				return err
			}
			if !condition.Holds(`"7"`) {
				return c.SendStatus(http.StatusPreconditionFailed)
			}
			return c.SendStatus(http.StatusNoContent)
		})
	})
	const holds, fails, refused = http.StatusNoContent, http.StatusPreconditionFailed, http.StatusBadRequest
	for name, tc := range map[string]struct {
		lines []string
		want  int
	}{
		"none":                    {nil, holds},
		"it":                      {[]string{`"7"`}, holds},
		"another":                 {[]string{`"8"`}, fails},
		"whatever exists":         {[]string{`*`}, holds},
		"a list":                  {[]string{`"6", "7"`}, holds},
		"a list without it":       {[]string{`"6","70"`}, fails},
		"two lines":               {[]string{`"6"`, `"7"`}, holds},
		"empty elements":          {[]string{`, ,"7",`}, holds},
		"white space":             {[]string{" \t\"7\"\t "}, holds},
		"weak":                    {[]string{`W/"7"`}, fails},
		"weak, and strong":        {[]string{`W/"7", "7"`}, holds},
		"a comma in a tag":        {[]string{`"6,"`, `"7"`}, holds},
		"it inside of a tag":      {[]string{`"a,7"`}, fails},
		"bytes above ASCII":       {[]string{"\"\xe9\""}, fails},
		"the empty tag":           {[]string{`""`}, fails},
		"without quotes":          {[]string{`7`}, refused},
		"a quote":                 {[]string{`"`}, refused},
		"one quote":               {[]string{`"7`}, refused},
		"a backslash is no quote": {[]string{`"\"7"`}, refused},
		"single quotes":           {[]string{`'7'`}, refused},
		"lower case":              {[]string{`w/"7"`}, refused},
		"a space in a tag":        {[]string{`"7 "`}, refused},
		"no comma":                {[]string{`"6""7"`}, refused},
		"everything in a list":    {[]string{`"7", *`}, refused},
		"everything, twice":       {[]string{`*`, `*`}, refused},
		"empty":                   {[]string{``}, refused},
		"commas":                  {[]string{`,,`}, refused},
	} {
		t.Run(name, func(t *testing.T) {
			var header []string
			for _, line := range tc.lines {
				header = append(header, "If-Match", line)
			}
			got := a.get(t, "/", header...)
			if tc.want == refused {
				require.Equal(t, "If-Match", got.problem(t, refused, "invalid_precondition").Errors[0].Field)
			}
			require.Equal(t, tc.want, got.StatusCode)
		})
	}
}
