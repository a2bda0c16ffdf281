package main

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
	"github.com/srireskianita/multi-tenant-messaging/libs/readrate"
	"github.com/srireskianita/multi-tenant-messaging/libs/service"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/api"
	"github.com/srireskianita/multi-tenant-messaging/services/query-service/internal/store"
)

// serve runs the service until ctx ends.
func serve(ctx context.Context, cfg Config, log *zap.Logger) error {
	process, err := service.New(ctx, serviceName, postgres.RoleQuery, cfg.Config, log)
	if err != nil {
		return err
	}
	defer process.Close()
	db, closer, err := postgres.Gorm(process.Pool, log)
	if err != nil {
		return err
	}
	metrics := api.NewMetrics(process.Registry)
	components := []lifecycle.Component{{Name: "horizon", Run: store.NewHorizon(process.Pool, process.Registry, log).Run}}
	var rates api.Rates
	if cfg.NATS.URL == "" {
		log.Warn("nats.url is not set: limits of bytes read a second are not enforced")
	} else {
		limits, err := readrate.New(cfg.NATS, serviceName, cfg.Query.Instance, process.Health.Backing("nats").Degrade, metrics.Forget, log)
		if err != nil {
			return errors.Join(err, closer.Close())
		}
		defer limits.Close()
		rates, components = limits, append(components, lifecycle.Component{Name: "read rates", Run: limits.Run})
	}
	api.Mount(process.Server, process.Verifier, store.New(db), cfg.maxReads(), rates, metrics)
	return errors.Join(process.Run(ctx, components...), closer.Close())
}
