package rig

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/srireskianita/multi-tenant-messaging/benchmarks/internal/report"
	"github.com/srireskianita/multi-tenant-messaging/testkit/backing"
)

// Facts are those about the servers: versions, where they come from, and whether the database waits for the disk.
func (r *Rig) Facts(ctx context.Context) ([]report.Fact, error) {
	var version, fsync, commit string
	err := r.Database.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')`).
		Scan(&version, &fsync, &commit)
	if err != nil {
		return nil, fmt.Errorf("ask PostgreSQL: %w", err)
	}
	broker, err := r.brokerVersion()
	if err != nil {
		return nil, err
	}
	connection, err := nats.Connect(r.Backing.NATSURL)
	if err != nil {
		return nil, fmt.Errorf("ask NATS: %w", err)
	}
	defer connection.Close()
	return []report.Fact{
		{Name: "PostgreSQL", Value: fmt.Sprintf("%s (%s), fsync %s, synchronous_commit %s", version, r.source(backing.ServicePostgres), fsync, commit)},
		{Name: "RabbitMQ", Value: fmt.Sprintf("%s (%s), quorum queues", broker, r.source(backing.ServiceRabbitMQ))},
		{Name: "NATS", Value: fmt.Sprintf("%s (%s)", connection.ConnectedServerVersion(), r.source(backing.ServiceNATS))},
	}, nil
}

// source says where a server comes from.
func (r *Rig) source(name backing.Name) string {
	if server := r.Backing.Process(name); server != nil && server.Source() != backing.SourceEnv {
		return string(server.Source())
	}
	return "external"
}

func (r *Rig) brokerVersion() (version string, err error) {
	connection, err := amqp.Dial(r.Backing.RabbitMQURL)
	if err != nil {
		return "", fmt.Errorf("ask RabbitMQ: %w", err)
	}
	defer func() { err = errors.Join(err, connection.Close()) }()
	return fmt.Sprint(connection.Properties["version"]), nil
}
