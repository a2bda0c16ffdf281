package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/srireskianita/multi-tenant-messaging/testkit/raw"
)

// Load is what the servers carry.
type Load struct {
	// DatabaseConnections and BrokerConnections are those of all clients, those of the traffic included.
	DatabaseConnections, BrokerConnections int64
	// Queued is how many messages are in all queues; it is up to 5 s old.
	Queued int64
	// DatabaseVersion and BrokerVersion are what the servers call themselves.
	DatabaseVersion, BrokerVersion string
}

// Load asks the servers.
func (t *Traffic) Load(ctx context.Context) (Load, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var l Load
	err := t.operator.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
		current_setting('server_version')`).Scan(&l.DatabaseConnections, &l.DatabaseVersion)
	if err != nil {
		return Load{}, fmt.Errorf("look at the database: %w", err)
	}
	l.DatabaseVersion, _, _ = strings.Cut(l.DatabaseVersion, " ")
	var overview struct {
		Version string `json:"rabbitmq_version"`
		Totals  struct {
			Connections int64 `json:"connections"`
		} `json:"object_totals"`
	}
	if err := t.management(ctx, "/api/overview", &overview); err != nil {
		return Load{}, err
	}
	l.BrokerVersion, l.BrokerConnections = overview.Version, overview.Totals.Connections
	queues, err := t.queues(ctx)
	if err != nil {
		return Load{}, err
	}
	for _, q := range queues {
		l.Queued += q.Messages
	}
	return l, nil
}

// queue is what the broker says of one.
type queue struct {
	Name     string `json:"name"`
	Messages int64  `json:"messages"`
}

// queues asks the management API of the broker. Its numbers are up to 5 s old.
func (t *Traffic) queues(ctx context.Context) ([]queue, error) {
	broker, err := url.Parse(t.site.RabbitMQURL)
	if err != nil {
		return nil, errors.New("the URL of the broker is not valid") // the error would quote it, and its password
	}
	vhost := strings.TrimPrefix(broker.Path, "/")
	if vhost == "" {
		vhost = "/"
	}
	var queues []queue
	return queues, t.management(ctx, "/api/queues/"+url.PathEscape(vhost)+"?columns=name,messages", &queues)
}

// management asks the broker's management API.
func (t *Traffic) management(ctx context.Context, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	got, err := raw.Do(ctx, t.site.Transport, raw.Request{URL: t.site.RabbitMQManagementURL + path})
	if err != nil {
		return fmt.Errorf("ask the broker's management: %w", err)
	}
	if got.Status != http.StatusOK {
		return fmt.Errorf("ask the broker's management: status %d", got.Status)
	}
	if err := json.Unmarshal(got.Body, answer); err != nil {
		return fmt.Errorf("ask the broker's management: %w", err)
	}
	return nil
}
