package rest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"github.com/srireskianita/multi-tenant-messaging/libs/problem"
)

const (
	// codings are the content codings of a request body, as the header Accept-Encoding of a refusal names them (RFC 9110
	// section 12.5.3).
	codings = "gzip, zstd"
	// zstdWindow is the largest window of a zstd frame: RFC 9659 section 3 lets no content coding have more than 8 MB.
	zstdWindow = 8 << 20
	// unpackedBytes is how many bytes of decompressed bodies a server holds at a time, unless four of the largest are more:
	// some kilobytes on the wire can become a body of any length.
	unpackedBytes = 64 << 20
)

// Body is the body of a request without its content coding: gzip (of any number of members) and zstd are decompressed, each
// up to limit bytes and a window of 8 MiB. It belongs to the request and is not to be kept or changed.
//
// The errors are problems: 413 body_too_large when it is longer than limit bytes, whichever way it came; 400
// malformed_encoding when it is not what its Content-Encoding says, is cut off, or has something behind it. Decompressed
// bodies share a budget; a request that gets no part of it in time fails with the error of its context.
//
// A route asks for it once it knows that the client may send one, since an unpacked body is larger than what was sent.
func Body(c *fiber.Ctx, limit int) ([]byte, error) {
	body := c.Request().Body()
	coding, err := contentCoding(c)
	if err != nil {
		return nil, err
	}
	if coding != "" && len(body) > 0 {
		u, ok := c.Locals(unpackerKey).(*unpacker)
		if !ok {
			return nil, errors.New("the request did not come through a Server")
		}
		if body, err = u.unpack(c, coding, body, limit); err != nil {
			return nil, err
		}
		c.Request().Header.Del(fiber.HeaderContentEncoding)
		c.Request().SetBodyRaw(body)
	}
	if len(body) > limit {
		return nil, bodyTooLarge(limit)
	}
	return body, nil
}

// NoBody is a handler in front of those that look at no body: one that says anything is 400 unexpected_body, since what it
// asks for would be ignored. No body, white space and {}, which many clients send for "nothing", pass.
func NoBody(c *fiber.Ctx) error {
	const enough = 1 << 10
	body, err := Body(c, enough)
	p, _ := problem.As(err)
	switch {
	case err != nil && (p == nil || p.Code != codeBodyTooLarge):
		return err
	case err != nil, !EmptyBody(body):
		return problem.New(http.StatusBadRequest, "unexpected_body", "this request has no body; what it is about is in its path and query")
	}
	return c.Next()
}

// EmptyBody tells whether a body says nothing: there is none, it is white space, or an object without members.
func EmptyBody(body []byte) bool {
	const space = " \t\r\n"
	body = bytes.Trim(body, space)
	if len(body) >= 2 && body[0] == '{' && body[len(body)-1] == '}' {
		body = bytes.Trim(body[1:len(body)-1], space)
	}
	return len(body) == 0
}

const codeBodyTooLarge = "body_too_large"

func bodyTooLarge(limit int) *problem.Problem {
	return problem.New(http.StatusRequestEntityTooLarge, codeBodyTooLarge, fmt.Sprintf("the request body is larger than %d bytes", limit))
}

// contentCoding is the coding of the body, "" for none. More than one, and any other than those known here, are 415
// unsupported_encoding, as RFC 9110 section 15.5.16 has it.
func contentCoding(c *fiber.Ctx) (string, error) {
	coding := ""
	for _, line := range c.Request().Header.PeekAll(fiber.HeaderContentEncoding) {
		for item := range strings.SplitSeq(string(line), ",") {
			item = strings.ToLower(strings.Trim(item, " \t"))
			switch item {
			case "", "identity":
				continue
			case "x-gzip": // RFC 9110 section 8.4.1.3
				item = "gzip"
			}
			if coding != "" || item != "gzip" && item != "zstd" {
				c.Set(fiber.HeaderAcceptEncoding, codings)
				return "", problem.New(http.StatusUnsupportedMediaType, "unsupported_encoding", "a request body may be compressed once, with gzip or zstd").
					WithField(fiber.HeaderContentEncoding, "must be one of gzip, zstd, identity, or absent")
			}
			coding = item
		}
	}
	return coding, nil
}

// unpacker decompresses the bodies of one server.
type unpacker struct {
	budget *semaphore.Weighted // of bytes that are being decompressed, or belong to requests that have not ended
	total  int64
	gzip   sync.Pool // of *gzip.Reader
	zstd   sync.Map  // *zstd.Decoder by the memory that it may use, of which there are as many as routes have limits
}

func newUnpacker(bodyLimit int) *unpacker {
	total := max(unpackedBytes, 4*int64(bodyLimit))
	return &unpacker{budget: semaphore.NewWeighted(total), total: total}
}

// unpack decompresses a body that the request then holds. While it does, it has reserved what the body may become at most.
func (u *unpacker) unpack(c *fiber.Ctx, coding string, body []byte, limit int) ([]byte, error) {
	reserved := int64(limit)
	if coding == "zstd" {
		reserved = int64(zstdMemory(limit))
	}
	reserved = min(reserved, u.total)
	if err := u.budget.Acquire(c.UserContext(), reserved); err != nil {
		return nil, fmt.Errorf("wait for the memory of a decompressed body: %w", err)
	}
	held := int64(0)
	defer func() { u.budget.Release(reserved - held) }()
	var unpacked []byte
	var err error
	if coding == "zstd" {
		unpacked, err = u.unzstd(body, limit)
	} else {
		unpacked, err = u.gunzip(body, limit)
	}
	if err != nil {
		return nil, err
	}
	held = min(int64(len(unpacked)), reserved)
	c.Locals(heldKey, held)
	return unpacked, nil
}

// release gives back what unpack has left with a request.
func (u *unpacker) release(c *fiber.Ctx) {
	if held, ok := c.Locals(heldKey).(int64); ok {
		u.budget.Release(held)
	}
}

func (u *unpacker) gunzip(body []byte, limit int) ([]byte, error) {
	reader, ok := u.gzip.Get().(*gzip.Reader)
	if !ok {
		reader = new(gzip.Reader)
	}
	defer u.gzip.Put(reader)
	if err := reader.Reset(bytes.NewReader(body)); err != nil {
		return nil, malformedEncoding("gzip", err)
	}
	unpacked := bytes.NewBuffer(make([]byte, 0, gzipSize(body, limit)+bytes.MinRead))
	if _, err := unpacked.ReadFrom(io.LimitReader(reader, int64(limit)+1)); err != nil {
		return nil, malformedEncoding("gzip", err)
	}
	if unpacked.Len() > limit {
		return nil, bodyTooLarge(limit)
	}
	return unpacked.Bytes(), nil
}

// gzipSize is how long a body becomes, as far as that can be told and believed: the last four bytes are the length of the
// last member (RFC 1952 section 2.3.1), and deflate makes no more than 1,032 bytes of one.
func gzipSize(body []byte, limit int) int {
	if len(body) < 4 {
		return 0
	}
	size := int64(binary.LittleEndian.Uint32(body[len(body)-4:]))
	return int(min(size, int64(limit), 1032*int64(len(body))))
}

// zstdMemory is how much a decoder may use for a body of up to limit bytes: the library lets no window be larger.
func zstdMemory(limit int) int { return max(limit, zstdWindow) }

func (u *unpacker) unzstd(body []byte, limit int) ([]byte, error) {
	memory := zstdMemory(limit)
	known, ok := u.zstd.Load(memory)
	if !ok {
		// It has no goroutines and need not be closed: of two that are made at a time one is forgotten.
		made, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(memory)), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, fmt.Errorf("make a zstd decoder: %w", err)
		}
		known, _ = u.zstd.LoadOrStore(memory, made)
	}
	decoder, ok := known.(*zstd.Decoder)
	if !ok {
		return nil, fmt.Errorf("a %T for a zstd decoder", known)
	}
	unpacked, err := decoder.DecodeAll(body, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), err == nil && len(unpacked) > limit:
		return nil, bodyTooLarge(limit)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, malformedEncoding("zstd", fmt.Errorf("its window is larger than %d bytes (RFC 9659)", zstdWindow))
	case err != nil:
		return nil, malformedEncoding("zstd", err)
	}
	return unpacked, nil
}

func malformedEncoding(coding string, err error) error {
	return problem.New(http.StatusBadRequest, "malformed_encoding", fmt.Sprintf("the body is not valid %s: %s", coding, short(err.Error()))).
		WithField(fiber.HeaderContentEncoding, "must say how the body is compressed")
}
