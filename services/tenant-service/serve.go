package main

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/auditlog"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/credential"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/defaults"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/tenant"
)

// expireInterval is how often audit events are looked for that are too old. A day's worth of them is thousands at most.
const expireInterval = 10 * time.Minute

// serve runs the service until ctx ends.
func serve(ctx context.Context, cfg Config, log *zap.Logger) error {
	return serveWith(ctx, cfg, log, nil)
}

// serveWith is serve for tests that make it die at a step of a change, of which step is told unless it is nil.
func serveWith(ctx context.Context, cfg Config, log *zap.Logger, step relay.Hook) (err error) {
	process, err := service.New(ctx, serviceName, postgres.RoleTenant, cfg.Config, log)
	if err != nil {
		return err
	}
	defer process.Close()
	db, closer, err := postgres.Gorm(process.Pool, log)
	if err != nil {
		return err
	}
	defer func() {
		if failed := closer.Close(); failed != nil && err == nil {
			err = fmt.Errorf("close gorm: %w", failed)
		}
	}()
	conn, err := control.Connect(cfg.NATS, serviceName, log, process.Health.Backing("nats").Set)
	if err != nil {
		return err
	}
	defer conn.Close()

	directory := status.NewDirectory(control.Statuses(conn), log)
	changes := relay.NewChanges(step)
	var keeper *credential.Keeper // set before anything changes
	registry := store.New(db, func(t tenant.Tenant) {
		changes.Committed(t)
		if keeper != nil && t.State == tenant.Deleting {
			keeper.Nudge()
		}
	})
	issuer, keeper, err := credential.New(cfg.RabbitMQ, registry, log)
	if err != nil {
		return err
	}
	publisher := relay.New(registry, conn, directory.Observed, relay.Options{Changes: changes, Step: step}, process.Registry, log)
	events := auditlog.New(process.Pool, log)
	api.Mount(process.Server, process.Verifier, registry, directory, events, cfg.policy())
	api.MountTokens(process.Server, process.Verifier, registry)
	api.MountCredentials(process.Server, process.Verifier, registry, issuer)

	log.Info("starting", zap.String("http", cfg.HTTP.Addr), zap.String("ops", cfg.Ops.Addr))
	components := []lifecycle.Component{
		{Name: "status", Run: func(ctx context.Context) error { return directory.Run(ctx, publisher.Retire) }},
		{Name: "relay", Run: publisher.Run},
		{Name: "defaults", Run: func(ctx context.Context) error { return defaults.Run(ctx, registry, cfg.policy(), log) }},
	}
	if cfg.Audit.Retention > 0 {
		components = append(components, lifecycle.Component{Name: "audit retention", Run: func(ctx context.Context) error {
			return events.Run(ctx, cfg.Audit.Retention, expireInterval)
		}})
	}
	if keeper != nil {
		components = append(components, lifecycle.Component{Name: "credentials", Run: keeper.Run})
	}
	return process.Run(ctx, components...)
}
