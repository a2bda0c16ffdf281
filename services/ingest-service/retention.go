package main

import (
	"context"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/members"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/retention"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/store"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// newKeeper returns what removes the messages and dead letters that the tenants of controller do not keep. An instance that is cut off
// from the others looks at all of them.
func newKeeper(cfg Config, messages *store.Store, controller *tenants.Controller, reg prometheus.Registerer, log *zap.Logger) *retention.Keeper {
	owns := func(tenant uuid.UUID) bool {
		owner := members.Owner(tenant, controller.Instances())
		return owner == "" || owner == cfg.Ingest.Instance
	}
	return retention.New(messages, controller, owns, reg, log)
}

// counting is the store as usage counts in it: a tenant's limit of bytes acts as soon as new messages are counted.
type counting struct {
	*store.Store

	counted func(tenant uuid.UUID)
}

func (c counting) RollUp(ctx context.Context, tenant uuid.UUID) (store.RolledUp, error) {
	step, err := c.Store.RollUp(ctx, tenant)
	if step.Counted > 0 {
		c.counted(tenant)
	}
	return step, err
}
