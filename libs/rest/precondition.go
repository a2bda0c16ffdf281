package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// Precondition is the header If-Match of a request (RFC 9110 section 13.1.1): it is to be carried out only if what it changes is what the
// client has seen.
type Precondition struct {
	given bool
	tags  []string // with their quotes; none for "*", which is fulfilled by whatever exists
	any   bool
}

// IfMatch reads the header If-Match. One that is neither a list of entity tags nor "*", an empty one included, is 400
// invalid_precondition: to ignore it would overwrite what it was to protect.
func IfMatch(c *fiber.Ctx) (Precondition, error) {
	lines := c.Request().Header.PeekAll(fiber.HeaderIfMatch)
	if len(lines) == 0 {
		return Precondition{}, nil
	}
	texts := make([]string, len(lines))
	for i, line := range lines {
		texts[i] = string(line)
	}
	list := strings.Trim(strings.Join(texts, ","), " \t")
	if list == "*" {
		return Precondition{given: true, any: true}, nil
	}
	tags, ok := entityTags(list)
	if !ok {
		return Precondition{}, problem.New(http.StatusBadRequest, "invalid_precondition", "the precondition is not valid").
			WithField(fiber.HeaderIfMatch, `must be entity tags in quotes, such as "7", or *`)
	}
	return Precondition{given: true, tags: tags}, nil
}

// Holds reports whether a request may change what exists and has this entity tag, given with its quotes. Without a precondition it
// may. The comparison is the strong one: a weak tag never holds.
func (p Precondition) Holds(tag string) bool {
	return !p.given || p.any || slices.Contains(p.tags, tag)
}

// entityTags reads a list of entity tags (RFC 9110 section 8.8.3), of which there is at least one. Commas may be in them, and, since
// recipients have to take empty elements (section 5.6.1.2), also stand alone.
func entityTags(list string) (tags []string, ok bool) {
	rest := strings.TrimLeft(list, " \t,")
	for rest != "" {
		tag := rest
		rest = strings.TrimPrefix(rest, "W/")
		if !strings.HasPrefix(rest, `"`) {
			return nil, false
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 || strings.ContainsFunc(rest[1:1+end], func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return nil, false
		}
		rest = rest[end+2:]
		tags = append(tags, tag[:len(tag)-len(rest)])
		behind := strings.TrimLeft(rest, " \t")
		if behind != "" && behind[0] != ',' {
			return nil, false
		}
		rest = strings.TrimLeft(behind, " \t,")
	}
	return tags, len(tags) > 0
}
