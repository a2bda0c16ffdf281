package main

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/lifecycle"
	"github.com/srireskianita/multi-tenant-messaging/libs/postgres"
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
	api.Mount(process.Server, process.Verifier, store.New(db))
	horizon := store.NewHorizon(process.Pool, process.Registry, log)
	err = process.Run(ctx, lifecycle.Component{Name: "horizon", Run: horizon.Run})
	return errors.Join(err, closer.Close())
}
