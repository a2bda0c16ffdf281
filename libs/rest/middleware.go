package rest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"
)

// localKey is the type of this package's keys in a request's locals.
type localKey int

const (
	requestIDKey localKey = iota
	tenantKey
	methodKey
	unpackerKey
	heldKey
)

// unmatched is the route of requests that no route has taken, in logs and metrics.
const unmatched = "unmatched"

// maxRequestID is generous for a UUID or a W3C trace id with a prefix.
const maxRequestID = 128

// RequestID is the id of a request: the client's X-Request-ID if it is sane, else one that was made here.
func RequestID(c *fiber.Ctx) string {
	id, _ := c.Locals(requestIDKey).(string)
	return id
}

// SetTenant tells the access log which tenant a request acts on.
func SetTenant(c *fiber.Ctx, tenant uuid.UUID) { c.Locals(tenantKey, tenant) }

// handle surrounds every request. It renders errors itself, so that it sees the final status.
func (s *Server) handle(c *fiber.Ctx) error {
	start := time.Now()
	setRequestID(c)
	// The context does not come from the connection: fasthttp does not notice that a client has gone, and a
	// stop lets requests finish.
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.RequestTimeout)
	defer cancel()
	c.SetUserContext(ctx)

	defer s.unpacker.release(c)

	route := unmatched
	err := s.admissible(c)
	if err == nil {
		err = s.next(c)
		if !noRoute(err) {
			route = c.Route().Path
		}
	}
	if err != nil {
		if err := s.renderError(c, err); err != nil {
			return err
		}
	}
	if s.stopping.Load() {
		c.Response().SetConnectionClose()
	}
	s.done(c, route, time.Since(start))
	return nil
}

// admissible refuses requests before any route sees them: those that are not framed well, whose connection ends with the
// answer, and those with a body in a coding that no route knows.
func (s *Server) admissible(c *fiber.Ctx) error {
	if err := checkFraming(c); err != nil {
		endConnection(c)
		return err
	}
	coding, err := contentCoding(c)
	if coding != "" {
		c.Locals(unpackerKey, s.unpacker)
	}
	return err
}

// next calls the route and turns a panic into an error. The stack is in the log, never in the answer.
func (s *Server) next(c *fiber.Ctx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("panic in a handler", zap.String("request_id", RequestID(c)),
				zap.String("panic", fmt.Sprint(r)), zap.Stack("stack"))
			err = errPanic
		}
	}()
	return c.Next()
}

// errPanic stands for a panic that has been logged already.
var errPanic = errors.New("panic in a handler")

// done writes the access log and the metric of a finished request.
func (s *Server) done(c *fiber.Ctx, route string, took time.Duration) {
	method, label := c.Method(), c.Method()
	if original, ok := c.Locals(methodKey).(string); ok {
		method, label = original, "other"
	}
	status := c.Response().StatusCode()
	s.metrics.observe(label, route, status, took)
	fields := []zap.Field{
		zap.String("method", method),
		zap.String("route", route),
		zap.Int("status", status),
		zap.Duration("duration", took),
		zap.String("request_id", RequestID(c)),
	}
	if tenant, ok := c.Locals(tenantKey).(uuid.UUID); ok && tenant != uuid.Nil {
		fields = append(fields, zap.Stringer("tenant_id", tenant))
	}
	s.log.Info("request", fields...)
}

// setRequestID takes the client's id only if it can be printed anywhere and is not used to fill the log.
func setRequestID(c *fiber.Ctx) {
	id := c.Get(fiber.HeaderXRequestID)
	if !sane(id) {
		id = newRequestID()
	}
	c.Locals(requestIDKey, id)
	c.Set(fiber.HeaderXRequestID, id)
}

// newRequestID is a random UUID. Nobody gains from guessing one, so its randomness need not come from the system.
func newRequestID() string {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // see above
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // see above
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80      // version 4, variant 10 (RFC 9562 section 5.4)
	return id.String()
}

func sane(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for _, b := range []byte(id) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', strings.IndexByte("-_.:/+=@", b) >= 0:
		default:
			return false
		}
	}
	return true
}

// knownMethods replaces a method that Fiber does not know by one that no route has. Fiber would answer
// with plain text past every middleware; so it is a 404, or a 405 with the methods that are allowed.
func (s *Server) knownMethods(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	known := s.app.Config().RequestMethods
	return func(ctx *fasthttp.RequestCtx) {
		if method := string(ctx.Method()); !slices.Contains(known, method) {
			ctx.SetUserValue(methodKey, method)
			ctx.Request.Header.SetMethod(fiber.MethodTrace)
		}
		next(ctx)
	}
}
