package main

import (
	"context"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/conn"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/consume"
	"github.com/srireskianita/multi-tenant-messaging/libs/amqp/publish"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/isolation"
)

const (
	// publishTimeout bounds one try to publish retries and dead letters.
	publishTimeout = 10 * time.Second
	// recorderRedial is the longest pause before the recorder of dead letters connects again: a message that ends its connection has to do
	// so some twenty times before the broker sets it apart, and those behind it wait.
	recorderRedial = 500 * time.Millisecond
	// holeLimit is how long finished messages wait behind one that does not finish.
	holeLimit = time.Second
)

// broker is every connection to RabbitMQ. Consuming and publishing are kept apart, because the broker stops reading from
// a connection that publishes while it has an alarm, acknowledgements included; and the HTTP API is kept apart from
// what happens inside, so that neither waits for the other. Queues that may not answer are tried on connections of their
// own: publishing to one stops a whole channel, and consuming from one costs a whole connection.
//
// What a delivery does to its connection is no concern of declarations: nothing is consumed on theirs.
type broker struct {
	consume     *isolation.Connections // tenants' consumers
	deadLetters *conn.Link             // the recorder of dead letters
	parked      *conn.Link             // and of parked messages, whose deliveries may end the connection
	large       *conn.Link             // and of large dead letters, to which they are moved as well
	shared      *conn.Link             // declarations
	canary      *conn.Link             // tests of the dead-lettering, which may cost the connection
	links       []*conn.Link

	prober *consume.Prober // of queues that did not answer

	client   *publish.Publisher // the HTTP API
	internal *publish.Publisher // retries, dead letters, replays
}

func newBroker(cfg Config, health *telemetry.Health, log *zap.Logger) *broker {
	check := &sharedCheck{check: health.Backing("rabbitmq")}
	b := &broker{}
	connect := func(name string, report func(error)) *conn.Link {
		l := conn.NewLink(cfg.RabbitMQ, serviceName+" "+name, log, report)
		b.links = append(b.links, l)
		return l
	}
	// The loss of these is a part of their work, and says nothing about the broker.
	expendable := func(name string) *conn.Link { return connect(name, nil) }
	// No tenant is consumed on these.
	link := func(name string) *conn.Link {
		report := check.reporter()
		return connect(name, func(err error) {
			report(err)
			b.consume.Unrelated(err)
		})
	}

	trying := expendable("trials")
	b.prober = consume.NewProber(expendable("probes"))
	b.consume = isolation.New(cfg.RabbitMQ.Connections, func(name string, lost func(error)) *conn.Link {
		report := check.reporter()
		return connect(name, func(err error) {
			report(err)
			lost(err)
		})
	}, func(name string, lost func(error)) *conn.Link {
		return conn.NewLink(cfg.RabbitMQ, serviceName+" "+name, log, lost)
	}, log)
	b.deadLetters = expendable("dead letters").WithRedial(recorderRedial)
	b.parked = expendable("parked messages").WithRedial(recorderRedial)
	b.large = expendable("large dead letters").WithRedial(recorderRedial)
	b.shared = link("shared")
	b.canary = expendable("canary")
	b.client = publish.NewWithTrials(link("publish"), trying, clientChannels, log)
	b.internal = publish.NewWithTrials(link("publish internal"), trying, internalChannels, log)
	return b
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

// components are the connections, and what runs on them. depths is how many messages wait in tenants' queues.
func (b *broker) components(depths isolation.Depths) []lifecycle.Component {
	links := make([]func(context.Context) error, len(b.links))
	for i, l := range b.links {
		links[i] = l.Run
	}
	return []lifecycle.Component{
		{Name: "rabbitmq", Run: together(links...)},
		{Name: "isolation", Run: func(ctx context.Context) error { return b.consume.Run(ctx, depths) }},
		{Name: "publishers", Run: together(b.client.Run, b.internal.Run)},
	}
}
