package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// retryTimeout is the Retry-After of a request that ran into its deadline: what was slow may be over.
const retryTimeout = 2 * time.Second

// renderError is the one place where errors become answers.
func (s *Server) renderError(c *fiber.Ctx, err error) error {
	p := s.toProblem(err)
	// 507 is a limit of whoever asks, and no fault of the service.
	if p.Status >= http.StatusInternalServerError && p.Status != http.StatusInsufficientStorage && !errors.Is(err, errPanic) {
		s.log.Error("request has failed", zap.String("request_id", RequestID(c)), zap.Int("status", p.Status), zap.Error(err))
	}
	return write(c, p)
}

func write(c *fiber.Ctx, p *problem.Problem) error {
	path, _, _ := strings.Cut(c.OriginalURL(), "?")
	body, err := json.Marshal(p.Located(path, RequestID(c)))
	if err != nil {
		return fmt.Errorf("encode problem: %w", err)
	}
	if p.RetryAfter > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	c.Set(fiber.HeaderContentType, problem.ContentType)
	return c.Status(p.Status).Send(body)
}

// toProblem decides what a client is told.
func (s *Server) toProblem(err error) *problem.Problem {
	if p, ok := problem.As(err); ok {
		return p
	}
	var f *fiber.Error
	switch {
	case errors.As(err, &f) && f.Code < http.StatusInternalServerError:
		return routing(f.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return problem.New(http.StatusServiceUnavailable, "timeout", "the request could not be served in time").
			WithRetryAfter(retryTimeout)
	case errors.Is(err, context.Canceled):
		return problem.New(http.StatusServiceUnavailable, "unavailable", "the service is stopping").
			WithRetryAfter(retryTimeout)
	default:
		return problem.New(http.StatusInternalServerError, "internal", "an internal error; the request id leads to its cause in the log")
	}
}

// routing words the errors that Fiber itself returns.
func routing(status int) *problem.Problem {
	switch status {
	case http.StatusNotFound:
		return problem.New(status, "route_not_found", "there is nothing at this path")
	case http.StatusMethodNotAllowed:
		return problem.New(status, "method_not_allowed", "this path does not have this method; the header Allow lists those that it has")
	default:
		code := strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_")
		return problem.New(status, code, "")
	}
}

// noRoute tells whether no route took the request.
func noRoute(err error) bool {
	var f *fiber.Error
	return errors.As(err, &f) && (f.Code == http.StatusNotFound || f.Code == http.StatusMethodNotAllowed)
}

// protocolError answers a request that fasthttp could not read. The connection is closed after it. The
// text of err is not used: it quotes the header, and with it the token.
func (s *Server) protocolError(ctx *fasthttp.RequestCtx, err error) {
	refuseConnection(ctx)
	c := s.app.AcquireCtx(ctx)
	defer s.app.ReleaseCtx(c)
	setRequestID(c)
	if err := write(c, s.unreadable(ctx, err)); err != nil {
		s.log.Error("answer a request that could not be read", zap.Error(err))
	}
	s.done(c, unmatched, 0)
}

// refuseConnection lets the client read the answer although it may be sending still.
func refuseConnection(ctx *fasthttp.RequestCtx) {
	if own, ok := ctx.Conn().(*conn); ok {
		own.refused.Store(true)
	}
}

// endConnection has the answer be the last one of its connection, and the client read it whatever it sends still.
func endConnection(c *fiber.Ctx) {
	refuseConnection(c.Context())
	c.Response().SetConnectionClose()
}

func (s *Server) unreadable(ctx *fasthttp.RequestCtx, err error) *problem.Problem {
	var network net.Error
	switch {
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return bodyTooLarge(s.cfg.BodyLimit)
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		return problem.New(http.StatusRequestHeaderFieldsTooLarge, "header_too_large",
			fmt.Sprintf("the request line and the header are larger than %d bytes", headerLimit))
	case errors.As(err, &network) && network.Timeout():
		return problem.New(http.StatusRequestTimeout, "request_timeout", "the request did not arrive in time")
	case errors.Is(err, fasthttp.ErrUnsupportedTransferEncoding) && ctx.Request.Header.IsHTTP11():
		return unknownCoding()
	default:
		return problem.New(http.StatusBadRequest, "malformed_request", "the request is not valid HTTP/1.1")
	}
}
