package rest

import (
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// UUID parses the canonical form of RFC 9562, 36 characters with hyphens, in either case. Other spellings
// that libraries take (braces, "urn:uuid:", no hyphens) are refused, so that an id has one form in URLs and
// logs; so is the nil UUID, which stands for "none". The problem is 400 invalid_uuid and names the field.
func UUID(field, s string) (uuid.UUID, error) {
	id, err := uuid.Parse(s)
	if err != nil || len(s) != len(uuid.Nil.String()) || id == uuid.Nil {
		return uuid.Nil, problem.New(http.StatusBadRequest, "invalid_uuid", field+" is not a UUID").
			WithField(field, "must be a UUID such as 0197a3c2-8f0e-7cc1-9d39-5d2a3f0f7a11")
	}
	return id, nil
}

// How many items a page has, in every list.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Limit reads the query parameter limit, a number from 1 to [MaxLimit]; it is [DefaultLimit] if absent or empty. Any other
// value is 400 invalid_limit.
func Limit(c *fiber.Ctx) (int, error) {
	text := c.Query("limit")
	if text == "" {
		return DefaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > MaxLimit {
		return 0, problem.New(http.StatusBadRequest, "invalid_limit", "limit is out of range").
			WithField("limit", fmt.Sprintf("must be a number from 1 to %d", MaxLimit))
	}
	return n, nil
}

// UnknownQuery refuses query parameters that are not in allowed, since a misspelt filter would otherwise
// give more than was asked for, and parameters that come twice, of which one would be ignored.
//
// A parameter with an empty value is as if it were absent, since that is what forms and many client libraries send for "none":
// UnknownQuery takes it out of the query, so that nothing behind it can tell the difference. Where none of something means all
// of it, a handler has to ask for the word "all".
func UnknownQuery(c *fiber.Ctx, allowed ...string) error {
	if c.Context().QueryArgs().Len() == 0 {
		return nil
	}
	seen := map[string]bool{}
	var unknown, repeated, empty []string
	for key, value := range c.Context().QueryArgs().All() {
		name := string(key)
		if len(value) == 0 {
			empty = append(empty, name)
		}
		switch {
		case !slices.Contains(allowed, name):
			unknown = append(unknown, name)
		case seen[name]:
			repeated = append(repeated, name)
		}
		seen[name] = true
	}
	switch {
	case len(unknown) > 0:
		p := problem.New(http.StatusBadRequest, "unknown_parameter", "the query has a parameter that is not known here")
		return withFields(p, unknown, "is not a parameter of this request")
	case len(repeated) > 0:
		p := problem.New(http.StatusBadRequest, "repeated_parameter", "the query has a parameter more than once")
		return withFields(p, repeated, "must be given once")
	}
	for _, name := range empty {
		c.Context().QueryArgs().Del(name)
	}
	return nil
}

const (
	// maxFields bounds the answer to a request with thousands of mistakes.
	maxFields = 20
	// maxEcho is how many bytes of a name or value that a client made up are repeated to it.
	maxEcho = 100
)

func withFields(p *problem.Problem, names []string, detail string) *problem.Problem {
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names[:min(maxFields, len(names))] {
		p = p.WithField(short(name), detail)
	}
	return p
}

// short cuts what a client sent to a length that can be repeated in an answer.
func short(s string) string {
	if len(s) <= maxEcho {
		return s
	}
	return strings.ToValidUTF8(s[:maxEcho], "") + "…"
}

const (
	// maxWait bounds how long a client may make a request wait.
	maxWait = 30 * time.Second
	// waitMargin is left of the request's deadline for rendering the answer.
	waitMargin = time.Second
)

// PreferWait reads "Prefer: wait=n" (RFC 7240 section 4.3): how long, in seconds, the client would wait for
// the result. It is capped at 30 s, and a second before the request's deadline, so that the answer comes in
// time. The second result tells whether there was such a preference. As the RFC says in section 2, the
// first of several counts, and one that can't be understood is ignored, unless the client has asked for
// errors with "handling=strict" (section 4.4).
func PreferWait(c *fiber.Ctx) (time.Duration, bool, error) {
	wait, found := preference(c, "wait")
	if !found {
		return 0, false, nil
	}
	seconds, err := strconv.ParseUint(wait, 10, 31)
	if err != nil {
		if handling, ok := preference(c, "handling"); ok && strings.EqualFold(handling, "strict") {
			return 0, false, problem.New(http.StatusBadRequest, "invalid_preference", "the preference wait is not valid").
				WithField("Prefer", "wait must be a number of seconds")
		}
		return 0, false, nil
	}
	d := min(time.Duration(seconds)*time.Second, maxWait)
	if deadline, ok := c.UserContext().Deadline(); ok {
		d = max(0, min(d, time.Until(deadline)-waitMargin))
	}
	return d, true, nil
}

// preference finds a preference in the Prefer headers, of which there may be several (section 2), and
// returns its value without quotes. Parameters after a semicolon belong to the preference and are ignored.
func preference(c *fiber.Ctx, name string) (string, bool) {
	for _, header := range c.Request().Header.PeekAll("Prefer") {
		for item := range elements(string(header)) {
			item, _, _ = strings.Cut(item, ";")
			key, value, _ := strings.Cut(item, "=")
			if strings.EqualFold(strings.TrimSpace(key), name) {
				return strings.Trim(strings.TrimSpace(value), `"`), true
			}
		}
	}
	return "", false
}

// elements splits a header that is a list at its commas. One in a quoted string (RFC 9110 section 5.6.4) belongs to a
// value: in x="a, wait=5" nobody asks for a wait.
func elements(header string) iter.Seq[string] {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(header); i++ {
			switch {
			case quoted && header[i] == '\\':
				i++ // whatever is escaped, it does not end the string
			case header[i] == '"':
				quoted = !quoted
			case header[i] == ',' && !quoted:
				if !yield(header[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(header[start:])
	}
}
