package rest_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/gofiber/fiber/v2"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// A proxy in front of a service lets pass what it takes for a body. If the service took it for a request, it would carry out
// what the proxy has never seen.
func TestNoRequestIsHiddenInAnother(t *testing.T) {
	var carriedOut atomic.Int64
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Post("/things", func(c *fiber.Ctx) error {
			_, err := rest.Body(c, 1<<20)
			return err
		})
		app.Delete("/things", func(*fiber.Ctx) error { carriedOut.Add(1); return nil })
	})
	raw.Framing(t, raw.Target{
		Addr: a.addr, Method: http.MethodPost, Path: "/things", Header: "Authorization: Bearer hunter2\r\n", Body: "{}",
		Hidden: "DELETE /things HTTP/1.1\r\nHost: x\r\n\r\n",
	})
	require.Zero(t, carriedOut.Load(), "a hidden request was carried out")
	for _, e := range a.logs.All() {
		require.NotContains(t, fmt.Sprint(e.ContextMap()), "hunter2", "a token in a broken header must not be logged")
	}
}

// A client that forgets an id must not be given, or lose, all there is: each path has one spelling, and the others are nothing.
func TestRoutesAreStrict(t *testing.T) {
	a := start(t, rest.Config{}, func(app *fiber.App) {
		app.Get("/things", func(c *fiber.Ctx) error { return c.SendString("all") })
		app.Get("/things/:id", func(c *fiber.Ctx) error { return c.SendString("one " + c.Params("id")) })
		app.Get("/things/:id/state", func(c *fiber.Ctx) error { return c.SendString("state of " + c.Params("id")) })
	})
	raw := func(target string) answer {
		return a.raw(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	for _, target := range []string{
		"/things/", "/things//", "//things", "/./things/", "/x/../things", "/things/..", "/things/../things", "/Things", "/THINGS", "/things/7/", "/things//7",
		"/things/7//state", "/things//state/", "/things/7/State", "/things%2F", "/%2Fthings", "/things%2f7", "/things/7%2Fstate", "/things%20", "/things%00", "/thing%73/",
		"/things;a=b", "/things\\7", "/%2E/things/", "/x/%2e%2e/things", "http://x//things", "http://x/things/",
	} {
		resp := raw(target)
		switch resp.StatusCode {
		case http.StatusNotFound, http.StatusBadRequest:
		default:
			// An id is whatever stands between two slashes; that it is none is found out behind the route.
			require.Regexp(t, `^one (\.\.|7%2[Ff]state|state)$`, resp.body, target)
		}
	}
	for target, want := range map[string]string{
		"/things": "all", "/things?": "all", "/thing%73": "all", "/%74hings": "all", "http://x/things": "all",
		"/things/a-b": "one a-b", "/things/a%2Db": "one a-b", "/things/a%2db": "one a-b", "/things/%7E%5f%2E%41%30": "one ~_.A0",
		"/things/a%2Db%2Fc": "one a-b%2Fc", "/things/%25%32%44": "one %252D", "/things/%": "one %", "/things/%2": "one %2", "/things/%zz": "one %zz",
		"/things/7/stat%65": "state of 7",
	} {
		resp := raw(target)
		require.Equal(t, 200, resp.StatusCode, target)
		require.Equal(t, want, resp.body, target)
	}
}
