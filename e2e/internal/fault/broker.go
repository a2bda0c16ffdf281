package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
)

// listLimit bounds the broker's list of connections; one takes a kilobyte.
const listLimit = 16 << 20

// closeConnections lets the broker close every AMQP connection of its operator, which everybody is here. It tells its
// clients so with a connection.close.
func closeConnections(ctx context.Context, management string) error {
	base, err := url.Parse(management)
	if err != nil {
		return fmt.Errorf("read the address of the management API: %w", err)
	}
	// Not through the list of all connections: a connection is missing there for some seconds after it has been opened.
	connections := base.JoinPath("api", "connections", "username", url.PathEscape(base.User.Username()))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		list, err := ask(ctx, client, http.MethodGet, connections)
		if err != nil {
			return err
		}
		var open []json.RawMessage
		if err := json.Unmarshal(list, &open); err != nil {
			return fmt.Errorf("read the list of connections: %w", err)
		}
		if len(open) > 0 {
			_, err := ask(ctx, client, http.MethodDelete, connections)
			return err
		}
		if err := retry.Sleep(ctx, recoveryPoll); err != nil { // the services may be about to come back
			return fmt.Errorf("no AMQP connection to close: %w", err)
		}
	}
}

// ask makes a request of the management API, which takes its login from the address.
func ask(ctx context.Context, client *http.Client, method string, target *url.URL) (body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the management API: %w", err)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, listLimit))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, fmt.Errorf("read the answer of the management API: %w", err)
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("%s %s: status %d", method, target.Path, response.StatusCode)
	}
	return body, nil
}
