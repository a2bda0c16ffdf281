package main

import (
	"context"
	"fmt"
	"net"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// serve runs the service until ctx ends.
func serve(ctx context.Context, cfg Config, log *zap.Logger) error {
	return serveWith(ctx, cfg, log, nil)
}

// serveWith is serve for tests that make it die at a step of a change, of which step is told unless it is nil.
func serveWith(ctx context.Context, cfg Config, log *zap.Logger, step relay.Hook) (err error) {
	reg := telemetry.NewRegistry(service)
	health := telemetry.NewHealth(reg)

	verifier, err := auth.New(ctx, cfg.Auth, log)
	if err != nil {
		return err
	}
	pool, err := postgres.Open(ctx, cfg.Database, postgres.RoleTenant)
	if err != nil {
		return err
	}
	defer pool.Close()
	db, closer, err := postgres.Gorm(pool, log)
	if err != nil {
		return err
	}
	defer func() {
		if failed := closer.Close(); failed != nil && err == nil {
			err = fmt.Errorf("close gorm: %w", failed)
		}
	}()
	conn, err := control.Connect(cfg.NATS, service, log, health.Backing("nats").Set)
	if err != nil {
		return err
	}
	defer conn.Close()

	directory := status.NewDirectory(control.Statuses(conn), log)
	// The store tells the relay of changes, and the relay reads the store.
	var publisher *relay.Relay
	registry := store.New(db, func(t tenant.Tenant) { publisher.Committed(t) })
	publisher = relay.New(registry, conn, directory.Observed, relay.Options{Step: step}, reg, log)
	handlers := api.New(registry, directory, tenant.Policy{DefaultWorkers: cfg.Workers, MaxWorkers: cfg.MaxWorkers})
	server := rest.New(cfg.HTTP, service, reg, log)
	handlers.Register(server.App(), verifier)
	server.Swagger(api.Swagger())

	ops := telemetry.NewOps(cfg.Ops, reg, health, log)
	// A port that is taken ends the start before anything has begun, and what is ready can be connected to.
	for _, listen := range []func() (net.Addr, error){ops.Listen, server.Listen} {
		if _, err := listen(); err != nil {
			return err
		}
	}

	log.Info("starting", zap.String("http", cfg.HTTP.Addr), zap.String("ops", cfg.Ops.Addr))
	return lifecycle.Run(ctx, cfg.ShutdownTimeout, log,
		lifecycle.Component{Name: "ops", Run: ops.Run},
		lifecycle.Component{Name: "schema", Run: func(ctx context.Context) error {
			return schema.Prepare(ctx, cfg.Database, postgres.RoleTenant, log, health.Check("schema").Set)
		}},
		lifecycle.Component{Name: "postgres", Run: func(ctx context.Context) error {
			return postgres.Watch(ctx, pool, health.Backing("postgres"))
		}},
		lifecycle.Component{Name: "status", Run: func(ctx context.Context) error {
			return directory.Run(ctx, publisher.Retire)
		}},
		lifecycle.Component{Name: "relay", Run: publisher.Run},
		lifecycle.Component{Name: "auth", Run: verifier.Run},
		lifecycle.Component{Name: "http", Run: func(ctx context.Context) error {
			defer context.AfterFunc(ctx, handlers.EndWaits)()
			return server.Run(ctx)
		}},
		// Stops first: load balancers look elsewhere while requests in flight are answered.
		lifecycle.Component{Name: "readiness", Run: func(ctx context.Context) error {
			<-ctx.Done()
			health.Stopping()
			return nil
		}},
	)
}
