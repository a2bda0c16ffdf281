package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/srireskianita/multi-tenant-messaging/libs/contract"
	"github.com/srireskianita/multi-tenant-messaging/libs/rendezvous"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/provision"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/queuelimit"
	"github.com/srireskianita/multi-tenant-messaging/services/ingest-service/internal/tenants"
)

// queueLimits are the limits of tenants' queues. Queues, tenants and what enforces their limits need to know each other.
type queueLimits struct {
	cfg        Config
	registry   queuelimit.Registry
	controller *tenants.Controller  // set before anything runs
	enforcer   *queuelimit.Enforcer // likewise; nil without a management API
}

func newQueueLimits(cfg Config, registry queuelimit.Registry) *queueLimits {
	return &queueLimits{cfg: cfg, registry: registry}
}

// options are the arguments of new queues. One that may later be lowered by a policy can be made for what its tenant wants.
func (q *queueLimits) options() provision.QueueOptions {
	options := provision.QueueOptions{Type: q.cfg.Ingest.QueueType, MaxLengthBytes: q.cfg.Ingest.QueueMaxBytes}
	if q.cfg.RabbitMQ.ManagementURL != "" {
		options.Raised = func(tenant string) int64 {
			id, err := uuid.Parse(tenant)
			if err != nil {
				return 0
			}
			return q.controller.Limits(id).QueueMaxBytes
		}
	}
	return options
}

// enforce has the limits of the tenants of controller enforced once q runs.
func (q *queueLimits) enforce(controller *tenants.Controller, degrade func(error), reg prometheus.Registerer, log *zap.Logger) (err error) {
	q.controller = controller
	if q.cfg.RabbitMQ.ManagementURL == "" {
		degrade(nil)
		return nil
	}
	instance := q.cfg.Ingest.Instance
	q.enforcer, err = queuelimit.New(queuelimit.Config{
		ManagementURL: q.cfg.RabbitMQ.ManagementURL, URL: q.cfg.RabbitMQ.URL,
		Leads:   func() bool { return rendezvous.Owner(uuid.Nil, controller.Instances()) == instance },
		Changed: controller.Report, Degrade: degrade,
	}, q.registry, reg, log)
	if err != nil {
		return fmt.Errorf("enforce limits of queues: %w", err)
	}
	return nil
}

// Of tells what a tenant's queue is held to, if that is not what its limits say.
func (q *queueLimits) Of(tenant uuid.UUID, limits contract.Limits) *contract.QueueLimits {
	if q.enforcer == nil {
		return queuelimit.Unmanaged(tenant, limits)
	}
	return q.enforcer.Of(tenant, limits)
}

// Run enforces limits until ctx ends.
func (q *queueLimits) Run(ctx context.Context) error {
	if q.enforcer == nil {
		<-ctx.Done()
		return nil
	}
	return q.enforcer.Run(ctx)
}
