package rest

import (
	"regexp"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/swagger"
)

// externalLink is what gofiber/swagger's page takes from other servers: a style sheet with fonts.
var externalLink = regexp.MustCompile(`(?i)<link[^>]+href="(?:https?:)?//[^>]*>`)

// contentPolicy makes browsers refuse what the page would load from elsewhere. The page's own script and
// styles are inline, its icons are data URLs.
const contentPolicy = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; frame-ancestors 'none'"

// ownPath has the page send its requests to where it has come from itself: behind a proxy that takes a prefix off
// (/ingest/swagger/index.html), the API is below that prefix, too, which basePath can't know. Documents of other servers, which
// can be looked at in the page, stay as they are.
const ownPath = `function (response) {
  if (response.ok && response.url === new URL("doc.json", location.href).href) {
    const doc = JSON.parse(response.text);
    doc.basePath = new URL("..", location.href).pathname.replace(/\/$/, "") || "/";
    response.text = response.data = JSON.stringify(doc);
  }
  return response;
}`

// Swagger serves the OpenAPI document doc at /swagger/doc.json and the Swagger UI at /swagger/index.html.
//
// It works without the internet: the assets are in the binary, the link to Google Fonts is taken out, and
// the validator badge, which would send the document to swagger.io, is off. X-Forwarded-Prefix is
// ignored: gofiber/swagger v1 takes it from the first request and keeps it for everyone (#105). All references are relative, so
// that a proxy may serve the API under a prefix that it takes off.
func (s *Server) Swagger(doc []byte) {
	ui := swagger.New(swagger.Config{
		Title:        s.app.Config().AppName,
		URL:          "doc.json",
		ValidatorUrl: "none",
		DeepLinking:  true,

		ResponseInterceptor: ownPath,
	})
	// In front of the UI, which would look the document up in a registry of the whole process.
	s.app.Get("/swagger/doc.json", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
		return c.Send(doc)
	})
	s.app.Get("/swagger", toPage)
	s.app.Get("/swagger/*", func(c *fiber.Ctx) error {
		if c.Params("*") == "" {
			return toPage(c)
		}
		c.Request().Header.Del("X-Forwarded-Prefix")
		if err := ui(c); err != nil {
			return err
		}
		c.Set(fiber.HeaderContentSecurityPolicy, contentPolicy)
		c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
		if c.Params("*") == "index.html" {
			c.Response().SetBody(externalLink.ReplaceAll(c.Response().Body(), nil))
		}
		return nil
	})
}

// toPage leads from /swagger and /swagger/ to the page.
func toPage(c *fiber.Ctx) error {
	to := "./swagger/index.html"
	if strings.HasSuffix(c.Path(), "/") {
		to = "../swagger/index.html"
	}
	return c.Redirect(to, fiber.StatusMovedPermanently)
}
