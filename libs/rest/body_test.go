package rest_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
)

func gzipped(t *testing.T, parts ...string) string {
	t.Helper()
	var b bytes.Buffer
	for _, part := range parts {
		w := gzip.NewWriter(&b)
		_, err := io.WriteString(w, part)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	return b.String()
}

func zstandard(t *testing.T, body string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	require.NoError(t, err)
	_, err = io.Copy(w, strings.NewReader(body)) // without its length, so that a frame has a window
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.String()
}

// bodies answers with the body that its handler saw.
func bodies(t *testing.T, cfg rest.Config, limit int) *api {
	t.Helper()
	return start(t, cfg, func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error {
			body, err := rest.Body(c, limit)
			if err != nil {
				return err
			}
			return c.Send(body)
		})
		app.Post("/json", func(c *fiber.Ctx) error {
			var got item
			if err := rest.DecodeJSON(c, &got); err != nil {
				return err
			}
			return c.JSON(got)
		})
		app.Post("/none", rest.NoBody, func(c *fiber.Ctx) error { return c.SendString("ok") })
	})
}

func TestCompressedBodies(t *testing.T) {
	const limit = 10_000
	a := bodies(t, rest.Config{BodyLimit: 1 << 20}, limit)
	text := strings.Repeat(`{"id":"x"}`, limit/10)
	twice := gzipped(t, gzipped(t, text))
	whole, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	single := string(whole.EncodeAll([]byte(text), nil))
	// A frame with its size in front of it and nothing behind: 2^32-1 bytes are promised.
	// A frame with the window of its second last byte, 8 and 16 MiB, and one raw block.
	const wide, wider = "\x28\xb5\x2f\xfd\x00\x68\x09\x00\x00a", "\x28\xb5\x2f\xfd\x00\x70\x09\x00\x00a"
	const promise = "\x28\xb5\x2f\xfd\xa4\xff\xff\xff\xff\x01\x00\x00"
	tests := map[string]struct {
		encoding, body string
		status         int
		code           string
	}{
		"none":                         {"", text, 200, ""},
		"identity":                     {"identity", text, 200, ""},
		"identity in capitals":         {"IDENTITY", text, 200, ""},
		"gzip":                         {"gzip", gzipped(t, text), 200, ""},
		"gzip in capitals":             {"GZIP", gzipped(t, text), 200, ""},
		"x-gzip":                       {"x-gzip", gzipped(t, text), 200, ""},
		"gzip, several members":        {"gzip", gzipped(t, text[:10], text[10:20], "", text[20:]), 200, ""},
		"gzip and identity":            {"gzip, identity", gzipped(t, text), 200, ""},
		"zstd":                         {"zstd", zstandard(t, text), 200, ""},
		"zstd with its size":           {"zstd", single, 200, ""},
		"zstd, several frames":         {"zstd", zstandard(t, text[:10]) + "\x50\x2a\x4d\x18\x02\x00\x00\x00xx" + zstandard(t, text[10:]), 200, ""},
		"zstd, the largest window":     {"zstd", wide, 200, ""},
		"gzip of too much":             {"gzip", gzipped(t, text+"x"), 413, "body_too_large"},
		"gzip of too much, in members": {"gzip", gzipped(t, text, "x"), 413, "body_too_large"},
		"gzip of very much":            {"gzip", gzipped(t, strings.Repeat("a", 20<<20)), 413, "body_too_large"},
		"zstd of too much":             {"zstd", zstandard(t, text+"x"), 413, "body_too_large"},
		"zstd of too much, its size":   {"zstd", string(whole.EncodeAll([]byte(text+"x"), nil)), 413, "body_too_large"},
		"zstd of too much, in frames":  {"zstd", zstandard(t, text) + zstandard(t, "x"), 413, "body_too_large"},
		"zstd of very much":            {"zstd", zstandard(t, strings.Repeat("a", 20<<20)), 413, "body_too_large"},
		"zstd that promises much":      {"zstd", promise, 413, "body_too_large"},
		"zstd, a larger window":        {"zstd", wider, 400, "malformed_encoding"},
		"gzip, cut off":                {"gzip", gzipped(t, text)[:40], 400, "malformed_encoding"},
		"gzip, cut off in its header":  {"gzip", gzipped(t, text)[:5], 400, "malformed_encoding"},
		"gzip, cut off in its sum":     {"gzip", gzipped(t, text)[:len(gzipped(t, text))-1], 400, "malformed_encoding"},
		"gzip, a wrong sum":            {"gzip", gzipped(t, text)[:len(gzipped(t, text))-8] + "12345678", 400, "malformed_encoding"},
		"gzip, garbage behind":         {"gzip", gzipped(t, text) + "garbage", 400, "malformed_encoding"},
		"gzip, zeros behind":           {"gzip", gzipped(t, text) + "\x00\x00", 400, "malformed_encoding"},
		"gzip that is plain":           {"gzip", text, 400, "malformed_encoding"},
		"gzip that is zstd":            {"gzip", zstandard(t, text), 400, "malformed_encoding"},
		"zstd, cut off":                {"zstd", zstandard(t, text)[:15], 400, "malformed_encoding"},
		"zstd, cut off in its sum":     {"zstd", zstandard(t, text)[:len(zstandard(t, text))-1], 400, "malformed_encoding"},
		"zstd, a wrong sum":            {"zstd", zstandard(t, text)[:len(zstandard(t, text))-4] + "1234", 400, "malformed_encoding"},
		"zstd, garbage behind":         {"zstd", zstandard(t, text) + "garbage", 400, "malformed_encoding"},
		"zstd, a byte behind":          {"zstd", zstandard(t, text) + "g", 400, "malformed_encoding"},
		"zstd, three bytes behind":     {"zstd", zstandard(t, text) + "\x28\xb5\x2f", 400, "malformed_encoding"},
		"zstd that is plain":           {"zstd", text, 400, "malformed_encoding"},
		"zstd with a dictionary":       {"zstd", "\x28\xb5\x2f\xfd\x23\x01\x02\x03\x04\x01\x01\x00\x00a", 400, "malformed_encoding"},
		"gzip twice, said once":        {"gzip", twice, 200, ""},
		"gzip twice":                   {"gzip, gzip", twice, 415, "unsupported_encoding"},
		"gzip and zstd":                {"gzip, zstd", twice, 415, "unsupported_encoding"},
		"deflate":                      {"deflate", text, 415, "unsupported_encoding"},
		"brotli":                       {"br", text, 415, "unsupported_encoding"},
		"compress":                     {"compress", text, 415, "unsupported_encoding"},
		"chunked":                      {"chunked", text, 415, "unsupported_encoding"},
		"with a parameter":             {"gzip;q=1", gzipped(t, text), 415, "unsupported_encoding"},
		"not a coding":                 {"\"gzip\"", gzipped(t, text), 415, "unsupported_encoding"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			resp := a.do(t, http.MethodPost, "/", tt.body, "Content-Encoding", tt.encoding)
			if tt.code == "" {
				require.Equal(t, tt.status, resp.StatusCode, resp.body)
				switch name {
				case "gzip twice, said once":
				case "zstd, the largest window":
					require.Equal(t, "a", resp.body)
				default:
					require.Equal(t, text, resp.body)
				}
				return
			}
			resp.problem(t, tt.status, tt.code)
			if tt.status == http.StatusUnsupportedMediaType {
				require.Equal(t, "gzip, zstd", resp.Header.Get("Accept-Encoding"))
			}
		})
	}
	a.do(t, http.MethodPost, "/", twice, "Content-Encoding", "gzip", "Content-Encoding", "gzip").problem(t, 415, "unsupported_encoding")
	// Nor where a body may be larger than that: its sender would be told something else by the next proxy.
	large := bodies(t, rest.Config{BodyLimit: 32 << 20}, 32<<20)
	large.do(t, http.MethodPost, "/", wider, "Content-Encoding", "zstd").problem(t, 400, "malformed_encoding")
}

func TestCompressedBodiesOfAllRoutes(t *testing.T) {
	a := bodies(t, rest.Config{BodyLimit: 1024}, 1024)
	for encoding, compress := range map[string]func(string) string{
		"gzip": func(s string) string { return gzipped(t, s) }, "zstd": func(s string) string { return zstandard(t, s) },
	} {
		json := func(path, body string) answer {
			return a.do(t, http.MethodPost, path, compress(body), "Content-Encoding", encoding, "Content-Type", "application/json")
		}
		require.JSONEq(t, `{"id":"x","count":0}`, json("/json", `{"id":"x"}`).body)
		json("/json", `{"id":`).problem(t, 400, "malformed_json")
		json("/json", "").problem(t, 400, "empty_body")
		json("/json", `{"id":"`+strings.Repeat("x", 1024)+`"}`).problem(t, 413, "body_too_large")
		require.Equal(t, "ok", json("/none", " {} ").body)
		json("/none", `{"a":1}`).problem(t, 400, "unexpected_body")
		json("/none", strings.Repeat(" ", 100_000)).problem(t, 400, "unexpected_body")
		a.do(t, http.MethodPost, "/none", "x", "Content-Encoding", encoding).problem(t, 400, "malformed_encoding")
		// Nothing is no gzip and no zstd, and no body either.
		require.Equal(t, "ok", a.do(t, http.MethodPost, "/none", "", "Content-Encoding", encoding).body)
	}
}

// What a request to /suspend asks for in a body would be ignored.
func TestNoBody(t *testing.T) {
	a := bodies(t, rest.Config{BodyLimit: 1 << 20}, 1024)
	for _, body := range []string{"", " ", "\r\n\t", "{}", " { \n} "} {
		require.Equal(t, "ok", a.do(t, http.MethodPost, "/none", body).body, body)
	}
	for _, body := range []string{
		"null", "[]", `""`, "0", "x", `{"a":1}`, "{}{}", "{},", "{", "}", "\ufeff{}", "\u00a0", "\x00", strings.Repeat(" ", 2000), strings.Repeat("x", 100_000),
	} {
		a.do(t, http.MethodPost, "/none", body).problem(t, 400, "unexpected_body")
	}
	a.do(t, http.MethodPost, "/none", strings.Repeat("x", 1<<20+1)).problem(t, 413, "body_too_large")
}

// Kilobytes must not become the memory of the machine: of many clients with bombs each waits for its part.
func TestDecompressionHoldsLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("NOT RUN with -short, by make test-long alone: the race detector makes it slow to decompress a hundred bombs")
	}
	const limit = 8 << 20 // the budget is 64 MiB
	a := bodies(t, rest.Config{BodyLimit: limit, RequestTimeout: time.Minute}, limit)
	bombs := map[string]string{"gzip": gzipped(t, strings.Repeat("a", limit+1)), "zstd": zstandard(t, strings.Repeat("a", limit+1))}
	var peak uint64
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			}
		}
	}()
	results := make(chan error, 100)
	var clients sync.WaitGroup
	for i := range cap(results) {
		encoding := []string{"gzip", "zstd"}[i%2]
		clients.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.addr+"/", strings.NewReader(bombs[encoding]))
			if err != nil {
				results <- err
				return
			}
			request.Header.Set("Content-Encoding", encoding)
			response, err := a.client.Do(request)
			if err == nil && response.StatusCode != http.StatusRequestEntityTooLarge {
				err = fmt.Errorf("%s is answered with %s", encoding, response.Status)
			}
			if err == nil {
				err = response.Body.Close()
			}
			results <- err
		})
	}
	clients.Wait()
	close(stop)
	<-watched
	for range cap(results) {
		require.NoError(t, <-results)
	}
	require.Less(t, peak, uint64(600<<20), "a hundred bodies of 8 MiB at a time would be 800 MiB, and as much while they grow")

	// The whole budget is there again.
	require.Equal(t, 200, a.do(t, http.MethodPost, "/", gzipped(t, strings.Repeat("a", limit)), "Content-Encoding", "gzip").StatusCode)
}

// A request waits for memory no longer than it may take, and what others hold comes back when they end.
func TestDecompressionWaitsForMemory(t *testing.T) {
	const limit = 16 << 20
	hold, entered := make(chan struct{}), make(chan struct{}, 4)
	a := start(t, rest.Config{BodyLimit: limit, RequestTimeout: 2 * time.Second}, func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error {
			if _, err := rest.Body(c, limit); err != nil {
				return err
			}
			if c.Query("hold") != "" {
				entered <- struct{}{}
				<-hold
			}
			return nil
		})
	})
	bomb := gzipped(t, strings.Repeat(" ", limit))
	var clients sync.WaitGroup
	for range 4 { // of 16 MiB each: the whole budget
		clients.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.addr+"/?hold=1", strings.NewReader(bomb))
			if err != nil {
				return
			}
			request.Header.Set("Content-Encoding", "gzip")
			if response, err := a.client.Do(request); err == nil {
				_ = response.Body.Close()
			}
		})
		<-entered
	}
	a.do(t, http.MethodPost, "/", bomb, "Content-Encoding", "gzip").problem(t, 503, "timeout")
	require.Equal(t, 200, a.do(t, http.MethodPost, "/", " ").StatusCode, "a body that came as it is needs nothing of it")
	close(hold)
	clients.Wait()
	require.Equal(t, 200, a.do(t, http.MethodPost, "/", bomb, "Content-Encoding", "gzip").StatusCode)
}

func FuzzBody(f *testing.F) {
	for _, seed := range []string{"", "\x1f\x8b\x08", "\x28\xb5\x2f\xfd", "\x28\xb5\x2f\xfd\xa4\xff\xff\xff\xff\x01\x00\x00"} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	const limit = 4096
	f.Fuzz(func(t *testing.T, body []byte, zstandard bool) {
		unpacked, err := rest.Unpack(body, zstandard, limit)
		if err == nil {
			require.LessOrEqual(t, len(unpacked), limit)
		}
	})
}
