package management_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/management"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whether to try again, to call an operator or to go on is told by the class of an error, and by nothing else. No error shows a password.
func TestClassesOfErrors(t *testing.T) {
	t.Parallel()
	classes := []error{management.ErrAway, management.ErrRefused, management.ErrUnknown}
	for status, want := range map[int]error{
		401: management.ErrRefused, 403: management.ErrRefused, 404: management.ErrUnknown, 429: management.ErrAway, 500: management.ErrAway, 503: management.ErrAway, 400: nil, 405: nil,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"error":"bad_request","reason":"` + strings.Repeat("r", 10_000) + `"}`))
		}))
		api, err := management.New(server.URL, "amqp://u:hunter2@127.0.0.1:1")
		require.NoError(t, err)
		err = api.Do(t.Context(), http.MethodPut, "/api/users/u", map[string]string{"tags": ""}, nil)
		for _, class := range classes {
			require.Equal(t, errors.Is(want, class), errors.Is(err, class), "%d: %v", status, class)
		}
		var refused *management.StatusError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, status, refused.Status)
		require.Less(t, len(err.Error()), 1000)
		server.Close()
		err = api.Do(t.Context(), http.MethodGet, "/api/whoami", nil, nil)
		require.ErrorIs(t, err, management.ErrAway)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// An answer that is cut off, or none of the API's, is one that never came.
func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{", "<html>", `{"name":`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		api, err := management.New(server.URL+"/", "amqp://127.0.0.1")
		require.NoError(t, err)
		var into struct{ Name string }
		require.ErrorIs(t, api.Do(t.Context(), http.MethodGet, "/api/whoami", nil, &into), management.ErrAway, body)
		server.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	api, err := management.New("http://127.0.0.1:1", "amqp://127.0.0.1")
	require.NoError(t, err)
	require.ErrorIs(t, api.Do(ctx, http.MethodGet, "/", nil, nil), context.Canceled)
}

func TestURLsThatAreNone(t *testing.T) {
	t.Parallel()
	for _, bad := range [][2]string{{"", "amqp://h"}, {"h:15672", "amqp://h"}, {"amqp://h", "amqp://h"}, {"http://u:hunter2@h:x", "amqp://h"}, {"http://h", "http://u:hunter2@h"}, {"http://h", "amqp://u:hunter2@h:x"}} {
		_, err := management.New(bad[0], bad[1])
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// The broker is asked with the login of either URL, about the virtual host of the AMQP one.
func TestBroker(t *testing.T) {
	t.Parallel()
	broker := backing.RabbitMQ(t)
	api, err := management.New(broker.ManagementURL, broker.URL)
	require.NoError(t, err)
	require.Equal(t, broker.VHost, api.VHost())
	var vhost struct{ Name string }
	require.NoError(t, api.Do(t.Context(), http.MethodGet, "/api/vhosts/"+api.VHost(), nil, &vhost))
	require.Equal(t, broker.VHost, vhost.Name)
	require.ErrorIs(t, api.Do(t.Context(), http.MethodGet, "/api/vhosts/nobody%2Fhas", nil, nil), management.ErrUnknown)
	stranger, err := management.New(strings.Replace(broker.ManagementURL, "@", "x@", 1), broker.URL)
	require.NoError(t, err)
	require.ErrorIs(t, stranger.Do(t.Context(), http.MethodGet, "/api/whoami", nil, nil), management.ErrRefused)
}
