package main

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/auth"
	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/logging"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/rest"
	"github.com/srireskianita/multi-tenant-messaging/libs/schema"
	"github.com/srireskianita/multi-tenant-messaging/libs/telemetry"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// settings is the configuration of the binary.
type settings struct {
	HTTP            rest.Config      `koanf:"http"`
	Ops             telemetry.Config `koanf:"ops"`
	Log             logging.Config   `koanf:"log"`
	Auth            auth.Config      `koanf:"auth"`
	Database        postgres.Config  `koanf:"database"`
	ShutdownTimeout time.Duration    `koanf:"shutdown_timeout" validate:"min=1s,max=10m" usage:"time that stopping may take"`
}

func defaults() settings {
	cfg := settings{
		HTTP:            rest.DefaultConfig(),
		Ops:             telemetry.Config{Addr: "127.0.0.1:9083"}, // profiles are not for everyone
		Log:             logging.DefaultConfig(),
		Auth:            auth.DefaultConfig(),
		Database:        postgres.DefaultConfig(),
		ShutdownTimeout: 30 * time.Second,
	}
	cfg.HTTP.Addr = ":8083"
	return cfg
}

// serve runs the service until ctx ends.
func serve(ctx context.Context, cfg settings, log *zap.Logger) error {
	reg := telemetry.NewRegistry(service)
	health := telemetry.NewHealth(reg)
	database, migrated := health.Backing("postgres"), health.Check("schema")
	ops := telemetry.NewOps(cfg.Ops, reg, health, log)
	server := rest.New(cfg.HTTP, service, reg, log)
	// A wrong key or a port in use ends the start before anything runs.
	verifier, err := auth.New(ctx, cfg.Auth, log)
	if err != nil {
		return err
	}
	if _, err := ops.Listen(); err != nil { //nolint:contextcheck // binding a port needs no deadline
		return err
	}
	if _, err := server.Listen(); err != nil { //nolint:contextcheck // binding a port needs no deadline
		return err
	}

	pool, err := postgres.Open(ctx, cfg.Database, postgres.RoleQuery)
	if err != nil {
		return err
	}
	defer pool.Close()
	db, closer, err := postgres.Gorm(pool, log)
	if err != nil {
		return err
	}
	api.Mount(server, verifier, store.New(db))
	horizon := store.NewHorizon(pool, reg, log)

	// They stop in reverse order.
	err = lifecycle.Run(ctx, cfg.ShutdownTimeout, log,
		lifecycle.Component{Name: "ops", Run: ops.Run},
		lifecycle.Component{Name: "token keys", Run: verifier.Run},
		lifecycle.Component{Name: "database", Run: func(ctx context.Context) error { return postgres.Watch(ctx, pool, database) }},
		lifecycle.Component{Name: "schema", Run: func(ctx context.Context) error {
			return schema.Prepare(ctx, cfg.Database, postgres.RoleQuery, log, migrated.Set)
		}},
		lifecycle.Component{Name: "horizon", Run: horizon.Run},
		lifecycle.Component{Name: "http", Run: server.Run},
		lifecycle.Component{Name: "readiness", Run: func(ctx context.Context) error {
			<-ctx.Done()
			health.Stopping()
			return nil
		}},
	)
	return errors.Join(err, closer.Close())
}
