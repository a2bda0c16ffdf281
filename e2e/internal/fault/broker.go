package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/srireskianita/multi-tenant-messaging/libs/retry"
	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// closeConnections lets the broker close every AMQP connection of its operator, which everybody is here. It tells its
// clients so with a connection.close.
func closeConnections(ctx context.Context, management string) error {
	base, err := url.Parse(management)
	if err != nil {
		return fmt.Errorf("read the address of the management API: %w", err)
	}
	// Not through the list of all connections: a connection is missing there for some seconds after it has been opened.
	connections := base.JoinPath("api", "connections", "username", url.PathEscape(base.User.Username()))
	for {
		list, err := ask(ctx, http.MethodGet, connections)
		if err != nil {
			return err
		}
		var open []json.RawMessage
		if err := json.Unmarshal(list, &open); err != nil {
			return fmt.Errorf("read the list of connections: %w", err)
		}
		if len(open) > 0 {
			_, err := ask(ctx, http.MethodDelete, connections)
			return err
		}
		if err := retry.Sleep(ctx, recoveryPoll); err != nil { // the services may be about to come back
			return fmt.Errorf("no AMQP connection to close: %w", err)
		}
	}
}

// ask makes a request of the management API, which takes its login from the address.
func ask(ctx context.Context, method string, target *url.URL) (body []byte, err error) {
	got, err := raw.Do(ctx, &http.Transport{DisableKeepAlives: true}, raw.Request{Method: method, URL: target.String()})
	if err != nil {
		return nil, fmt.Errorf("ask the management API: %w", err)
	}
	if got.Status >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("%s %s: status %d", method, target.Path, got.Status)
	}
	return got.Body, nil
}
