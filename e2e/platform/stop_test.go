package platform_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
	"github.com/srireskianita/multi-tenant-messaging/testkit/stack"
)

// A load balancer has to learn of a stop before the listener closes, or a deploy costs each client that is sent there an error. So on
// SIGTERM a service says that it is stopping, and meanwhile finishes the request that it has begun.
func TestReadinessFallsWhileRequestsAreFinished(t *testing.T) {
	w := newStoppingWorld(t)
	tenant := w.createTenant(t, 1)
	for _, c := range []struct {
		service             *stack.Service
		method, path, token string
		body                string
		want                int
	}{
		{w.own.Query, http.MethodGet, "/messages", w.token(t, tenant, "messages:read"), `{}`, http.StatusOK},
		{w.own.Ingest, http.MethodPost, "/messages", w.token(t, tenant, "messages:write"), `{"payload":1}`, http.StatusAccepted},
		{w.own.Tenant, http.MethodPost, "/tenants", w.admin, fmt.Sprintf(`{"id":%q,"name":"late"}`, uuid.New()), http.StatusCreated},
	} {
		t.Run(c.service.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
			defer cancel()
			address, err := url.Parse(c.service.URL)
			require.NoError(t, err)
			connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address.Host)
			require.NoError(t, err)
			defer func() { _ = connection.Close() }()
			deadline, _ := ctx.Deadline()
			require.NoError(t, connection.SetDeadline(deadline))
			answers := bufio.NewReader(connection)
			_, err = fmt.Fprintf(connection, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
				c.method, c.path, address.Host, c.token, len(c.body))
			require.NoError(t, err)
			line, err := answers.ReadString('\n') // it has the request now
			require.NoError(t, err)
			require.Contains(t, line, "100 Continue")
			_, err = answers.ReadString('\n')
			require.NoError(t, err)

			ended := make(chan error, 1)
			go func() {
				status, err := c.service.Term(ctx)
				if err == nil && status != 0 {
					err = fmt.Errorf("it ended with %d", status)
				}
				ended <- err
			}()
			require.Eventually(t, func() bool {
				got, err := raw.Do(t.Context(), w.transport, raw.Request{URL: c.service.OpsURL + "/readyz"})
				return err == nil && got.Status == http.StatusServiceUnavailable && strings.Contains(string(got.Body), `"status":"stopping"`)
			}, waitLimit, poll)
			select {
			case err := <-ended:
				t.Fatalf("it ended in the middle of a request: %v", err)
			default:
			}
			_, err = fmt.Fprint(connection, c.body)
			require.NoError(t, err)
			answer, err := http.ReadResponse(answers, nil)
			require.NoError(t, err)
			require.NoError(t, answer.Body.Close())
			require.Equal(t, c.want, answer.StatusCode)
			require.NoError(t, <-ended)
			require.NoError(t, c.service.Start(ctx))
		})
	}
}
