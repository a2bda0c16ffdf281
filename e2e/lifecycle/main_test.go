// Package lifecycle_test holds what must not pile up, and what must not be lost, over the lives of many tenants: a thousand
// of them come and go and leave nothing behind, and a control channel that loses, repeats and reorders what it is told
// changes nothing of what is desired.
package lifecycle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
	"github.com/srireskianita/multi-tenant-messaging/testkit/openapi"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(openapi.Checked(m)) }

const (
	waitLimit = 90 * time.Second // on a busy machine
	poll      = 50 * time.Millisecond
	// requestTimeout is longer than what a request may prefer to wait.
	requestTimeout = 40 * time.Second
	// clients are the requests at a time.
	clients = 32
)

// world is a platform of the test's own, and what looks behind it.
type world struct {
	*stack.Stack
	t        *testing.T
	client   *http.Client
	admin    string
	broker   backing.Broker
	operator *pgxpool.Pool
	natsURL  string
}

// newWorld starts the platform, with more settings for all services. The control channel is that of natsURL.
func newWorld(t *testing.T, natsURL string, settings ...string) *world {
	t.Helper()
	return newWorldOn(t, backing.Postgres(t), natsURL, settings...)
}

// newWorldOn is newWorld on a database that the test has prepared.
func newWorldOn(t *testing.T, databaseURL, natsURL string, settings ...string) *world {
	t.Helper()
	w := &world{t: t, broker: backing.RabbitMQ(t), natsURL: natsURL}
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: openapi.Transport(transport), Timeout: requestTimeout}
	env := make(map[string]string)
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		env[name] = value
	}
	w.Stack = stack.Start(t, stack.Options{DatabaseURL: databaseURL, RabbitMQURL: w.broker.URL, NATSURL: natsURL, Env: env})
	var err error
	w.admin, err = w.AdminToken()
	require.NoError(t, err)
	w.operator, err = pgxpool.New(t.Context(), databaseURL)
	require.NoError(t, err)
	t.Cleanup(w.operator.Close)
	return w
}

// call makes one request as the administrator and reads the answer into what into points to, if it is a good one.
func (w *world) call(ctx context.Context, method, target, body string, into any) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewBufferString(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+w.admin)
	if strings.HasSuffix(target, "/tenants") || method == http.MethodDelete {
		request.Header.Set("Prefer", "wait=30") // instead of asking again and again
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := w.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close() //nolint:errcheck // read only
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return response.StatusCode, fmt.Errorf("%s %s: %d %s", method, target, response.StatusCode, answer)
	}
	if into != nil {
		err = json.Unmarshal(answer, into)
	}
	return response.StatusCode, err
}

// tenantView is the part of a tenant that the tests look at.
type tenantView struct {
	State      string `json:"state"`
	Workers    int    `json:"workers"`
	Generation int64  `json:"generation"`
	Status     struct {
		State              string `json:"state"`
		Workers            int    `json:"workers"`
		ObservedGeneration int64  `json:"observed_generation"`
	} `json:"status"`
}

func tenantURL(service *stack.Service, id uuid.UUID) string {
	return service.URL + "/tenants/" + id.String()
}

// until repeats what fails because it is too early, until it does not or ctx ends.
func until(ctx context.Context, try func() error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// create makes a tenant and waits until its consumer runs.
func (w *world) create(ctx context.Context, id uuid.UUID, workers int) error {
	body := fmt.Sprintf(`{"id":%q,"name":"tenant %s","workers":%d}`, id, id, workers)
	var view tenantView
	if _, err := w.call(ctx, http.MethodPost, w.Tenant.URL+"/tenants", body, &view); err != nil {
		return err
	}
	return w.await(ctx, id, func(view tenantView) bool { return view.Status.State == "running" })
}

// await waits until a tenant looks as wanted.
func (w *world) await(ctx context.Context, id uuid.UUID, as func(tenantView) bool) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return until(ctx, func() error {
		var view tenantView
		if _, err := w.call(ctx, http.MethodGet, tenantURL(w.Tenant, id), "", &view); err != nil {
			return err
		}
		if !as(view) {
			return fmt.Errorf("tenant %s is %+v", id, view)
		}
		return nil
	})
}

// use publishes one message and waits until it can be read.
func (w *world) use(ctx context.Context, id uuid.UUID) error {
	message := uuid.New()
	body := fmt.Sprintf(`{"id":%q,"payload":{"of":%q}}`, message, id)
	if _, err := w.call(ctx, http.MethodPost, w.Ingest.URL+"/messages?tenant_id="+id.String(), body, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return until(ctx, func() error {
		_, err := w.call(ctx, http.MethodGet, w.Query.URL+"/messages/"+message.String()+"?tenant_id="+id.String(), "", nil)
		return err
	})
}

// remove deletes a tenant and waits until it is gone.
func (w *world) remove(ctx context.Context, id uuid.UUID) error {
	if _, err := w.call(ctx, http.MethodDelete, tenantURL(w.Tenant, id), "", nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return until(ctx, func() error {
		status, err := w.call(ctx, http.MethodGet, tenantURL(w.Tenant, id), "", nil)
		if status == http.StatusNotFound {
			return nil
		}
		return fmt.Errorf("tenant %s is not gone: %w", id, err)
	})
}

// management is a path of the broker's management API.
func (w *world) management(path string) string { return w.broker.ManagementURL + path }

// get reads what needs no token of ours.
func (w *world) get(t require.TestingT, target string) []byte {
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, target, http.NoBody)
	require.NoError(t, err)
	response, err := w.client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s: %s", request.URL.Redacted(), body)
	return body
}

// descriptors is the number of files and connections that a process has open.
func descriptors(t require.TestingT, pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}
