package main

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/rate"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/batch"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/consumer"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/deadletter"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/dlxhealth"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/erase"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/isolation"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/reroute"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/step"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/usage"
)

// Channels that publish in parallel, each with its own window of unconfirmed messages.
const (
	// clientChannels serve the HTTP API.
	clientChannels = 4
	// internalChannels serve retries, dead letters and replays, which are rare.
	internalChannels = 1
)

// eraseWait is how long a request that erases a message waits for that to be counted for the usage of its tenant.
const eraseWait = 3 * time.Second

// serve runs the service until ctx ends.
func serve(ctx context.Context, cfg Config, log *zap.Logger) error {
	return serveWith(ctx, cfg, log, nil)
}

// serveWith is serve for tests that make it die at a step of a tenant's way.
func serveWith(ctx context.Context, cfg Config, log *zap.Logger, hook step.Hook) error {
	limits := api.Config{
		MaxPayload: cfg.Ingest.MaxPayload, MessageBody: cfg.HTTP.BodyLimit,
		BatchBody: cfg.Ingest.BatchBody, BatchLines: cfg.Ingest.BatchLines,
	}
	cfg.HTTP.BodyLimit = limits.BodyLimit() // the server has one limit for all routes
	process, err := service.New(ctx, serviceName, postgres.RoleIngest, cfg.Config, log)
	if err != nil {
		return err
	}
	defer process.Close()
	reg, health, pool := process.Registry, process.Health, process.Pool
	conn, err := control.Connect(cfg.NATS, serviceName, log, health.Backing("nats").Set)
	if err != nil {
		return err
	}
	defer conn.Close()

	broker := newBroker(cfg, health, log)
	messages := store.New(pool, cfg.Ingest.WriteTimeout)
	gate := batch.NewGate(messages.Ping, log)
	writing := health.Check("writing")
	writer := batch.NewWriter(batch.Config{
		RetryDelays: cfg.Ingest.RetryDelays, HoldTimeout: cfg.Ingest.HoldTimeout, PublishTimeout: publishTimeout,
		Slots: writeSlots(cfg.Database.MaxConns),
	}, messages, gate, broker.internal, deadletter.Publishing, batch.NewMetrics(reg), log)
	deadLetterMetrics := deadletter.NewMetrics(reg)
	requests := api.NewMetrics(reg)
	forget := []func(uuid.UUID){requests.Forget, deadLetterMetrics.Forget, broker.consume.Forget}
	topology := provision.NewTopology(broker.shared, broker.prober, cfg.Ingest.RetryDelays,
		provision.QueueOptions{Type: cfg.Ingest.QueueType, MaxLengthBytes: cfg.Ingest.QueueMaxBytes}, cfg.RabbitMQ.Screen, log)
	controller, rates := newController(cfg, conn, broker, topology, messages, gate, writer, forget, hook, health, log)
	reg.MustRegister(tenants.NewCollector(controller), isolation.NewCollector(broker.consume))

	deadLetters := deadletter.NewStore(pool, cfg.Ingest.WriteTimeout)
	recorder := deadletter.NewRecorder(
		deadletter.Links{DeadLetters: broker.deadLetters, Parked: broker.parked, Large: broker.large, Shared: broker.shared},
		deadLetters, deadLetterMetrics, health.Check("dead letters").Degrade, log)
	replayer := deadletter.NewReplayer(deadLetters, reroute.New(broker.internal, controller.Verify), cfg.Ingest.ReplayPerSec, cfg.Ingest.MaxPayload, deadLetterMetrics, log)
	watch := dlxhealth.New(dlxhealth.Config{Instance: cfg.Ingest.Instance, Tier: slices.Min(cfg.Ingest.RetryDelays), Broker: cfg.RabbitMQ},
		broker.canary, broker.internal, health.Check("dead-lettering").Degrade, reg, log)
	api.Mount(process.Server, process.Verifier, api.Dependencies{
		Tenants: controller, Publisher: reroute.New(broker.client, controller.Verify), DeadLetters: deadLetters, Replayer: replayer,
		Eraser: erase.New(messages, eraseWait), Rates: rates,
	}, limits, requests)

	keeper := newKeeper(cfg, messages, controller, reg, log)

	exchanges := provision.NewExchanges(topology, messages, func(ctx context.Context, tenant uuid.UUID) bool {
		spec, provisioned, ok := controller.Lookup(ctx, tenant)
		return ok && provisioned && spec.State != contract.DesiredDeleting
	}, log)

	// In the order of starting; they stop in reverse.
	components := []lifecycle.Component{
		{Name: "gate", Run: func(ctx context.Context) error {
			return gate.Run(ctx, func(err error) {
				writing.Set(err)
				controller.Reobserve()
			})
		}},
	}
	components = append(components, broker.components(topology.Depths)...)
	components = append(components,
		lifecycle.Component{Name: "topology", Run: topology.Run},
		lifecycle.Component{Name: "dead letter gauges", Run: func(ctx context.Context) error { return deadLetterMetrics.Run(ctx, deadLetters, log) }},
		lifecycle.Component{Name: "dead letter recorder", Run: func(ctx context.Context) error {
			if err := topology.Await(ctx); err != nil {
				return err
			}
			return recorder.Run(ctx)
		}},
		lifecycle.Component{Name: "dead-lettering", Run: func(ctx context.Context) error {
			if err := topology.Await(ctx); err != nil {
				return err
			}
			return watch.Run(ctx)
		}},
		lifecycle.Component{Name: "rates", Run: rates.Run},
		lifecycle.Component{Name: "usage", Run: usage.New(counting{messages, keeper.Counted}, cfg.Ingest.UsageRetention, reg, log).Run},
		lifecycle.Component{Name: "retention", Run: keeper.Run},
		lifecycle.Component{Name: "tenants", Run: controller.Run},
		lifecycle.Component{Name: "exchanges", Run: exchanges.Run},
	)
	return process.Run(ctx, components...)
}

// writeSlots is how many connections of the pool write batches at a time; the rest is for everything else.
func writeSlots(maxConns int32) int { return max(int(maxConns)*3/4, 1) }

// newController wires tenants to what they need, and to the limits per second, which need to know them.
func newController(
	cfg Config, conn *control.Conn, broker *broker, topology *provision.Topology, messages *store.Store, gate *batch.Gate, writer *batch.Writer,
	forget []func(uuid.UUID), hook step.Hook, health *telemetry.Health, log *zap.Logger,
) (*tenants.Controller, *rate.Limiter) {
	in := cfg.Ingest
	budget := consumer.NewBudget(in.UnackedBytes)
	consuming := consumer.Config{
		Prefetch: in.Prefetch, BatchMessages: in.BatchMessages, BatchBytes: in.BatchBytes, BatchDelay: in.BatchDelay,
		MaxPayload: in.MaxPayload, HoleLimit: holeLimit, Prober: broker.prober,
	}
	synced := health.Check("tenants")
	var rates *rate.Limiter
	forget = append(forget, func(tenant uuid.UUID) { rates.Forget(tenant) })
	controller := tenants.New(
		tenants.Config{Instance: in.Instance, MaxAttempts: in.MaxAttempts, Concurrency: in.Provisioning, Resync: in.Resync},
		tenants.Dependencies{
			Specs: control.Tenants(conn), Statuses: control.Statuses(conn), Partitions: messages,
			Topology: topology,
			NewConsumer: func(tenant uuid.UUID, state *consumer.State, onChange func(error)) tenants.Consumer {
				return consumer.New(consuming, tenant, broker.consume, gate, writer, budget, state, onChange, log)
			},
			Heartbeats: control.Statuses(conn), Presence: messages, Registry: messages,
			Synced: func() { synced.Set(nil) },
			Forget: forget,
			Outage: gate.Err,
			Step:   hook,
			Log:    log,
		})
	rates = newRates(cfg, conn, controller)
	consuming.Rates = rates // before any consumer is made: the controller does not run yet
	return controller, rates
}

// propertiesMax is more than what the properties of a message can take, in bytes: they fit into one frame.
const propertiesMax = 256 << 10

// newRates returns the limits per second of the tenants of controller.
func newRates(cfg Config, conn *control.Conn, controller *tenants.Controller) *rate.Limiter {
	return rate.New(rate.Config{
		Self: cfg.Ingest.Instance, Instances: controller.Instances, Owner: members.Owner, Transport: rate.OverNATS(conn),
		Limits:  func(tenant uuid.UUID) rate.Amounts { return rate.Publishing(controller.Limits(tenant)) },
		Largest: rate.Amounts{rate.Messages: 1, rate.Bytes: int64(max(cfg.HTTP.BodyLimit, cfg.Ingest.MaxPayload+propertiesMax))},
	})
}
