package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/rabbitmq"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
)

const (
	// publishTimeout bounds one try to publish retries and dead letters.
	publishTimeout = 10 * time.Second
	// holeLimit is how long finished messages wait behind one that does not finish.
	holeLimit = time.Second
)

// broker is every connection to RabbitMQ. Consuming and publishing are kept apart, because the broker stops reading from
// a connection that publishes while it has an alarm, acknowledgements included; and the HTTP API is kept apart from
// what happens inside, so that neither waits for the other. Queues that may not answer are tried on connections of their
// own: publishing to one stops a whole channel, and consuming from one costs a whole connection.
type broker struct {
	consume []*rabbitmq.Link // tenants' consumers, spread by tenant
	shared  *rabbitmq.Link   // declarations and the recorder of dead letters
	canary  *rabbitmq.Link   // tests of the dead-lettering, which may cost the connection
	links   []*rabbitmq.Link

	client   *rabbitmq.Publisher // the HTTP API
	internal *rabbitmq.Publisher // retries, dead letters, replays
}

func newBroker(cfg Config, health *telemetry.Health, log *zap.Logger) *broker {
	check := &sharedCheck{check: health.Backing("rabbitmq")}
	b := &broker{}
	connect := func(name string, report func(error)) *rabbitmq.Link {
		l := rabbitmq.NewLink(cfg.RabbitMQ, service+" "+name, log, report)
		b.links = append(b.links, l)
		return l
	}
	link := func(name string) *rabbitmq.Link { return connect(name, check.reporter()) }
	// The loss of these is a part of their work, and says nothing about the broker.
	expendable := func(name string) *rabbitmq.Link { return connect(name, nil) }

	probing, trying := expendable("consume quarantine"), expendable("publish quarantine")
	for i := range cfg.RabbitMQ.Connections {
		b.consume = append(b.consume, link(fmt.Sprintf("consume %d", i+1)).WithQuarantine(probing))
	}
	b.shared = link("shared").WithQuarantine(probing)
	b.canary = expendable("canary")
	b.client = rabbitmq.NewPublisher(link("publish"), clientLanes, log).WithQuarantine(trying)
	b.internal = rabbitmq.NewPublisher(link("publish internal"), internalLanes, log).WithQuarantine(trying)
	return b
}

// consuming is the connection on which tenant is consumed.
func (b *broker) consuming(tenant uuid.UUID) *rabbitmq.Link {
	// The last bytes are random in every version of UUID that is in use.
	n := int(tenant[14])<<8 | int(tenant[15])
	return b.consume[n%len(b.consume)]
}

// together runs components that are stopped at the same time: each may take seconds with a broker that does not answer.
func together(components ...func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, run := range components {
			group.Go(func() error { return run(ctx) })
		}
		return group.Wait()
	}
}

// components are the connections, and the publishers on them.
func (b *broker) components() []lifecycle.Component {
	links := make([]func(context.Context) error, len(b.links))
	for i, l := range b.links {
		links[i] = l.Run
	}
	return []lifecycle.Component{
		{Name: "rabbitmq", Run: together(links...)},
		{Name: "publishers", Run: together(b.client.Run, b.internal.Run)},
	}
}
