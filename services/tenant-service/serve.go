package main

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/control"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/defaults"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/relay"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/status"
	"github.com/srireskianita/multi-tenant-messaging/services/tenant-service/internal/store"
)

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
	registry := store.New(db, changes.Committed)
	publisher := relay.New(registry, conn, directory.Observed, relay.Options{Changes: changes, Step: step}, process.Registry, log)
	api.Mount(process.Server, process.Verifier, registry, directory, cfg.policy())
	api.MountTokens(process.Server, process.Verifier, registry)

	log.Info("starting", zap.String("http", cfg.HTTP.Addr), zap.String("ops", cfg.Ops.Addr))
	return process.Run(ctx,
		lifecycle.Component{Name: "status", Run: func(ctx context.Context) error { return directory.Run(ctx, publisher.Retire) }},
		lifecycle.Component{Name: "relay", Run: publisher.Run},
		lifecycle.Component{Name: "defaults", Run: func(ctx context.Context) error { return defaults.Run(ctx, registry, cfg.policy(), log) }},
	)
}
