// Package openapi checks what the services answer against api/openapi.yaml, the OpenAPI document of the platform.
//
// A test's HTTP client gets a [Transport], and its TestMain a [Checked] run, which fails if an answer was not as the document
// says: an operation that it does not have, a status, a header, a media type, or a body with a property too many, too few or of
// another type. What a service has accepted is checked as well: a body that the document does not allow would be one that a
// generated client can't send. Answers of other servers, such as the management API of the broker, pass unseen.
package openapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/srireskianita/multi-tenant-messaging/testkit/workspace"
)

// TestingM is what runs the tests of a package; *testing.M is one.
type TestingM interface{ Run() int }

// Checked is m, which fails if any answer that has come through a [Transport] is not as the document says.
func Checked(m TestingM) TestingM { return checked{m} }

type checked struct{ m TestingM }

// Run runs the tests.
func (c checked) Run() int {
	seen.start()
	code := c.m.Run()
	http.DefaultClient.CloseIdleConnections() // each has goroutines, which are no leak
	answers, wrong := seen.counts()
	fmt.Printf("openapi: %d answers checked, %d are not as api/openapi.yaml says\n", answers, wrong)
	if wrong > 0 && code == 0 {
		code = 1
	}
	return code
}

// seen is of the whole process, as the clients of all its tests are, some of which outlive their test.
var seen record //nolint:gochecknoglobals // see above

// record counts answers.
type record struct {
	mu             sync.Mutex
	started        bool
	answers, wrong int
}

func (r *record) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = true
}

func (r *record) running() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

func (r *record) count(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers++
	if err != nil {
		r.wrong++
	}
}

func (r *record) counts() (answers, wrong int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers, r.wrong
}

// platform is the document, read once.
var platform = sync.OnceValues(func() (*Document, error) { //nolint:gochecknoglobals // as [seen]
	root, err := workspace.Root()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, "api", "openapi.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	return Parse(text)
})

// Platform is api/openapi.yaml.
func Platform() (*Document, error) { return platform() }

// Transport sends requests by base and checks the answers, which it reads to their end.
func Transport(base http.RoundTripper) http.RoundTripper { return transport{base} }

type transport struct{ base http.RoundTripper }

// CloseIdleConnections closes those of the base.
func (t transport) CloseIdleConnections() { (&http.Client{Transport: t.base}).CloseIdleConnections() }

// RoundTrip sends a request. Its error is one of the base, or says that the answer can't be checked at all.
func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	doc, err := platform()
	if err != nil {
		return nil, err
	}
	if !seen.running() {
		return nil, errors.New("a package that uses openapi.Transport needs openapi.Checked in its TestMain")
	}
	response, err := t.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	rest := io.Reader(bytes.NewReader(body))
	if err != nil {
		// Cut off, by the test or by the fault that it injects: it reads what has come, and the error.
		rest = io.MultiReader(rest, failing{err})
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{rest, response.Body}
	if err != nil || !doc.Covers(request, response) {
		return response, nil //nolint:nilerr // the reader of the body gets the error
	}
	err = doc.Check(request, response, body)
	seen.count(err)
	if err != nil {
		fmt.Fprintf(os.Stderr, "openapi: %s %s: %d: %v\n%.2000s\n", request.Method, request.URL.Path, response.StatusCode, err, body)
	}
	return response, nil
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
