package client_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// step is what becomes of one request.
type step func(r *http.Request, body []byte) (*http.Response, error)

// sent is a request as it went out.
type sent struct {
	method, path string // path with the query
	header       http.Header
	body         string
}

// script is a RoundTripper that does one step after the other. At the end of a test it demands that all were needed, and
// that every answer was read or given up, and closed.
type script struct {
	t *testing.T

	mu    sync.Mutex
	steps []step
	sent  []sent
	open  int // bodies of answers that were not closed
}

// play makes a client whose requests go through steps.
func play(t *testing.T, opts []client.Option, steps ...step) (*client.Client, *script) {
	t.Helper()
	s := &script{t: t, steps: steps}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		assert.Empty(t, s.steps, "requests that were not made")
		assert.Zero(t, s.open, "answers that were not closed")
	})
	urls := client.URLs{Tenant: "http://tenant", Ingest: "http://ingest", Query: "http://query"}
	c, err := client.New(urls, client.StaticToken("t"), append([]client.Option{client.WithTransport(s)}, opts...)...)
	require.NoError(t, err)
	return c, s
}

// RoundTrip does the next step.
func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		if err = errors.Join(err, r.Body.Close()); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	s.sent = append(s.sent, sent{method: r.Method, path: r.URL.RequestURI(), header: r.Header, body: string(body)})
	if len(s.steps) == 0 {
		s.mu.Unlock()
		s.t.Errorf("a request too many: %s %s", r.Method, r.URL)
		return nil, errors.New("the script has ended")
	}
	next := s.steps[0]
	s.steps = s.steps[1:]
	s.mu.Unlock()
	response, err := next(r, body)
	if err == nil {
		s.mu.Lock()
		s.open++
		s.mu.Unlock()
		response.Body = &counted{ReadCloser: response.Body, script: s}
	}
	return response, err
}

// counted is a body whose closing is counted.
type counted struct {
	io.ReadCloser
	script *script
	once   sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.script.mu.Lock()
		c.script.open--
		c.script.mu.Unlock()
	})
	return c.ReadCloser.Close()
}

// answer is a status, a body, and headers as pairs of name and value.
func answer(status int, body string, header ...string) step {
	return func(*http.Request, []byte) (*http.Response, error) {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}, nil
	}
}

// refuse is a problem document.
func refuse(status int, code string, header ...string) step {
	return answer(status, fmt.Sprintf(`{"type":"about:blank","title":"T","status":%d,"detail":"D","code":%q,"request_id":"r-1"}`, status, code), header...)
}

// accept is the answer to a message that was accepted under the id that it came with.
func accept(r *http.Request, body []byte) (*http.Response, error) {
	var m struct{ ID string }
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	return answer(http.StatusAccepted, fmt.Sprintf(`{"id":%q}`, m.ID))(r, body)
}

// acceptLines answers a batch: a line is 202, or what codes has for its place, such as "503 queue_full".
func acceptLines(codes map[int]string) step {
	return func(r *http.Request, body []byte) (*http.Response, error) {
		var results []string
		for line := range bytes.Lines(body) {
			var m struct{ ID string }
			if err := json.Unmarshal(line, &m); err != nil {
				return nil, err
			}
			result := fmt.Sprintf(`{"line":%d,"status":202,"id":%q}`, len(results)+1, m.ID)
			if status, code, refused := strings.Cut(codes[len(results)], " "); refused {
				result = fmt.Sprintf(`{"line":%d,"status":%s,"id":%q,"code":%q,"detail":"D"}`, len(results)+1, status, m.ID, code)
			}
			results = append(results, result)
		}
		return answer(http.StatusAccepted, `{"results":[`+strings.Join(results, ",")+`]}`)(r, body)
	}
}

// cut is a connection that breaks before an answer, whether or not the request has arrived.
func cut(*http.Request, []byte) (*http.Response, error) {
	return nil, errors.New("connection reset by peer")
}

// half is an answer of which the second half does not come.
func half(whole step) step {
	return func(r *http.Request, body []byte) (*http.Response, error) {
		response, err := whole(r, body)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(response.Body)
		response.Body = io.NopCloser(io.MultiReader(bytes.NewReader(text[:len(text)/2]), broken{}))
		return response, err
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// silent is a service that takes a request and never answers.
func silent(r *http.Request, _ []byte) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// fixed is an id for tests.
func fixed(n int) client.ID {
	id, err := client.ParseID(fmt.Sprintf("0197a3c2-8f0e-7cc1-9d39-%012d", n))
	if err != nil {
		panic(err)
	}
	return id
}
