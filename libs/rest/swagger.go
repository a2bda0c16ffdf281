package rest

import (
	"regexp"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/swagger"
)

// externalLink is what gofiber/swagger's page takes from other servers: a style sheet with fonts.
var externalLink = regexp.MustCompile(`(?i)<link[^>]+href="(?:https?:)?//[^>]*>`)

// contentPolicy makes browsers refuse what the page would load from elsewhere. The page's own script and
// styles are inline, its icons are data URLs.
const contentPolicy = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; frame-ancestors 'none'"

// Swagger serves the OpenAPI document doc at /swagger/doc.json and the Swagger UI at /swagger/index.html.
//
// It works without the internet: the assets are in the binary, the link to Google Fonts is taken out, and
// the validator badge, which would send the document to swagger.io, is off. X-Forwarded-Prefix is
// ignored: gofiber/swagger v1 takes it from the first request and keeps it for everyone (#105).
func (s *Server) Swagger(doc []byte) {
	ui := swagger.New(swagger.Config{
		Title:        s.app.Config().AppName,
		URL:          "doc.json",
		ValidatorUrl: "none",
		DeepLinking:  true,
	})
	// In front of the UI, which would look the document up in a registry of the whole process.
	s.app.Get("/swagger/doc.json", func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
		return c.Send(doc)
	})
	s.app.Get("/swagger", func(c *fiber.Ctx) error {
		return c.Redirect("/swagger/index.html", fiber.StatusMovedPermanently)
	})
	s.app.Get("/swagger/*", func(c *fiber.Ctx) error {
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
