package rest

import (
	"bytes"
	"net/http"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

// checkFraming refuses requests of which two HTTP implementations may think differently where they end, or for whom they are:
// behind a proxy that thinks differently, what one of them takes for a body is a request to the other ("request smuggling").
// fasthttp refuses most of them before they get here; these are left, and RFC 9112 allows or demands to refuse each:
//
//   - a version other than 1.0 and 1.1 (section 2.5),
//   - a line of the header that ends without a carriage return (section 2.2) or continues in the next one (section 5.2),
//   - white space in the name of a field (section 5.1),
//   - Transfer-Encoding beside Content-Length, in HTTP/1.0, or other than "chunked" (sections 6.1 and 6.3); fasthttp accepts
//     "identity", which RFC 7230 removed, and takes what follows for the next request,
//   - two Content-Type (RFC 9110 section 5.3), of which fasthttp keeps the last one,
//   - a Host that is no host (section 3.2), and a target with a fragment or with an empty first segment, which fasthttp takes
//     for a host where the header has none.
//
// The body has been read by then, within the limits, and nothing of it was looked at. The connection has to be closed.
//
// It ends with the answer to a chunked body, too. fasthttp repairs the lines behind the last chunk as it does those of a header
// (section 7.1.2: a line feed alone, a continued line, white space before a colon), and what they were cannot be seen any more.
// So it may take for the next request what is a part of the trailer to a proxy; none is carried out on that connection.
func checkFraming(c *fiber.Ctx) error {
	header := &c.Request().Header
	if protocol := header.Protocol(); !bytes.Equal(protocol, []byte("HTTP/1.1")) && !bytes.Equal(protocol, []byte("HTTP/1.0")) {
		return problem.New(http.StatusHTTPVersionNotSupported, "version_not_supported", "the version must be HTTP/1.1 or HTTP/1.0")
	}
	target := header.RequestURI()
	switch {
	case bytes.IndexByte(target, '#') >= 0:
		return malformedRequest("the request target is not valid")
	case bytes.HasPrefix(target, []byte("//")):
		return fiber.ErrNotFound
	}
	var length, coded, typed bool
	for line := range bytes.Lines(header.RawHeaders()) {
		name, value, why := headerLine(line)
		if why != "" {
			return malformedRequest(why)
		}
		switch {
		case bytes.EqualFold(name, []byte(fiber.HeaderContentLength)):
			length = true
		case bytes.EqualFold(name, []byte(fiber.HeaderTransferEncoding)):
			if coded = true; !bytes.EqualFold(value, []byte("chunked")) {
				return unknownCoding()
			}
		case bytes.EqualFold(name, []byte(fiber.HeaderContentType)):
			if typed {
				return problem.New(http.StatusBadRequest, "repeated_header", "a request has one header Content-Type at most").
					WithField(fiber.HeaderContentType, "must be given once")
			}
			typed = true
		case bytes.EqualFold(name, []byte(fiber.HeaderHost)):
			if !validHost(value) {
				return malformedRequest("the header Host is not valid")
			}
		}
	}
	if coded && (length || !header.IsHTTP11()) {
		return malformedRequest("Transfer-Encoding is not allowed beside Content-Length, nor in HTTP/1.0")
	}
	if coded {
		endConnection(c)
	}
	return nil
}

// headerLine splits a line of a header and says what is wrong with its form, if anything is. The last line is empty.
func headerLine(line []byte) (name, value []byte, why string) {
	content, crlf := bytes.CutSuffix(line, []byte("\r\n"))
	switch {
	case !crlf:
		return nil, nil, "a line of the header does not end with CR LF"
	case len(content) == 0:
		return nil, nil, ""
	case content[0] == ' ' || content[0] == '\t':
		return nil, nil, "a line of the header is continued in the next one"
	}
	name, value, _ = bytes.Cut(content, []byte(":"))
	if bytes.ContainsAny(name, " \t") {
		return nil, nil, "the name of a header field has white space"
	}
	return name, bytes.Trim(value, " \t"), ""
}

// validHost accepts what can be the host and port of a URI (RFC 9110 section 7.2, RFC 3986 section 3.2.2). User information is
// none of it.
func validHost(host []byte) bool {
	for _, b := range host {
		if !unreserved(b) && bytes.IndexByte([]byte("!$&'()*+,;=%:[]"), b) < 0 {
			return false
		}
	}
	return len(host) > 0
}

// unreserved tells whether a byte means the same in a URI whether it is percent-encoded or not (RFC 3986 section 2.3).
func unreserved(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '.' || b == '_' || b == '~'
}

// plainPath decodes in a path what means the same without its percent-encoding (RFC 3986 section 6.2.2.2): %2D is a hyphen,
// while %2F stays what it is and separates no segments. Without an encoded byte it returns path itself.
func plainPath(path []byte) []byte {
	if bytes.IndexByte(path, '%') < 0 {
		return path
	}
	plain := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			high, ok := hexDigit(path[i+1])
			low, fine := hexDigit(path[i+2])
			if b := high<<4 | low; ok && fine && unreserved(b) {
				plain = append(plain, b)
				i += 2
				continue
			}
		}
		plain = append(plain, path[i])
	}
	return plain
}

func hexDigit(c byte) (value byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// routable lets Fiber see the path in its plain form. Otherwise its routing is by the bytes that were sent: case, slashes and
// dots count, and an empty segment is no parameter.
func routable(next fasthttp.RequestHandler) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		original := ctx.URI().PathOriginal()
		if plain := plainPath(original); len(plain) != len(original) {
			ctx.URI().SetPathBytes(plain)
		}
		next(ctx)
	}
}

func malformedRequest(why string) *problem.Problem {
	return problem.New(http.StatusBadRequest, "malformed_request", "the request is not valid HTTP/1.1: "+why)
}

func unknownCoding() *problem.Problem {
	return problem.New(http.StatusNotImplemented, "unsupported_transfer_coding", "the only transfer coding is chunked, once")
}
